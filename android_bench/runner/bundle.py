"""A bundle: one folder with all that runs on a device, the runner, its loader and libraries, and the runtimes.

    bundle-ARCH-HASH/manifest.json    what it is, with the size and SHA-256 of every file
                     bpnas-runner     and the libraries next to it
                     licenses/        of all that is in it

The folder is named after its content and appears whole or not at all. The same inputs give the same bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from bpnas.android_bench.device import RUNTIMES
from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.local.private_folder import cache_folder, refuse_others
from bpnas.android_bench.runner.build import (
    arch_of_this_machine,
    build_runner,
    loader_command,
    own_licences,
    system_libraries,
)
from bpnas.android_bench.runner.wheels import download_wheel, find_wheel, read_wheel, runtime_wheel
from bpnas.base.errors import UsageError
from bpnas.base.fields import FieldError, Fields, fields_of
from bpnas.base.files import naming
from bpnas.base.plain_text import shortened, shown

MANIFEST = "manifest.json"
ARCH_OF_ABI = {"arm64-v8a": "arm64", "x86_64": "x86_64"}
"""From Android's names of instruction sets to those of bundles."""

_RUNNER = "bpnas-runner"
_ARCHES = tuple(ARCH_OF_ABI.values())
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One file of a bundle.

    Attributes:
        sha256: of its content, in hexadecimal.
        size: in bytes.
        mode: permission bits.
    """

    sha256: str
    size: int
    mode: int


@dataclass(frozen=True, slots=True)
class BundledRuntime:
    """A runtime in a bundle.

    Attributes:
        library: name of its file.
        version: package and version, as `onnxruntime 1.32.0`.
    """

    library: str
    version: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle's manifest says.

    Attributes:
        directory: where it is.
        arch: `arm64` or `x86_64`.
        sha256: over all that it holds, in hexadecimal.
        launcher: the words before the runner's name, empty where the system's own loader does; names of files are
            relative to the directory, which `.` stands for.
        runner: name of the program's file.
        runner_version: of the lines that it prints.
        runtimes: by name, see `RUNTIMES`.
        files: by name relative to the directory, all but the manifest.
    """

    directory: Path
    arch: str
    sha256: str
    launcher: tuple[str, ...]
    runner: str
    runner_version: str
    runtimes: Mapping[str, BundledRuntime]
    files: Mapping[str, BundleFile]

    def library(self, runtime: str) -> str:
        """Name of the runtime's file.

        Raises:
            DeviceError: the bundle lacks that runtime.
        """
        try:
            return self.runtimes[runtime].library
        except KeyError:
            raise DeviceError(
                f"{self.directory}: the bundle lacks {runtime}; build one that has it with 'profile-device bundle "
                f"--arch {self.arch} --runtime {runtime}'"
            ) from None

    @classmethod
    def load(cls, directory: str | Path) -> Bundle:
        """Read a bundle's manifest and compare every file with it.

        Raises:
            DeviceError: it is no bundle, cannot be read, or is damaged.
        """
        directory = Path(directory)
        another = "name a folder that 'profile-device bundle' has made"
        remedy = "build it again with 'profile-device bundle'"

        def read(path: Path) -> bytes:
            try:
                return path.read_bytes()
            except FileNotFoundError:
                raise DeviceError(f"{path}: is not there; {another if path.name == MANIFEST else remedy}") from None
            except OSError as error:
                raise DeviceError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error

        with fields_of(f"{directory / MANIFEST}: is no manifest of a bundle", another, DeviceError):
            manifest = Fields.parse(read(directory / MANIFEST))
            bundle = cls._from_manifest(directory, manifest)
        if _content_hash(manifest.values) != bundle.sha256:
            raise DeviceError(f"{directory / MANIFEST}: is not as it was built (SHA-256 differs); {remedy}")
        for name, file in bundle.files.items():
            path = directory / name
            if hashlib.sha256(read(path)).hexdigest() != file.sha256:
                raise DeviceError(f"{path}: is not as it was built (SHA-256 differs); {remedy}")
        return bundle

    @classmethod
    def _from_manifest(cls, directory: Path, manifest: Fields) -> Bundle:
        """Raises FieldError on what is no manifest."""
        manifest.exactly([each.name for each in fields(cls) if each.name != "directory"])
        runtimes, files = manifest.named_parts("runtimes"), manifest.named_parts("files")
        for runtime in runtimes.values():
            runtime.exactly(("library", "version"))
        for name, file in files.items():
            file.exactly(("sha256", "size", "mode"))
            path = PurePosixPath(name)
            if not path.parts or not _is_inside(path):  # it becomes a path here and on the device
                raise FieldError(f"'files' has the name {shown(name)}, which leads out of the bundle")
        bundle = cls(
            directory=directory,
            arch=manifest.text("arch"),
            sha256=manifest.text("sha256"),
            launcher=tuple(manifest.texts("launcher")),
            runner=manifest.text("runner"),
            runner_version=manifest.line("runner_version"),
            runtimes={
                name: BundledRuntime(runtime.text("library"), runtime.line("version"))
                for name, runtime in runtimes.items()
            },
            files={
                name: BundleFile(file.text("sha256"), file.whole("size"), file.whole("mode", 0, 0o7777))
                for name, file in files.items()
            },
        )
        if bundle.arch not in _ARCHES:
            raise FieldError(f"'arch' must be {' or '.join(_ARCHES)}, not {shown(bundle.arch)}")
        if not _SHA256.fullmatch(bundle.sha256):
            raise FieldError(f"'sha256' must be a SHA-256 in hexadecimal, not {shown(bundle.sha256)}")
        named = {"runner": bundle.runner}
        named |= {f"runtimes.{name}.library": runtime.library for name, runtime in bundle.runtimes.items()}
        for place, name in named.items():
            if name not in bundle.files:
                raise FieldError(f"'{shortened(place)}' must be one of its files, not {shown(name)}")
        return bundle


