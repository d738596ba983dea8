"""What a model file is made of: its operators with their sizes, read from ONNX or TFLite alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

OperatorKind = Literal["conv", "depthwise", "linear", "add", "pool", "gate", "move", "other"]
Shape = tuple[int, ...]


class ModelFormatError(ValueError):
    """The file is no model that can be read; a device's runtime would refuse it."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator as a runtime executes it (an activation that follows a convolution is part of it).

    Attributes:
        kind: `gate` is a product with one number per channel; `move` copies or reorders without computing; `other` is
            elementwise: a product of two maps, a sigmoid, a hard-swish, ...
        macs: multiply-adds.
        kernel: height of the filter, 1 where there is none.
        groups: of a convolution.
        c_in, c_out: channels (features of a linear layer; 0 for a move).
        input_bytes, output_bytes, weight_bytes: float32 traffic.
    """

    kind: OperatorKind
    macs: int
    kernel: int
    groups: int
    c_in: int
    c_out: int
    input_bytes: int
    output_bytes: int
    weight_bytes: int


def read_operators(content: bytes) -> tuple[Operator, ...]:
    """The operators of an ONNX or TFLite file, in order of execution.

    Raises:
        ModelFormatError: the content is neither, is damaged, or lacks static shapes.
    """
    try:
        operators = _read_tflite(content) if content[4:8] == b"TFL3" else _read_onnx(content)
    except ModelFormatError:
        raise
    except Exception as error:  # damaged files fail in the parsers in any way they like
        raise ModelFormatError(f"not a readable model file: {type(error).__name__}") from error
    if not operators:
        raise ModelFormatError("not a readable model file: it has no operators")
    return operators


def _read_onnx(content: bytes) -> tuple[Operator, ...]:
    import onnx

    model = onnx.ModelProto.FromString(content)
    graph = model.graph
    shapes = _onnx_shapes(graph)
    if any(min(shapes.get(name, (0,)), default=1) < 1 for node in graph.node for name in node.output):
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        shapes = _onnx_shapes(graph)
    producers = {name: node for node in graph.node for name in node.output}
    operators = []
    for node in graph.node:
        if node.op_type in _FREE_IN_ONNX or _is_part_of_another(node, producers):
            continue
        x = shapes[node.input[0]]
        # An operator whose own output has no shape passes it on to an activation that has one.
        y = shapes.get(node.output[0]) or _conv_output(node, x, shapes)
        _require_static(x, y)
        others = [shapes[name] for name in node.input[1:] if name in shapes]
        if node.op_type == "Conv":
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            operators.append(_conv(x[1], y[1], groups, others[0][2], _size(y[2:]), x, y, others))
        elif node.op_type in ("Gemm", "MatMul"):
            operators.append(_linear(x, y, others))
        elif node.op_type == "Add":
            operators.append(_plain("add", x, y, 2))
        elif node.op_type in ("GlobalAveragePool", "ReduceMean", "AveragePool", "MaxPool"):
            operators.append(_plain("pool", x, y))
        elif node.op_type in ("Transpose", "Slice"):
            operators.append(_plain("move", x, y))
        elif node.op_type in ("Split", "Concat"):
            operators.append(_move_all(x, y))
        elif node.op_type == "Mul":
            operators.append(_product(x, others[0] if others else (), y))
        else:
            operators.append(_plain("other", x, y))
    return tuple(operators)


# The operator before takes them in, or they only give their input another name.
_FREE_IN_ONNX = {
    *("Relu", "Clip", "Flatten", "Identity", "Constant", "Dropout", "Reshape", "Squeeze", "Unsqueeze"),
}


def _is_part_of_another(node: Any, producers: dict[str, Any]) -> bool:
    """Whether it is a batch normalisation, which every runtime folds into the convolution before it, or the second
    half of a hard-swish, x * HardSigmoid(x), which opset 13 has no operator for.
    """
    if node.op_type == "BatchNormalization":
        return node.input[0] in producers and producers[node.input[0]].op_type == "Conv"
    if node.op_type == "Mul":
        gates = [producers[name] for name in node.input if name in producers]
        return any(gate.op_type == "HardSigmoid" and gate.input[0] in node.input for gate in gates)
    return False


def _onnx_shapes(graph: Any) -> dict[str, Shape]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        shapes[info.name] = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
    return shapes


def _conv_output(node: Any, x: Shape, shapes: dict[str, Shape]) -> Shape:
    if node.op_type != "Conv":
        return x
    weight = shapes[node.input[1]]
    strides = next((tuple(a.ints) for a in node.attribute if a.name == "strides"), (1, 1))
    return (x[0], weight[0], -(-x[2] // strides[0]), -(-x[3] // strides[1]))


@cache
def _tflite_operators() -> dict[int, str]:
    """Names of the operators by their codes."""
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def _read_tflite(content: bytes) -> tuple[Operator, ...]:
    from ai_edge_litert import schema_py_generated as schema

    names = _tflite_operators()
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)

    unpadded: dict[int, int] = {}

    def shape(index: int) -> Shape:
        return tuple(graph.Tensors(unpadded.get(index, index)).ShapeAsNumpy().tolist())

    operators = []
    for number in range(graph.OperatorsLength()):
        operator = graph.Operators(number)
        code = model.OperatorCodes(operator.OpcodeIndex())
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        shapes = [shape(index) for index in operator.InputsAsNumpy().tolist() if index >= 0]
        if name == "SPLIT":  # whose first input is the axis
            shapes.reverse()
        x, others, y = shapes[0], shapes[1:], shape(operator.Outputs(0))
        _require_static(x, y)
        if name == "PAD":  # runs inside the convolution behind it
            unpadded[operator.Outputs(0)] = operator.Inputs(0)
        elif name == "CONV_2D":
            groups = x[3] // others[0][3]
            operators.append(_conv(x[3], y[3], groups, others[0][1], _size(y[1:3]), x, y, others))
        elif name == "DEPTHWISE_CONV_2D":
            operators.append(_conv(x[3], y[3], x[3], others[0][1], _size(y[1:3]), x, y, others))
        elif name == "FULLY_CONNECTED":
            operators.append(_linear(x, y, others))
        elif name == "ADD" and _size(others[0]) > 1:
            operators.append(_plain("add", _nchw(x), _nchw(y), 2))
        elif name == "MUL":
            if _size(others[0]) > 1:  # by a single number it is the second half of a hard-sigmoid
                operators.append(_product(_nchw(x), _nchw(others[0]), _nchw(y)))
        elif name in ("MEAN", "AVERAGE_POOL_2D", "MAX_POOL_2D"):
            operators.append(_plain("pool", _nchw(x), _nchw(y)))
        elif name in ("TRANSPOSE", "SLICE", "STRIDED_SLICE"):
            operators.append(_plain("move", _nchw(x), _nchw(y)))
        elif name in ("SPLIT", "CONCATENATION"):
            operators.append(_move_all(_nchw(x), _nchw(y)))
        elif name != "RESHAPE":
            operators.append(_plain("other", _nchw(x), _nchw(y)))
    return tuple(operators)


def _require_static(*shapes: Shape) -> None:
    # A dynamic dimension reads as 0 in ONNX and as -1 in TFLite, a damaged one as anything: never work without cost.
    if any(size <= 0 for shape in shapes for size in shape):
        raise ModelFormatError(f"not a readable model file: shapes {shapes} are not static")


def _nchw(shape: Shape) -> Shape:
    return (shape[0], *reversed(shape[1:])) if len(shape) > 2 else shape


def _size(shape: Sequence[int]) -> int:
    return math.prod(shape)


def _conv(
    c_in: int, c_out: int, groups: int, kernel: int, pixels: int, x: Shape, y: Shape, weights: Sequence[Shape]
) -> Operator:
    _require_static(*weights)
    if groups < 1 or c_in % groups or c_out % groups:
        raise ModelFormatError(f"not a readable model file: a convolution of {c_in} to {c_out} in {groups} groups")
    depthwise = groups == c_in and groups > 1
    macs = pixels * c_out * kernel * kernel * (c_in // groups)
    weight_bytes = 4 * sum(_size(weight) for weight in weights)
    kind: OperatorKind = "depthwise" if depthwise else "conv"
    return Operator(kind, macs, kernel, groups, c_in, c_out, 4 * _size(x), 4 * _size(y), weight_bytes)


def _linear(x: Shape, y: Shape, weights: Sequence[Shape]) -> Operator:
    _require_static(*weights)
    weight_bytes = 4 * sum(_size(weight) for weight in weights)
    return Operator("linear", x[-1] * _size(y), 1, 1, x[-1], y[-1], 4 * _size(x), 4 * _size(y), weight_bytes)


def _plain(kind: OperatorKind, x: Shape, y: Shape, inputs: int = 1) -> Operator:
    c_in, c_out = (_channels(x), _channels(y)) if kind != "move" else (0, 0)  # what is moved may not be channels at all
    return Operator(kind, 0, 1, 1, c_in, c_out, 4 * inputs * _size(x), 4 * _size(y), 0)


def _move_all(x: Shape, y: Shape) -> Operator:
    """What is split or put together: as much comes out as goes in, though one of the two is in pieces."""
    whole = max(x, y, key=_size)
    return _plain("move", whole, whole)


def _product(a: Shape, b: Shape, y: Shape) -> Operator:
    """Elementwise, of two tensors or with a gate that holds for a whole channel."""
    kind: OperatorKind = "other" if _size(a) == _size(b) else "gate"
    return Operator(kind, 0, 1, 1, _channels(y), _channels(y), 4 * (_size(a) + _size(b)), 4 * _size(y), 0)


def _channels(shape: Shape) -> int:
    return shape[1] if len(shape) > 1 else 1
