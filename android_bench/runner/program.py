"""The program that times models on a device, and the runtime that it loads: from a bundle, or the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bpnas.android_bench.device import DeviceOptions
from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.phone.facts import PhoneFacts
from bpnas.android_bench.remote import quote
from bpnas.android_bench.runner.bundle import ARCH_OF_ABI, Bundle, default_bundle
from bpnas.base.errors import UsageError


@dataclass(frozen=True, slots=True)
class ProgramFile:
    """One file that goes to the device.

    Attributes:
        path: on this machine.
        sha256: of its content, in hexadecimal.
        mode: permission bits there.
    """

    path: Path
    sha256: str
    mode: int


@dataclass(frozen=True, slots=True)
class RunnerProgram:
    """What is put on the device, and how it is called.

    Attributes:
        name: of its folder on the device; holds a hash of the content.
        files: by name within that folder.
        runtime: one of `RUNTIMES`.
        words: the command, word by word; those that are names of files become paths.
        runtime_sha256: of the runtime's library, or of the runner where the runtime is linked in.
    """

    name: str
    files: Mapping[str, ProgramFile]
    runtime: str
    words: tuple[str, ...]
    runtime_sha256: str

    def command(self, place: str) -> str:
        """The beginning of a shell command that runs it from the folder `place`, regardless of the shell's own."""
        words = (place if word == "." else f"{place}/{word}" if word in self.files else word for word in self.words)
        return " ".join(map(quote, words))


def choose_program(facts: PhoneFacts, runtime: str, options: DeviceOptions) -> RunnerProgram:
    """The program for a device.

    Raises:
        UsageError: a file that the options name does not exist, or options contradict each other.
        DeviceError: there is no bundle for the device's processor, or it is damaged or lacks the runtime.
    """
    if options.runner is not None:
        if options.bundle is not None:
            raise UsageError("--runner and --bundle exclude each other: both say what runs on the device")
        return _own_program(options.runner, options.runtime_library, runtime)
    if options.runtime_library is not None:
        raise UsageError("--runtime-library needs --runner: a bundle brings its own runtimes")
    arch = ARCH_OF_ABI.get(facts.abi)
    if options.bundle is not None:
        bundle = Bundle.load(options.bundle)
        if bundle.arch != arch:
            raise UsageError(f"--bundle {options.bundle}: is for {bundle.arch}, but the device is {facts.abi}")
    else:
        found = None if arch is None else default_bundle(arch)
        if found is None:
            remedy = f"make one with 'profile-device bundle --arch {arch}'" if arch else "give your own with --runner"
            raise DeviceError(f"there is no bundle for a device with {facts.abi or 'an unknown processor'}: {remedy}")
        bundle = found
    return _bundled_program(bundle, runtime)


def _bundled_program(bundle: Bundle, runtime: str) -> RunnerProgram:
    library = bundle.library(runtime)
    others = {bundle.library(other) for other in bundle.runtimes if other != runtime}
    files = {
        name: ProgramFile(bundle.directory / name, file.sha256, file.mode)
        for name, file in bundle.files.items()
        if name not in others and "/" not in name  # licences stay here
    }
    words = (*bundle.launcher, bundle.runner, "--runtime", runtime, "--library", library)
    return RunnerProgram(bundle.directory.name, files, runtime, words, files[library].sha256)


def _own_program(runner: Path, library: Path | None, runtime: str) -> RunnerProgram:
    files, digest = {}, hashlib.sha256()
    for option, path in (("--runner", runner), ("--runtime-library", library)):
        if path is not None:
            try:
                content = path.read_bytes()
            except OSError as error:
                raise UsageError(f"{option} {path}: cannot be read ({error.strerror})") from error
            name = {"--runner": "runner", "--runtime-library": "runtime.so"}[option]
            files[name] = ProgramFile(path, hashlib.sha256(content).hexdigest(), 0o755)
            digest.update(content)
    words = ("runner",) if library is None else ("runner", "--runtime", runtime, "--library", "runtime.so")
    binary = files["runner" if library is None else "runtime.so"].sha256
    return RunnerProgram(f"bundle-own-{digest.hexdigest()[:16]}", files, runtime, words, binary)
