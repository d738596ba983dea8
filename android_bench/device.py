"""What a device is to the rest of bpnas: something with a fingerprint that times model files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from bpnas.android_bench.errors import UnknownSerialError, UsageError
from bpnas.android_bench.runner import Outcome, RunRequest, RunSettings

RUNTIMES = ("tflite", "onnxruntime")
MODEL_SUFFIX = {"tflite": ".tflite", "onnxruntime": ".onnx"}

Conditions = Mapping[str, float | str]
"""What the device's state is right now, by name with its unit, as `{"load_1min": 0.3, "temperature_c": 41.0}`."""


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

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all fields, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def label(self) -> str:
        """For people: `Samsung Galaxy S9 (MOCK: computed, not measured), tflite mock-1`."""
        mock = " (MOCK: computed, not measured)" if self.mock else ""
        return f"{self.model}{mock}, {self.runtime} {self.runtime_version}"

    def to_json(self) -> str:
        """Canonical: equal infos give equal texts."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DeviceInfo:
        """The inverse of `to_json`; raises TypeError or ValueError on anything else."""
        values: dict[str, Any] = json.loads(text)
        return cls(**values)


class Device(Protocol):
    """One device with one runtime. Not safe for concurrent use: one worker, one device."""

    @property
    def info(self) -> DeviceInfo:
        """The fingerprint; the same for as long as the device is open."""
        ...

    def conditions(self) -> Conditions:
        """The device's state now; quick enough to be read around every model."""
        ...

    def run(self, requests: Sequence[RunRequest], settings: RunSettings) -> Iterator[Outcome]:
        """Time model files one after the other, each in a fresh session; yields each outcome as soon as it is there.

        A model that crashes, hangs or is refused gives a `Failure` and costs nothing but itself.

        Raises:
            DeviceLostError: the device is gone; what was yielded until then is good.
        """
        ...

    def close(self) -> None:
        """Give everything back; calling it twice does no harm."""
        ...

    # Devices that inherit get these two for nothing.

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_device(serial: str, runtime: str) -> Device:
    """The device with that serial: `local` (this machine) or `mock:NAME` (computed latencies).

    Raises:
        UnknownSerialError: there is no such device.
        UsageError: there is no such runtime.
        RuntimeUnavailableError: the runtime is not installed on the device or does not start.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"runtime {runtime!r} is unknown: use {' or '.join(RUNTIMES)}")
    if serial == "local":
        from bpnas.android_bench.local import LocalDevice

        return LocalDevice(runtime)
    if serial.startswith("mock:"):
        from bpnas.android_bench.mock import MockDevice

        return MockDevice(serial.removeprefix("mock:"), runtime)
    raise UnknownSerialError(
        f"no device answers to serial {serial!r}: use 'local' for this machine or 'mock:s9' for a computed Galaxy S9 "
        "(phones over ADB are not supported yet)"
    )
