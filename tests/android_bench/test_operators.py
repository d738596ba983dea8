"""What is read out of a model file, be it ONNX or TFLite; and that damaged files are refused, not misread."""

from __future__ import annotations

import io
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpnas.android_bench.operators import ModelFormatError, Operator, read_operators
from bpnas.profiler.models.graph import Graph
from tests.model_graphs import FORMATS, convolution, one_of_each, random_weights, write_graph


def floats(*shape: int) -> int:
    return 4 * int(np.prod(shape))


def pooled_linear() -> Graph:
    graph = Graph.start((1, 16, 7, 7))
    pool = graph.global_average_pool("input")
    graph.output = graph.linear(pool, random_weights(10, 16), random_weights(10))
    return graph


def two_inputs() -> Graph:
    graph = Graph.start((1, 24, 5, 5), (1, 24, 5, 5))
    graph.output = graph.add(*graph.inputs)
    return graph


# Multiply-adds by hand: output pixels x c_out x kernel^2 x c_in / groups.
BY_HAND = {
    "dense 3x3": (
        convolution(8, 16, kernel=3, size=8),
        [Operator("conv", 64 * 16 * 9 * 8, 3, 1, 8, 16, floats(8, 64), floats(16, 64), floats(16, 8, 9) + floats(16))],
    ),
    "1x1 in two groups": (
        convolution(8, 16, kernel=1, groups=2, size=5, relu=False),
        [Operator("conv", 25 * 16 * 4, 1, 2, 8, 16, floats(8, 25), floats(16, 25), floats(16, 4) + floats(16))],
    ),
    # The PAD in front of it in TFLite is part of it.
    "stride 2 on an even map": (
        convolution(8, 8, kernel=5, stride=2, groups=4, size=8),
        [Operator("conv", 16 * 8 * 25 * 2, 5, 4, 8, 8, floats(8, 64), floats(8, 16), floats(8, 2, 25) + floats(8))],
    ),
    "stride 2 on an odd map": (
        convolution(8, 8, kernel=3, stride=2, size=7),
        [Operator("conv", 16 * 8 * 9 * 8, 3, 1, 8, 8, floats(8, 49), floats(8, 16), floats(8, 8, 9) + floats(8))],
    ),
    "depthwise": (
        convolution(24, 24, kernel=7, groups=24, size=4),
        [
            Operator(
                "depthwise", 16 * 24 * 49, 7, 24, 24, 24, floats(24, 16), floats(24, 16), floats(24, 49) + floats(24)
            )
        ],
    ),
    "two outputs from each input channel": (
        convolution(8, 16, kernel=3, groups=8, size=4),
        [Operator("depthwise", 16 * 16 * 9, 3, 8, 8, 16, floats(8, 16), floats(16, 16), floats(16, 9) + floats(16))],
    ),
    "pool and linear": (
        pooled_linear(),
        [
            Operator("pool", 0, 1, 1, 16, 16, floats(16, 49), floats(16), 0),
            Operator("linear", 160, 1, 1, 16, 10, floats(16), floats(10), floats(10, 16) + floats(10)),
        ],
    ),
    "addition": (two_inputs(), [Operator("add", 0, 1, 1, 24, 24, 2 * floats(24, 25), floats(24, 25), 0)]),
    "everything": (
        one_of_each(),
        [
            Operator("conv", 81 * 16 * 2, 1, 4, 8, 16, floats(8, 81), floats(16, 81), floats(16, 2) + floats(16)),
            Operator("move", 0, 1, 1, 0, 0, floats(16, 81), floats(16, 81), 0),
            Operator(
                "depthwise", 25 * 16 * 9, 3, 16, 16, 16, floats(16, 81), floats(16, 25), floats(16, 9) + floats(16)
            ),
            Operator("conv", 25 * 8 * 16, 1, 1, 16, 8, floats(16, 25), floats(8, 25), floats(8, 16) + floats(8)),
            Operator("add", 0, 1, 1, 8, 8, 2 * floats(8, 25), floats(8, 25), 0),
            Operator("pool", 0, 1, 1, 8, 8, floats(8, 25), floats(8), 0),
            Operator("linear", 80, 1, 1, 8, 10, floats(8), floats(10), floats(10, 8) + floats(10)),
        ],
    ),
}


