"""The inference runtimes of this machine, and the one place that knows which TFLite package there is."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from bpnas.android_bench.errors import RuntimeUnavailableError
from bpnas.base.errors import UsageError

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

# As ONNX Runtime names them.
_ONNX_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}
_BFLOAT16 = 16  # among onnx.TensorProto's data types


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a loaded model.

    Attributes:
        name: in the file.
        shape: in the file's own layout.
        type: of its elements, as numpy calls it, or `bfloat16` or `string`.
        quantised: its integers stand for other numbers.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    quantised: bool = False


class RuntimeSession:
    """A loaded model.

    Attributes:
        invoke: one inference on the inputs set last, nothing else; this is what is timed.
    """

    invoke: Callable[[], object]

    def inputs(self) -> list[Input]:
        """All of them, in their order.

        Raises:
            ValueError: one has sizes that are still open.
        """
        raise NotImplementedError

    def set_inputs(self, inputs: list[Array]) -> None:
        """Set all inputs, in the file's own layout (ONNX: NCHW, TFLite: NHWC)."""
        raise NotImplementedError

    def settle(self) -> None:
        """To be called after the first `invoke`: makes sure that there can be more; raises what that one may raise."""

    def output(self) -> Array:
        """A copy of the first output of the last `invoke`."""
        raise NotImplementedError

    def run(self, *inputs: Array) -> Array:
        """One inference on NCHW inputs; a feature map comes back as NCHW."""
        raise NotImplementedError


class OnnxSession(RuntimeSession):
    """ONNX Runtime with its default graph optimisations, inputs and outputs bound once."""

    def __init__(self, path: Path, threads: int, shapes: Sequence[Shape] = ()) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._values: list[Any] = []
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name)
        self._shapes = _as_many(shapes, len(self._session.get_inputs()))

    def inputs(self) -> list[Input]:
        found = []
        for node, shape in zip(self._session.get_inputs(), self._shapes, strict=True):
            sizes = tuple(node.shape) if shape is None else shape
            if not all(isinstance(size, int) for size in sizes):
                raise ValueError(f"input {node.name!r} has no fixed shape")
            kind = node.type.removeprefix("tensor(").removesuffix(")")
            found.append(Input(node.name, sizes, _ONNX_TYPES.get(node.type, kind)))
        return found

    def set_inputs(self, inputs: list[Array]) -> None:
        nodes, session, binding = self._session.get_inputs(), self._session, self._binding
        if any(node.type == "tensor(string)" for node in nodes):  # which its Python package binds in no other way
            fed = {node.name: value for node, value in zip(nodes, inputs, strict=True)}
            self.invoke = lambda: session.run(None, fed)
            return
        self._values = [self._bindable(node, value) for node, value in zip(nodes, inputs, strict=True)]
        for node, value in zip(nodes, self._values, strict=True):
            binding.bind_ortvalue_input(node.name, value)
        self.invoke = lambda: session.run_with_iobinding(binding)

    def settle(self) -> None:
        try:
            self.invoke()
        except MemoryError:
            raise
        except Exception:
            # What the first one made is given to the next one, which refuses it where it is not what the model says of
            # its outputs.
            session, binding, names = self._session, self._binding, [each.name for each in self._session.get_outputs()]

            def invoke() -> None:
                binding.clear_binding_outputs()
                for name in names:
                    binding.bind_output(name)
                session.run_with_iobinding(binding)

            self.invoke = invoke
            self.invoke()

    @staticmethod
    def _bindable(node: Any, value: Array) -> Any:
        from onnxruntime import OrtValue

        if node.type == "tensor(bfloat16)":
            return OrtValue.ortvalue_from_numpy_with_onnx_type(np.asarray(value, order="C"), _BFLOAT16)
        return OrtValue.ortvalue_from_numpy(np.asarray(value, order="C"))

    def output(self) -> Array:
        result: Array = self._binding.copy_outputs_to_cpu()[0]
        return result

    def run(self, *inputs: Array) -> Array:
        self.set_inputs(list(inputs))
        self.invoke()
        return self.output()


