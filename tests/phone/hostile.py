"""A daemon that says what a test wants it to say, in packets as they should be or not, whatever it is asked."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterable

HEADER = struct.Struct("<4sIIIII")
VERSION = 0x01000001  # no checksums


class HostileDaemon:
    """Listens on a port of the loopback interface.

    Args:
        answer: to a service that is asked for, what is sent through its stream; it need not end.
        banner: what it calls itself.
        greeting: sent as it is once the connection stands.
    """

    def __init__(
        self,
        answer: Callable[[str], Iterable[bytes]],
        banner: bytes = b"device::features=shell_v2",
        greeting: bytes = b"",
    ) -> None:
        self._answer, self._banner, self._greeting = answer, banner, greeting
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        for each in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._connections):
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self._start(self._serve, connection)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        def guarded() -> None:
            with contextlib.suppress(OSError):  # the client has had enough
                work(*arguments)

        self._threads.append(threading.Thread(target=guarded))
        self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        while header := connection.recv(HEADER.size, socket.MSG_WAITALL):
            command, first, _, length, _, _ = HEADER.unpack(header)
            payload = connection.recv(length, socket.MSG_WAITALL) if length else b""
            if command == b"CNXN":
                connection.sendall(packet(b"CNXN", VERSION, 1 << 20, self._banner) + self._greeting)
            elif command == b"OPEN":
                connection.sendall(packet(b"OKAY", first, first))
                self._start(self._talk, connection, first, payload.rstrip(b"\0").decode())
            elif command == b"WRTE":
                connection.sendall(packet(b"OKAY", first, first))

    def _talk(self, connection: socket.socket, stream: int, service: str) -> None:
        """Without waiting for the client to confirm anything."""
        for data in self._answer(service):
            connection.sendall(packet(b"WRTE", stream, stream, data))
        connection.sendall(packet(b"CLSE", stream, stream))


def packet(command: bytes, first: int, second: int, payload: bytes = b"") -> bytes:
    magic = int.from_bytes(command, "little") ^ 0xFFFFFFFF
    return HEADER.pack(command, first, second, len(payload), 0, magic) + payload


def shell_frame(kind: int, data: bytes, length: int | None = None) -> bytes:
    """Of shell v2; `length` is what it says of itself."""
    return struct.pack("<BI", kind, len(data) if length is None else length) + data
