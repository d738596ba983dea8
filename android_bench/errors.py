"""What can go wrong with a device; the tree continues `bpnas.base.errors`.

UsageError
└── UnknownSerialError         no device answers to that serial
DeviceError                    the device or its runtime cannot be used
├── RuntimeUnavailableError    the inference runtime is not installed or does not start
├── DeviceLostError            the device went away in the middle of its work
├── DeviceSpaceError           no space left on the device
└── DeviceChangedError         another device, or another version of it, came back in its place
"""

from __future__ import annotations

from bpnas.base.errors import BpnasError, UsageError


class UnknownSerialError(UsageError):
    """No device answers to that serial."""


class DeviceError(BpnasError):
    """The device, or the runtime on it, cannot be used."""


class RuntimeUnavailableError(DeviceError):
    """The inference runtime is not installed, or does not start."""


class DeviceLostError(DeviceError):
    """The device went away in the middle of its work; what it had answered until then is kept."""


class DeviceSpaceError(DeviceError):
    """No space left on the device."""


class DeviceChangedError(DeviceError):
    """What answers now has another fingerprint than before; nothing of it may meet what was measured until then."""
