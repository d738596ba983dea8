"""An ONNX file with the shapes of all that is between its operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bpnas.android_bench.counting.onnx_folding import fold
from bpnas.android_bench.counting.work import Shape, size

IN_FUNCTION = "bpnas-function:"
"""What the description of an operator begins with that stands in a function; what follows tells one from another."""

_MOST_NODES = 50_000  # functions that call functions can stand for any number of nodes
_MOST_ROUNDS = 16  # sizes that depend on shapes that depend on sizes ...
_SMALL = 4096  # numbers in a constant that may be a shape, and not a weight


def parse(content: bytes, input_shapes: Sequence[Shape] = (), folder: Path | None = None) -> Any:
    """The model, without the values of its weights, its functions in their callers' places, and with the shapes of all
    that is in between where they can be told.

    Args:
        content: of the file.
        input_shapes: of every input, in the file's order and layout; none: as the file says.
        folder: where the data is that the file keeps outside of itself.

    Raises:
        Exception: any, of a damaged file.
    """
    import onnx
    from onnx.inliner import inline_local_functions

    model = onnx.ModelProto.FromString(content)
    _drop_weights(model, folder)
    declared = declared_shapes(model.graph)
    is_changed = False
    weights = {tensor.name for tensor in model.graph.initializer}  # which old files list as inputs, too
    inputs = [value for value in model.graph.input if value.name not in weights]
    for value, shape in zip(inputs, input_shapes, strict=bool(input_shapes)):
        if tuple(shape) != declared.get(value.name):
            _set_shape(value, shape)
            is_changed = True
    if not is_changed and is_complete(model):
        return model
    for function_index, function in enumerate(model.functions):
        for index, node in enumerate(function.node):  # so that a constant of a function is known wherever it is called
            node.doc_string = f"{IN_FUNCTION}{function_index}/{index}"
    if model.functions:
        if expanded_nodes(model) > _MOST_NODES:
            raise ValueError("its functions call one another without end, or too often")
        model = inline_local_functions(model)
    return _infer(model, keep_declared=not is_changed)


def is_complete(model: Any) -> bool:
    """Whether the file itself tells the shapes of all that its operators give."""
    graph = model.graph
    if model.functions or any(True for node in graph.node for _ in subgraphs(node)):
        return False
    shapes = declared_shapes(graph)
    return all(
        shapes.get(name) is not None and min(shapes[name] or (), default=1) > 0
        for node in graph.node
        for name in node.output
        if name
    )


def declared_shapes(graph: Any) -> dict[str, Shape | None]:
    """By name, of constants, inputs and whatever the graph itself describes; an unknown size is 0."""
    shapes: dict[str, Shape | None] = {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        tensor = info.type.tensor_type
        if tensor.HasField("shape"):
            shapes[info.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    for tensor in graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
    for sparse in graph.sparse_initializer:
        shapes[sparse.values.name] = tuple(sparse.dims)
    return shapes


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs that a node holds, as branches or as a body."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: Any) -> Iterator[Any]:
    """The graph and all within it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def expanded_nodes(model: Any) -> float:
    """How many nodes there are with every function in its callers' places; infinite where one calls itself."""
    functions = {(function.domain, function.name, function.overload): function for function in model.functions}
    sizes: dict[tuple[str, str, str], float] = {}

    def of_nodes(nodes: Any, callers: frozenset[tuple[str, str, str]]) -> float:
        return sum(of_node(node, callers) for node in nodes)

    def of_node(node: Any, callers: frozenset[tuple[str, str, str]]) -> float:
        key = (node.domain, node.op_type, node.overload)
        if key in functions:
            if key in callers:
                return float("inf")
            if key not in sizes:
                sizes[key] = of_nodes(functions[key].node, callers | {key})
            return sizes[key]
        return 1 + sum(of_nodes(graph.node, callers) for graph in subgraphs(node))

    return of_nodes(model.graph.node, frozenset())


def _set_shape(value: Any, shape: Shape) -> None:
    dims = value.type.tensor_type.shape
    del dims.dim[:]
    for length in shape:
        dims.dim.add(dim_value=length)


def _drop_weights(model: Any, folder: Path | None) -> None:
    """What is left is small: shapes, axes and bounds, which other shapes may depend on."""
    from onnx import TensorProto
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    for graph in all_graphs(model.graph):
        for tensor in graph.initializer:
            small = size(tensor.dims) <= _SMALL
            if uses_external_data(tensor):
                if small and folder is not None:
                    with suppress(Exception):  # then a shape or two stays unknown
                        load_external_data_for_tensor(tensor, str(folder))
            elif not small:
                for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                    tensor.ClearField(field)
                tensor.data_location = TensorProto.EXTERNAL


