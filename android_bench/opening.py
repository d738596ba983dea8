"""Opening a device by its serial."""

from __future__ import annotations

from bpnas.android_bench.device import RUNTIMES, Device, DeviceOptions
from bpnas.base.errors import UsageError


def open_device(serial: str, runtime: str, options: DeviceOptions = DeviceOptions()) -> Device:
    """The device with that serial.

    Args:
        serial: `local` (this machine), `mock:NAME` (computed latencies), or of a phone: a USB serial or `HOST:PORT`.
        runtime: one of `RUNTIMES`.
        options: see there. With a bundle or a runner this machine is timed as a phone is, by the native runner.

    Raises:
        UnknownSerialError: there is no such device.
        UsageError: there is no such runtime, or the options make no sense.
        RuntimeUnavailableError: the runtime is not installed on the device or does not start.
        DeviceError: the device cannot be used.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"runtime {runtime!r} is unknown: use {' or '.join(RUNTIMES)}")
    if serial.startswith("mock:"):
        from bpnas.android_bench.mock import MockDevice

        return MockDevice(serial.removeprefix("mock:"), runtime)
    if serial == "local" and options.bundle is None and options.runner is None:
        from bpnas.android_bench.local.device import LocalDevice

        return LocalDevice(runtime, options.max_memory_gb)
    from bpnas.android_bench.runner.device import open_native_device

    return open_native_device(serial, runtime, options)
