"""One connection to an ADB daemon that many streams share: the packet layer of the protocol.

Source: AOSP, packages/modules/adb/protocol.txt and adb.h. A packet is six little-endian words (command, arg0, arg1,
length, checksum, command ^ 0xffffffff) and its payload. adb-shell brings the transports, the signatures and the packing
of packets; the streams are ours, since its own may not be used concurrently and a phone on USB has one connection only:
while a runner answers on one stream, the next batch is pushed on another.

A daemon is not trusted: a packet is at most `MAX_PAYLOAD` long, and a stream holds at most `MAX_UNREAD` bytes that
nobody has read yet. (By the protocol a packet waits until the one before it was acknowledged; AOSP's daemon keeps to
that except when a service ends.)
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn, Protocol

from adb_shell.constants import (
    AUTH,
    AUTH_RSAPUBLICKEY,
    AUTH_SIGNATURE,
    AUTH_TOKEN,
    CLSE,
    CNXN,
    ID_TO_WIRE,
    MESSAGE_FORMAT,
    MESSAGE_SIZE,
    OKAY,
    OPEN,
    WIRE_TO_ID,
    WRTE,
)

from bpnas.android_bench.adb.keys import Signer
from bpnas.android_bench.adb.transport import Transport, read_exactly
from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.base.plain_text import printable

MAX_PAYLOAD = 1 << 20
"""The longest packet that either side may send, in bytes; a daemon may ask for less."""

MAX_UNREAD = 4 << 20
"""At most this many bytes may wait in one stream."""

_VERSION_WITHOUT_CHECKSUM = 0x01000001
_FEATURES = "shell_v2,cmd,stat_v2,ls_v2"
_STLS = struct.unpack("<I", b"STLS")[0]
_IDLE_SECONDS = 20.0
_MAX_BANNER_BYTES = 4096
_MAX_STRAYS = 64


class AdbStream(Protocol):
    """A stream of bytes to one service of the device."""

    def read(self, timeout_seconds: float) -> bytes:
        """The next bytes; b'' at the end. Raises TimeoutError or DeviceLostError."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of it. Raises DeviceLostError where the other side takes nothing for some time, or hung up."""
        ...

    def close(self) -> None:
        """Hang up; calling it twice does no harm."""
        ...


class AdbConnection(Protocol):
    """A way to the services of one device. Safe for use from several threads."""

    @property
    def features(self) -> frozenset[str]:
        """What the daemon can do, as `shell_v2`."""
        ...

    @property
    def max_service_bytes(self) -> int:
        """The longest name of a service, and so of a shell command."""
        ...

    def open(self, service: str) -> AdbStream:
        """Raises DeviceLostError, or DeviceError where the daemon refuses."""
        ...

    def close(self) -> None:
        """Hang up; calling it twice does no harm."""
        ...


class _Stream:
    """One stream of a `DirectConnection`; its state is guarded by the connection's lock."""

    def __init__(self, connection: DirectConnection, local_id: int) -> None:
        self.connection = connection
        self.local_id = local_id
        self.remote_id = 0
        self.changed = threading.Condition(connection.lock)
        self.unread: list[bytearray] = []  # packets, which are acknowledged when they are read
        self.unread_bytes = 0
        self.may_write = False
        self.is_open = False
        self.has_ended = False  # by the device
        self.is_closed = False  # by us

    def read(self, timeout_seconds: float) -> bytes:
        deadline = time.monotonic() + timeout_seconds
        with self.connection.lock:
            while not self.unread and not self.has_ended:
                self.connection.check()
                if self.is_closed:
                    raise DeviceLostError(f"{self.connection.name}: the stream was closed on this side")
                if not self.changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    raise TimeoutError
            packets, self.unread, self.unread_bytes = self.unread, [], 0
            acknowledge = not self.has_ended
        if acknowledge:
            for _ in packets:  # quietly: what has arrived is handed out, and a loss shows at the next call
                self.connection.send_quietly(OKAY, self.local_id, self.remote_id)
        return b"".join(packets)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        for first in range(0, len(view), self.connection.max_payload):
            self._take_turn()
            chunk = view[first : first + self.connection.max_payload]
            self.connection.send(WRTE, self.local_id, self.remote_id, chunk)
        # The last packet's OKAY is waited for by the one that writes next, or by nobody.

    def _take_turn(self) -> None:
        deadline = time.monotonic() + _IDLE_SECONDS
        with self.connection.lock:
            while not self.may_write:
                self.connection.check()
                if self.has_ended or self.is_closed:
                    raise DeviceLostError(f"{self.connection.name}: the device closed the stream in mid-transfer")
                self.changed.wait(max(0.0, deadline - time.monotonic()))
                if not self.may_write and time.monotonic() >= deadline:
                    self.connection.give_up(f"it took no data for {_IDLE_SECONDS:g} s")
            self.may_write = False

    def close(self) -> None:
        with self.connection.lock:
            if self.is_closed:
                return
            self.is_closed = True
            self.connection.forget(self.local_id)
            say_so = not self.has_ended and self.is_open
            self.changed.notify_all()
        if say_so:
            self.connection.send_quietly(CLSE, self.local_id, self.remote_id)


