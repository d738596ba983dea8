"""Models that no runtime runs, and those that a computed device has no costs for: never a price for either."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bpnas.android_bench.counting import onnx_shapes
from bpnas.android_bench.counting.tflite_count import FREE_CUSTOM, operator_name
from bpnas.android_bench.counting.work import ModelFormatError


class NotRunnableError(ModelFormatError):
    """No runtime that a phone gets runs the model; the message says why."""


class NotPriceableError(ModelFormatError):
    """The model may run, but what it costs is not known; the message says why."""


_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "ai.onnx.preview.training")
_OTHER_ARITHMETIC = {  # of whole numbers, or between those and others
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"),
    *("QLinearConv", "QLinearMatMul", "MatMulNBits", "MatMulBnb4"),
}
_BY_DATA = {  # how long they take follows from the values that they see
    *("NonMaxSuppression", "NonZero", "Unique", "Compress", "Det", "DFT", "STFT", "SequenceMap"),
    *("NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "UNIQUE", "WHERE", "RFFT2D", *FREE_CUSTOM),
}
_OF_GRAPHS = {"IF", "WHILE", "CALL", "CALL_ONCE", "STABLEHLO_WHILE", "STABLEHLO_CASE", "STABLEHLO_COMPOSITE"}


def check_onnx(model: Any) -> None:
    """Of a model as `onnx_shapes.parse` gives it.

    Raises:
        NotRunnableError, NotPriceableError: see there.
    """
    from onnx import defs

    newest = defs.onnx_opset_version()
    for each in model.opset_import:
        if each.domain in ("", "ai.onnx") and each.version > newest:
            raise NotRunnableError(f"it is of operator set {each.version}, and the newest that is known is {newest}")
    for graph in onnx_shapes.all_graphs(model.graph):
        for node in graph.node:
            if node.domain not in _DOMAINS:
                raise NotRunnableError(f"operator {node.op_type} of {node.domain} is none of ONNX Runtime's own")
            if node.domain in ("", "ai.onnx") and not defs.has(node.op_type):
                raise NotRunnableError(f"operator {node.op_type} is none of ONNX's")
    for node in model.graph.node:
        if any(True for _ in onnx_shapes.subgraphs(node)):
            raise NotPriceableError(f"operator {node.op_type} runs other operators, as its data says")
        if node.op_type in _BY_DATA:
            raise NotPriceableError(f"how long operator {node.op_type} takes follows from its data")
    _check_onnx_types(model.graph)


def _check_onnx_types(graph: Any) -> None:
    from onnx import TensorProto

    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        if not info.type.HasField("tensor_type") and info.type.WhichOneof("value"):
            raise NotPriceableError(f"{info.name!r} is no tensor")
        kinds[info.name] = info.type.tensor_type.elem_type
    for node in graph.node:
        if node.op_type in _OTHER_ARITHMETIC or node.op_type.startswith(("QLinear", "QGemm", "QAttention")):
            raise NotPriceableError(f"operator {node.op_type} computes in whole numbers, and costs are of float32")
        names = [*node.output] if node.op_type in ("Cast", "Constant") else [*node.input[:1], *node.output]
        for name in names:
            kind = kinds.get(name, TensorProto.UNDEFINED)
            if kind not in _PLAIN:
                name_of_kind = TensorProto.DataType.Name(kind).lower()
                raise NotPriceableError(f"operator {node.op_type} is of {name_of_kind}, and costs are of float32")


_PLAIN = {0, 1, 6, 7, 9}  # unknown, float32; int32, int64 and bool, which are indices and conditions


def check_tflite(model: Any) -> None:
    """Of a model as the schema reads it.

    Raises:
        NotRunnableError, NotPriceableError: see there.
    """
    from ai_edge_litert import schema_py_generated as schema

    types = schema.TensorType
    plain = {types.FLOAT32, types.INT32, types.INT64, types.BOOL}
    kinds = {value: name.lower() for name, value in vars(types).items() if not name.startswith("_")}
    operators = list(_tflite_operators(model))
    for _, _, op in operators:
        if op in ("DELEGATE", "an unknown operator") or (op.startswith("CUSTOM ") and op not in FREE_CUSTOM):
            raise NotRunnableError(f"operator {op.removeprefix('CUSTOM ')} is none of TFLite's own")
    for graph, operator, op in operators:
        if op in _OF_GRAPHS:
            raise NotPriceableError(f"operator {op} runs other operators, as its data says")
        if op in _BY_DATA:
            raise NotPriceableError(f"how long operator {op.removeprefix('CUSTOM ')} takes follows from its data")
        if op in ("CAST", "DEQUANTIZE", "DENSIFY"):
            continue
        numbers = [operator.Inputs(i) for i in range(min(2, operator.InputsLength()))]
        numbers += [operator.Outputs(i) for i in range(operator.OutputsLength())]
        for number in numbers:
            kind = graph.Tensors(number).Type() if number >= 0 else types.FLOAT32
            if kind not in plain:
                raise NotPriceableError(f"operator {op} is of {kinds.get(kind, kind)}, and costs are of float32")


def _tflite_operators(model: Any) -> Iterator[tuple[Any, Any, str]]:
    for graph in (model.Subgraphs(index) for index in range(model.SubgraphsLength())):
        for operator in (graph.Operators(number) for number in range(graph.OperatorsLength())):
            yield graph, operator, operator_name(model, operator)
