"""A model with its sizes filled in, for those that compute on a file without running it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from bpnas.android_bench.memory import USUAL_BYTES, limit_memory
from bpnas.android_bench.model_inputs import Shape
from bpnas.android_bench.operators import ModelFormatError
from bpnas.base.plain_text import printable

_SECONDS = 60


def with_shapes(content: bytes, shapes: Sequence[Shape]) -> bytes:
    """The model as if it had been exported with these shapes.

    Args:
        content: of an ONNX or TFLite file.
        shapes: of every input; none: the content as it is.

    Raises:
        ModelFormatError: it cannot have them.
    """
    if not shapes:
        return content
    try:
        return _tflite(content, shapes) if content[4:8] == b"TFL3" else _onnx(content, shapes)
    except Exception as error:  # damaged files fail in the parsers in any way they like
        raise ModelFormatError(f"its inner shapes cannot be worked out: {str(error) or repr(error)}") from error


def _onnx(content: bytes, shapes: Sequence[Shape]) -> bytes:
    import onnx

    model = onnx.ModelProto.FromString(content)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    known: dict[str, int] = {}
    for value, shape in zip(inputs, shapes, strict=True):
        old = value.type.tensor_type.shape.dim
        known |= {dim.dim_param: size for dim, size in zip(old, shape, strict=False) if dim.dim_param}
        del value.type.tensor_type.shape.dim[:]
        value.type.tensor_type.shape.SetInParent()
        for size in shape:
            value.type.tensor_type.shape.dim.add().dim_value = size
    # What the exporter noted of the inner shapes holds for any size, where it holds at all.
    del graph.value_info[:]
    for value in graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in known:
                dim.dim_value = known[dim.dim_param]
    for value in graph.output:
        if any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim):
            value.type.tensor_type.ClearField("shape")
    return bytes(model.SerializeToString())


def _tflite(content: bytes, shapes: Sequence[Shape]) -> bytes:
    """Through the interpreter, which alone knows; in a process of its own, which a hostile file may end."""
    command = [sys.executable, "-P", "-m", "bpnas.android_bench.fixed_shapes", json.dumps(shapes)]
    done = subprocess.run(command, input=content, capture_output=True, timeout=_SECONDS)
    if done.returncode != 0:
        raise ValueError(printable(done.stderr.strip().rpartition(b"\n")[2]))
    return done.stdout


def _resized(content: bytes, shapes: Sequence[Shape]) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    for detail, shape in zip(interpreter.get_input_details(), shapes, strict=True):
        interpreter.resize_tensor_input(detail["index"], shape)
    interpreter.allocate_tensors()
    found = {detail["index"]: detail["shape"] for detail in interpreter.get_tensor_details()}
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        if index in found:
            tensor.shape, tensor.shapeSignature = found[index], None
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


if __name__ == "__main__":
    limit_memory(USUAL_BYTES)
    answer = _resized(sys.stdin.buffer.read(), json.loads(sys.argv[1]))
    sys.stdout.buffer.write(answer)