def bundles_folder() -> Path:
    """Where bundles go if nothing else is said: `bundles` in `cache_folder`. Raises DeviceError as that does."""
    return cache_folder() / "bundles"


def default_bundle(arch: str) -> Bundle | None:
    """The bundle for `arch` that was built last, of those in `bundles_folder`; None if there is none.

    Raises:
        DeviceError: it is damaged, or others may have put it there.
    """
    if not bundles_folder().exists():
        return None
    refuse_others(bundles_folder())
    manifests = bundles_folder().glob(f"bundle-{_resolved(arch)}-*/{MANIFEST}")
    newest = max(manifests, key=lambda path: path.stat().st_mtime_ns, default=None)
    return None if newest is None else Bundle.load(newest.parent)


def build_bundle(
    arch: str, out: str | Path, runtimes: Sequence[str] = RUNTIMES, wheels: str | Path | None = None
) -> Bundle:
    """Compile the runner and put it together with all that it needs.

    Args:
        arch: `arm64`, `x86_64`, or `host` for this machine's. An arm64 bundle brings its own loader and C library and
            so runs on any 64-bit ARM Linux, Android included; an x86_64 one takes those of the machine it is built on.
        out: folder that the bundle's folder is made in.
        runtimes: which of `RUNTIMES`.
        wheels: folder that holds the runtimes' wheels already; nothing is fetched then.

    Raises:
        UsageError: there is no such arch or runtime.
        DeviceError: a tool, a library or the network is missing; the message says what to install.
    """
    arch, out = _resolved(arch), Path(out)
    if not runtimes:
        raise UsageError("a bundle needs at least one runtime: onnxruntime or tflite")
    chosen = {runtime: runtime_wheel(runtime, arch) for runtime in dict.fromkeys(runtimes)}
    out.mkdir(parents=True, exist_ok=True)
    with naming(out), tempfile.TemporaryDirectory(prefix=".bundle-", dir=out) as scratch:
        place, work = Path(scratch) / "bundle", Path(scratch) / "work"
        (place / "licenses").mkdir(parents=True)
        work.mkdir()
        bundled = {}
        for runtime, wheel in chosen.items():  # first, for this is what fails most
            source = download_wheel(wheel, work) if wheels is None else find_wheel(wheel, Path(wheels))
            content = read_wheel(source, wheel)
            (place / content.library).write_bytes(content.content)
            for name, text in content.licences.items():
                (place / "licenses" / f"{wheel.project}-{name}").write_bytes(text)
            bundled[runtime] = asdict(BundledRuntime(content.library, f"{wheel.project} {wheel.version}"))
        runner_version = build_runner(arch, work / "build", place / _RUNNER)
        for library in system_libraries(arch):
            shutil.copyfile(library, place / library.name)
        for name, text in own_licences(arch).items():
            (place / "licenses" / name).write_bytes(text)
        values: dict[str, Any] = {
            "arch": arch,
            "launcher": list(loader_command(arch)),
            "runner": _RUNNER,
            "runner_version": runner_version,
            "runtimes": bundled,
        }
        return _publish(place, values, out)


def _publish(place: Path, values: dict[str, Any], out: Path) -> Bundle:
    """Describe what is in `place` and move it to its own name in `out`."""
    programs = {values["runner"], *values["launcher"]}
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        name, content = path.relative_to(place).as_posix(), path.read_bytes()
        mode = 0o755 if name in programs else 0o644
        path.chmod(mode)
        files[name] = asdict(BundleFile(hashlib.sha256(content).hexdigest(), len(content), mode))
    values["files"] = files
    values["sha256"] = _content_hash(values)
    (place / MANIFEST).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    target = out / f"bundle-{values['arch']}-{values['sha256'][:16]}"
    if target.exists():
        try:
            bundle = Bundle.load(target)
            _make_newest(target, out)
            return bundle
        except DeviceError:
            shutil.rmtree(target)
    place.chmod(0o755)
    place.rename(target)
    _make_newest(target, out)
    return Bundle.load(target)


def _make_newest(folder: Path, out: Path) -> None:
    """Let this bundle be the one that was built last, also where the wall clock was set back after another one."""
    others = (path.stat().st_mtime_ns for path in out.glob(f"bundle-*/{MANIFEST}") if path.parent != folder)
    newest = max(time.time_ns(), max(others, default=0) + 1_000_000_000)  # in steps that every file system keeps
    os.utime(folder / MANIFEST, ns=(newest, newest))


def _content_hash(values: Mapping[str, Any]) -> str:
    described = {name: value for name, value in values.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _is_inside(path: PurePosixPath) -> bool:
    return not path.is_absolute() and ".." not in path.parts and str(path).isprintable()


def _resolved(arch: str) -> str:
    if arch == "host":
        return arch_of_this_machine()
    if arch not in _ARCHES:
        raise UsageError(f"arch {arch!r} is unknown: use arm64, x86_64 or host")
    return arch