@pytest.mark.parametrize("runtime", FORMATS)
@pytest.mark.parametrize("name", BY_HAND)
def test_operators_by_hand(name: str, runtime: str) -> None:
    graph, operators = BY_HAND[name]
    assert read_operators(write_graph(graph, runtime)) == tuple(operators)


@given(
    groups=st.sampled_from([1, 2, 4, 8]),
    widths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    size=st.integers(1, 12),
    relu=st.booleans(),
)
def test_both_formats_tell_the_same_of_any_convolution(
    groups: int, widths: tuple[int, int], kernel: int, stride: int, size: int, relu: bool
) -> None:
    c_in, c_out = 8 * widths[0], 8 * widths[1]
    graph = convolution(c_in, c_out, kernel, stride, groups, size, relu)
    (operator,) = read_operators(write_graph(graph, "onnxruntime"))
    assert read_operators(write_graph(graph, "tflite")) == (operator,)
    pixels = ((size + stride - 1) // stride) ** 2
    assert operator.macs == pixels * c_out * kernel**2 * c_in // groups


@pytest.mark.parametrize("runtime", FORMATS)
def test_weights_do_not_matter(runtime: str) -> None:
    one, two = (write_graph(convolution(seed=seed), runtime) for seed in (1, 2))
    assert one != two
    assert read_operators(one) == read_operators(two)


# --- modules of torch


def test_paths_blocks_and_networks_tell_the_same_in_both_formats() -> None:
    pytest.importorskip("torch")
    from bpnas.profiler import Backbone, Block, ComplexPath, SimplePath, Site, build_module, to_onnx, to_tflite

    sites = [Site(16, 24, 2, 8), Site(16, 24, 2, 7), Site(16, 16, 1, 4), Site(8, 8, 2, 2)]
    texts = ["K3G1", "K7G8", "K1E1G1", "K3E6G1", "K5E3G4", "K3G2+K3E2G2", "K1G1+K3E7G1+K5E2G8"]
    for site in sites:
        for text in texts:
            for shuffle in (False, True):
                module = build_module(Block.parse(text), site, shuffle)
                shape = (1, site.c_in, site.input_size, site.input_size)
                assert read_operators(to_onnx(module, shape)) == read_operators(to_tflite(module, shape)), (text, site)
    backbone = Backbone.load("mobilenetv2", 32)
    network = build_module([Block.parse("K3E6G1")] * 22, backbone)
    operators = read_operators(to_onnx(network, (1, 3, 32, 32)))
    assert operators == read_operators(to_tflite(network, (1, 3, 32, 32)))
    # Stem, three convolutions and at residual sites an addition each, head.
    assert len(operators) == 1 + 22 * 3 + sum(site.is_residual for site in backbone.sites) + 3
    stem, head = 32 * 32 * 32 * 27, 2 * 2 * 320 * 1280 + 1280 * 10
    sites_macs = sum(6 * s.c_in * (s.c_in * s.input_size**2 + (9 + s.c_out) * s.output_size**2) for s in backbone.sites)
    assert sum(operator.macs for operator in operators) == stem + sites_macs + head
    assert read_operators(to_onnx(build_module(SimplePath(3, 1), sites[0]), (1, 16, 8, 8)))[0].macs == 16 * 24 * 9 * 16
    complex_ = read_operators(to_tflite(build_module(ComplexPath(5, 2, 3), sites[0]), (1, 16, 8, 8)))
    assert [operator.macs for operator in complex_] == [64 * 48 * 8, 16 * 48 * 25, 16 * 24 * 24]


def test_squeeze_and_excitation_hard_swish_and_halves() -> None:
    graph = Graph.start((1, 8, 4, 4))
    x = graph.conv("input", random_weights(8, 8, 1, 1), random_weights(8), 1, 1, "hard_swish")
    gate = graph.conv(
        graph.global_average_pool(x, keep_map=True), random_weights(8, 8, 1, 1), random_weights(8), 1, 1, "relu6"
    )
    x = graph.scale(x, graph.apply(gate, "hard_sigmoid"))
    graph.output = graph.concatenate(*graph.halve(x))
    operators = read_operators(write_graph(graph, "onnxruntime"))
    assert operators == read_operators(write_graph(graph, "tflite"))
    whole, one = floats(8, 16), floats(8)
    weights = floats(8, 8) + one
    assert operators == (
        Operator("conv", 16 * 64, 1, 1, 8, 8, whole, whole, weights),
        Operator("other", 0, 1, 1, 8, 8, whole, whole, 0),
        Operator("pool", 0, 1, 1, 8, 8, whole, one, 0),
        Operator("conv", 64, 1, 1, 8, 8, one, one, weights),
        Operator("other", 0, 1, 1, 8, 8, one, one, 0),
        Operator("gate", 0, 1, 1, 8, 8, whole + one, whole, 0),
        Operator("move", 0, 1, 1, 0, 0, whole, whole, 0),
        Operator("move", 0, 1, 1, 0, 0, whole, whole, 0),
    )


# --- foreign and damaged files


@pytest.mark.parametrize("opset", [13, 17])
def test_a_file_of_torch_has_the_same_operators_as_ours(opset: int) -> None:
    """Squeeze-and-excitation, hard-swish, ReLU6, a normalisation that is left in, a channel shuffle, halves."""
    torch = pytest.importorskip("torch")
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
            self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.BatchNorm2d(16), nn.Hardswish())
            self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1))
            self.last = nn.Linear(16, 10)

        def forward(self, x):
            x = self.depthwise(self.first(functional.max_pool2d(x, 3, 2, 1)))
            x = x * functional.hardsigmoid(self.squeeze(x))
            one, two = x.split(8, dim=1)
            x = torch.cat((two, one), dim=1)
            x = x.view(1, 2, 8, 4, 4).transpose(1, 2).reshape(1, 16, 4, 4)
            return self.last(functional.dropout(x.mean([2, 3]), 0.2, self.training))

    buffer = io.BytesIO()
    # Else its exporter folds the normalisation itself.
    unfolded = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    torch.onnx.export(
        Block().eval(), (torch.zeros(1, 8, 13, 13),), buffer, dynamo=False, opset_version=opset, **unfolded
    )
    theirs = read_operators(buffer.getvalue())

    graph = Graph.start((1, 8, 13, 13))
    x = graph.conv("input", random_weights(8, 1, 1, 1), random_weights(8), 1, 8, "relu")  # only for the pool
    x = graph.max_pool(x)
    x = graph.conv(x, random_weights(16, 8, 1, 1), random_weights(16), 1, 1, "relu6")
    x = graph.conv(x, random_weights(16, 1, 3, 3), random_weights(16), 2, 16, "hard_swish")
    gate = graph.global_average_pool(x, keep_map=True)
    gate = graph.conv(gate, random_weights(4, 16, 1, 1), random_weights(4), 1, 1, "relu")
    gate = graph.conv(gate, random_weights(16, 4, 1, 1), random_weights(16), 1, 1, "none")
    x = graph.scale(x, graph.apply(gate, "hard_sigmoid"))
    x = graph.shuffle(graph.concatenate(*reversed(graph.halve(x))), 2)
    graph.output = graph.linear(graph.global_average_pool(x), random_weights(10, 16), random_weights(10))
    ours = read_operators(write_graph(graph, "onnxruntime"))[1:]

    # Convolutions whose bias is in the normalisation behind them differ in that alone.
    assert [replace(each, weight_bytes=0) for each in theirs] == [replace(each, weight_bytes=0) for each in ours]