def _infer(model: Any, keep_declared: bool) -> Any:
    """With inferred shapes; the file's own hold where none can be inferred, if they are to be kept."""
    import onnx

    known: dict[str, Shape | None] = {}
    originals: list[Any] = []
    for graph in all_graphs(model.graph):
        if keep_declared:
            known |= declared_shapes(graph)
        opaque = {name for node in graph.node if not _is_inferable(node) for name in node.output}
        kept = [info for info in graph.value_info if info.name in opaque]
        del graph.value_info[:]
        graph.value_info.extend(kept)
        for value in graph.output:
            if value.name not in opaque and value.type.HasField("tensor_type"):
                value.ClearField("type")  # what the file says wrong would end the inference
        for node in graph.node:
            _stand_in(node, originals)
    with suppress(Exception):  # contradictions in the file; then what the file says is all that is known
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        for _ in range(_MOST_ROUNDS):
            if is_complete(model) or not fold(model, declared_shapes(model.graph)):
                break
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for graph in all_graphs(model.graph):
        for node in graph.node:
            if node.doc_string.startswith(_MARK):
                node.CopyFrom(originals[int(node.doc_string.removeprefix(_MARK))])
        found = declared_shapes(graph)
        for name, shape in known.items():
            if shape is not None and min(shape, default=1) > 0 and not _is_static(found.get(name)):
                info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, shape)
                if any(name in node.output for node in graph.node):
                    graph.value_info.append(info)
    return model


def _is_static(shape: Shape | None) -> bool:
    return shape is not None and min(shape, default=1) > 0


def _is_inferable(node: Any) -> bool:
    return node.domain in ("", "ai.onnx", "ai.onnx.ml") or (node.domain, node.op_type) in _ALIKE


_MARK = "bpnas-original:"
_ALIKE: dict[tuple[str, str], tuple[str, tuple[int, ...] | None]] = {
    ("com.microsoft", op): (standard, inputs)
    for op, standard, inputs in (
        *((op, "Identity", (0,)) for op in ("Gelu", "FastGelu", "BiasGelu", "QuickGelu", "SkipLayerNormalization")),
        *((op, "Identity", (0,)) for op in ("SkipSimplifiedLayerNormalization", "RotaryEmbedding", "GroupNorm")),
        *((op, "Identity", (0,)) for op in ("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax")),
        *((op, "Identity", (0,)) for op in ("QuantizeLinear", "DequantizeLinear")),
        ("QLinearAdd", "Add", (0, 3)),
        ("QLinearMul", "Mul", (0, 3)),
        ("QLinearAveragePool", "AveragePool", (0,)),
        ("QLinearGlobalAveragePool", "GlobalAveragePool", (0,)),
        ("QLinearConv", "QLinearConv", None),
        ("QGemm", "Gemm", (0, 3)),
        ("FusedConv", "Conv", (0, 1, 2)),
        ("FusedGemm", "Gemm", (0, 1, 2)),
        ("DynamicQuantizeLSTM", "LSTM", (0, 1, 2)),
        ("DynamicQuantizeMatMul", "MatMul", (0, 1)),
        ("MatMulIntegerToFloat", "MatMul", (0, 1)),
    )
}
"""Operators that ONNX Runtime contributes, with those of the standard whose outputs have the same shapes, and which of
their inputs those take."""


def _stand_in(node: Any, originals: list[Any]) -> None:
    """Put a standard operator in the place of one that shape inference does not know."""
    import onnx

    if node.attribute and any(a.name == "channels_last" and a.i for a in node.attribute):
        return
    if (node.domain, node.op_type) == ("com.microsoft", "QLinearConcat"):
        standard, inputs = "Concat", tuple(range(2, len(node.input), 3))
    elif (node.domain, node.op_type) in _ALIKE:
        standard, chosen = _ALIKE[node.domain, node.op_type]
        inputs = tuple(range(len(node.input))) if chosen is None else chosen
    else:
        return
    original = onnx.NodeProto()
    original.CopyFrom(node)
    schema = onnx.defs.get_schema(standard)
    allowed, outputs = schema.attributes, list(node.output)[: schema.max_output]
    attributes = [a for a in node.attribute if a.name in allowed]
    names = [node.input[i] for i in inputs if i < len(node.input)]
    while names and not names[-1]:
        names.pop()
    node.CopyFrom(onnx.helper.make_node(standard, names, outputs, doc_string=_MARK + str(len(originals))))
    node.attribute.extend(attributes)
    originals.append(original)
