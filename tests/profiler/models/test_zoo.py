"""The known networks: their sizes as published, and both files of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bpnas.android_bench.local.runtimes import TfliteSession, open_session
from bpnas.android_bench.operators import read_operators
from bpnas.base.errors import UsageError
from bpnas.profiler.models.zoo import InvertedLayer, ZooPart, zoo_network, zoo_networks
from bpnas.profiler.models.zoo_graph import zoo_graph
from tests.model_graphs import FORMATS, write_graph

NAMES = [network.name for network in zoo_networks()]

# Parameters as torchvision and timm count them; multiply-adds in millions at 224 pixels.
PUBLISHED = {
    "mobilenetv1": (4_231_976, 568.7),
    "mobilenetv2": (3_504_872, 300.8),
    "mobilenetv2-1.2": (None, 465.0),
    "mobilenetv2-1.3": (None, 509),
    "mobilenetv2-1.4": (6_108_776, 582.2),
    "shufflenetv2-1.5": (3_503_624, 296),
    "shufflenetv2-2.0": (7_393_996, 583),
    "mnasnet-b1": (4_383_312, 314),
    "mnasnet-a1": (3_887_038, 312),
    "fbnet-a": (None, 249.9),
    "fbnet-b": (None, None),
    "fbnet-c": (5_572_200, 385),
    "proxylessnas-mobile": (4_080_512, 320),
    "mobilenetv3-large-0.75": (None, 155),
    "mobilenetv3-large": (5_483_032, 217),
}


def part(name: str, input_size: int = 64) -> ZooPart:
    return ZooPart(zoo_network(name), input_size)


def test_the_published_figures_are_of_all_networks() -> None:
    assert list(PUBLISHED) == NAMES
    assert len({part(name).key for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_multiply_adds_are_the_published_ones(name: str) -> None:
    parameters, millions = PUBLISHED[name]
    built = zoo_graph(part(name, 224))
    if parameters is not None:
        assert built.parameters == parameters
    if millions is not None:
        assert round(built.macs / 1e6, 1 if isinstance(millions, float) else None) == millions


def test_fbnet_b_is_near_its_paper() -> None:
    """There is no public file to compare with; the paper says 295 M and 4.5 M (table 3)."""
    built = zoo_graph(part("fbnet-b", 224))
    assert built.macs == pytest.approx(295e6, rel=0.05)
    assert built.parameters == pytest.approx(4.5e6, rel=0.1)


def assert_both_formats_agree(folder: Path, name: str, input_size: int) -> TfliteSession:
    graph = zoo_graph(part(name, input_size)).graph
    x = np.random.default_rng(0).standard_normal((1, 3, input_size, input_size), np.float32)
    outputs = []
    for runtime in FORMATS:
        file = folder / runtime
        file.write_bytes(write_graph(graph, runtime))
        session = open_session(runtime, file)
        outputs.append(session.run(x))
    one, two = outputs
    assert one.shape == (1, 1000)
    assert 0.1 < np.abs(one).max() < 1000  # which no NaN passes
    assert one.std() > 0.05
    np.testing.assert_allclose(one, two, atol=1e-4 * np.abs(one).max(), rtol=0)
    assert isinstance(session, TfliteSession)
    return session


@pytest.mark.parametrize("name", NAMES)
def test_both_formats_agree_and_xnnpack_takes_all_of_it(tmp_path: Path, name: str) -> None:
    operators = assert_both_formats_agree(tmp_path, name, 64).operators()
    assert operators.count("DELEGATE") == 1, operators
    assert operators[-1] == "DELEGATE"


@pytest.mark.slow
@pytest.mark.parametrize("input_size", [97, 224])
@pytest.mark.parametrize("name", NAMES)
def test_both_formats_agree_at_odd_and_at_full_size(tmp_path: Path, name: str, input_size: int) -> None:
    assert_both_formats_agree(tmp_path, name, input_size)


@pytest.mark.parametrize("name", NAMES)
def test_both_formats_have_the_same_operators(name: str) -> None:
    built = zoo_graph(part(name))
    one, two = (read_operators(write_graph(built.graph, runtime)) for runtime in FORMATS)
    assert one == two
    assert sum(operator.macs for operator in one) == built.macs


def test_weights_depend_on_the_key_alone() -> None:
    contents = [write_graph(zoo_graph(part("shufflenetv2-1.5", size)).graph, "onnxruntime") for size in (32, 32, 64)]
    assert contents[0] == contents[1] != contents[2]


def test_the_onnx_checker_is_content() -> None:
    import onnx

    for name in ("mnasnet-a1", "mobilenetv3-large", "shufflenetv2-1.5"):
        model = onnx.load_from_string(write_graph(zoo_graph(part(name)).graph, "onnxruntime"))
        onnx.checker.check_model(model, full_check=True)
        assert {entry.key: entry.value for entry in model.metadata_props}["bpnas.key"] == f"zoo:{name}@64"


def test_what_the_papers_say_of_single_blocks() -> None:
    squeezed = {
        layer.squeeze
        for layer in zoo_network("mnasnet-a1").layers
        if isinstance(layer, InvertedLayer) and layer.squeeze
    }
    assert squeezed == {6, 10, 20, 28, 40}
    grouped = [
        layer for layer in zoo_network("fbnet-a").layers if isinstance(layer, InvertedLayer) and layer.groups > 1
    ]
    assert [(layer.channels, layer.kernel) for layer in grouped] == [(64, 5), (112, 5), (112, 3)]
    shuffles = [
        op for op in read_operators(write_graph(zoo_graph(part("fbnet-a")).graph, "tflite")) if op.kind == "move"
    ]
    assert [op.input_bytes for op in shuffles] == [4 * 16 * channels for channels in (64, 112, 112)]
    v3 = [layer for layer in zoo_network("mobilenetv3-large").layers if isinstance(layer, InvertedLayer)]
    assert [layer.expanded for layer in v3] == [0, 64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960]


def test_an_unknown_network_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="no known network is called 'resnet50': use some of mobilenetv1, mobilenetv2"):
        zoo_network("resnet50")
