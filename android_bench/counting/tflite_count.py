"""Multiply-adds and parameters of a TFLite file. What counts is the same as in ONNX; see `onnx_rules`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from bpnas.android_bench.counting.tflite_shapes import TfliteShapes
from bpnas.android_bench.counting.work import Shape, UnknownWorkError, known, larger, size, together


def count_tflite(content: bytes, input_shapes: Sequence[Shape] = ()) -> tuple[int | None, int | None]:
    """Multiply-adds and parameters; None where they are unknown.

    Args:
        content: of the file.
        input_shapes: of every input, in the file's order and layout; none: as the file says.

    Raises:
        Exception: any, of a damaged file.
    """
    from ai_edge_litert import schema_py_generated as schema

    counter = _Counter(schema.Model.GetRootAs(content), input_shapes)
    macs = counter.graph(0)
    return macs, counter.parameters()


@cache
def operator_names() -> dict[int, str]:
    """Names of the operators by their codes."""
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def operator_name(model: Any, operator: Any) -> str:
    """As the schema calls it; a custom one by the name that it has in the file, after `CUSTOM `."""
    code = model.OperatorCodes(operator.OpcodeIndex())
    name = operator_names().get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "an unknown operator")
    return f"CUSTOM {(code.CustomCode() or b'').decode(errors='replace')}" if name == "CUSTOM" else name


def is_stored(model: Any, tensor: Any) -> bool:
    """Whether the file holds the values of a tensor, within itself or behind its end."""
    if not 0 < tensor.Buffer() < model.BuffersLength():
        return False
    buffer = model.Buffers(tensor.Buffer())
    return bool(buffer.DataLength() or buffer.Size() > 1)


class TfliteNode:
    """An operator of a graph."""

    def __init__(self, model: Any, graph: Any, operator: Any, shapes: TfliteShapes) -> None:
        self.op = operator_name(model, operator)
        self.graph, self.operator = graph, operator
        self._model, self._shapes = model, shapes

    @property
    def inputs(self) -> list[int]:
        """Numbers of the tensors; -1 for an optional one left out."""
        return [self.operator.Inputs(i) for i in range(self.operator.InputsLength())]

    def has_input(self, index: int) -> bool:
        """Whether the optional input is there."""
        inputs = self.inputs
        return index < len(inputs) and inputs[index] >= 0

    def x(self, index: int = 0) -> Shape:
        """Shape of an input; raises UnknownWorkError."""
        if not self.has_input(index):
            raise UnknownWorkError(f"operator {self.op} lacks an input")
        return _of_rank(self._shapes.of(self.inputs[index]), f"an input of {self.op}")

    def y(self) -> Shape:
        """Shape of the first output; raises UnknownWorkError."""
        if not self.operator.OutputsLength():
            raise UnknownWorkError(f"operator {self.op} has no output")
        return _of_rank(self._shapes.of(self.operator.Outputs(0)), f"the output of {self.op}")

    def values(self, index: int) -> tuple[int, ...]:
        """The whole numbers that the file holds for an input; raises UnknownWorkError where it holds none."""
        import numpy as np
        from ai_edge_litert import schema_py_generated as schema

        tensor = self.graph.Tensors(self.inputs[index]) if self.has_input(index) else None
        kinds: dict[Any, Any] = {schema.TensorType.INT32: "<i4", schema.TensorType.INT64: "<i8"}
        if tensor is None or not is_stored(self._model, tensor) or tensor.Type() not in kinds:
            raise UnknownWorkError(f"an input of {self.op} is none that the file holds")
        data = self._model.Buffers(tensor.Buffer()).DataAsNumpy()
        return tuple(np.frombuffer(data.tobytes(), kinds[tensor.Type()]).tolist())

    def find_shapes(self) -> None:
        """Of what it gives, once those of what it takes are known."""
        self._shapes.add(self.op, self.operator, self.options, self.values)

    def options(self, kind: str) -> Any:
        """The options, as this table of the schema."""
        from ai_edge_litert import schema_py_generated as schema

        union = self.operator.BuiltinOptions() or self.operator.BuiltinOptions2()
        if union is None:
            raise UnknownWorkError(f"operator {self.op} lacks its options")
        table = getattr(schema, kind)()
        table.Init(union.Bytes, union.Pos)
        return table


def _of_rank(shape: Shape | None, what: str) -> Shape:
    return known(shape or None, what)  # without sizes it is of unknown rank: no operator that multiplies takes numbers


def multiply_adds(node: TfliteNode) -> int:
    """Of one operator that runs no other graph.

    Raises:
        UnknownWorkError: it has a shape that is unknown, or is no operator whose work is known.
    """
    if _is_untold(node.op):
        raise UnknownWorkError(f"the multiply-adds of operator {node.op.removeprefix('CUSTOM ')} are unknown")
    return _RULES[node.op](node) if node.op in _RULES else 0


class _Counter:
    def __init__(self, model: Any, input_shapes: Sequence[Shape]) -> None:
        self._model, self._input_shapes = model, input_shapes
        self._graphs: dict[int, int | None] = {}
        self._buffers: dict[int, int] = {}
        self._are_all_known = True

    def parameters(self) -> int | None:
        """Numbers in all buffers that are weights; None where an operator of others may hold more."""
        return sum(self._buffers.values()) if self._are_all_known else None

    def graph(self, index: int) -> int | None:
        """Multiply-adds of one run of a graph.

        Raises:
            ValueError: the graph is none of the file's, or calls itself.
        """
        if index not in self._graphs:
            if not 0 <= index < self._model.SubgraphsLength():
                raise ValueError(f"there is no graph {index}")
            self._graphs[index] = _UNDER_WAY
            graph = self._model.Subgraphs(index)
            shapes = TfliteShapes(graph, self._input_shapes if index == 0 else ())
            nodes = (
                TfliteNode(self._model, graph, graph.Operators(number), shapes)
                for number in range(graph.OperatorsLength())
            )
            self._graphs[index] = together([self._node(node) for node in nodes])
        if self._graphs[index] == _UNDER_WAY:
            raise ValueError(f"graph {index} calls itself")
        return self._graphs[index]

    def _node(self, node: TfliteNode) -> int | None:
        node.find_shapes()
        self._add_constants(node)
        try:
            inner = [self.graph(index) for index in _graphs_of(node)]
            if node.op == "IF":
                return larger(inner)
            if node.op in _CALLS:
                return together(inner)
            if node.op in _LOOPS:  # how often they run follows from the data
                return 0 if all(body == 0 for body in inner) else None
            if node.op.startswith("CUSTOM ") and node.op not in FREE_CUSTOM:
                self._are_all_known = False
            return multiply_adds(node)
        except UnknownWorkError:
            return None

    def _add_constants(self, node: TfliteNode) -> None:
        for index, number in enumerate(node.inputs):
            if number < 0:
                continue
            tensor = node.graph.Tensors(number)
            if tensor.ShapeLength() and is_stored(self._model, tensor) and _is_weight(tensor.Type(), node, index):
                numbers = size(tensor.ShapeAsNumpy().tolist())
                self._buffers[tensor.Buffer()] = max(numbers, self._buffers.get(tensor.Buffer(), 0))


_UNDER_WAY = -1
_LOOPS = ("WHILE", "STABLEHLO_WHILE")
_CALLS = ("CALL", "STABLEHLO_COMPOSITE")

FREE_CUSTOM = {"CUSTOM TFLite_Detection_PostProcess"}
"""Custom operators that every TFLite has, and that multiply no matrices."""


def _graphs_of(node: TfliteNode) -> Iterable[int]:
    match node.op:
        case "IF":
            options = node.options("IfOptions")
            return options.ThenSubgraphIndex(), options.ElseSubgraphIndex()
        case "WHILE":
            options = node.options("WhileOptions")
            return options.CondSubgraphIndex(), options.BodySubgraphIndex()
        case "STABLEHLO_WHILE":
            options = node.options("StablehloWhileOptions")
            return options.CondSubgraphIndex(), options.BodySubgraphIndex()
        case "CALL":
            return (node.options("CallOptions").Subgraph(),)
        case "STABLEHLO_COMPOSITE":
            return (node.options("StableHLOCompositeOptions").DecompositionSubgraphIndex(),)
    return ()  # CALL_ONCE among them: what it calls runs before the first inference, and never again


def _is_untold(op: str) -> bool:
    if op.startswith("CUSTOM "):
        return op not in FREE_CUSTOM
    return op in ("DELEGATE", "RFFT2D", "STABLEHLO_CUSTOM_CALL", "STABLEHLO_CASE", "an unknown operator")


def _is_weight(kind: int, node: TfliteNode, index: int) -> bool:
    """Whether the operator takes a constant for numbers to compute with: no shape, no index."""
    from ai_edge_litert import schema_py_generated as schema

    types = schema.TensorType
    if kind in (types.INT32, types.INT64):
        return index == _BIASES.get(node.op) or (node.op in _RECURRENT and node.op != "RNN")
    return kind not in (types.STRING, types.BOOL, types.RESOURCE, types.VARIANT, types.UINT32, types.UINT64)


_BIASES = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "FULLY_CONNECTED"), 2),
    **dict.fromkeys(("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE", "SVDF"), 3),
}


def _conv(node: TfliteNode) -> int:
    """Every output pixel takes every weight once."""
    return size(node.y()[:-1]) * size(node.x(1))


def _conv_2d(node: TfliteNode) -> int:
    channels, of_a_group = node.x()[-1], node.x(1)[-1]
    if channels % of_a_group:  # sizes were asked for that this model cannot have
        raise UnknownWorkError(f"a convolution of {of_a_group} channels would get {channels}")
    return _conv(node)


def _transposed_conv(node: TfliteNode) -> int:
    """Every input pixel takes every weight once."""
    return size(node.x(2)[:-1]) * size(node.x(1))


def _fully_connected(node: TfliteNode) -> int:
    weight = node.x(1)
    return size(node.x()) // weight[-1] * size(weight)


def _batch_mat_mul(node: TfliteNode) -> int:
    transposed = bool(node.operator.BuiltinOptions() and node.options("BatchMatMulOptions").AdjX())
    return size(node.y()) * node.x()[-2 if transposed else -1]


def _svdf(node: TfliteNode) -> int:
    return node.x()[0] * (size(node.x(1)) + size(node.x(2)))


def _basic_lstm(node: TfliteNode) -> int:
    return node.x()[0] * size(node.x(2))


def _recurrent(node: TfliteNode) -> int:
    """At every step all weights, of both directions."""
    x = node.x()
    steps = size(x[:-1])  # and samples, in any order
    return steps * sum(size(node.x(index)) for index in _RECURRENT[node.op] if node.has_input(index))


def _lstm(node: TfliteNode) -> int:
    return _basic_lstm(node) if len(node.inputs) == 5 else _recurrent(node)


_GATES = (*range(1, 9), 16)
_RECURRENT: dict[str, tuple[int, ...]] = {
    "LSTM": _GATES,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _GATES,
    "BIDIRECTIONAL_SEQUENCE_LSTM": (*_GATES, *range(18, 26), 33, *range(40, 48)),
    "RNN": (1, 2),
    "UNIDIRECTIONAL_SEQUENCE_RNN": (1, 2),
    "BIDIRECTIONAL_SEQUENCE_RNN": (1, 2, 5, 6, 10, 11),
}
"""Inputs that are matrices of a recurrent operator."""


def _stablehlo_conv(node: TfliteNode) -> int:
    weight = node.x(1)
    outputs: int = weight[node.options("StablehloConvolutionOptions").KernelOutputFeatureDimension()]
    return size(node.y()) * size(weight) // outputs


def _stablehlo_dot(node: TfliteNode) -> int:
    x, options = node.x(), node.options("StablehloDotGeneralOptions")
    axes = [options.LhsContractingDimensions(i) for i in range(options.LhsContractingDimensionsLength())]
    return size(node.y()) * size([x[axis] for axis in axes])


_RULES: dict[str, Callable[[TfliteNode], int]] = {
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _conv,
    "CONV_3D": _conv,
    "TRANSPOSE_CONV": _transposed_conv,
    "CONV_3D_TRANSPOSE": _transposed_conv,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_mat_mul,
    "SVDF": _svdf,
    **dict.fromkeys(_RECURRENT, _recurrent),
    "LSTM": _lstm,
    "STABLEHLO_CONVOLUTION": _stablehlo_conv,
    "STABLEHLO_DOT_GENERAL": _stablehlo_dot,
}
