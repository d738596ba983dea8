"""A device that is attached to this computer, as adb lists it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attached:
    """A device that the adb server or the USB bus knows of.

    Attributes:
        serial: what `--serial` takes, as adb lists it; it may hold spaces.
        state: `device` when it can be used; else as adb says, `unauthorized`, `offline`, ...
        model: as far as it is known without asking the device, else empty.
        via: `adb server` or `usb`.
        transport_id: of the adb server's, where that tells it; else empty.
    """

    serial: str
    state: str
    model: str
    via: str
    transport_id: str = ""