class DirectConnection:
    """A connection straight to a device's daemon.

    Args:
        name: for messages.
        transport: not connected yet.
        signers: called for the keys to sign with, once the device asks for a signature.
        auth_seconds: the time that a person has for saying yes on the phone's screen.

    Raises:
        DeviceLostError: nobody answers, or what answers is no ADB daemon.
        DeviceError: the device refuses this computer.
    """

    def __init__(
        self, name: str, transport: Transport, signers: Callable[[], Sequence[Signer]], auth_seconds: float = 30.0
    ) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.max_payload = 4096
        self._transport = transport
        self._checksums = True
        self._send_lock = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        self._last_id = 0
        self._fault: str | None = None
        self._features: frozenset[str] = frozenset()
        try:
            transport.connect(_IDLE_SECONDS / 2)
            self._greet(signers, auth_seconds)
        except BaseException as error:
            transport.close()
            if isinstance(error, DeviceError) or not isinstance(error, Exception):
                raise
            raise DeviceLostError(f"{name}: no ADB daemon answers ({_text(error)})") from error
        self._reader = threading.Thread(target=self._read_packets, name=f"adb {name}", daemon=True)
        self._reader.start()

    @property
    def features(self) -> frozenset[str]:
        return self._features

    @property
    def max_service_bytes(self) -> int:
        return self.max_payload - 1

    def open(self, service: str) -> AdbStream:
        name = service.encode()
        if len(name) > self.max_service_bytes:
            raise DeviceError(f"{self.name}: a command of {len(name)} bytes is too long for this device")
        with self.lock:
            self.check()
            self._last_id = self._last_id % 0x7FFFFFFF + 1
            stream = self._streams[self._last_id] = _Stream(self, self._last_id)
        try:
            self.send(OPEN, stream.local_id, 0, name + b"\0")
            self._await_opening(stream)
        except BaseException:
            stream.close()
            raise
        if not stream.is_open:
            raise DeviceError(f"{self.name}: the device refuses {printable(service.partition(':')[0])!r}")
        return stream

    def _await_opening(self, stream: _Stream) -> None:
        deadline = time.monotonic() + _IDLE_SECONDS
        with self.lock:
            while not stream.is_open and not stream.has_ended:
                self.check()
                if not stream.changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    self.give_up(f"no answer for {_IDLE_SECONDS:g} s")

    def close(self) -> None:
        self._fail("the connection was closed on this side")
        if threading.current_thread() is not self._reader:
            self._reader.join(_IDLE_SECONDS)

    # For the streams

    def check(self) -> None:
        """Raise DeviceLostError when the connection is gone."""
        if self._fault is not None:
            raise DeviceLostError(f"{self.name}: {self._fault}")

    def give_up(self, fault: str) -> NoReturn:
        """End a connection on which nobody answers, so that nobody waits in vain once more; raises DeviceLostError."""
        self._fail(fault)
        raise DeviceLostError(f"{self.name}: {fault}")

    def forget(self, local_id: int) -> None:
        """Drop a stream that is closed."""
        self._streams.pop(local_id, None)

    def send(self, command: bytes, arg0: int, arg1: int, data: bytes | memoryview = b"") -> None:
        """Send one packet; raises DeviceLostError."""
        checksum = sum(data) & 0xFFFFFFFF if self._checksums else 0
        word = ID_TO_WIRE[command]
        header = struct.pack(MESSAGE_FORMAT, word, arg0, arg1, len(data), checksum, word ^ 0xFFFFFFFF)
        with self._send_lock:
            self.check()
            try:
                # Two transfers, as USB wants them: the daemon reads a header, then what the header announced.
                self._transport.bulk_write(header, _IDLE_SECONDS)
                if data:
                    self._transport.bulk_write(data, _IDLE_SECONDS)
            except Exception as error:
                self._fail(_text(error))
                raise DeviceLostError(f"{self.name}: {_text(error)}") from error
            except BaseException:  # Ctrl-C: what follows half a packet would be taken for its other half
                self._fail("it was interrupted in the middle of a packet")
                raise

    def send_quietly(self, command: bytes, arg0: int, arg1: int) -> None:
        """Send one packet if that is still possible."""
        with suppress(DeviceLostError):
            self.send(command, arg0, arg1)

    # The other direction

    def _read_packet(self, deadline: float | None) -> tuple[bytes | int, int, int, bytearray]:
        """The next packet, whole at `deadline`; None waits for ever for its beginning, and then for as long as a packet
        may take.
        """
        header = bytearray()
        if deadline is None:
            header += self._transport.bulk_read(MESSAGE_SIZE, None)
            deadline = time.monotonic() + _IDLE_SECONDS
        header += read_exactly(self._transport, MESSAGE_SIZE - len(header), deadline)
        word, arg0, arg1, length, checksum, magic = struct.unpack(MESSAGE_FORMAT, header)
        if magic != word ^ 0xFFFFFFFF or length > MAX_PAYLOAD:
            raise ValueError("it sent something that is no ADB packet")
        data = read_exactly(self._transport, length, deadline)
        if self._checksums and sum(data) & 0xFFFFFFFF != checksum:
            raise ValueError("it sent a packet with a wrong checksum")
        return WIRE_TO_ID.get(word, word), arg0, arg1, data

    def _greet(self, signers: Callable[[], Sequence[Signer]], auth_seconds: float) -> None:
        banner = f"host::features={_FEATURES}".encode()
        self.send(CNXN, _VERSION_WITHOUT_CHECKSUM, MAX_PAYLOAD, banner)
        keys: list[Signer] | None = None
        # For all of it, and not for each packet: a daemon may drip, or send what nobody asked for.
        offered, deadline, strays = False, time.monotonic() + _IDLE_SECONDS / 2, 0
        while True:
            try:
                command, arg0, arg1, data = self._read_greeting(deadline)
            except TimeoutError:
                if offered:
                    raise DeviceError(
                        f"{self.name}: unauthorised; unlock the phone, say yes to 'Allow USB debugging?' and try again"
                    ) from None
                raise
            if command == CNXN:
                self._checksums = arg0 < _VERSION_WITHOUT_CHECKSUM
                self.max_payload = max(1024, min(arg1, MAX_PAYLOAD))
                self._features = _features(bytes(data[:_MAX_BANNER_BYTES]))
                return
            if command == _STLS:
                raise DeviceError(
                    f"{self.name}: speaks TLS (wireless debugging); pair and connect it with adb ('adb pair', "
                    "'adb connect'): bpnas then goes through the adb server"
                )
            if command in (OPEN, OKAY, WRTE, CLSE) and strays < _MAX_STRAYS:  # USB: left over from the last connection
                strays += 1
                continue
            if command != AUTH or arg0 != AUTH_TOKEN or len(data) != 20:
                raise ValueError("it answered the greeting with something else")
            if offered:
                raise DeviceError(f"{self.name}: the phone refused this computer's key; allow it on its screen")
            if keys is None:
                keys = list(signers())
                first = keys[0]
            if keys:
                self.send(AUTH, AUTH_SIGNATURE, 0, keys.pop(0).Sign(bytes(data)))
            else:
                self.send(AUTH, AUTH_RSAPUBLICKEY, 0, first.GetPublicKey().encode() + b"\0")
                offered, deadline = True, time.monotonic() + auth_seconds

    def _read_greeting(self, deadline: float) -> tuple[bytes | int, int, int, bytearray]:
        self._checksums = False  # which rule holds is known only from the packet itself
        try:
            return self._read_packet(deadline)
        finally:
            self._checksums = True

    def _read_packets(self) -> None:
        try:
            while True:
                self._handle(*self._read_packet(None))
        except TimeoutError:
            self._fail("it stopped in the middle of a packet")
        except Exception as error:
            self._fail(_text(error))

    def _handle(self, command: bytes | int, arg0: int, arg1: int, data: bytearray) -> None:
        answer: bytes | None = None
        with self.lock:
            stream = self._streams.get(arg1)
            if stream is None:
                if command == WRTE:  # for a stream that we closed and it has not heard of yet
                    answer = CLSE
            elif command == OKAY:
                if not stream.is_open:
                    stream.is_open, stream.remote_id = True, arg0
                stream.may_write = True
            elif command == WRTE and stream.is_open:
                if stream.unread_bytes + len(data) > MAX_UNREAD:
                    raise ValueError("it sends more than was asked for")
                if data:
                    stream.unread.append(data)
                    stream.unread_bytes += len(data)
                else:
                    answer = OKAY
            elif command == CLSE:
                stream.has_ended = True
                self.forget(arg1)
                answer = CLSE
            if stream is not None:
                stream.changed.notify_all()
        if answer is not None:
            self.send_quietly(answer, arg1, arg0)

    def _fail(self, fault: str) -> None:
        with self.lock:
            if self._fault is None:
                self._fault = fault
            for stream in self._streams.values():
                stream.changed.notify_all()
            self._streams.clear()
        self._transport.close()


def _features(banner: bytes) -> frozenset[str]:
    for field in banner.decode(errors="replace").rstrip("\0").split(";"):
        name, _, value = field.rpartition("::")[2].partition("=")
        if name == "features":
            return frozenset(value.split(","))
    return frozenset()


def _text(error: Exception) -> str:
    return printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)
