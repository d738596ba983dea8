"""The runtimes that the native runner loads: C libraries, taken out of PyPI's wheels."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bpnas.android_bench.errors import DeviceError
from bpnas.base.errors import UsageError
from bpnas.base.plain_text import printable

_DOWNLOAD_SECONDS = 900
_PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28", "manylinux_2_34", "manylinux_2_35")
_LICENCES = ("LICENSE*", "NOTICE*", "ThirdPartyNotices*", "METADATA")  # METADATA names the licence where no file does


@dataclass(frozen=True, slots=True)
class RuntimeWheel:
    """A runtime's library within a wheel.

    Attributes:
        project: on PyPI.
        version: of it.
        machine: as the wheel's name calls it.
        member: pattern of the library's name in the wheel.
    """

    project: str
    version: str
    machine: str
    member: str

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.project}=={self.version}"

    @property
    def pattern(self) -> str:
        """Of the wheel's file name."""
        return f"{self.project.replace('-', '_')}-{self.version}-*_{self.machine}.whl"


@dataclass(frozen=True, slots=True)
class RuntimeFiles:
    """What of a wheel goes into a bundle.

    Attributes:
        library: its file name.
        content: of the library.
        licences: by file name.
    """

    library: str
    content: bytes
    licences: dict[str, bytes]


def runtime_wheel(runtime: str, arch: str) -> RuntimeWheel:
    """The wheel for a runtime: ONNX Runtime in the version that is installed next to bpnas.

    TFLite comes from the last ai-edge-litert whose library gives its C API out, which it does for ARM64 only; elsewhere
    from pymicro-wakeword, which carries TensorFlow's own C library.

    Raises:
        UsageError: no such runtime.
        DeviceError: onnxruntime is not installed, so no version is given.
    """
    machine = {"arm64": "aarch64", "x86_64": "x86_64"}[arch]
    if runtime == "onnxruntime":
        try:
            version = importlib.metadata.version("onnxruntime")
        except importlib.metadata.PackageNotFoundError:
            raise DeviceError("onnxruntime is not installed, so its version is not known: pip install it") from None
        return RuntimeWheel("onnxruntime", version, machine, "onnxruntime/capi/libonnxruntime.so.*")
    if runtime != "tflite":
        raise UsageError(f"runtime {runtime!r} is unknown: use onnxruntime or tflite")
    if arch == "arm64":
        return RuntimeWheel("ai-edge-litert", "1.4.0", machine, "ai_edge_litert/libLiteRtRuntimeCApi.so")
    return RuntimeWheel("pymicro-wakeword", "2.5.0", machine, "pymicro_wakeword/lib/libtensorflowlite_c.so")


def find_wheel(wheel: RuntimeWheel, folder: Path) -> Path:
    """The wheel's file among those that are there already.

    Raises:
        DeviceError: it is not among them.
    """
    found = sorted(folder.glob(wheel.pattern))
    if not found:
        raise DeviceError(
            f"{folder}: holds no wheel of {wheel.requirement} for {wheel.machine} ({wheel.pattern}); put it there, or "
            "leave out --wheels to fetch it"
        )
    return found[0]


def download_wheel(wheel: RuntimeWheel, folder: Path) -> Path:
    """Fetch the wheel with pip, on any kind of machine.

    Raises:
        DeviceError: pip is missing, or found no wheel, or no network.
    """
    # The version of Python only selects a wheel: nothing but its C library is used.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", "3.11", "--disable-pip-version-check", "--dest", str(folder)]
    for platform in _PLATFORMS:
        command += ["--platform", f"{platform}_{wheel.machine}"]
    try:
        done = subprocess.run(
            [*command, wheel.requirement], capture_output=True, text=True, errors="replace", timeout=_DOWNLOAD_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"pip did not fetch {wheel.requirement} within {_DOWNLOAD_SECONDS} s; try again") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise DeviceError(
            f"pip could not fetch {wheel.requirement} for {wheel.machine} ({printable(said[-1] if said else '')}); "
            "connect to the network, or give a folder of wheels with --wheels"
        )
    return find_wheel(wheel, folder)


def read_wheel(path: Path, wheel: RuntimeWheel) -> RuntimeFiles:
    """The library and the licences in a wheel.

    Raises:
        DeviceError: the file is no wheel, or has no such library.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            libraries = fnmatch.filter(names, wheel.member)
            if len(libraries) != 1:
                raise DeviceError(f"{path}: has no C library {wheel.member}; another version of {wheel.project} may")
            licences = {
                PurePosixPath(name).name: archive.read(name)
                for name in sorted(names)
                if any(fnmatch.fnmatch(PurePosixPath(name).name, pattern) for pattern in _LICENCES)
            }
            return RuntimeFiles(PurePosixPath(libraries[0]).name, archive.read(libraries[0]), licences)
    except zipfile.BadZipFile as error:
        raise DeviceError(f"{path}: is no whole wheel ({error}); fetch it again") from error
    except OSError as error:
        raise DeviceError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
