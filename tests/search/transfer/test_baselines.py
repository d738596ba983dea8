"""The paper's baselines by name, and weights from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from bpnas.profiler.models.zoo import ZooPart, zoo_network
from bpnas.profiler.models.zoo_graph import zoo_graph
from bpnas.search import load_features
from bpnas.search.errors import RunError
from bpnas.search.transfer.zoo_features import build_baseline, zoo_baselines
from tests.transfer_images import faces, small_network


def test_baselines_are_the_networks_of_the_zoo() -> None:
    assert list(zoo_baselines()) == ["mobilenetv2", "mobilenetv2-1.2", "mobilenetv2-1.3", "mobilenetv2-1.4"]
    for name in ("mobilenetv2", "mobilenetv2-1.2"):
        network, model = build_baseline(name)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert parameters == zoo_graph(ZooPart(zoo_network(name), 32)).parameters
        assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
        assert network.name == name


@pytest.mark.parametrize(
    ("name", "channels", "last"),
    [("mobilenetv2", (16, 24, 32, 96, 320), 1280), ("mobilenetv2-1.2", (24, 32, 40, 112, 384), 1536)],
)
def test_a_baseline_has_maps_of_all_strides(name: str, channels: tuple[int, ...], last: int) -> None:
    features, images = load_features(name).eval(), torch.randn(1, 3, 64, 96)
    assert (features.strides, features.channels) == ((2, 4, 8, 16, 32), channels)
    for found, stride, width in zip(features(images), features.strides, channels, strict=True):
        assert found.shape == (1, width, 64 // stride, 96 // stride)
    whole = load_features(name, whole=True).eval()
    assert (whole.strides, whole.channels) == ((32,), (last,)) and whole(images)[-1].shape == (1, last, 2, 3)


def test_a_searched_network_can_be_taken_whole(tmp_path: Path) -> None:
    path, images = small_network(tmp_path), torch.randn(2, 3, 32, 32)
    whole = load_features("bpnas", network=path, whole=True).eval()
    from bpnas.search import load_network

    network = load_network(path)
    expected = network.head.conv(
        network.blocks[3](network.blocks[2](network.blocks[1](network.blocks[0](network.stem(images)))))
    )
    torch.testing.assert_close(whole(images)[-1], expected)
    assert whole.channels == (16,)


def test_weights_come_from_files_of_many_forms(tmp_path: Path) -> None:
    model = build_baseline("mobilenetv2")[1]
    state, images = model.state_dict(), torch.randn(1, 3, 32, 32)
    other_head = {**state, "classifier.1.weight": torch.zeros(7, 1280), "classifier.1.bias": torch.zeros(7)}
    save_file(state, tmp_path / "plain.safetensors")
    torch.save(other_head, tmp_path / "head.pth")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "p.pth"
    )
    expected = model.features[:-1].eval()(images)
    for name in ("plain.safetensors", "head.pth", "p.pth"):
        features = load_features("mobilenetv2", weights=tmp_path / name).eval()
        assert torch.equal(features(images)[-1], expected), name
        assert features.origin["weights"] == str(tmp_path / name)


def test_weights_of_another_network_are_told_apart_in_one_sentence(cli: Any, tmp_path: Path) -> None:
    path, data = small_network(tmp_path), faces(tmp_path / "faces", train=2, each=2, probes=1, distractors=1)
    state = load_file(path.with_suffix(".safetensors"))
    name = "stem.conv.weight"
    cases = {
        "missing": ({key: value for key, value in state.items() if key != name}, "it has no stem.conv.weight"),
        "shape": ({**state, name: torch.zeros(16, 3, 5, 5)}, r"its stem.conv.weight is of shape [16, 3, 5, 5], not"),
        "more": ({**state, "stem.extra": torch.zeros(1)}, "its stem.extra is unknown there"),
        "nan": ({**state, name: state[name] * torch.nan}, "its weight stem.conv.weight is not finite"),
        "number": ({**state, "epoch": 3}, "holds no state_dict"),
        "empty": ({}, "holds no state_dict"),
        "list": ([1, 2], "holds no state_dict"),
    }
    for case, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{case}.pth")
        words = ["--data", data, "--network", path, "--weights", tmp_path / f"{case}.pth", "--out", tmp_path / "run"]
        done = cli("run-search", "transfer", "face", *words)
        assert done.exit_code == 1 and done.stderr.count("\n") == 1, done.stderr
        assert f"{case}.pth: " in done.stderr and message in done.stderr


class _Runs:
    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return (open, ("ran", "w"))


def test_a_file_of_weights_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"stem.conv.weight": _Runs()}, tmp_path / "evil.pth")
    with pytest.raises(RunError, match=r"evil\.pth: is no file of weights .* which runs no code; write it with torch"):
        load_features("mobilenetv2", weights=tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
