"""The runtimes behind one face; above all, which of the two TFLite packages is taken."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bpnas.android_bench.errors import DeviceError, RuntimeUnavailableError
from bpnas.android_bench.local.runtimes import open_session, runtime_sha256, runtime_version, tflite_package
from bpnas.base.errors import UsageError
from tests.model_graphs import FORMATS, convolution, one_of_each, write_graph

WORKING = """
class Interpreter:
    def __init__(self, model_path=None, model_content=None, num_threads=None):
        assert model_path or model_content[4:8] == b"TFL3"

    def allocate_tensors(self):
        pass
"""
# As tflite-runtime 2.14 behaves with numpy 2: it imports, and fails when an interpreter is made.
BROKEN_WHEN_USED = """
class Interpreter:
    def __init__(self, **arguments):
        raise AttributeError("_ARRAY_API not found")
"""
BROKEN_AT_IMPORT = """raise ImportError("libpython3.9.so: cannot open shared object file")"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a small fake package before the installed ones, or (source None) hide the installed one."""

    def add(package: str, source: str | None, version: str = "9.9.9") -> None:
        for name in list(sys.modules):
            if name == package or name.startswith(f"{package}."):
                monkeypatch.delitem(sys.modules, name)
        if source is None:
            monkeypatch.setitem(sys.modules, package, None)  # importing it fails, find_spec gives None
            return
        folder = tmp_path / package / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "interpreter.py").write_text(source)
        info = folder.parent / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: {version}\n"
        )
        (folder / "wrapper.so").write_bytes(b"machine code")
        (info / "RECORD").write_text(f"{package}/__init__.py,,\n{package}/interpreter.py,,\n{package}/wrapper.so,,\n")
        monkeypatch.syspath_prepend(folder.parent)
        # What the test imports from here must not stay for the others.
        monkeypatch.setitem(sys.modules, f"{package}.interpreter", None)
        monkeypatch.setitem(sys.modules, package, None)
        del sys.modules[f"{package}.interpreter"], sys.modules[package]
        importlib.invalidate_caches()

    return add


# --- which TFLite package


def test_a_tflite_runtime_that_works_is_preferred(install) -> None:
    install("tflite_runtime", WORKING)
    assert tflite_package().__name__ == "tflite_runtime.interpreter"
    assert runtime_version("tflite") == "tflite-runtime 9.9.9"
    assert runtime_sha256("tflite") == hashlib.sha256(b"machine code").hexdigest()


@pytest.mark.parametrize("source", [BROKEN_WHEN_USED, BROKEN_AT_IMPORT, None], ids=["used", "import", "absent"])
def test_its_successor_is_taken_where_tflite_runtime_does_not_work(install, source: str | None) -> None:
    install("tflite_runtime", source)
    assert tflite_package().__name__ == "ai_edge_litert.interpreter"
    assert runtime_version("tflite") == f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (BROKEN_WHEN_USED, r"tflite_runtime does not start \(_ARRAY_API not found\)"),
        (BROKEN_AT_IMPORT, r"tflite_runtime does not start \(libpython3\.9\.so: cannot open shared object file\)"),
        (None, "tflite_runtime is not installed"),
    ],
    ids=["used", "import", "absent"],
)
def test_where_neither_works_the_error_says_why_and_what_to_do(
    install, monkeypatch: pytest.MonkeyPatch, source: str | None, reason: str
) -> None:
    install("tflite_runtime", source)
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ai_edge_litert" else real(name))
    expected = rf"no TFLite interpreter: {reason}; ai_edge_litert is not installed; install ai-edge-litert"
    with pytest.raises(RuntimeUnavailableError, match=f"^{expected}$") as caught:
        tflite_package()
    assert isinstance(caught.value, DeviceError)
    with pytest.raises(RuntimeUnavailableError, match=f"^{expected}$"):
        open_session("tflite", "model.tflite")
    with pytest.raises(RuntimeUnavailableError, match=f"^{expected}$"):
        runtime_version("tflite")


