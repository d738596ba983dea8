"""Networks of a search in timm; `tox run -e vision` has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision", exc_type=Exception)
timm = pytest.importorskip("timm", exc_type=Exception)

import bpnas.search.timm_models  # noqa: F401
from bpnas.base.errors import UsageError
from bpnas.search.errors import RunError
from bpnas.search.networks.network_file import load_network
from tests.network_factory import stored_network
from tests.search_helpers import tiny_backbone


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored_network(tmp_path_factory.mktemp("network"), 224)[0]


def create(path: Path, **arguments: Any) -> Any:
    return timm.create_model("bpnas", network=str(path), **arguments).eval()


def test_it_gives_what_the_network_gives(path: Path) -> None:
    ours, images = load_network(path), torch.randn(2, 3, 64, 64)
    model = create(path, pretrained=True)
    torch.testing.assert_close(model(images), ours(images))
    assert model.state_dict().keys() == ours.state_dict().keys()
    assert create(path.parent, pretrained=True).num_classes == 1000
    assert not torch.allclose(create(path)(images), ours(images))


def test_timm_knows_it() -> None:
    assert timm.is_model("bpnas") and timm.list_models("bpnas*") == ["bpnas"]


def test_it_is_normalised_as_its_file_says(path: Path) -> None:
    config = timm.data.resolve_model_data_config(create(path))
    assert config["mean"] == (0.5, 0.5, 0.5) and config["std"] == (0.2, 0.2, 0.2)
    assert config["input_size"] == (3, 224, 224)
    assert timm.data.create_transform(**config) is not None


def test_features_have_the_strides_that_detectors_ask_for(path: Path) -> None:
    model = create(path, features_only=True, pretrained=True)
    images = torch.randn(1, 3, 64, 64)
    maps = model(images)
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert [tuple(each.shape) for each in maps] == [
        (1, channels, 64 // stride, 64 // stride)
        for channels, stride in zip(model.feature_info.channels(), (4, 8, 16, 32), strict=True)
    ]
    torch.testing.assert_close(load_network(path).head(maps[-1]), load_network(path)(images))
    every = create(path, features_only=True, out_indices=(0, 1, 2, 3, 4))
    assert every.feature_info.reduction() == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("feature_cls", ["list", "hook", "dict"])
def test_a_network_without_strides_of_its_own_kind_has_features_too(tmp_path: Path, feature_cls: str) -> None:
    path, _ = stored_network(tmp_path, backbone=tiny_backbone())
    model = create(path, features_only=True, feature_cls=feature_cls, out_indices=(0, 1, 2))
    maps = model(torch.randn(1, 3, 32, 32))
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    assert model.feature_info.reduction() == [2, 4, 8]
    assert [each.shape[-1] for each in maps] == [16, 8, 4]
    assert create(path, features_only=True).feature_info.reduction() == [4, 8]


def test_without_classes_it_embeds(path: Path) -> None:
    model, images = create(path, pretrained=True, num_classes=0), torch.randn(2, 3, 64, 64)
    embedded = model(images)
    assert embedded.shape == (2, model.num_features)
    torch.testing.assert_close(load_network(path).head.linear(embedded), load_network(path)(images))
    whole = create(path, pretrained=True)
    torch.testing.assert_close(whole.forward_head(whole.forward_features(images), pre_logits=True), embedded)
    whole.reset_classifier(0)
    torch.testing.assert_close(whole(images), embedded)


def test_other_classes_get_a_new_linear_layer_and_the_old_weights_below(path: Path) -> None:
    model, ours = create(path, pretrained=True, num_classes=7), load_network(path)
    images = torch.randn(2, 3, 64, 64)
    assert model(images).shape == (2, 7) and model.get_classifier().out_features == 7
    torch.testing.assert_close(model.forward_features(images).mean((2, 3)), embedding(ours, images))
    model.reset_classifier(5, "catavgmax")
    assert model(images).shape == (2, 5) and model.num_classes == 5


def embedding(network: Any, images: Any) -> Any:
    for layer in (network.stem, *network.blocks, network.head.conv):
        images = layer(images)
    return images.mean((2, 3))


def test_another_pooling_keeps_the_linear_layer(path: Path) -> None:
    model = create(path, pretrained=True, global_pool="max")
    assert torch.equal(model.get_classifier().weight, load_network(path).head.linear.weight)


def test_one_channel_sums_the_filters_of_three(path: Path) -> None:
    model, images = create(path, pretrained=True, in_chans=1), torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(model(images), load_network(path)(images.expand(-1, 3, -1, -1)))


def test_it_trains_with_checkpointed_blocks_and_dropout(path: Path) -> None:
    model = create(path, num_classes=3, drop_rate=0.5).train()
    model.set_grad_checkpointing()
    loss = model(torch.randn(4, 3, 32, 32)).square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    from timm.optim import param_groups_layer_decay

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scales = {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales["stem.conv.weight"] < scales["blocks.0.paths.0.0.conv.weight"] < scales["head.linear.weight"] == 1


def test_missing_files_are_named(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs network="):
        timm.create_model("bpnas")
    with pytest.raises(RunError, match=r"none\.json"):
        create(tmp_path / "none.json")
    (tmp_path / "network.json").write_bytes(path.read_bytes())
    with pytest.raises(RunError, match="weights cannot be read"):
        create(tmp_path, pretrained=True)
    assert create(tmp_path).num_classes == 1000
