"""How to time one model file on one device. Knows files, runtimes and devices, no architectures.

Names load on first use, so that importing the package is cheap.
"""

from typing import TYPE_CHECKING

from bpnas.base.lazy import lazy_names

if TYPE_CHECKING:
    from bpnas.android_bench.adb.attached import Attached
    from bpnas.android_bench.device import RUNTIMES, Conditions, Device, DeviceInfo, DeviceOptions
    from bpnas.android_bench.doctor import diagnose
    from bpnas.android_bench.errors import (
        DeviceChangedError,
        DeviceError,
        DeviceLostError,
        DeviceSpaceError,
        RuntimeUnavailableError,
        UnknownSerialError,
    )
    from bpnas.android_bench.measurement import Failure, Measurement, Outcome, RunRequest, RunSettings
    from bpnas.android_bench.model_inputs import ModelInput, read_inputs
    from bpnas.android_bench.model_size import ModelSize, read_size
    from bpnas.android_bench.opening import open_device
    from bpnas.android_bench.operators import ModelFormatError, Operator, read_operators
    from bpnas.android_bench.remote import Remote
    from bpnas.android_bench.runner.bundle import Bundle, build_bundle
    from bpnas.android_bench.serials import attached_devices, choose_serial, connect

_HOMES = {
    "Attached": "adb.attached",
    "Bundle": "runner.bundle",
    "Conditions": "device",
    "Device": "device",
    "DeviceChangedError": "errors",
    "DeviceError": "errors",
    "DeviceInfo": "device",
    "DeviceLostError": "errors",
    "DeviceOptions": "device",
    "DeviceSpaceError": "errors",
    "Failure": "measurement",
    "Measurement": "measurement",
    "ModelFormatError": "operators",
    "ModelInput": "model_inputs",
    "ModelSize": "model_size",
    "Operator": "operators",
    "Outcome": "measurement",
    "RUNTIMES": "device",
    "Remote": "remote",
    "RunRequest": "measurement",
    "RunSettings": "measurement",
    "RuntimeUnavailableError": "errors",
    "UnknownSerialError": "errors",
    "attached_devices": "serials",
    "build_bundle": "runner.bundle",
    "choose_serial": "serials",
    "connect": "serials",
    "diagnose": "doctor",
    "open_device": "opening",
    "read_inputs": "model_inputs",
    "read_operators": "operators",
    "read_size": "model_size",
}

__all__ = [
    "RUNTIMES",
    "Attached",
    "Bundle",
    "Conditions",
    "Device",
    "DeviceChangedError",
    "DeviceError",
    "DeviceInfo",
    "DeviceLostError",
    "DeviceOptions",
    "DeviceSpaceError",
    "Failure",
    "Measurement",
    "ModelFormatError",
    "ModelInput",
    "ModelSize",
    "Operator",
    "Outcome",
    "Remote",
    "RunRequest",
    "RunSettings",
    "RuntimeUnavailableError",
    "UnknownSerialError",
    "attached_devices",
    "build_bundle",
    "choose_serial",
    "connect",
    "diagnose",
    "open_device",
    "read_inputs",
    "read_operators",
    "read_size",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
