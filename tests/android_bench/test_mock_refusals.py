"""What the computed phone refuses: what no phone runs, and what it has no costs for; never a price for either."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from bpnas.android_bench import Failure, Measurement, RunRequest, RunSettings, read_operators
from bpnas.android_bench.opening import open_device

FLOAT = TensorProto.FLOAT


def outcome_of(content: bytes, folder: Path, suffix: str) -> Measurement | Failure:
    path = folder / f"model{suffix}"
    path.write_bytes(content)
    request = RunRequest("model", 0, path, hashlib.sha256(content).hexdigest())
    runtime = "tflite" if suffix == ".tflite" else "onnxruntime"
    with open_device("mock:s9", runtime) as device:
        (outcome,) = device.run([request], RunSettings(runs=3))
    return outcome


def onnx_model(
    op: str,
    kind: int = FLOAT,
    domain: str = "",
    opset: int = 17,
    shape: Sequence[int | str] = (1, 4, 6, 6),
    weight: Any = None,
    result: int = FLOAT,
    **attributes: Any,
) -> bytes:
    node = helper.make_node(op, ["x", *(["w"] if weight is not None else [])], ["y"], domain=domain, **attributes)
    x, y = helper.make_tensor_value_info("x", kind, shape), helper.make_tensor_value_info("y", result, None)
    weights = [] if weight is None else [numpy_helper.from_array(weight, "w")]
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], weights), opset_imports=opsets, ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def branch(name: str) -> Any:
    node = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.float32(0)))
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, FLOAT, [])])


ONNX = {
    "an operator of others": (
        onnx_model("MyConv", domain="my.domain"),
        "no phone runs it: operator MyConv of my.domain is none of ONNX Runtime's own",
    ),
    "no operator at all": (onnx_model("Konv"), "no phone runs it: operator Konv is none of ONNX's"),
    "from the future": (
        onnx_model("Relu", opset=999),
        "no phone runs it: it is of operator set 999, and the newest that is known is",
    ),
    "int8": (
        onnx_model("ConvInteger", TensorProto.INT8, weight=np.ones((8, 4, 1, 1), np.int8), result=TensorProto.INT32),
        "mock:s9 cannot price it: operator ConvInteger computes in whole numbers, and costs are of float32",
    ),
    "float16": (
        onnx_model("Conv", TensorProto.FLOAT16, weight=np.ones((8, 4, 1, 1), np.float16), result=TensorProto.FLOAT16),
        "mock:s9 cannot price it: operator Conv is of float16, and costs are of float32",
    ),
    "text": (
        onnx_model("StringNormalizer", TensorProto.STRING, shape=[4], result=TensorProto.STRING),
        "mock:s9 cannot price it: operator StringNormalizer is of string, and costs are of float32",
    ),
    "branches": (
        onnx_model("If", TensorProto.BOOL, shape=[], then_branch=branch("a"), else_branch=branch("b")),
        "mock:s9 cannot price it: operator If runs other operators, as its data says",
    ),
    "what follows from data": (
        onnx_model("NonZero", result=TensorProto.INT64),
        "mock:s9 cannot price it: how long operator NonZero takes follows from its data",
    ),
    "unknown multiply-adds": (
        onnx_model("Det", shape=[1, 4, 4]),
        "mock:s9 cannot price it: how long operator Det takes follows from its data",
    ),
    "open sizes": (
        onnx_model("Conv", shape=[1, 4, "h", "w"], weight=np.ones((8, 4, 1, 1), np.float32)),
        "mock:s9 cannot price it: the shapes of operator Conv are not static: they are open, or follow from data",
    ),
}


@pytest.mark.parametrize("name", ONNX)
def test_onnx_files_that_get_no_price(name: str, tmp_path: Path) -> None:
    content, sentence = ONNX[name]
    outcome = outcome_of(content, tmp_path, ".onnx")
    assert isinstance(outcome, Failure) and outcome.kind == "refused"
    assert outcome.message.startswith(sentence)
    assert ("a phone may run it, and so may --serial local" in outcome.message) == sentence.startswith("mock:s9 cannot")


def tflite_model(code: int, kind: int = schema.TensorType.FLOAT32, custom: str = "") -> bytes:
    tensors = []
    for name in ("x", "y"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [1, 8], kind, 0
        tensors.append(tensor)
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [1], [operator]
    operator_code = schema.OperatorCodeT()
    operator_code.builtinCode, operator_code.deprecatedBuiltinCode = code, min(code, 127)
    operator_code.customCode = custom or None
    model = schema.ModelT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [schema.BufferT()], [operator_code]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


TFLITE = {
    "of a delegate": (
        tflite_model(schema.BuiltinOperator.CUSTOM, custom="edgetpu-custom-op"),
        "no phone runs it: operator edgetpu-custom-op is none of TFLite's own",
    ),
    "of TensorFlow": (
        tflite_model(schema.BuiltinOperator.CUSTOM, custom="FlexConv2D"),
        "no phone runs it: operator FlexConv2D is none of TFLite's own",
    ),
    "int8": (
        tflite_model(schema.BuiltinOperator.RELU, schema.TensorType.INT8),
        "mock:s9 cannot price it: operator RELU is of int8, and costs are of float32",
    ),
    "text": (
        tflite_model(schema.BuiltinOperator.RESHAPE, schema.TensorType.STRING),
        "mock:s9 cannot price it: operator RESHAPE is of string, and costs are of float32",
    ),
    "a transform": (
        tflite_model(schema.BuiltinOperator.RFFT2D),
        "mock:s9 cannot price it: how long operator RFFT2D takes follows from its data",
    ),
}


@pytest.mark.parametrize("name", TFLITE)
def test_tflite_files_that_get_no_price(name: str, tmp_path: Path) -> None:
    content, sentence = TFLITE[name]
    outcome = outcome_of(content, tmp_path, ".tflite")
    assert isinstance(outcome, Failure) and outcome.kind == "refused"
    assert outcome.message.startswith(sentence)


def test_what_it_does_price_follows_the_multiply_adds(tmp_path: Path) -> None:
    """Of any rank and window, and of products of matrices that are no layers."""

    def milliseconds(content: bytes) -> float:
        outcome = outcome_of(content, tmp_path, ".onnx")
        assert isinstance(outcome, Measurement), outcome
        return sorted(outcome.samples_ns)[1] / outcome.repeats / 1e6

    def conv(*window: int, size: Sequence[int]) -> bytes:
        weight = np.ones((64, 64, *window), np.float32)
        return onnx_model("Conv", shape=[1, 64, *size], weight=weight)

    wide, high = (conv(*window, size=[29, 29]) for window in ((1, 7), (7, 1)))
    assert milliseconds(wide) == pytest.approx(milliseconds(high), rel=0.05)
    assert milliseconds(conv(3, size=[5000])) > 2 * milliseconds(conv(3, size=[1000]))
    (transposed,) = read_operators(
        onnx_model("ConvTranspose", weight=np.ones((4, 8, 2, 2), np.float32), strides=[2, 2])
    )
    assert (transposed.kind, transposed.macs, transposed.c_in, transposed.c_out) == ("conv", 36 * 4 * 8 * 4, 4, 8)
    (gru,) = read_operators(gru_model())
    assert (gru.kind, gru.macs) == ("linear", 9 * 24 * 16)
    (product,) = read_operators(onnx_model("MatMul", shape=[3, 5, 7], weight=np.ones((7, 11), np.float32)))
    assert (product.kind, product.macs) == ("linear", 3 * 5 * 77)


def gru_model() -> bytes:
    node = helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=8)
    weights = [
        numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in (("w", (1, 24, 8)), ("r", (1, 24, 8)))
    ]
    x, y = helper.make_tensor_value_info("x", FLOAT, [9, 1, 8]), helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph([node], "g", [x], [y], weights)
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    return content
