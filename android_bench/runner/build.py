"""The native runner, compiled from the sources in `native/`, and the system's libraries that go with it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from bpnas.android_bench.errors import DeviceError
from bpnas.base.errors import UsageError
from bpnas.base.plain_text import printable

_BUILD_SECONDS = 600
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}

# What the runner and both runtimes are linked with.
_LOADER = "ld-linux-aarch64.so.1"
_LIBRARIES = "libc.so.6 libdl.so.2 libgcc_s.so.1 libm.so.6 libpthread.so.0 librt.so.1 libstdc++.so.6".split()

# Debian's packages of those, for a cross compiler and for this machine.
_PACKAGES = ("libc6", "libgcc-s1", "libstdc++6")
_DOCUMENTS = Path("/usr/share/doc")


def arch_of_this_machine() -> str:
    """`arm64` or `x86_64`.

    Raises:
        UsageError: neither.
    """
    machine = platform.machine().lower()
    if machine not in _MACHINES:
        raise UsageError(f"arch 'host': this machine is {machine}, for which there is no bundle; use arm64 or x86_64")
    return _MACHINES[machine]


def loader_command(arch: str) -> tuple[str, ...]:
    """The words before the runner's name: the loader that the bundle brings, told to look for libraries there."""
    return (_LOADER, "--library-path", ".") if arch == "arm64" else ()


def build_runner(arch: str, build: Path, target: Path) -> str:
    """Compile the runner into `target`, using the folder `build`; returns the version of the lines that it prints.

    Raises:
        UsageError: x86_64 on another machine.
        DeviceError: cmake or a compiler is missing or fails.
    """
    sources = Path(str(files("bpnas.android_bench"))) / "native"
    _need("cmake", "cmake")
    _need(_compiler(arch), "g++-aarch64-linux-gnu" if _is_cross(arch) else "g++")
    if "CMAKE_GENERATOR" not in os.environ:  # what cmake takes if nothing else is said, and does not bring along
        _need("make", "make")
    options = ["-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_CXX_COMPILER={_compiler(arch)}"]
    if _is_cross(arch):
        options.append(f"-DCMAKE_TOOLCHAIN_FILE={sources / 'toolchains' / 'aarch64-linux-gnu.cmake'}")
    _run(["cmake", "-S", str(sources), "-B", str(build), *options])
    _run(["cmake", "--build", str(build), "--parallel", str(os.cpu_count() or 1)])
    shutil.copyfile(build / "bpnas-runner", target)
    target.chmod(0o755)
    return (build / "version.txt").read_text(encoding="ascii").strip()


def system_libraries(arch: str) -> list[Path]:
    """The loader and libraries that an arm64 bundle brings, as the compiler has them; none for x86_64.

    Raises:
        DeviceError: one is missing.
    """
    if arch != "arm64":
        return []
    found = []
    for name in (_LOADER, *_LIBRARIES):
        path = Path(_run([_compiler(arch), f"-print-file-name={name}"]).strip())
        if not path.is_absolute():  # the compiler answers with the bare name if it knows no such file
            raise DeviceError(f"{name} is missing: install it with 'apt-get install g++-aarch64-linux-gnu'")
        found.append(path.parent.resolve() / name)
    return found


def own_licences(arch: str) -> dict[str, bytes]:
    """Licences of the runner, and of the system's libraries where Debian has them."""
    licences = {}
    for file in importlib.metadata.files("bpnas") or []:
        if file.name == "LICENSE":
            licences["bpnas-LICENSE"] = Path(str(file.locate())).read_bytes()
    for package in _PACKAGES:
        path = _DOCUMENTS / f"{package}{'-arm64-cross' if _is_cross(arch) else ''}" / "copyright"
        if arch == "arm64" and path.is_file():
            licences[f"{package}-copyright"] = path.read_bytes()
    return licences


def _is_cross(arch: str) -> bool:
    here = _MACHINES.get(platform.machine().lower())
    if arch == "x86_64" and here != arch:
        raise UsageError("arch 'x86_64': is built on such a machine only; use arm64 or host")
    return here != arch


def _compiler(arch: str) -> str:
    return "aarch64-linux-gnu-g++" if _is_cross(arch) else "g++"


def _need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise DeviceError(
            f"{program} is missing, and the runner is compiled with it: install it with 'apt-get install {package}'"
        )


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_BUILD_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"{command[0]} failed: {error}") from error
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).splitlines()
        said = next((line for line in lines if "rror" in line), lines[-1] if lines else "")
        raise DeviceError(f"{command[0]} failed with exit code {done.returncode}: {printable(said, 300)}")
    return done.stdout
