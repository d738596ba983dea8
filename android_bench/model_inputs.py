"""What a model file wants to be fed with, read from ONNX or TFLite alike."""

from __future__ import annotations

from dataclasses import dataclass

from bpnas.android_bench.operators import ModelFormatError


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One input of a model.

    Attributes:
        name: in the file.
        shape: in the file's own layout; a size that is left open is 0.
    """

    name: str
    shape: tuple[int, ...]


def read_inputs(content: bytes) -> tuple[ModelInput, ...]:
    """The inputs of an ONNX or TFLite file, in their order.

    Raises:
        ModelFormatError: the content is neither, is damaged, or keeps its weights in another file.
    """
    try:
        return _tflite_inputs(content) if content[4:8] == b"TFL3" else _onnx_inputs(content)
    except ModelFormatError:
        raise
    except Exception as error:  # damaged files fail in the parsers in any way they like
        raise ModelFormatError(f"not a readable model file: {type(error).__name__}") from error


def _onnx_inputs(content: bytes) -> tuple[ModelInput, ...]:
    import onnx

    graph = onnx.ModelProto.FromString(content).graph
    if not graph.node:
        raise ModelFormatError("not a readable model file: it has no operators")
    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in graph.initializer):
        raise ModelFormatError("its weights are in another file; save it as one file")
    weights = {tensor.name for tensor in graph.initializer}  # which old files list as inputs, too
    return tuple(
        ModelInput(value.name, tuple(max(0, dim.dim_value) for dim in value.type.tensor_type.shape.dim))
        for value in graph.input
        if value.name not in weights
    )


def _tflite_inputs(content: bytes) -> tuple[ModelInput, ...]:
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAs(content).Subgraphs(0)
    inputs = []
    for number in range(graph.InputsLength()):
        tensor = graph.Tensors(graph.Inputs(number))
        # The signature has -1 where the shape itself has 1 for "any".
        open_shape = tensor.ShapeSignatureLength() > 0
        sizes = tensor.ShapeSignatureAsNumpy() if open_shape else tensor.ShapeAsNumpy()
        inputs.append(ModelInput(tensor.Name().decode(), tuple(max(0, int(size)) for size in sizes)))
    return tuple(inputs)
