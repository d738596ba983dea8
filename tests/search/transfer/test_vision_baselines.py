"""The zoo's MobileNetV2 against torchvision's; timm's networks taken whole."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision", exc_type=Exception)
timm = pytest.importorskip("timm", exc_type=Exception)

from bpnas.search import load_features
from bpnas.search.transfer.zoo_features import build_baseline


@pytest.mark.parametrize(("name", "width"), [("mobilenetv2", 1.0), ("mobilenetv2-1.2", 1.2), ("mobilenetv2-1.4", 1.4)])
def test_weights_of_torchvision_fit_and_give_its_answers(name: str, width: float, tmp_path: Path) -> None:
    theirs = torchvision.models.mobilenet_v2(width_mult=width).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours, images = build_baseline(name)[1].eval(), torch.randn(2, 3, 64, 64)
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))
        whole = load_features(name, weights=tmp_path / "w.pth", whole=True).eval()
        torch.testing.assert_close(whole(images)[-1], theirs.features(images))


def test_mobilenetv2_120d_of_timm_is_another_network() -> None:
    ours = sum(parameter.numel() for parameter in build_baseline("mobilenetv2-1.2")[1].parameters())
    theirs = sum(parameter.numel() for parameter in timm.create_model("mobilenetv2_120d").parameters())
    assert (ours, theirs) == (4_725_992, 5_831_144)


def test_a_model_of_timm_can_be_taken_whole(tmp_path: Path) -> None:
    model = timm.create_model("mobilenetv2_050", num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    features, images = (
        load_features("mobilenetv2_050", weights=tmp_path / "w.pth", whole=True).eval(),
        torch.randn(1, 3, 64, 64),
    )
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(features(images)[-1][:, :, 0, 0], expected)
    assert features.channels == (1280,)