def test_a_successor_that_does_not_start_either(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("tflite_runtime", None)
    interpreter = importlib.import_module("ai_edge_litert.interpreter")

    def fail(**arguments: object) -> None:
        raise RuntimeError("first line\nthe reason")

    monkeypatch.setattr(interpreter, "Interpreter", fail)
    with pytest.raises(RuntimeUnavailableError, match=r"ai_edge_litert does not start \(the reason\)"):
        tflite_package()


def test_the_package_taken_here_runs_a_model(tmp_path: Path) -> None:
    package = tflite_package().__name__.partition(".")[0]
    assert package in ("tflite_runtime", "ai_edge_litert")
    assert runtime_version("tflite").startswith(package.replace("_", "-"))
    file = tmp_path / "model.tflite"
    file.write_bytes(write_graph(convolution(), "tflite"))
    assert open_session("tflite", file).run(np.ones((1, 8, 8, 8), np.float32)).shape == (1, 16, 8, 8)


# --- versions and hashes


@pytest.mark.parametrize("runtime", FORMATS)
def test_versions_and_hashes_identify_the_binary(runtime: str) -> None:
    assert re.fullmatch(r"[a-z-]+ \d+\.\d+\.\d+\S*", runtime_version(runtime))
    digest = runtime_sha256(runtime)
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert digest == runtime_sha256(runtime)
    assert digest != hashlib.sha256().hexdigest(), "no shared library was found"


def test_the_two_runtimes_have_different_hashes() -> None:
    assert runtime_sha256("onnxruntime") != runtime_sha256("tflite")
    assert runtime_version("onnxruntime") == f"onnxruntime {importlib.metadata.version('onnxruntime')}"


def test_the_hash_changes_with_the_binary(install, tmp_path: Path) -> None:
    install("tflite_runtime", WORKING)
    before = runtime_sha256("tflite")
    (tmp_path / "tflite_runtime/tflite_runtime/wrapper.so").write_bytes(b"other machine code")
    assert runtime_sha256("tflite") != before
    (tmp_path / "tflite_runtime/tflite_runtime/wrapper.so").write_bytes(b"machine code")
    (tmp_path / "tflite_runtime/tflite_runtime/__init__.py").write_text("# not the binary")
    assert runtime_sha256("tflite") == before


# --- sessions


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_session_runs_what_was_set(tmp_path: Path, runtime: str) -> None:
    file = tmp_path / "model"
    file.write_bytes(write_graph(convolution(c_in=8, c_out=16, size=5), runtime))
    session = open_session(runtime, file)
    assert [one.shape for one in session.inputs()] == [(1, 8, 5, 5) if runtime == "onnxruntime" else (1, 5, 5, 8)]
    x = np.random.default_rng(0).standard_normal((1, 8, 5, 5), np.float32)
    first = session.run(x)
    assert first.shape == (1, 16, 5, 5)
    assert not np.array_equal(session.run(2 * x), first)
    assert np.array_equal(session.run(x), first)
    session.invoke()
    output = session.output()
    again = session.output()
    output[:] = 0
    assert again.any(), "an output is a copy"


def test_both_runtimes_agree_on_everything_there_is(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 8, 9, 9), np.float32)
    outputs = []
    for runtime in FORMATS:
        file = tmp_path / runtime
        file.write_bytes(write_graph(one_of_each(), runtime))
        outputs.append(open_session(runtime, file).run(x))
    assert outputs[0].shape == outputs[1].shape == (1, 10)
    assert np.abs(outputs[0] - outputs[1]).max() <= 1e-5 * np.abs(outputs[0]).max()


def test_an_unknown_runtime(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="runtime 'tensorrt' is unknown: use onnxruntime or tflite"):
        open_session("tensorrt", tmp_path / "model")


def test_onnx_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailableError, match="runtime onnxruntime is not installed here"):
        open_session("onnxruntime", tmp_path / "model.onnx")