def onnx_model(input_shape: list[int | str], declared: bool = True) -> bytes:
    """A convolution as another tool would write it, without the shapes of what lies between."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(random_weights(4, 3, 3, 3), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Add", ["b", "a"], ["y"]),
    ]
    output = [1, 4, 4, 4] if declared else [1, 4, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()


def test_a_foreign_model_without_inner_shapes() -> None:
    conv, other, add = read_operators(onnx_model([1, 3, 8, 8]))
    assert conv == Operator("conv", 16 * 4 * 27, 3, 1, 3, 4, floats(3, 64), floats(4, 16), floats(4, 27))
    assert (other.kind, other.macs, other.input_bytes) == ("other", 0, floats(4, 16))
    assert (add.kind, add.input_bytes) == ("add", 2 * floats(4, 16))


def test_inner_shapes_that_the_file_leaves_open_are_found() -> None:
    from onnx import ModelProto, TensorProto, helper

    model = ModelProto.FromString(onnx_model([1, 3, 8, 8]))
    for name in ("a", "b"):
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "c", "h", "w"]))
    assert read_operators(model.SerializeToString()) == read_operators(onnx_model([1, 3, 8, 8]))


@pytest.mark.parametrize("shape", [["n", 3, 8, 8], [1, 3, "h", "w"], [0, 3, 8, 8], [1, 3, -1, 8]])
def test_dynamic_shapes_are_refused_and_not_read_as_no_work(shape: list[int | str]) -> None:
    with pytest.raises(ModelFormatError):
        read_operators(onnx_model(shape, declared=False))


def test_a_tflite_file_with_a_dynamic_shape_is_refused() -> None:
    from ai_edge_litert import schema_py_generated as schema

    content = bytearray(write_graph(convolution(8, 16, size=11), "tflite"))
    sizes = schema.Model.GetRootAs(content).Subgraphs(0).Tensors(0).ShapeAsNumpy()
    assert list(sizes) == [1, 11, 11, 8]
    sizes[1] = -1  # in place
    with pytest.raises(ModelFormatError, match="not static"):
        read_operators(bytes(content))


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\0" * 100, b"TFL3", b"\0\0\0\0TFL3", b"\x1c\0\0\0TFL3" + b"\xff" * 200, b"PK\x03\x04" + b"a" * 99],
    ids=repr,
)
def test_garbage_is_refused(content: bytes) -> None:
    with pytest.raises(ModelFormatError, match=r"^not a readable model file"):
        read_operators(content)


@given(content=st.binary(max_size=300), tflite=st.booleans())
def test_random_bytes_are_refused(content: bytes, tflite: bool) -> None:
    if tflite:
        content = content[:4].ljust(4, b"\x10") + b"TFL3" + content[4:]
    with pytest.raises(ModelFormatError):
        read_operators(content)


@pytest.mark.parametrize("runtime", FORMATS)
def test_no_truncated_file_is_read(runtime: str) -> None:
    content = write_graph(one_of_each(), runtime)
    for length in range(0, len(content), 3):
        with pytest.raises(ModelFormatError):
            read_operators(content[:length])


@pytest.mark.parametrize("runtime", FORMATS)
def test_flipped_bits_give_model_format_error_or_operators_that_make_sense(runtime: str) -> None:
    content, rng, refused = write_graph(one_of_each(), runtime), random.Random(3), 0
    for _ in range(4000):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            operators = read_operators(bytes(damaged))
        except ModelFormatError:
            refused += 1
        else:
            for operator in operators:
                assert operator.macs >= 0
                assert operator.input_bytes > 0 and operator.output_bytes > 0 and operator.weight_bytes >= 0
                assert (operator.macs > 0) == (operator.kind in ("conv", "depthwise", "linear"))
    assert 0 < refused < 4000


def test_an_operator_is_a_value() -> None:
    operator = read_operators(write_graph(convolution(), "onnxruntime"))[0]
    assert replace(operator, macs=1) != operator
    assert len({operator, replace(operator)}) == 1
