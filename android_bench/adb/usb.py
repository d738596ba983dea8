"""Phones on this machine's USB ports, reached without an adb server. Needs libusb1: `pip install 'adb-shell[usb]'`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from bpnas.android_bench.adb.attached import Attached
from bpnas.android_bench.adb.transport import Transport, TransportClosedError, deadline_in, seconds_to
from bpnas.android_bench.errors import DeviceError
from bpnas.base.plain_text import printable

_POLL_SECONDS = 1.0


class PatientUsbTransport:
    """adb-shell's USB transport, but waiting for ever is possible, a time limit is a TimeoutError, and `close` may be
    called from another thread: libusb must not lose a handle while a transfer is under way, so it waits for that.

    Args:
        transport: an `adb_shell.transport.usb_transport.UsbTransport`, not connected yet.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._is_closed = False
        self._reading = threading.Lock()
        self._writing = threading.Lock()

    def connect(self, transport_timeout_s: float | None) -> None:
        """Claim the interface; raises DeviceError where another program has it."""
        try:
            self._transport.connect(transport_timeout_s)
        except Exception as error:
            raise DeviceError(
                f"the phone's USB interface cannot be opened ({printable(str(error))}); close other programs that use "
                "it, and see that this user may write to the device (udev rule, group plugdev)"
            ) from error

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        """One transfer of at most `numbytes`."""
        deadline = None if transport_timeout_s is None else time.monotonic() + transport_timeout_s
        while True:
            left = _POLL_SECONDS if deadline is None else min(_POLL_SECONDS, deadline - time.monotonic())
            try:
                with self._reading:
                    self._check()
                    # At least a millisecond: to libusb no time at all means for ever.
                    return bytes(self._transport.bulk_read(numbytes, max(left, 0.001)))
            except Exception as error:
                if not _is_timeout(error):
                    raise
                received = bytes(getattr(error.usb_error, "received", b""))  # type: ignore[attr-defined]
                if received:  # the first packets of a transfer of several
                    return received
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"no data within {transport_timeout_s} s") from error

    def bulk_write(self, data: Any, transport_timeout_s: float | None) -> int:
        """Send all of it; raises TimeoutError where that takes longer."""
        view, sent, deadline = bytes(data), 0, deadline_in(transport_timeout_s)
        while sent < len(view):
            try:
                with self._writing:
                    self._check()
                    moved = self._transport.bulk_write(view[sent:], seconds_to(deadline))
            except Exception as error:
                if not _is_timeout(error):
                    raise
                moved = getattr(error.usb_error, "transferred", 0)  # type: ignore[attr-defined]
            if moved <= 0:
                raise TimeoutError(f"no data left within {transport_timeout_s} s")
            sent += moved
        return sent

    def close(self) -> None:
        """Give the interface back, once no transfer is under way; from any thread, and as often as wanted."""
        self._is_closed = True
        with self._reading, self._writing:
            self._transport.close()

    def _check(self) -> None:
        if self._is_closed:
            raise TransportClosedError("the connection is closed")


def usb_devices() -> tuple[Attached, ...]:
    """Phones with USB debugging on; none where libusb1 is missing."""
    return tuple(Attached(serial, "device", printable(info), "usb") for serial, info, _ in _find())


def usb_transport(serial: str) -> Transport | None:
    """The phone with that serial; None where there is none, or no libusb1."""
    for found, _, transport in _find():
        if found == serial:
            return PatientUsbTransport(transport)
    return None


def _find() -> Iterator[tuple[str, str, Any]]:
    try:
        from adb_shell.transport.usb_transport import UsbTransport

        transports = list(UsbTransport.find_all_adb_devices())
    except Exception:  # no libusb1, no USB at all, or no right to look
        return
    for transport in transports:
        try:
            yield str(transport.serial_number), str(transport.usb_info), transport
        except Exception:
            continue


def _is_timeout(error: Exception) -> bool:
    # adb-shell wraps libusb's error, whose value for a timeout is -7 (LIBUSB_ERROR_TIMEOUT).
    return getattr(getattr(error, "usb_error", None), "value", None) == -7
