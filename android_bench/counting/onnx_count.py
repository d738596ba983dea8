"""Multiply-adds and parameters of an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpnas.android_bench.counting import onnx_shapes
from bpnas.android_bench.counting.onnx_folding import FOLDED
from bpnas.android_bench.counting.onnx_rules import OnnxNode, multiply_adds
from bpnas.android_bench.counting.work import Shape, UnknownWorkError, known, larger, size, together


def count_onnx(
    content: bytes, input_shapes: Sequence[Shape] = (), folder: Path | None = None
) -> tuple[int | None, int | None]:
    """Multiply-adds and parameters; None where they are unknown.

    Args:
        content: of the file.
        input_shapes: of every input, in the file's order and layout; none: as the file says.
        folder: where the data is that the file keeps outside of itself.

    Raises:
        Exception: any, of a damaged file.
    """
    model = onnx_shapes.parse(content, input_shapes, folder)
    if not model.graph.node:
        raise ValueError("it has no operators")
    counter = _Counter()
    macs = counter.graph(model.graph, None)
    return macs, counter.parameters()


@dataclass(slots=True)
class _Constant:
    """A tensor that the file holds; `counts`: an operator takes it for a weight."""

    numbers: int
    rank: int
    kind: int
    counts: bool = False


@dataclass(slots=True)
class _Scope:
    """What the operators of one graph see: its own tensors, and those of the graphs around it."""

    outer: _Scope | None
    shapes: dict[str, Shape | None]
    constants: dict[str, _Constant] = field(default_factory=dict)
    makers: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def shape(self, name: str) -> Shape | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.shapes:
                return scope.shapes[name]
            if name in scope.makers:
                return None
            scope = scope.outer
        return None

    def find(self, name: str) -> tuple[_Constant | None, Any, Any, _Scope]:
        """The constant of this name, its values, or else the node that makes it; and the scope that has it."""
        scope = self
        while name not in scope.constants and name not in scope.makers and scope.outer is not None:
            scope = scope.outer
        return scope.constants.get(name), scope.values.get(name), scope.makers.get(name), scope


class _Counter:
    def __init__(self) -> None:
        self._constants: list[_Constant] = []
        self._of_functions: dict[str, _Constant] = {}
        self._in_attributes: int | None = 0

    def parameters(self) -> int | None:
        """Numbers in all constants that are weights."""
        found = sum(constant.numbers for constant in self._constants if constant.counts)
        return together((found, self._in_attributes))

    def graph(self, graph: Any, outer: _Scope | None) -> int | None:
        """Multiply-adds of one run of a graph."""
        scope = _Scope(outer, onnx_shapes.declared_shapes(graph))
        for tensor in graph.initializer:
            self._add(scope, tensor.name, tensor.dims, tensor.data_type, tensor)
            if tensor.doc_string == FOLDED:
                self._constants.pop()
        for sparse in graph.sparse_initializer:
            self._add(scope, sparse.values.name, sparse.dims, sparse.values.data_type, None)
        for node in graph.node:
            for name in node.output:
                scope.makers[name] = node
            if node.op_type == "Constant":
                self._add_constant(scope, node)
        return together([self._node(node, scope) for node in graph.node])

    def _add(self, scope: _Scope, name: str, dims: Any, kind: int, tensor: Any) -> None:
        scope.constants[name] = _Constant(size(dims), len(dims), kind)
        scope.shapes[name] = tuple(dims)
        scope.values[name] = tensor
        self._constants.append(scope.constants[name])

    def _add_constant(self, scope: _Scope, node: Any) -> None:
        """A constant that is written as an operator; one of a function is the same wherever it is called."""
        for attribute in node.attribute:
            if attribute.name == "value":
                dims, kind, tensor = attribute.t.dims, attribute.t.data_type, attribute.t
            elif attribute.name == "sparse_value":
                dims, kind, tensor = attribute.sparse_tensor.dims, attribute.sparse_tensor.values.data_type, None
            elif attribute.name == "value_floats":
                dims, kind, tensor = (len(attribute.floats),), _FLOAT, None
            else:
                continue
            self._add(scope, node.output[0], dims, kind, tensor)
            if node.doc_string.startswith(onnx_shapes.IN_FUNCTION):
                new = self._constants.pop()
                same = self._of_functions.setdefault(node.doc_string, new)
                if same is new:
                    self._constants.append(new)
                scope.constants[node.output[0]] = same

    def _node(self, node: Any, scope: _Scope) -> int | None:
        view = OnnxNode(node, [scope.shape(name) for name in node.input], [scope.shape(name) for name in node.output])
        for index, name in enumerate(node.input):
            constant = scope.find(name)[0]
            if constant is not None and _is_weight(constant, view, index):
                constant.counts = True
                if view.op in ("MatMulNBits", "MatMulBnb4"):  # several numbers in a byte
                    constant.numbers = view.attribute("N", 0) * view.attribute("K", 0)
        graphs = list(onnx_shapes.subgraphs(node))
        if graphs:
            return self._control_flow(view, node, [self.graph(graph, scope) for graph in graphs], scope)
        self._in_attributes = together((self._in_attributes, _in_attributes(view, node)))
        try:
            return multiply_adds(view)
        except UnknownWorkError:
            return None

    def _control_flow(self, view: OnnxNode, node: Any, bodies: list[int | None], scope: _Scope) -> int | None:
        """Of If the branch that takes more; of Loop and Scan the body as often as it runs, if the file tells that."""
        if all(body == 0 for body in bodies):
            return 0
        if view.domain or view.op not in ("If", "Loop", "Scan"):
            return None
        if view.op == "If":
            return larger(bodies)
        (body,) = bodies
        try:
            times = _trips(node, scope) if view.op == "Loop" else _steps(view)
        except UnknownWorkError:
            return None
        return None if body is None else times * body


def _trips(node: Any, scope: _Scope) -> int:
    """How often a Loop runs whose count is a constant, and whose condition never ends it before."""
    count = _scalar(node.input[0], scope) if node.input[0] else None
    starts = not node.input[1] or _scalar(node.input[1], scope)
    body = next(onnx_shapes.subgraphs(node))
    goes_on = _same_as(body.output[0].name, body)
    if goes_on != body.input[1].name:
        inner = _Scope(scope, {})
        for tensor in body.initializer:
            inner.constants[tensor.name], inner.values[tensor.name] = _Constant(1, 0, tensor.data_type), tensor
        for each in body.node:
            for name in each.output:
                inner.makers[name] = each
        starts = starts and _scalar(goes_on, inner)
    if count is None or not starts:
        raise UnknownWorkError("how often a Loop runs follows from the data")
    return max(0, int(count))


def _same_as(name: str, graph: Any) -> str:
    """The name at the other end of a chain of Identity."""
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    for _ in range(len(sources)):
        name = sources.get(name, name)
    return name


def _scalar(name: str, scope: _Scope) -> Any:
    """The single number that a name stands for, through operators that do not change it; None where it is unknown."""
    for _ in range(32):
        constant, tensor, maker, scope = scope.find(name)
        if constant is not None:
            return _item(tensor) if constant.numbers == 1 else None
        if maker is None:
            return None
        if maker.op_type == "Constant":
            return _constant_scalar(maker)
        if maker.op_type not in ("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape"):
            return None
        name = maker.input[0]
    return None


def _constant_scalar(node: Any) -> Any:
    for attribute in node.attribute:
        match attribute.name:
            case "value":
                return _item(attribute.t)
            case "value_int":
                return attribute.i
            case "value_float":
                return attribute.f
    return None


def _item(tensor: Any) -> Any:
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(tensor).item()
    except Exception:  # none, several, kept outside of the file, or damaged
        return None


def _steps(view: OnnxNode) -> int:
    """Of a Scan: the length of what it goes through."""
    count = view.attribute("num_scan_inputs", 0)
    axes = view.attribute("scan_input_axes", ())
    shape = known(view.inputs[len(view.inputs) - count] if count else None, "what Scan goes through")
    return shape[axes[0] if axes else 0]


# --- which constants are parameters

_FLOAT = 1
_REAL = {1, 10, 11, 16, 17, 18, 19, 20, 23, 24}  # TensorProto's floating-point types, down to 4 bits
_QUANTISED = {2, 3, 4, 5, 21, 22, 25, 26}  # 16 bits and less
_INT32 = 6

# Scales and zero points tell how numbers are written; they are none of the numbers.
_QUANTISATION: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), (1, 2)),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul"), (1, 2, 4, 5, 6, 7)),
    **dict.fromkeys(("ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"), (2, 3)),
    **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"), (1, 2, 3, 4)),
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearReduceMean"), (1, 2, 3, 4)),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QAttention": (3, 4, 6, 7),
    "DynamicQuantizeLSTM": (8, 9, 10, 11),
    "MatMulNBits": (2, 3, 4),
    "MatMulBnb4": (2,),
}
_BIAS = {("QLinearConv", 8), ("QGemm", 6), ("DequantizeLinear", 0)}  # in 32 bits


def _is_weight(constant: _Constant, node: OnnxNode, index: int) -> bool:
    """Whether the operator takes a constant for numbers to compute with: no single number, no shape, no index."""
    if not constant.rank or index in _QUANTISATION.get(node.op, ()):
        return False
    if node.op == "QLinearConcat" and index % 3 != 2:
        return False
    if node.op in ("Resize", "Upsample", "Constant", "ConstantOfShape"):  # factors and regions
        return False
    return constant.kind in _REAL | _QUANTISED or (constant.kind == _INT32 and (node.op, index) in _BIAS)


def _in_attributes(node: OnnxNode, proto: Any) -> int | None:
    """Parameters that an operator keeps in its attributes; None where it may, and nobody knows."""
    if node.domain == "ai.onnx.ml":
        if node.op in ("LinearClassifier", "LinearRegressor"):
            return len(node.attribute("coefficients", ())) + len(node.attribute("intercepts", ()))
        return None if node.op.startswith(("SVM", "TreeEnsemble")) else 0
    if node.domain in ("", "com.microsoft"):
        return 0
    return None if any(a.HasField("t") or len(a.s) > 256 or len(a.floats) > 16 for a in proto.attribute) else 0
