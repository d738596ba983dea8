"""Small model files as people have them: of every type of input, open sizes, weights beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234567\n"


def onnx_model(
    nodes: Sequence[Any], inputs: Sequence[tuple[Any, ...]], outputs: Sequence[tuple[Any, ...]], **weights: Any
) -> onnx.ModelProto:
    """A model of nodes; inputs and outputs are (name, type, shape), weights arrays."""
    described = [[helper.make_tensor_value_info(*each) for each in some] for some in (inputs, outputs)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "g", *described, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def onnx_of(kind: int, shape: Sequence[int | str] | None = (1, 8), to_float: bool = True) -> bytes:
    """One input x of a type, cast to float32."""
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT) if to_float else None
    node = node or helper.make_node("Identity", ["x"], ["y"])
    out = TensorProto.FLOAT if to_float else kind
    return onnx_model([node], [("x", kind, shape)], [("y", out, None)]).SerializeToString()


def misdescribed() -> bytes:
    """An output of another rank than the model says, as some exporters leave it: the runtime warns, and runs it."""
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    inputs = ("x", TensorProto.FLOAT, [1]), ("s", TensorProto.INT64, [3])
    return onnx_model([node], inputs, [("y", TensorProto.FLOAT, ["n", "m"])]).SerializeToString()


def with_data(path: Path, location: str = "net.onnx.data") -> None:
    """A convolution whose weights are in a file beside it, as torch exports by default."""
    weight = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32)
    shape = ("x", TensorProto.FLOAT, [1, 8, 9, 9]), ("y", TensorProto.FLOAT, [1, 8, 9, 9])
    model = onnx_model([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], shape[:1], shape[1:], w=weight)
    (tensor,) = model.graph.initializer
    (path.parent / location).parent.mkdir(parents=True, exist_ok=True)
    (path.parent / location).write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(weight.nbytes))):
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def tflite_tensor(
    name: str | None,
    shape: Sequence[int],
    kind: str = "FLOAT32",
    signature: Sequence[int] = (),
    quantised: bool = False,
) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), getattr(schema.TensorType, kind), 0
    if signature:
        tensor.shapeSignature = list(signature)
    if quantised:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [0.1], [0]
    return tensor


def tflite_model(inputs: Sequence[Any], outputs: Sequence[Any], operator: str, custom: str | None = None) -> bytes:
    """One operator on these tensors."""
    graph = schema.SubGraphT()
    graph.tensors = [*inputs, *outputs]
    graph.inputs = list(range(len(inputs)))
    graph.outputs = list(range(len(inputs), len(graph.tensors)))
    step = schema.OperatorT()
    step.opcodeIndex, step.inputs, step.outputs = 0, graph.inputs, graph.outputs
    if operator == "ADD":
        step.builtinOptionsType, step.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    if operator == "GATHER":
        step.builtinOptionsType, step.builtinOptions = schema.BuiltinOptions.GatherOptions, schema.GatherOptionsT()
    if operator == "SHAPE":
        step.builtinOptionsType, step.builtinOptions = schema.BuiltinOptions.ShapeOptions, schema.ShapeOptionsT()
        step.builtinOptions.outType = schema.TensorType.INT32
    graph.operators = [step]
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = getattr(schema.BuiltinOperator, operator), 1
    code.deprecatedBuiltinCode, code.customCode = min(code.builtinCode, 127), custom
    model = schema.ModelT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [schema.BufferT()], [code]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def cast(kind: str, shape: Sequence[int] = (1, 40), quantised: bool = False) -> bytes:
    """An input of a type, as float32."""
    return tflite_model([tflite_tensor("x", shape, kind, quantised=quantised)], [tflite_tensor("y", shape)], "CAST")


def relu(shape: Sequence[int] = (1, 8), **more: Any) -> bytes:
    return tflite_model([tflite_tensor("x", shape, **more)], [tflite_tensor("y", shape, **more)], "RELU")
