"""What a device is to the rest of bpnas: something with a fingerprint that times model files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from bpnas.android_bench.measurement import Outcome, RunRequest, RunSettings
from bpnas.base.closing import Closing
from bpnas.base.errors import UsageError
from bpnas.base.fields import Fields

RUNTIMES = ("tflite", "onnxruntime")
MODEL_SUFFIX = {"tflite": ".tflite", "onnxruntime": ".onnx"}

DEVICE_FOLDER = "/data/local/tmp/bpnas"
"""Where bpnas keeps its things on a phone: the one place where Android's shell may both write and run files."""

_LEAST_GB = 0.5

Conditions = Mapping[str, float | str]
"""What the device's state is right now, by name with its unit, as `{"load_1min": 0.3, "temperature_c": 41.0}`."""


def runtime_of(path: Path) -> str:
    """The runtime that a model file's suffix asks for.

    Raises:
        UsageError: it is no model file.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name the .onnx and .tflite files in it")
    for runtime, suffix in MODEL_SUFFIX.items():
        if path.suffix.lower() == suffix:
            return runtime
    raise UsageError(f"{path}: neither a .tflite nor an .onnx file")


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What makes two latencies comparable: they are if all of these are equal.

    Attributes:
        name: short, fit for a file name; tables are named after it.
        mock: the latencies are computed, not measured.
        model: as the maker calls it.
        platform: the system on chip, or the processor.
        os: operating system and build.
        abi: instruction set.
        runtime: one of `RUNTIMES`.
        runtime_version: package and version.
        runtime_sha256: of the runtime's binary.
        affinity: the cores that a model may run on, a hexadecimal mask as `taskset` takes it; empty where nothing is
            pinned.
    """

    name: str
    mock: bool
    model: str
    platform: str
    os: str
    abi: str
    runtime: str
    runtime_version: str
    runtime_sha256: str
    affinity: str = ""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all fields, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def label(self) -> str:
        """For people: `Samsung Galaxy S9 (MOCK: computed, not measured), tflite mock-1`."""
        mock = " (MOCK: computed, not measured)" if self.mock else ""
        runtime = "" if self.runtime_version.startswith(self.runtime) else f"{self.runtime} "
        return f"{self.model}{mock}, {runtime}{self.runtime_version}"

    def to_json(self) -> str:
        """Canonical: equal infos give equal texts."""
        values = asdict(self)
        if not self.affinity:
            del values["affinity"]  # so the fingerprints of devices that pin nothing stay what they were before it
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DeviceInfo:
        """The inverse of `to_json`; raises FieldError, which names the field, on anything else."""
        stored = Fields.parse(text)
        names = [each.name for each in fields(cls)]
        stored.exactly([name for name in names if name != "affinity"], ["affinity"])
        stored.text("name")  # which files are named after
        values: dict[str, Any] = {name: stored.line(name) for name in names if name in stored.values and name != "mock"}
        return cls(mock=stored.flag("mock"), **values)


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """How a device is used, apart from what is timed; computed devices ignore all of it.

    Attributes:
        bundle: folder made by `profile-device bundle`; None takes the newest one for the device's processor.
        runner: a program to use instead of the bundle's: a build of bpnas-runner, or TensorFlow's `benchmark_model`.
        runtime_library: the runtime for `runner`; None where it is linked in.
        affinity: hexadecimal mask of cores, or `none`; None means the big cores of a phone, and nothing elsewhere.
        max_temperature_c: no model starts above it; 0 switches the gate off.
        sentinel_limit: a core slower than this many times its own beginning is cooled down first; 0 switches it off.
        reconnect_seconds: a lost device is waited for this long.
        keep_governor: leave the frequency governor alone also where root would allow to set it.
        directory: folder on the device for all that bpnas puts there; None means `DEVICE_FOLDER` on a phone.
        max_memory_gb: a model that asks for more (in 10^9 bytes, runtime included) is refused; 0 switches that off,
            None means 4, or half the device's memory if that is less.

    Raises:
        UsageError: a value makes no sense; the message names the command's option.
    """

    bundle: Path | None = None
    runner: Path | None = None
    runtime_library: Path | None = None
    affinity: str | None = None
    max_temperature_c: float = 45.0
    sentinel_limit: float = 1.10
    reconnect_seconds: float = 300.0
    keep_governor: bool = False
    directory: str | None = None
    max_memory_gb: float | None = None

    def __post_init__(self) -> None:
        for option, value in (
            ("--max-temperature", self.max_temperature_c),
            ("--sentinel-limit", self.sentinel_limit),
            ("--reconnect", self.reconnect_seconds),
            ("--max-memory", self.max_memory_gb or 0.0),
        ):
            if not 0 <= value < math.inf:
                raise UsageError(f"{option} {value}: must be 0 or more")
        if 0 < self.sentinel_limit <= 1:
            raise UsageError(f"--sentinel-limit {self.sentinel_limit}: must be above 1, or 0, which switches it off")
        if self.max_memory_gb is not None and 0 < self.max_memory_gb < _LEAST_GB:
            raise UsageError(f"--max-memory {self.max_memory_gb}: a runtime alone needs {_LEAST_GB}; 0 is no limit")
        if self.directory is not None and not (self.directory.startswith("/") and self.directory.isprintable()):
            raise UsageError(f"--directory {self.directory!r}: must be an absolute path on the device")


class Device(Closing, Protocol):
    """One device with one runtime. Not safe for concurrent use: one worker, one device."""

    @property
    def info(self) -> DeviceInfo:
        """The fingerprint; the same for as long as the device is open."""
        ...

    def conditions(self) -> Conditions:
        """The device's state now; quick enough to be read around every model."""
        ...

    def run(self, requests: Iterable[RunRequest], settings: RunSettings) -> Iterator[Outcome]:
        """Time model files one after the other, each in a fresh session; yields each outcome as soon as it is there, in
        the order of the requests.

        A model that crashes, hangs or is refused gives a `Failure` and costs nothing but itself. Requests are taken
        when there is use for them: one by one, or ahead, in batches, and then also from another thread. A request's
        file must exist until its outcome was yielded.

        Raises:
            UsageError: there are more threads than cores for them (see `threads`).
            DeviceLostError: the device is gone; what was yielded until then is good.
        """
        ...
