"""What a model file is made of: its operators with their sizes, read from ONNX or TFLite alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bpnas.android_bench.counting import onnx_shapes
from bpnas.android_bench.counting.limits import NotPriceableError, check_onnx, check_tflite
from bpnas.android_bench.counting.onnx_rules import OnnxNode, multiply_adds
from bpnas.android_bench.counting.tflite_count import TfliteNode, is_stored
from bpnas.android_bench.counting.tflite_count import multiply_adds as tflite_multiply_adds
from bpnas.android_bench.counting.tflite_shapes import TfliteShapes
from bpnas.android_bench.counting.work import ModelFormatError as ModelFormatError
from bpnas.android_bench.counting.work import Shape, UnknownWorkError, size

OperatorKind = Literal["conv", "depthwise", "linear", "add", "pool", "gate", "move", "other"]


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator as a runtime executes it (an activation that follows a convolution is part of it).

    Attributes:
        kind: `gate` is a product with one number per channel; `move` copies or reorders without computing; `other` is
            elementwise: a product of two maps, a sigmoid, a hard-swish, ...
        macs: multiply-adds.
        kernel: longest side of the filter, 1 where there is none.
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


def read_operators(
    content: bytes, input_shapes: Sequence[Shape] = (), folder: Path | None = None
) -> tuple[Operator, ...]:
    """The operators of an ONNX or TFLite file, in order of execution.

    Args:
        content: of the file.
        input_shapes: of every input, in the file's order and layout; none: as the file says.
        folder: of the file, if it keeps data beside itself.

    Raises:
        NotRunnableError, NotPriceableError: of `counting.limits`: the model is read, and is none whose operators a
            runtime executes one after the other, always alike, in float32.
        ModelFormatError: the content is neither, is damaged, or lacks static shapes.
    """
    try:
        if content[4:8] == b"TFL3":
            operators = _read_tflite(content, input_shapes)
        else:
            operators = _read_onnx(content, input_shapes, folder)
    except ModelFormatError:
        raise
    except UnknownWorkError as error:
        raise NotPriceableError(str(error)) from error
    except Exception as error:  # damaged files fail in the parsers in any way they like
        raise ModelFormatError(f"not a readable model file: {type(error).__name__}") from error
    if not operators:
        raise ModelFormatError("not a readable model file: it has no operators that compute")
    return operators


def _read_onnx(content: bytes, input_shapes: Sequence[Shape], folder: Path | None) -> tuple[Operator, ...]:
    model = onnx_shapes.parse(content, input_shapes, folder)
    check_onnx(model)
    graph = model.graph
    shapes = onnx_shapes.declared_shapes(graph)
    producers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    operators = []
    for node in graph.node:
        view = OnnxNode(node, [shapes.get(name) for name in node.input], [shapes.get(name) for name in node.output])
        if node.op_type in _NAMES or _is_part_of_another(node, producers) or constants.issuperset(node.input):
            continue
        x, y = _static(view.inputs[0], view.op), _static(view.outputs[0], view.op)
        others = [_static(shapes[name], view.op) for name in node.input[1:] if name in shapes]
        operators.append(_onnx_operator(view, x, y, others))
    return tuple(operators)


def _onnx_operator(view: OnnxNode, x: Shape, y: Shape, others: Sequence[Shape]) -> Operator:
    macs = multiply_adds(view)
    match view.op:
        case "Conv" | "ConvTranspose" | "DeformConv" | "FusedConv":
            return _conv(macs, x[1], y[1], view.attribute("group", 1), max(others[0][2:]), x, y, others)
        case "Add":
            return _plain("add", x, y, 2)
        case "GlobalAveragePool" | "ReduceMean" | "AveragePool" | "MaxPool" | "GlobalMaxPool" | "LpPool":
            return _plain("pool", x, y)
        case "Transpose" | "Slice":
            return _plain("move", x, y)
        case "Split" | "Concat":
            return _move_all(x, y)
        case "Mul":
            return _product(x, others[0] if others else (), y)
    return _linear(macs, x, y, others) if macs else _plain("other", x, y)


# They only give their input another name.
_NAMES = {"Flatten", "Identity", "Constant", "Dropout", "Reshape", "Squeeze", "Unsqueeze"}


def _is_part_of_another(node: Any, producers: dict[str, Any]) -> bool:
    """Whether it is an activation, which the operator before takes in; a batch normalisation, which every runtime
    folds into the convolution before it; or the second half of a hard-swish, x * HardSigmoid(x), which opset 13 has no
    operator for.
    """
    if node.op_type in ("Relu", "Clip"):
        return node.input[0] in producers
    if node.op_type == "BatchNormalization":
        return node.input[0] in producers and producers[node.input[0]].op_type == "Conv"
    if node.op_type == "Mul":
        gates = [producers[name] for name in node.input if name in producers]
        return any(gate.op_type == "HardSigmoid" and gate.input[0] in node.input for gate in gates)
    return False


def _read_tflite(content: bytes, input_shapes: Sequence[Shape]) -> tuple[Operator, ...]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content)
    check_tflite(model)
    graph = model.Subgraphs(0)
    shapes = TfliteShapes(graph, input_shapes)
    unpadded: dict[int, int] = {}
    operators = []
    for number in range(graph.OperatorsLength()):
        operator = graph.Operators(number)
        node = TfliteNode(model, graph, operator, shapes)
        node.find_shapes()
        name, given = node.op, operator.Outputs(0)
        taken = [index for index in node.inputs if index >= 0]
        if not taken or all(is_stored(model, graph.Tensors(index)) for index in taken):
            continue  # known before the first inference
        if name == "PAD":  # runs inside the convolution behind it
            unpadded[given] = taken[0]
        else:
            sources = [_static(shapes.of(unpadded.get(index, index)), name) for index in taken]
            operators += _tflite_operator(node, sources, _static(shapes.of(given), name))
    return tuple(operators)


def _tflite_operator(node: TfliteNode, sources: list[Shape], y: Shape) -> list[Operator]:
    """The operator as a runtime executes it, if it does by itself."""
    name, macs = node.op, tflite_multiply_adds(node)
    if name in ("SPLIT", "TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"):  # whose first input is the axis, or a shape
        sources = [sources[2], sources[1], *sources[3:]] if len(sources) > 2 else sources[::-1]
    x, others = sources[0], sources[1:]
    match name:
        case "CONV_2D":
            groups = x[3] // others[0][3]
            return [_conv(macs, x[3], y[3], groups, max(others[0][1:3]), _nchw(x), _nchw(y), others)]
        case "DEPTHWISE_CONV_2D":
            return [_conv(macs, x[3], y[3], x[3], max(others[0][1:3]), _nchw(x), _nchw(y), others)]
        case "CONV_3D" | "CONV_3D_TRANSPOSE" | "TRANSPOSE_CONV":
            window = others[0][1:3] if name == "TRANSPOSE_CONV" else others[0][:3]
            return [_conv(macs, x[-1], y[-1], 1, max(window), _nchw(x), _nchw(y), others)]
        case "ADD" if size(others[0]) > 1:
            return [_plain("add", _nchw(x), _nchw(y), 2)]
        case "MUL":  # by a single number it is the second half of a hard-sigmoid
            return [_product(_nchw(x), _nchw(others[0]), _nchw(y))] if size(others[0]) > 1 else []
        case "MEAN" | "AVERAGE_POOL_2D" | "MAX_POOL_2D":
            return [_plain("pool", _nchw(x), _nchw(y))]
        case "TRANSPOSE" | "SLICE" | "STRIDED_SLICE":
            return [_plain("move", _nchw(x), _nchw(y))]
        case "SPLIT" | "CONCATENATION":
            return [_move_all(_nchw(x), _nchw(y))]
        case "RESHAPE":
            return []
    return [_linear(macs, x, y, others) if macs else _plain("other", _nchw(x), _nchw(y))]


def _static(shape: Shape | None, op: str) -> Shape:
    # An unknown size reads as 0 in ONNX and as -1 in TFLite, a damaged one as anything: never work without cost.
    if shape is None or any(length <= 0 for length in shape):
        raise NotPriceableError(f"the shapes of operator {op} are not static: they are open, or follow from data")
    return shape


def _nchw(shape: Shape) -> Shape:
    return (shape[0], *reversed(shape[1:])) if len(shape) > 2 else shape


def _conv(
    macs: int, c_in: int, c_out: int, groups: int, kernel: int, x: Shape, y: Shape, weights: Sequence[Shape]
) -> Operator:
    if groups < 1 or c_in % groups or c_out % groups:
        raise ModelFormatError(f"not a readable model file: a convolution of {c_in} to {c_out} in {groups} groups")
    depthwise = groups == c_in and groups > 1
    weight_bytes = 4 * sum(size(weight) for weight in weights)
    kind: OperatorKind = "depthwise" if depthwise else "conv"
    return Operator(kind, macs, kernel, groups, c_in, c_out, 4 * size(x), 4 * size(y), weight_bytes)


def _linear(macs: int, x: Shape, y: Shape, weights: Sequence[Shape]) -> Operator:
    weight_bytes = 4 * sum(size(weight) for weight in weights)
    return Operator("linear", macs, 1, 1, x[-1], y[-1], 4 * size(x), 4 * size(y), weight_bytes)


def _plain(kind: OperatorKind, x: Shape, y: Shape, inputs: int = 1) -> Operator:
    c_in, c_out = (_channels(x), _channels(y)) if kind != "move" else (0, 0)  # what is moved may not be channels at all
    return Operator(kind, 0, 1, 1, c_in, c_out, 4 * inputs * size(x), 4 * size(y), 0)


def _move_all(x: Shape, y: Shape) -> Operator:
    """What is split or put together: as much comes out as goes in, though one of the two is in pieces."""
    whole = max(x, y, key=size)
    return _plain("move", whole, whole)


def _product(a: Shape, b: Shape, y: Shape) -> Operator:
    """Elementwise, of two tensors or with a gate that holds for a whole channel."""
    kind: OperatorKind = "other" if size(a) == size(b) else "gate"
    return Operator(kind, 0, 1, 1, _channels(y), _channels(y), 4 * (size(a) + size(b)), 4 * size(y), 0)


def _channels(shape: Shape) -> int:
    return shape[1] if len(shape) > 1 else 1
