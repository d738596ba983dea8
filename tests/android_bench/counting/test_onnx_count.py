"""Multiply-adds and parameters of ONNX files, against values by hand; and "unknown" where nobody can know."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from onnx.external_data_helper import convert_model_to_external_data

from bpnas.android_bench import ModelFormatError, ModelSize, read_operators, read_size

Tensors = dict[str, Sequence[int]]
F = TensorProto.FLOAT


def value(name: str, shape: Sequence[int | str] | None, kind: int = F) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, shape: Sequence[int], kind: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.ones(shape, kind), name)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    weights: Sequence[Any] = (),
    domains: Sequence[tuple[str, int]] = (("", 17),),
    functions: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
) -> Any:
    graph = helper.make_graph(nodes, "g", inputs, outputs or [value(nodes[-1].output[0], None)], weights)
    opsets = [helper.make_opsetid(*domain) for domain in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)


def size_of(*arguments: Any, **more: Any) -> ModelSize:
    return read_size(model(*arguments, **more).SerializeToString())


def one(op: str, inputs: Tensors, weights: Tensors, domain: str = "", opset: int = 17, **attributes: Any) -> ModelSize:
    """Of a single operator, with inputs and weights in their order."""
    names = [*inputs, *weights]
    node = helper.make_node(op, names, ["y"], domain=domain, **attributes)
    domains = [("", opset), *([(domain, 1)] if domain else [])]
    return size_of(
        [node], [value(*each) for each in inputs.items()], [weight(*each) for each in weights.items()], domains
    )


X = [1, 64, 17, 17]
OPERATORS: dict[str, tuple[ModelSize, int, int]] = {
    "1x7": (one("Conv", {"x": X}, {"w": [64, 64, 1, 7]}, pads=[0, 3, 0, 3]), 289 * 64 * 64 * 7, 64 * 64 * 7),
    "7x1": (one("Conv", {"x": X}, {"w": [64, 64, 7, 1]}, pads=[3, 0, 3, 0]), 289 * 64 * 64 * 7, 64 * 64 * 7),
    "1-d": (one("Conv", {"x": [1, 64, 1000]}, {"w": [64, 64, 3]}, pads=[1, 1]), 1000 * 64 * 64 * 3, 64 * 64 * 3),
    "3-d": (
        one("Conv", {"x": [1, 16, 16, 16, 16]}, {"w": [16, 16, 3, 3, 3]}, pads=[1] * 6),
        4096 * 256 * 27,
        256 * 27,
    ),
    "dilated": (one("Conv", {"x": X}, {"w": [8, 64, 3, 3]}, dilations=[2, 2]), 13 * 13 * 8 * 64 * 9, 8 * 64 * 9),
    "grouped": (one("Conv", {"x": X}, {"w": [8, 16, 1, 1], "b": [8]}, group=4), 289 * 8 * 16, 8 * 16 + 8),
    "batch of 3": (one("Conv", {"x": [3, 4, 8, 8]}, {"w": [5, 4, 1, 1]}, strides=[2, 2]), 3 * 16 * 20, 20),
    "strided": (one("Conv", {"x": [1, 4, 9, 9]}, {"w": [5, 4, 3, 3]}, strides=[2, 2]), 16 * 180, 180),
    "transposed": (one("ConvTranspose", {"x": X}, {"w": [64, 32, 2, 2]}, strides=[2, 2]), 289 * 64 * 128, 64 * 128),
    "transposed in groups": (
        one("ConvTranspose", {"x": X}, {"w": [64, 8, 3, 3]}, strides=[2, 2], group=4),
        289 * 64 * 72,
        64 * 72,
    ),
    "gemm": (one("Gemm", {"x": [5, 7]}, {"w": [7, 11], "b": [11]}), 5 * 7 * 11, 7 * 11 + 11),
    "gemm, both transposed": (one("Gemm", {"x": [7, 5]}, {"w": [11, 7]}, transA=1, transB=1), 5 * 7 * 11, 77),
    "matmul": (one("MatMul", {"x": [2, 3, 5, 7]}, {"w": [7, 11]}), 6 * 5 * 7 * 11, 77),
    "matmul of activations": (one("MatMul", {"a": [2, 1, 5, 7], "b": [3, 7, 11]}, {}), 6 * 5 * 7 * 11, 0),
    "matmul of vectors": (one("MatMul", {"a": [7], "b": [7]}, {}), 7, 0),
    "einsum": (one("Einsum", {"a": [2, 3, 5]}, {"b": [5, 7]}, equation="bij,jk->bik"), 2 * 3 * 5 * 7, 35),
    "einsum with ellipsis": (
        one("Einsum", {"a": [2, 4, 3, 5], "b": [4, 5, 7]}, {}, equation="...ij, ...jk -> ...ik"),
        2 * 4 * 3 * 5 * 7,
        0,
    ),
    "einsum without output": (one("Einsum", {"a": [3, 5], "b": [5, 7]}, {}, equation="ij,jk"), 3 * 5 * 7, 0),
    "einsum of three": (
        one("Einsum", {"a": [2, 3], "b": [3, 5], "c": [5, 7]}, {}, equation="ij,jk,kl->il"),
        2 * 3 * 5 + 2 * 5 * 7,
        0,
    ),
    "einsum that transposes": (one("Einsum", {"a": [3, 5]}, {}, equation="ij->ji"), 0, 0),
    "lstm": (
        one("LSTM", {"x": [50, 1, 64]}, {"w": [1, 512, 64], "r": [1, 512, 128]}, hidden_size=128),
        50 * 512 * 192,
        512 * 192,
    ),
    "lstm, both directions": (
        one(
            "LSTM",
            {"x": [50, 3, 64]},
            {"w": [2, 512, 64], "r": [2, 512, 128], "b": [2, 1024]},
            hidden_size=128,
            direction="bidirectional",
        ),
        150 * 2 * 512 * 192,
        2 * 512 * 192 + 2048,
    ),
    "gru": (one("GRU", {"x": [9, 2, 4]}, {"w": [1, 24, 4], "r": [1, 24, 8]}, hidden_size=8), 18 * 24 * 12, 288),
    "rnn": (one("RNN", {"x": [9, 2, 4]}, {"w": [1, 8, 4], "r": [1, 8, 8]}, hidden_size=8), 18 * 8 * 12, 96),
    "attention": (
        one("Attention", {"q": [2, 8, 5, 16], "k": [2, 4, 7, 16], "v": [2, 4, 7, 32]}, {}, opset=23),
        2 * 8 * 5 * 7 * 48,
        0,
    ),
    "attention of flat tensors": (
        one(
            "Attention",
            {"q": [2, 5, 128], "k": [2, 7, 64], "v": [2, 7, 64]},
            {},
            opset=23,
            q_num_heads=8,
            kv_num_heads=4,
        ),
        2 * 8 * 5 * 7 * 32,
        0,
    ),
    "contributed attention": (
        one("Attention", {"x": [2, 5, 12]}, {"w": [12, 36], "b": [36]}, domain="com.microsoft", num_heads=3),
        2 * 5 * 12 * 36 + 2 * 5 * 5 * 24,
        12 * 36 + 36,
    ),
    "fused convolution": (
        one("FusedConv", {"x": X}, {"w": [8, 64, 1, 1]}, domain="com.microsoft", activation="Relu"),
        289 * 8 * 64,
        512,
    ),
    "linear classifier": (
        one("LinearRegressor", {"x": [6, 4]}, {}, domain="ai.onnx.ml", coefficients=[1.0] * 8, targets=2),
        6 * 8,
        8,
    ),
    "relu": (one("Relu", {"x": X}, {}), 0, 0),
    "softmax": (one("Softmax", {"x": X}, {}), 0, 0),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_by_hand(name: str) -> None:
    found, macs, parameters = OPERATORS[name]
    assert (found.macs, found.parameters) == (macs, parameters)


def quantised(op: str, opset: int = 17) -> ModelSize:
    i8 = np.int8
    scales = [weight("s", []), weight("z", [], i8)]
    if op == "QLinearConv":
        weights = [*scales, weight("w", [8, 4, 3, 3], i8), weight("b", [8], np.int32)]
        nodes = [helper.make_node(op, ["x", "s", "z", "w", "s", "z", "s", "z", "b"], ["y"], pads=[1] * 4)]
        return size_of(nodes, [value("x", [1, 4, 6, 6], TensorProto.INT8)], weights)
    if op == "ConvInteger":
        weights = [weight("w", [8, 4, 3, 3], i8), weight("z", [], i8)]
        return size_of(
            [helper.make_node(op, ["x", "w", "z", "z"], ["y"], pads=[1] * 4)],
            [value("x", [1, 4, 6, 6], TensorProto.INT8)],
            weights,
        )
    if op == "QLinearMatMul":
        weights = [*scales, weight("w", [4, 8], i8)]
        nodes = [helper.make_node(op, ["x", "s", "z", "w", "s", "z", "s", "z"], ["y"])]
        return size_of(nodes, [value("x", [5, 4], TensorProto.INT8)], weights)
    if op == "MatMulInteger":
        return size_of(
            [helper.make_node(op, ["x", "w"], ["y"])], [value("x", [5, 4], TensorProto.INT8)], [weight("w", [4, 8], i8)]
        )
    assert op == "QDQ"  # per channel, with a bias in 32 bits
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s8", "z8"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "s8", "z8w"], ["bd"], axis=0),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["y"], pads=[1] * 4),
    ]
    channels = [weight("s8", [8]), weight("z8", [8], i8), weight("z8w", [8], np.int32)]
    weights = [*scales, *channels, weight("w", [8, 4, 3, 3], i8), weight("b", [8], np.int32)]
    return size_of(nodes, [value("x", [1, 4, 6, 6])], weights)


@pytest.mark.parametrize(
    ("op", "macs", "parameters"),
    [
        ("QLinearConv", 36 * 288, 288 + 8),
        ("ConvInteger", 36 * 288, 288),
        ("QLinearMatMul", 5 * 32, 32),
        ("MatMulInteger", 5 * 32, 32),
        ("QDQ", 36 * 288, 288 + 8),
    ],
)
def test_quantised_operators_by_hand(op: str, macs: int, parameters: int) -> None:
    assert quantised(op) == ModelSize(macs, parameters)


def test_operators_that_onnx_runtime_contributes_pass_shapes_on() -> None:
    quantities = [weight("s", []), weight("z", [], np.uint8)]
    nodes = [
        helper.make_node("QLinearAdd", ["x", "s", "z", "x", "s", "z", "s", "z"], ["a"], domain="com.microsoft"),
        helper.make_node("QLinearSigmoid", ["a", "s", "z", "s", "z"], ["b"], domain="com.microsoft"),
        helper.make_node(
            "QLinearConcat", ["s", "z", "a", "s", "z", "b", "s", "z"], ["c"], domain="com.microsoft", axis=1
        ),
        helper.make_node("QLinearConv", ["c", "s", "z", "w", "s", "z", "s", "z"], ["d"]),
        helper.make_node("QLinearGlobalAveragePool", ["d", "s", "z", "s", "z"], ["e"], domain="com.microsoft"),
        helper.make_node("DequantizeLinear", ["e", "s", "z"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "v"], ["y"]),
    ]
    weights = [*quantities, weight("w", [4, 16, 1, 1], np.uint8), weight("v", [4, 10])]
    found = size_of(nodes, [value("x", [1, 8, 5, 5], TensorProto.UINT8)], weights, (("", 17), ("com.microsoft", 1)))
    assert found == ModelSize(25 * 64 + 40, 64 + 40)


# --- what holds other graphs


def conv_graph(name: str, weights: str = "w", x: str = "x") -> Any:
    node = helper.make_node("Conv", [x, weights], [f"{name}_y"])
    return helper.make_graph([node], name, [], [value(f"{name}_y", None)])


def test_of_if_the_larger_branch_counts() -> None:
    node = helper.make_node("If", ["c"], ["y"], then_branch=conv_graph("a"), else_branch=conv_graph("b", "v"))
    weights = [weight("w", [8, 4, 1, 1]), weight("v", [8, 4, 3, 3])]
    found = size_of([node], [value("x", [1, 4, 6, 6]), value("c", [], TensorProto.BOOL)], weights)
    assert found == ModelSize(max(36 * 32, 16 * 288), 32 + 288)


def loop(count: Any, goes_on: str = "same", work: bool = True) -> ModelSize:
    inner = [helper.make_node("Conv" if work else "Add", ["s", "w" if work else "s"], ["t"])]
    if goes_on == "same":
        inner.append(helper.make_node("Identity", ["go"], ["goes"]))
    elif goes_on == "always":
        inner.append(helper.make_node("Constant", [], ["goes"], value=numpy_helper.from_array(np.bool_(True))))
    else:
        inner += [
            helper.make_node("ReduceMax", ["t"], ["m"], keepdims=0),
            helper.make_node("Less", ["m", "one"], ["goes"]),
        ]
    body = helper.make_graph(
        inner,
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("s", [1, 4, 6, 6])],
        [value("goes", [], TensorProto.BOOL), value("t", [1, 4, 6, 6])],
    )
    weights = [weight("w", [4, 4, 1, 1]), weight("true", [], np.bool_), weight("one", [])]
    inputs = [value("x", [1, 4, 6, 6])]
    if count is None:
        inputs.append(value("n", [], TensorProto.INT64))
    else:
        weights.append(numpy_helper.from_array(np.int64(count), "n"))
    return size_of([helper.make_node("Loop", ["n", "true", "x"], ["y"], body=body)], inputs, weights)


def test_a_loop_counts_as_often_as_it_runs_where_that_is_known() -> None:
    once = 36 * 16
    assert loop(5) == loop(5, "always") == ModelSize(5 * once, 16)
    assert loop(0).macs == 0
    assert loop(None).macs is None, "the count is an input"
    assert loop(5, "data").macs is None, "it may end before"
    assert loop(None, "data", work=False) == ModelSize(0, 0), "nothing in it multiplies"


def test_a_scan_counts_for_each_of_its_steps() -> None:
    body = helper.make_graph(
        [helper.make_node("MatMul", ["h", "w"], ["k"]), helper.make_node("Add", ["k", "s"], ["z"])],
        "body",
        [value("h", [1, 4]), value("s", [1, 4])],
        [value("z", [1, 4]), value("k", [1, 4])],
    )
    node = helper.make_node("Scan", ["h0", "x"], ["h1", "y"], body=body, num_scan_inputs=1)
    found = size_of([node], [value("h0", [1, 4]), value("x", [7, 1, 4])], [weight("w", [4, 4])])
    assert found == ModelSize(7 * 16, 16)


def test_functions_of_the_file_count_wherever_they_are_called_and_hold_their_constants_once() -> None:
    constant = helper.make_node("Constant", [], ["w"], value=weight("w", [4, 4, 1, 1]))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    inner = helper.make_function(
        "mine", "F", ["a"], ["b"], [constant, helper.make_node("Conv", ["a", "w"], ["b"])], opsets
    )
    calls = [helper.make_node("F", ["a"], ["t"], domain="mine"), helper.make_node("F", ["t"], ["b"], domain="mine")]
    outer = helper.make_function("mine", "G", ["a"], ["b"], calls, opsets)
    nodes = [helper.make_node("G", ["x"], ["z"], domain="mine"), helper.make_node("F", ["z"], ["y"], domain="mine")]
    domains = (("", 17), ("mine", 1))
    assert size_of(nodes, [value("x", [1, 4, 6, 6])], (), domains, [inner, outer]) == ModelSize(3 * 36 * 16, 16)


def test_functions_without_end_are_refused() -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    itself = helper.make_function(
        "mine", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="mine")], opsets
    )
    doubling = [
        helper.make_function("mine", "F0", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets),
        *(
            helper.make_function(
                "mine",
                f"F{n}",
                ["a"],
                ["b"],
                [
                    helper.make_node(f"F{n - 1}", ["a"], ["t"], domain="mine"),
                    helper.make_node(f"F{n - 1}", ["t"], ["b"], domain="mine"),
                ],
                opsets,
            )
            for n in range(1, 60)
        ),
    ]
    for name, functions in (("F", [itself]), ("F59", doubling)):
        node = helper.make_node(name, ["x"], ["y"], domain="mine")
        with pytest.raises(ModelFormatError):
            size_of([node], [value("x", [1, 4])], (), (("", 17), ("mine", 1)), functions)


# --- what is unknown, and what is no parameter


def test_what_nobody_knows_is_unknown_and_never_0() -> None:
    assert one("MyConv", {"x": X}, {"w": [8, 64, 1, 1]}, domain="my.domain").macs is None
    assert one("Nonsense", {"x": X}, {}).macs is None
    assert one("Unheard", {"x": X}, {}, domain="com.microsoft").macs is None
    assert one("DFT", {"x": [1, 8, 2]}, {}).macs is None
    open_size = [value("x", [1, 4, "h", "w"])]
    content = model([helper.make_node("Conv", ["x", "w"], ["y"])], open_size, [weight("w", [8, 4, 1, 1])])
    assert read_size(content.SerializeToString()) == ModelSize(None, 32)
    assert read_size(content.SerializeToString(), [(1, 4, 6, 6)]) == ModelSize(36 * 32, 32)
    after = [helper.make_node("MyOp", ["x"], ["h"], domain="my.domain"), helper.make_node("Conv", ["h", "w"], ["y"])]
    found = size_of(after, [value("x", X)], [weight("w", [8, 64, 1, 1])], (("", 17), ("my.domain", 1)))
    assert found.macs is None, "what follows it is of unknown shape, too"
    blob = helper.make_node("EPContext", ["x"], ["y"], domain="my.domain", cache=b"x" * 1000)
    assert size_of([blob], [value("x", X)], (), (("", 17), ("my.domain", 1))) == ModelSize(None, None)


def test_open_sizes_are_told_even_where_the_file_describes_what_is_between() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Conv", ["h", "w"], ["y"])]
    content = model(
        nodes, [value("x", ["n", 4, 6, 6])], [weight("w", [8, 4, 1, 1])], outputs=[value("y", ["n", 8, 6, 6])]
    )
    content.graph.value_info.append(value("h", ["n", 4, 6, 6]))
    assert read_size(content.SerializeToString()).macs is None
    assert read_size(content.SerializeToString(), [(3, 4, 6, 6)]).macs == 3 * 36 * 32


def test_shared_weights_count_once_and_numbers_that_are_none_never() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["b"]),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([1, -1]))),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
        helper.make_node("Mul", ["c", "half"], ["d"]),
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Mul", ["d", "gain"], ["y"]),
    ]
    weights = [weight("w", [4, 4, 1, 1]), weight("half", []), weight("table", [10, 3]), weight("ids", [2], np.int64)]
    weights += [weight("gain", [144]), weight("unused", [1000])]
    assert size_of(nodes, [value("x", [1, 4, 6, 6])], weights) == ModelSize(2 * 36 * 16, 16 + 30 + 144)


def test_weights_outside_of_the_file_count_by_their_shapes_and_small_ones_are_read(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["h"]),
        helper.make_node("Conv", ["h", "w"], ["y"], pads=[1] * 4),
    ]
    weights = [weight("w", [64, 64, 3, 3]), numpy_helper.from_array(np.array([1, 64, 6, 6]), "shape")]
    whole = model(nodes, [value("x", [64 * 36])], weights)
    convert_model_to_external_data(whole, location="data", size_threshold=0)
    save(whole, tmp_path / "net.onnx")
    content = (tmp_path / "net.onnx").read_bytes()
    assert read_size(content, folder=tmp_path) == ModelSize(36 * 36864, 36864)
    assert read_size(content) == ModelSize(None, 36864), "the shape is in the other file"


def test_a_file_of_more_than_two_gigabytes_costs_nothing_to_count() -> None:
    huge = weight("w", [1, 1])
    del huge.dims[:]
    huge.dims.extend([40_000, 20_000])  # 3.2 GB
    huge.ClearField("raw_data")
    huge.data_location = TensorProto.EXTERNAL
    huge.external_data.add(key="location", value="data")
    content = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", [1, 40_000])], [huge])
    assert read_size(content.SerializeToString()) == ModelSize(math.prod(huge.dims), math.prod(huge.dims))


@pytest.mark.parametrize("content", [b"", b"x", b"\x1c\0\0\0TFL3" + b"\xff" * 200], ids=repr)
def test_garbage_is_refused(content: bytes) -> None:
    with pytest.raises(ModelFormatError):
        read_size(content)


def test_a_channel_split_of_torch_without_sizes_is_counted_and_priced() -> None:
    torch = pytest.importorskip("torch")

    class Halves(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)

        def forward(self, x):
            one, two = x.chunk(2, dim=1)
            return torch.cat((one, self.conv(two)), 1)

    buffer = io.BytesIO()
    torch.onnx.export(Halves().eval(), (torch.zeros(1, 16, 6, 6),), buffer, dynamo=False, opset_version=11)
    assert read_size(buffer.getvalue()) == ModelSize(36 * 576, 576)
    assert [each.kind for each in read_operators(buffer.getvalue())] == ["move", "move", "conv", "move"]


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_a_split_without_sizes_is_into_halves(opset: int) -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1),
        helper.make_node("Conv", ["a", "w"], ["c"]),
        helper.make_node("Concat", ["c", "b"], ["y"], axis=1),
    ]
    content = model(nodes, [value("x", [1, 8, 6, 6])], [weight("w", [4, 4, 1, 1])], (("", opset),)).SerializeToString()
    assert read_size(content) == ModelSize(36 * 16, 16)
    assert [each.kind for each in read_operators(content)] == ["move", "conv", "move"]
