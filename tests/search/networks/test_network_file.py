"""A network read back from the files of a search, and its feature maps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bpnas.search.errors import RunError
from bpnas.search.networks.features import FeatureMaps
from bpnas.search.networks.network_file import NetworkFile, load_network, network_values
from tests.network_factory import stored_network


def test_a_network_is_read_back_with_its_weights(tmp_path: Path) -> None:
    path, network = stored_network(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(load_network(path)(images), network(images))
    assert not torch.equal(load_network(path, pretrained=False)(images), network(images))
    assert NetworkFile.load(path).mock


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("network.json", b"{", "no network of run-search"),
        ("network.json", b"[1]", "no network of run-search"),
        ("network.json", b"{}", "no network of run-search .'backbone'"),
        ("network.safetensors", b"none", "weights cannot be read"),
        ("network.safetensors", None, "weights cannot be read"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path, _ = stored_network(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=message) as caught:
        load_network(path)
    assert str(tmp_path / name) in str(caught.value)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path, _ = stored_network(tmp_path)
    values = json.loads(path.read_text())
    values["blocks"][0] = "K5E1G1"
    path.write_text(json.dumps(values))
    with pytest.raises(RunError, match="another network"):
        load_network(path)


def test_a_fingerprint_is_of_the_network_and_not_of_what_is_noted_of_it(tmp_path: Path) -> None:
    path, _ = stored_network(tmp_path)
    before = NetworkFile.load(path).fingerprint
    with network_values(path) as values:
        values["measured"] = []
    assert NetworkFile.load(tmp_path).fingerprint == before
    with network_values(path) as values:
        values["blocks"][0] = "K5E1G1"
    assert NetworkFile.load(path).fingerprint != before


def test_values_are_as_before_when_their_change_fails(tmp_path: Path) -> None:
    path, _ = stored_network(tmp_path)
    before = path.read_bytes()
    with pytest.raises(TypeError), network_values(path) as values:
        values["measured"] = {b"no text of JSON"}
    assert path.read_bytes() == before


@pytest.mark.parametrize(("size", "strides"), [(224, (2, 4, 8, 16, 32)), (32, (1, 2, 4, 8, 16))])
def test_feature_maps_are_the_last_ones_of_every_stride(tmp_path: Path, size: int, strides: tuple[int, ...]) -> None:
    path, network = stored_network(tmp_path, size)
    features = FeatureMaps(load_network(path), NetworkFile.load(path).backbone).eval()
    images = torch.randn(1, 3, 64, 64)
    maps = features(images)
    assert features.strides == strides
    assert [tuple(found.shape) for found in maps] == [
        (1, channels, 64 // stride, 64 // stride)
        for channels, stride in zip(features.channels, features.strides, strict=True)
    ]
    torch.testing.assert_close(network.head(maps[-1]), network(images))
