"""A USB port as adb-shell shows it, with a daemon's socket behind it; there is no libusb here, and no port."""

from __future__ import annotations

import select
import socket
import threading

TIMEOUT, NO_DEVICE = -7, -4


class UsbError(Exception):
    """As libusb1's: `value` says which; of a timeout, `received` and `transferred` how far it came."""

    def __init__(self, value: int, received: bytes = b"", transferred: int = 0) -> None:
        super().__init__(f"LIBUSB_ERROR {value}")
        self.value = value
        self.received = received
        self.transferred = transferred


class UsbFailedError(Exception):
    """As adb-shell's, around libusb1's."""

    def __init__(self, message: str, usb_error: UsbError | None) -> None:
        super().__init__(message)
        self.usb_error = usb_error


class FakeUsb:
    """What `adb_shell.transport.usb_transport.UsbTransport` is to its callers.

    Attributes:
        busy: how many transfers are under way; to take the handle away meanwhile is what crashes libusb.
        crashed: that happened.
    """

    serial_number, usb_info = "R58M123ABC", "1-2"

    def __init__(self, port: int) -> None:
        self.busy = 0
        self.crashed = False
        self._port = port
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None

    def connect(self, seconds: float | None = None) -> None:
        self._connection = socket.create_connection(("127.0.0.1", self._port), timeout=5)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.setblocking(False)

    def bulk_read(self, count: int, seconds: float | None = None) -> bytes:
        connection = self._begin()
        try:
            if not select.select([connection], [], [], 10.0 if seconds is None else seconds)[0]:
                raise UsbFailedError(f"Could not receive data (timeout {seconds})", UsbError(TIMEOUT))
            try:
                data = connection.recv(count)
            except OSError:
                data = b""
            if not data:
                raise UsbFailedError("Could not receive data", UsbError(NO_DEVICE))
            return data
        finally:
            self._end()

    def bulk_write(self, data: bytes, seconds: float | None = None) -> int:
        connection = self._begin()
        try:
            if not select.select([], [connection], [], 10.0 if seconds is None else seconds)[1]:
                raise UsbFailedError(f"Could not send data (timeout {seconds})", UsbError(TIMEOUT))
            try:
                return connection.send(data)
            except OSError as error:
                raise UsbFailedError("Could not send data", UsbError(NO_DEVICE)) from error
        finally:
            self._end()

    def close(self) -> None:
        self.crashed |= self.busy > 0
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _begin(self) -> socket.socket:
        if self._connection is None:
            raise UsbFailedError("This transport has been closed", None)
        with self._lock:
            self.busy += 1
        return self._connection

    def _end(self) -> None:
        with self._lock:
            self.busy -= 1
