"""The inference runtimes of this machine, and the one place that knows which TFLite package there is."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from bpnas.android_bench.errors import RuntimeUnavailableError
from bpnas.base.errors import UsageError

Array = npt.NDArray[np.float32]


class RuntimeSession:
    """A loaded model.

    Attributes:
        invoke: one inference on the inputs set last, nothing else; this is what is timed.
    """

    invoke: Callable[[], object]

    def input_shapes(self) -> list[tuple[int, ...]]:
        """Of every input, in the file's own layout."""
        raise NotImplementedError

    def set_inputs(self, inputs: list[Array]) -> None:
        """Set all inputs, in the file's own layout (ONNX: NCHW, TFLite: NHWC)."""
        raise NotImplementedError

    def output(self) -> Array:
        """A copy of the first output of the last `invoke`."""
        raise NotImplementedError

    def run(self, *inputs: Array) -> Array:
        """One inference on NCHW inputs; a feature map comes back as NCHW."""
        raise NotImplementedError


class OnnxSession(RuntimeSession):
    """ONNX Runtime with its default graph optimisations, inputs and outputs bound once."""

    def __init__(self, path: Path, threads: int) -> None:
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

    def input_shapes(self) -> list[tuple[int, ...]]:
        return [tuple(node.shape) for node in self._session.get_inputs()]

    def set_inputs(self, inputs: list[Array]) -> None:
        import onnxruntime

        self._values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x)) for x in inputs]
        for node, value in zip(self._session.get_inputs(), self._values, strict=True):
            self._binding.bind_ortvalue_input(node.name, value)
        session, binding = self._session, self._binding
        self.invoke = lambda: session.run_with_iobinding(binding)

    def output(self) -> Array:
        result: Array = self._binding.copy_outputs_to_cpu()[0]
        return result

    def run(self, *inputs: Array) -> Array:
        self.set_inputs(list(inputs))
        self.invoke()
        return self.output()


class TfliteSession(RuntimeSession):
    """The TFLite interpreter with its default delegate (XNNPACK)."""

    def __init__(self, path: Path, threads: int) -> None:
        self._interpreter = tflite_package().Interpreter(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self.invoke = self._interpreter.invoke

    def input_shapes(self) -> list[tuple[int, ...]]:
        return [tuple(int(n) for n in detail["shape"]) for detail in self._interpreter.get_input_details()]

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


def open_session(runtime: str, path: str | Path, threads: int = 1) -> RuntimeSession:
    """Load a model file.

    Raises:
        UsageError: no such runtime.
        RuntimeUnavailableError: the runtime is not installed.
        Exception: any that the runtime raises when it refuses the model.
    """
    try:
        if runtime == "onnxruntime":
            return OnnxSession(Path(path), threads)
        if runtime == "tflite":
            return TfliteSession(Path(path), threads)
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
