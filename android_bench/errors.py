"""What can go wrong, as one tree.

BpnasError                     every error that bpnas raises on purpose
├── UsageError                 the caller asked for something that does not exist or makes no sense (exit code 2)
│   └── UnknownSerialError     no device answers to that serial
├── DeviceError                the device or its runtime cannot be used
│   ├── RuntimeUnavailableError  the inference runtime is not installed or does not start
│   ├── DeviceLostError        the device went away in mid-work
│   ├── DeviceSpaceError       no space left on the device
│   └── DeviceChangedError     another device, or another version of it, came back in its place
├── SpaceError                 no space left where something had to be written
└── (the rooms above add their own: BlockError, BackboneError, RecordsError, TableError, SearchError, ...)

A message is one sentence that names the file, the field and the remedy; the commands print it and exit with
`exit_code`.
"""

from __future__ import annotations

from bpnas.android_bench.plain_text import as_text


class BpnasError(Exception):
    """Base of all errors that bpnas raises on purpose. What of a message was somebody else's is shown as text."""

    exit_code = 1

    def __str__(self) -> str:
        return as_text(super().__str__())


class UsageError(BpnasError):
    """A request that cannot be carried out whatever the state of the device or of the files."""

    exit_code = 2


class UnknownSerialError(UsageError):
    """No device answers to that serial."""


class DeviceError(BpnasError):
    """The device, or the runtime on it, cannot be used."""


class RuntimeUnavailableError(DeviceError):
    """The inference runtime is not installed, or does not start."""


class DeviceLostError(DeviceError):
    """The device went away in mid-work; what it had answered until then is kept."""


class DeviceSpaceError(DeviceError):
    """No space left on the device."""


class DeviceChangedError(DeviceError):
    """What answers now has another fingerprint than before; nothing of it may meet what was measured until then."""


class SpaceError(BpnasError):
    """No space left where something had to be written."""
