"""What an ONNX graph computes of nothing but shapes and constants: sizes that other shapes depend on.

Shape inference follows such sums as well, but no divisions, comparisons and others: exporters write them for halves and
paddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bpnas.android_bench.counting.work import Shape, size

FOLDED = "bpnas-folded"
"""The description of constants that were made here; they are none of the file's."""

_MOST = 4096  # numbers in what is computed
_CAREFUL = 65_536  # and in all that an operator may come to by broadcasting
_OPERATORS = {
    *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Min", "Max", "Floor", "Ceil", "Round", "Cast", "Identity"),
    *("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Not", "Where"),
    *("Gather", "Concat", "Slice", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "ReduceProd", "Split"),
    "ConstantOfShape",
}


def fold(model: Any, shapes: Mapping[str, Shape | None]) -> bool:
    """Put constants in the place of the operators of the main graph that can be told; says whether there were such.

    Args:
        model: is changed.
        shapes: by name; an unknown size is 0.
    """
    from onnx import numpy_helper

    graph = model.graph
    values: dict[str, Any] = {}
    from_shapes: set[str] = set()
    for tensor in graph.initializer:
        if size(tensor.dims) <= _MOST and (tensor.data_location == tensor.DEFAULT or tensor.doc_string == FOLDED):
            values[tensor.name] = numpy_helper.to_array(tensor)
            if tensor.doc_string == FOLDED:
                from_shapes.add(tensor.name)
    rest = []
    for node in graph.node:
        found = _values_of(node, values, shapes, model.opset_import)
        if found is None:
            rest.append(node)
            continue
        values |= found
        derived = node.op_type in ("Shape", "Size") or not from_shapes.isdisjoint(node.input)
        if node.op_type == "Constant" or not (derived or all(array.dtype.kind in "iub" for array in found.values())):
            rest.append(node)  # numbers that may be weights stay the file's
            continue
        from_shapes |= found.keys() if derived else set()
        for name, array in found.items():
            constant = numpy_helper.from_array(array, name)
            constant.doc_string = FOLDED
            graph.initializer.append(constant)
    if len(rest) == len(graph.node):
        return False
    del graph.node[:]
    graph.node.extend(rest)
    return True


def _values_of(
    node: Any, values: Mapping[str, Any], shapes: Mapping[str, Shape | None], opsets: Any
) -> dict[str, Any] | None:
    import numpy as np
    from onnx import numpy_helper

    if node.domain not in ("", "ai.onnx") or not node.output:
        return None
    if node.op_type in ("Shape", "Size"):
        shape = shapes.get(node.input[0])
        if shape is None or min(shape, default=1) < 1:
            return None
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        whole = np.array(shape[slice(bounds.get("start"), bounds.get("end"))], np.int64)
        return {node.output[0]: np.array(size(shape), np.int64) if node.op_type == "Size" else whole}
    if node.op_type == "Constant":
        tensors = [attribute.t for attribute in node.attribute if attribute.name == "value"]
        small = tensors and size(tensors[0].dims) <= _MOST
        return {node.output[0]: numpy_helper.to_array(tensors[0])} if small else None
    inputs = [name for name in node.input if name]
    if node.op_type not in _OPERATORS or any(name not in values for name in inputs):
        return None
    if size([max(1, values[name].size) for name in inputs]) > _CAREFUL:
        return None
    if node.op_type == "ConstantOfShape" and not 0 <= size(values[inputs[0]].ravel().tolist()) <= _MOST:
        return None
    try:
        found = _run(node, {name: values[name] for name in inputs}, opsets)
    except Exception:  # an operator that contradicts itself; then its shapes stay unknown
        return None
    return found if all(isinstance(array, np.ndarray) and array.size <= _MOST for array in found.values()) else None


def _run(node: Any, inputs: Mapping[str, Any], opsets: Any) -> dict[str, Any]:
    import numpy as np
    from onnx import TypeProto, helper
    from onnx.reference import ReferenceEvaluator

    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    outputs = [name for name in node.output if name]
    graph = helper.make_graph([node], "one", given, [helper.make_value_info(name, TypeProto()) for name in outputs])
    model = helper.make_model(graph, opset_imports=opsets)
    results = ReferenceEvaluator(model).run(None, dict(inputs))
    return {name: np.asarray(result) for name, result in zip(outputs, results, strict=True)}
