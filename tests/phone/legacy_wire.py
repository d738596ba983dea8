"""The packets of ADB's first version, and what can happen to them on their way.

A packet is a header of six little-endian 32-bit words (command, two arguments, length and sum of the payload's bytes,
the command's complement) and a payload of at most 4096 bytes.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from dataclasses import dataclass
from typing import NamedTuple

VERSION = 0x01000000
MAX_PAYLOAD = 4096
HEADER = struct.Struct("<4sIIIII")
COMMANDS = (b"SYNC", b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"CLSE", b"WRTE")


class ProtocolError(Exception):
    """The client did what the protocol forbids."""


class Packet(NamedTuple):
    command: bytes
    first: int
    second: int
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong on a connection, once it is established. Bytes are counted from there, in both directions.

    Attributes:
        connections: only so many connections, from now on, have the faults; None: all.
        reset_after_bytes: then the connection is reset.
        stall_after_bytes: then it stays open and nothing moves any more.
        piece_bytes: whatever is sent comes in pieces of that size.
        garbage_after_bytes: then comes noise in place of what should.
        wrong_magic, wrong_checksum: every packet's last field, or its sum, is off by one bit.
        huge_length: a header announces a payload of 4 GiB less one byte.
        ignore_flow_control: data is sent whether or not the client has confirmed what came before.
        endless_output: every command prints for ever.
    """

    connections: int | None = None
    reset_after_bytes: int | None = None
    stall_after_bytes: int | None = None
    piece_bytes: int | None = None
    garbage_after_bytes: int | None = None
    wrong_magic: bool = False
    wrong_checksum: bool = False
    huge_length: bool = False
    ignore_flow_control: bool = False
    endless_output: bool = False


class Wire:
    """One connection's packets. Several threads may send, one receives."""

    def __init__(self, connection: socket.socket) -> None:
        self.faults = Faults()
        self.closing = threading.Event()
        self._connection = connection
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._moved_bytes = 0

    def establish(self, faults: Faults) -> None:
        """From now on these faults happen."""
        self._moved_bytes = 0
        self.faults = faults

    def receive(self) -> Packet | None:
        """The next packet; None at the end of the connection.

        Raises:
            ProtocolError: it is none, or too long, or its sum is wrong.
        """
        header = self._receive_bytes(HEADER.size)
        if header is None:
            return None
        command, first, second, length, checksum, magic = HEADER.unpack(header)
        if command not in COMMANDS:
            raise ProtocolError(f"no command: {command!r}")
        if magic != int.from_bytes(command, "little") ^ 0xFFFFFFFF:
            raise ProtocolError(f"{command!r}: wrong magic {magic:#x}")
        if length > MAX_PAYLOAD:
            raise ProtocolError(f"{command!r}: a payload of {length} bytes, more than {MAX_PAYLOAD}")
        payload = self._receive_bytes(length)
        if payload is None:
            return None
        if checksum != sum(payload):
            raise ProtocolError(f"{command!r}: checksum {checksum} on bytes that sum up to {sum(payload)}")
        return Packet(command, first, second, payload)

    def send(self, packet: Packet) -> None:
        """Raises OSError where the connection is gone."""
        magic = int.from_bytes(packet.command, "little") ^ 0xFFFFFFFF ^ self.faults.wrong_magic
        checksum = sum(packet.payload) ^ self.faults.wrong_checksum
        length = 0xFFFFFFFF if self.faults.huge_length else len(packet.payload)
        message = HEADER.pack(packet.command, packet.first, packet.second, length, checksum, magic) + packet.payload
        garbage_after = self.faults.garbage_after_bytes
        with self._sending:
            if garbage_after is not None and self._moved_bytes + len(message) > garbage_after:
                message = random.Random(garbage_after).randbytes(len(message))
            size = self.faults.piece_bytes or len(message)
            for start in range(0, len(message), size):
                piece = message[start : start + size]
                through = self._through(len(piece))
                self._connection.sendall(piece[:through])
                if through < len(piece):
                    self._fail()

    def close(self, reset: bool = False) -> None:
        """End the connection for both sides; calling it twice does no harm."""
        with self._lock:
            if self.closing.is_set():
                return
            self.closing.set()
        with contextlib.suppress(OSError):  # the client was quicker
            if reset:  # no lingering: what is on its way is dropped
                self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Wakes the thread that receives, which `close` would not.
            self._connection.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
        self._connection.close()

    def _receive_bytes(self, count: int) -> bytes | None:
        received = bytearray()
        while len(received) < count:
            try:
                piece = self._connection.recv(min(count - len(received), 65536))
            except OSError:
                return None
            if not piece:
                return None
            if self._through(len(piece)) < len(piece):
                self._fail()
            received += piece
        return bytes(received)

    def _through(self, count: int) -> int:
        """How many of `count` more bytes get through."""
        limits = (self.faults.reset_after_bytes, self.faults.stall_after_bytes)
        limit = min((limit for limit in limits if limit is not None), default=None)
        with self._lock:
            before, self._moved_bytes = self._moved_bytes, self._moved_bytes + count
        return count if limit is None else max(0, min(count, limit - before))

    def _fail(self) -> None:
        """Stall until the connection is closed, or reset it.

        Raises:
            ConnectionResetError: it is over.
        """
        if self.faults.stall_after_bytes is not None:
            self.closing.wait()
        self.close(reset=True)
        raise ConnectionResetError
