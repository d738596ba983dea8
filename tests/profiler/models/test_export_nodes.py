"""Every node of a graph by itself, in both formats, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bpnas.android_bench.local.runtimes import TfliteSession, open_session
from bpnas.profiler.models.graph import Activation, Array, Function, Graph
from tests.model_graphs import FORMATS, random_weights, write_graph

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
}


@pytest.fixture
def assert_gives(tmp_path: Path) -> Callable[[Graph, Array, Array], None]:
    """Both files of a graph give this, and XNNPACK runs all of the TFLite one."""

    def check(graph: Graph, x: Array, expected: Array) -> None:
        for runtime in FORMATS:
            file = tmp_path / "model"
            file.write_bytes(write_graph(graph, runtime))
            session = open_session(runtime, file)
            np.testing.assert_allclose(session.run(x), expected, rtol=1e-5, atol=1e-5, err_msg=runtime)
            if isinstance(session, TfliteSession):
                assert session.operators().count("DELEGATE") == 1

    return check


def wide_values(*shape: int) -> Array:
    """Beyond every corner of the functions."""
    return 5 * random_weights(*shape, seed=3)


def identity(channels: int) -> Array:
    return np.eye(channels, dtype=np.float32)[:, :, None, None]


@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "hard_swish"])
@pytest.mark.parametrize("is_last", [True, False])
def test_activation_of_a_convolution(assert_gives, activation: Activation, is_last: bool) -> None:
    x = wide_values(1, 8, 5, 5)
    graph = Graph.start(x.shape)
    y = graph.conv("input", identity(8), np.zeros(8, np.float32), 1, 1, activation)
    graph.output = y if is_last else graph.add(y, "input")
    expected = FUNCTIONS[activation](x)
    assert_gives(graph, x, expected if is_last else expected + x)


@pytest.mark.parametrize("function", ["sigmoid", "hard_sigmoid", "hard_swish"])
def test_functions_that_stand_alone(assert_gives, function: Function) -> None:
    x = wide_values(1, 8, 3, 4)
    graph = Graph.start(x.shape)
    graph.output = graph.apply("input", function)
    assert_gives(graph, x, FUNCTIONS[function](x))


def test_a_function_behind_a_linear_layer(assert_gives) -> None:
    x = wide_values(1, 8, 3, 3)
    graph = Graph.start(x.shape)
    weight = random_weights(5, 8)
    hidden = graph.linear(graph.global_average_pool("input"), weight, np.zeros(5, np.float32))
    graph.output = graph.apply(hidden, "hard_swish")
    assert_gives(graph, x, FUNCTIONS["hard_swish"](x.mean((2, 3)) @ weight.T))


def test_squeeze_and_excitation(assert_gives) -> None:
    x = wide_values(1, 8, 5, 6)
    graph = Graph.start(x.shape)
    gate = graph.apply(graph.global_average_pool("input", keep_map=True), "hard_sigmoid")
    graph.output = graph.scale("input", gate)
    assert_gives(graph, x, x * FUNCTIONS["hard_sigmoid"](x.mean((2, 3), keepdims=True)))


@pytest.mark.parametrize("order", ["as they were", "swapped"])
def test_halves_and_concatenation(assert_gives, order: str) -> None:
    x = wide_values(1, 8, 3, 3)
    graph = Graph.start(x.shape)
    first, second = graph.halve("input")
    graph.output = graph.concatenate(first, second) if order == "as they were" else graph.concatenate(second, first)
    assert graph.shapes[graph.output] == x.shape
    assert_gives(graph, x, x if order == "as they were" else np.roll(x, 4, axis=1))


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 8), (8, 5), (1, 1), (2, 3)])
def test_max_pool_on_even_and_odd_maps(assert_gives, size: tuple[int, int]) -> None:
    x = wide_values(1, 8, *size)
    graph = Graph.start(x.shape)
    positive = graph.conv("input", identity(8), np.zeros(8, np.float32), 1, 1, "relu")
    graph.output = graph.max_pool(positive)
    padded = np.pad(np.maximum(x, 0), ((0, 0), (0, 0), (1, 2), (1, 2)))
    height, width = -(-size[0] // 2), -(-size[1] // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    assert_gives(graph, x, windows.max((4, 5))[:, :, :height, :width])


def test_a_max_pool_of_what_may_be_negative_is_refused() -> None:
    graph = Graph.start((1, 8, 4, 4))
    with pytest.raises(ValueError, match="must follow a convolution with ReLU"):
        graph.max_pool("input")
    y = graph.conv("input", identity(8), np.zeros(8, np.float32), 1, 1, "hard_swish")
    with pytest.raises(ValueError, match="must follow a convolution with ReLU"):
        graph.max_pool(y)
