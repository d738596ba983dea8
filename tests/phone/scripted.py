"""Something that listens on a port and answers as a test wants: anything but what is expected there."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from tests.phone.legacy_wire import HEADER


class ScriptedServer:
    """Calls `script` with each connection, in threads of this process, and closes it after that.

    Attributes:
        port, serial: where it listens, `127.0.0.1:PORT`.
    """

    def __init__(self, script: Callable[[socket.socket], None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self.port: int = self._listener.getsockname()[1]
        self._threads[0].start()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        """Hang up on everybody."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, struct.error):  # the client hung up
            connection.settimeout(60)
            self._script(connection)


def packet(command: bytes, first: int = 0, second: int = 0, payload: bytes = b"") -> bytes:
    """One ADB packet, with its checksum."""
    magic = int.from_bytes(command, "little") ^ 0xFFFFFFFF
    return HEADER.pack(command, first, second, len(payload), sum(payload), magic) + payload


def receive(connection: socket.socket, count: int) -> bytes:
    """So many bytes; raises OSError if the connection ends before."""
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return data


def receive_packet(connection: socket.socket) -> tuple[bytes, int, int, bytes]:
    """Command, both arguments, payload."""
    command, first, second, length, _, _ = HEADER.unpack(receive(connection, HEADER.size))
    return command, first, second, receive(connection, length)