class TfliteSession(RuntimeSession):
    """The TFLite interpreter with its default delegate (XNNPACK)."""

    def __init__(self, path: Path, threads: int, shapes: Sequence[Shape] = ()) -> None:
        self._interpreter = tflite_package().Interpreter(model_path=str(path), num_threads=threads)
        details = self._interpreter.get_input_details()
        for detail, shape in zip(details, _as_many(shapes, len(details)), strict=True):
            if shape is not None and shape != _shape(detail):
                self._interpreter.resize_tensor_input(detail["index"], shape)
        self._interpreter.allocate_tensors()
        self.invoke = self._interpreter.invoke

    def inputs(self) -> list[Input]:
        return [
            Input(
                str(detail["name"]),
                _shape(detail),
                "string" if detail["dtype"] is np.bytes_ else np.dtype(detail["dtype"]).name,
                bool(len(detail["quantization_parameters"]["scales"])),
            )
            for detail in self._interpreter.get_input_details()
        ]

    def set_inputs(self, inputs: list[Array]) -> None:
        for detail, value in zip(self._interpreter.get_input_details(), inputs, strict=True):
            self._interpreter.set_tensor(detail["index"], value)

    def output(self) -> Array:
        result: Array = self._interpreter.get_tensor(self._interpreter.get_output_details()[0]["index"])
        return result

    def run(self, *inputs: Array) -> Array:
        self.set_inputs([np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x for x in inputs])
        self.invoke()
        output = self.output()
        return output.transpose(0, 3, 1, 2) if output.ndim == 4 else output

    def operators(self) -> list[str]:
        """Operators as they run; what a delegate took over appears as `DELEGATE`, with the originals still listed."""
        return [str(detail["op_name"]) for detail in self._interpreter._get_ops_details()]


def _shape(detail: Mapping[str, Any]) -> Shape:
    return tuple(int(size) for size in detail["shape"])


def _as_many(shapes: Sequence[Shape], inputs: int) -> Sequence[Shape | None]:
    if shapes and len(shapes) != inputs:
        raise ValueError(f"the runtime sees {inputs} inputs, but {len(shapes)} shapes were given")
    return shapes or [None] * inputs


def open_session(
    runtime: str, path: str | Path, threads: int = 1, shapes: Sequence[tuple[int, ...]] = ()
) -> RuntimeSession:
    """Load a model file.

    Args:
        runtime: one of `RUNTIMES`.
        path: of the file; weights that it keeps elsewhere are beside it.
        threads: of the runtime.
        shapes: of every input; none: as the file says.

    Raises:
        UsageError: no such runtime.
        RuntimeUnavailableError: the runtime is not installed.
        Exception: any that the runtime raises when it refuses the model.
    """
    try:
        if runtime == "onnxruntime":
            return OnnxSession(Path(path), threads, shapes)
        if runtime == "tflite":
            return TfliteSession(Path(path), threads, shapes)
    except ImportError as error:
        raise RuntimeUnavailableError(f"runtime {runtime} is not installed here: {error}") from error
    raise UsageError(f"runtime {runtime!r} is unknown: use onnxruntime or tflite")


def tflite_package() -> ModuleType:
    """The module with `Interpreter`.

    tflite-runtime is never installed by default, so where it is present and works somebody wants it; otherwise its
    maintained successor ai-edge-litert.

    Raises:
        RuntimeUnavailableError: neither works.
    """
    reasons = []
    for package in ("tflite_runtime", "ai_edge_litert"):
        if importlib.util.find_spec(package) is None:
            reasons.append(f"{package} is not installed")
            continue
        try:
            module = importlib.import_module(f"{package}.interpreter")
            module.Interpreter(model_content=_probe_model()).allocate_tensors()
        except Exception as error:
            reasons.append(f"{package} does not start ({(str(error) or repr(error)).splitlines()[-1]})")
            continue
        return module
    raise RuntimeUnavailableError(f"no TFLite interpreter: {'; '.join(reasons)}; install ai-edge-litert")


def runtime_version(runtime: str) -> str:
    """Package and version, as `ai-edge-litert 2.3.0`."""
    distribution = _distribution(runtime)
    return f"{distribution} {importlib.metadata.version(distribution)}"


def runtime_sha256(runtime: str) -> str:
    """SHA-256 over the runtime's shared libraries, in the order of their names."""
    files = importlib.metadata.files(_distribution(runtime)) or []
    digest = hashlib.sha256()
    for file in sorted((f for f in files if ".so" in f.name or f.suffix in (".pyd", ".dylib", ".dll")), key=str):
        digest.update(Path(str(file.locate())).read_bytes())
    return digest.hexdigest()


def _distribution(runtime: str) -> str:
    if runtime == "onnxruntime":
        return "onnxruntime"
    return tflite_package().__name__.partition(".")[0].replace("_", "-")


@cache
def _probe_model() -> bytes:
    """A model of one tensor and no operator: enough to find out whether an interpreter really starts.

    tflite-runtime 2.14 imports under numpy 2 and fails only when it creates an interpreter.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = "x", [1], 0
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [tensor], [0], [0], []
    model = schema.ModelT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [schema.BufferT()], []
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
