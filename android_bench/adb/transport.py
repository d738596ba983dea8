"""The bytes of one connection to an ADB daemon, over TCP or USB: complete or an error, never silently short.

adb-shell 0.4.4 brings both transports. Over TCP it leaves Nagle's algorithm on (about 40 ms per exchange), takes a
partial `send` for a whole one, and hands out the empty bytes of a closed connection as data; that is mended here.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Protocol

from adb_shell.transport.tcp_transport import TcpTransport

_CONNECT_SECONDS = 10.0
_SOCKET_BUFFER_BYTES = 4 << 20


class TransportClosedError(OSError):
    """The other side hung up, or this one did."""


class Transport(Protocol):
    """What adb-shell's transports have in common, and what is asked of them here beyond that.

    `bulk_read` returns what comes first, `bulk_write` sends everything. A time limit, which holds for the whole call,
    raises TimeoutError when it has passed, every other fault another OSError or an error of the transport's own; None
    waits for ever.
    """

    def connect(self, transport_timeout_s: float | None) -> None: ...
    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes: ...
    def bulk_write(self, data: Any, transport_timeout_s: float | None) -> int: ...
    def close(self) -> None: ...


class HardenedTcpTransport(TcpTransport):  # type: ignore[misc]  # adb-shell has no types
    """adb-shell's TCP transport without its faults. `close` may be called from another thread and ends a read there."""

    _connection: socket.socket | None

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._reading = threading.Lock()
        self._writing = threading.Lock()

    def connect(self, transport_timeout_s: float | None = _CONNECT_SECONDS) -> None:
        """Connect; raises OSError."""
        super().connect(transport_timeout_s)
        connection = self._open_connection()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        connection.setblocking(False)

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None = None) -> bytes:
        """From 1 to `numbytes` bytes; raises TimeoutError, or `TransportClosedError` at the end."""
        with self._reading:
            connection = self._open_connection()
            while True:
                self._wait(connection, transport_timeout_s, for_reading=True)
                try:
                    data = connection.recv(numbytes)
                except BlockingIOError:
                    continue
                if not data:
                    raise TransportClosedError("the other side closed the connection")
                return data

    def bulk_write(self, data: bytes | memoryview, transport_timeout_s: float | None = None) -> int:
        """Send all of it; raises TimeoutError where that takes longer, or another OSError."""
        view, sent, deadline = memoryview(data), 0, deadline_in(transport_timeout_s)
        with self._writing:
            connection = self._open_connection()
            while sent < len(view):
                try:
                    sent += connection.send(view[sent:])
                except BlockingIOError:
                    self._wait(connection, seconds_to(deadline), for_reading=False)
        return sent

    def close(self) -> None:
        """Hang up; from any thread, and as often as wanted."""
        connection, self._connection = self._connection, None
        if connection is not None:
            hang_up(connection, self._reading, self._writing)

    def _open_connection(self) -> socket.socket:
        connection: socket.socket | None = self._connection
        if connection is None:
            raise TransportClosedError("the connection is closed")
        return connection

    def _wait(self, connection: socket.socket, seconds: float | None, for_reading: bool) -> None:
        poll = select.poll()  # select() cannot wait on file descriptors above 1023
        try:
            poll.register(connection, select.POLLIN if for_reading else select.POLLOUT)
        except (OSError, ValueError):
            raise TransportClosedError("the connection is closed") from None
        if not poll.poll(None if seconds is None else seconds * 1000):
            raise TimeoutError(f"{self._host}:{self._port}: no data moved within {seconds} s")


def hang_up(connection: socket.socket, reading: threading.Lock, writing: threading.Lock) -> None:
    """Close a socket that other threads may be reading from and writing to, each under its lock."""
    with suppress(OSError):  # where the other side hung up first
        connection.shutdown(socket.SHUT_RDWR)  # wakes the threads that wait
    # The number of a closed descriptor is given out again: nobody may be left who is about to wait on it.
    with reading, writing:
        connection.close()


def read_exactly(transport: Transport, size: int, deadline: float) -> bytearray:
    """`size` bytes; raises what the transport raises, TimeoutError where they are not there at `deadline`, on the
    monotonic clock: also where they come drop by drop.
    """
    data = bytearray()
    while len(data) < size:
        data += transport.bulk_read(size - len(data), seconds_to(deadline))
    return data


def deadline_in(seconds: float | None) -> float | None:
    """A time on the monotonic clock; None for never."""
    return None if seconds is None else time.monotonic() + seconds


def seconds_to(deadline: float | None) -> float | None:
    """What is left until then; raises TimeoutError when it has passed."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no end within the time limit")
    return left
