"""The MobileNetV2 baseline through the programs for faces and persons; `tox run -e vision` has timm."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm", exc_type=Exception)
pytest.importorskip("pytorch_metric_learning")

from bpnas.base.errors import UsageError
from bpnas.search.errors import RunError, SearchError
from bpnas.search.training.threads import set_threads, threads_kept
from bpnas.search.transfer.backbones import load_features
from tests.transfer_images import faces, market

BASELINE = "mobilenetv2_100"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads_kept():
        set_threads(1)
        yield


@pytest.mark.slow
@pytest.mark.parametrize(("task", "draw"), [("face", faces), ("reid", market)])
def test_the_baseline_learns_in_the_same_program(cli, tmp_path, task, draw) -> None:
    data, out = draw(tmp_path / "data"), tmp_path / "run"
    words = ["--data", data, "--model", BASELINE, "--epochs", 6, "--rate", 0.03 if task == "face" else 0.001]
    done = cli("run-search", "transfer", task, *words, "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["model"], result["network"], result["mock"]) == (BASELINE, None, None)
    losses = [json.loads(line)["loss"] for line in (out / "epochs.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.95 * losses[0]


def test_weights_come_from_a_file_of_the_whole_model(tmp_path: Path) -> None:
    whole = timm.create_model("mobilenetv2_050", num_classes=7).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pt")
    features = load_features("mobilenetv2_050", weights=tmp_path / "w.pt").eval()
    images = torch.randn(1, 3, 64, 64)
    maps = features(images)
    torch.testing.assert_close(maps[-1], whole.blocks(whole.bn1(whole.conv_stem(images))))
    assert features.strides == (2, 4, 8, 16, 32)
    assert [(found.shape[1], 64 // found.shape[2]) for found in maps] == list(
        zip(features.channels, features.strides, strict=True)
    )
    with pytest.raises(RunError, match=r"w\.pt: holds the weights of another network than mobilenetv2_100"):
        load_features(BASELINE, weights=tmp_path / "w.pt")


def test_a_model_that_timm_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="no model 'mobilenet_v2_100'"):
        load_features("mobilenet_v2_100")


def test_timm_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SearchError, match="needs timm"):
        load_features(BASELINE)
