"""A phone over ADB as a `Remote`: shell commands with exit codes, files that arrive whole.

Source: AOSP, packages/modules/adb/shell_protocol.h (shell v2) and SYNC.TXT (push and pull). Daemons of Android 6 and
older have no shell v2: no exit code, standard error mixed in, line ends of a terminal; both ways look the same here.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from bpnas.android_bench.adb.connection import AdbConnection, AdbStream
from bpnas.android_bench.adb.shell_streams import ShellV1Stream, ShellV2Stream
from bpnas.android_bench.errors import DeviceError, DeviceLostError, DeviceSpaceError, UnknownSerialError
from bpnas.android_bench.remote import MAX_ERROR_BYTES, FileToPush, Remote, ShellResult, ShellStream, quote, run_to_end
from bpnas.base.errors import UsageError
from bpnas.base.plain_text import printable

_SYNC_CHUNK_BYTES = 64 << 10  # SYNC.TXT: DATA is at most this long
_WRITE_BYTES = 1 << 20
_SYNC_SECONDS = 60.0  # a phone may write its cache out before it says that a file has arrived
_SLOWEST_BYTES_PER_SECOND = 50_000  # of a transfer that is still one
_DIGESTS = re.compile(r"^\\?([0-9a-f]{64}) ", re.MULTILINE)  # what else is said is a linker's warnings
_SILENCE_SECONDS = 10.0  # of a device at work; then it is asked whether it is still there


class AdbRemote(Remote):
    """A phone over ADB.

    Args:
        serial: as the user wrote it.
        connect: makes a connection; called now and at every `reconnect`.
        scratch: a folder on the device where commands go that are too long for an old daemon.
    """

    def __init__(self, serial: str, connect: Callable[[], AdbConnection], scratch: str = "/data/local/tmp") -> None:
        self._scratch = scratch
        self._serial = serial
        self._connect = connect
        self._lock = threading.Lock()
        self._connection: AdbConnection | None = connect()
        self._folders: set[str] = set()
        self._has_sha256sum = True

    @property
    def serial(self) -> str:
        return self._serial

    @property
    def has_shell_v2(self) -> bool:
        """Whether the daemon hands out exit codes itself (Android 7 and newer)."""
        return "shell_v2" in self._open_connection().features

    def shell(self, command: str, timeout_seconds: float = 30.0) -> ShellResult:
        return self._shell(self._open_connection(), command, timeout_seconds)

    def _shell(self, connection: AdbConnection, command: str, timeout_seconds: float = 30.0) -> ShellResult:
        stream = self._stream(connection, command)
        read = partial(_read_while_alive, connection, stream)
        return run_to_end(self._serial, command, stream, timeout_seconds, read)

    def stream(self, command: str) -> ShellStream:
        return self._stream(self._open_connection(), command)

    def _stream(self, connection: AdbConnection, command: str) -> ShellStream:
        if "shell_v2" in connection.features:
            service = f"shell,v2,raw:{command}"
            if len(service.encode()) <= connection.max_service_bytes:
                return ShellV2Stream(self._serial, connection.open(service))
        token = secrets.token_hex(8)
        # In a subshell, so that `exit` ends only that; on lines of their own, so that a comment cannot swallow them.
        # The quotes keep the mark itself out of the command line, which the command may show as `ps` does.
        service = f"shell:(\n{command}\n); echo __bpnas_''{token}=$?"
        if len(service.encode()) > connection.max_service_bytes:
            return self._stream_script(connection, command)
        return ShellV1Stream(self._serial, connection.open(service), f"__bpnas_{token}=".encode())

    def _stream_script(self, connection: AdbConnection, command: str) -> ShellStream:
        path = f"{self._scratch}/bpnas-{secrets.token_hex(8)}.sh"
        # It removes itself, so that nothing is left wherever it is cut off; the shell has it open, and keeps reading.
        script = f"rm -f {quote(path)}\n{command}\n"
        self._send_files(connection, [FileToPush(script.encode(), path, 0o600)], [path])
        return self._stream(connection, f"sh {quote(path)}")

    def push(self, files: Sequence[FileToPush]) -> None:
        if not files:
            return
        # All of it through this one connection: what was begun before a loss must not continue after it.
        connection = self._open_connection()
        folders = {posixpath.dirname(file.path) for file in files} - self._folders
        if folders:
            made = self._shell(connection, f"mkdir -p {' '.join(map(quote, sorted(folders)))}")
            if made.exit_code:
                raise self._refusal(sorted(folders)[0], made)
        temporary = [f"{file.path}.{secrets.token_hex(4)}.tmp" for file in files]
        try:
            self._send_files(connection, files, temporary)
            self._check_and_rename(connection, files, temporary)
        except DeviceLostError:
            raise
        except BaseException as error:
            with suppress(DeviceError):
                self._shell(connection, f"rm -f {' '.join(map(quote, temporary))}")
            if isinstance(error, OSError):  # the device's own faults come as DeviceError
                raise UsageError(f"{error.filename}: cannot be read ({error.strerror}), and so not pushed") from error
            raise
        self._folders |= folders

    def _send_files(self, connection: AdbConnection, files: Sequence[FileToPush], names: Sequence[str]) -> None:
        with self._sync_service(connection) as sync:
            for file, name in zip(files, names, strict=True):
                sync.send(name, file.mode, _content(file))

    def _check_and_rename(
        self, connection: AdbConnection, files: Sequence[FileToPush], temporary: Sequence[str]
    ) -> None:
        digests = [_digest(file) for file in files]
        names = [quote(name) for name in temporary]
        if self._has_sha256sum:
            summed = self._shell(connection, f"sha256sum {' '.join(names)}", timeout_seconds=120.0)
            arrived = _DIGESTS.findall(summed.text)
            if summed.exit_code == 127 or (summed.exit_code and "not found" in summed.text):
                self._has_sha256sum = False
        if not self._has_sha256sum:
            arrived = [
                hashlib.sha256(self._pull(connection, name, _size(file))).hexdigest()
                for name, file in zip(temporary, files, strict=True)
            ]
        if arrived != digests:
            damaged = next((f for f, a, d in zip(files, arrived, digests, strict=False) if a != d), files[-1])
            raise DeviceError(
                f"{self._serial}: {printable(damaged.path)} arrived damaged (its SHA-256 differs); check the cable and "
                "the device's storage, and try again"
            )
        # adbd gives group and others what the owner may: the bits are set right before the file gets its name.
        steps = [
            f"chmod {mode:o} {' '.join(name for name, file in zip(names, files, strict=True) if file.mode == mode)}"
            for mode in sorted({file.mode for file in files})
        ]
        steps += [f"mv -f {name} {quote(file.path)}" for name, file in zip(names, files, strict=True)]
        moved = self._shell(connection, " && ".join(steps))
        if moved.exit_code:
            raise self._refusal(files[0].path, moved)

    def pull(self, path: str, max_bytes: int) -> bytes:
        return self._pull(self._open_connection(), path, max_bytes)

    def _pull(self, connection: AdbConnection, path: str, max_bytes: int) -> bytes:
        with self._sync_service(connection) as sync:
            return sync.receive(path, max_bytes)

    @contextmanager
    def _sync_service(self, connection: AdbConnection) -> Iterator[_Sync]:
        sync = _Sync(self._serial, connection)
        try:
            yield sync
        except TimeoutError:
            raise DeviceLostError(f"{self._serial}: no answer within {_SYNC_SECONDS:g} s during a transfer") from None
        finally:
            sync.close()

    def _refusal(self, path: str, result: ShellResult) -> DeviceError:
        return _refusal(self._serial, path, printable(result.errors or result.output))

    def _open_connection(self) -> AdbConnection:
        connection = self._connection
        if connection is None:
            raise DeviceLostError(f"{self._serial}: not connected")
        return connection

    def reconnect(self) -> None:
        with self._lock:
            old, self._connection = self._connection, None
            if old is not None:
                old.close()
            self._folders.clear()
            try:
                self._connection = self._connect()
            except UnknownSerialError as error:  # it was known before: the cable is out
                raise DeviceLostError(f"{self._serial}: not attached any more; plug it in again") from error

    def close(self) -> None:
        with self._lock:
            old, self._connection = self._connection, None
        if old is not None:
            old.close()


class _Sync:
    """The file service: several files through one stream."""

    def __init__(self, serial: str, connection: AdbConnection) -> None:
        self._serial = serial
        self._connection = connection
        self._stream = connection.open("sync:")
        self._buffer = b""

    def send(self, path: str, mode: int, content: Iterator[bytes]) -> None:
        request = f"{path},{0o100000 | mode}".encode()
        parts = [struct.pack("<4sI", b"SEND", len(request)), request]
        size, sent, start = 0, 0, time.monotonic()
        try:
            for chunk in content:
                sent += len(chunk)
                self._check_speed(sent, start)
                parts += (struct.pack("<4sI", b"DATA", len(chunk)), chunk)
                size += len(chunk)
                if size >= _WRITE_BYTES - 4 * _SYNC_CHUNK_BYTES:
                    self._stream.write(b"".join(parts))
                    parts, size = [], 0
            parts.append(struct.pack("<4sI", b"DONE", int(time.time()) & 0xFFFFFFFF))
            self._stream.write(b"".join(parts))
        except DeviceLostError:
            with suppress(TimeoutError, DeviceLostError):
                self._answer(path)  # a daemon that fails in mid-transfer says why, then hangs up
            raise
        kind, _ = self._answer(path)
        if kind != b"OKAY":
            raise self._nonsense()

    def receive(self, path: str, max_bytes: int) -> bytes:
        name = path.encode()
        self._stream.write(struct.pack("<4sI", b"RECV", len(name)) + name)
        content, start = bytearray(), time.monotonic()
        while True:
            self._check_speed(len(content), start)
            kind, length = self._answer(path)
            if kind == b"DONE":
                return bytes(content)
            if kind != b"DATA" or length > _SYNC_CHUNK_BYTES:
                raise self._nonsense()
            if len(content) + length > max_bytes:
                raise DeviceError(f"{self._serial}: {printable(path)} is longer than the {max_bytes} bytes expected")
            content += self._read(length)

    def _answer(self, path: str) -> tuple[bytes, int]:
        """What the device says next, and the number that goes with it; raises DeviceError for a refusal."""
        kind, number = struct.unpack("<4sI", self._read(8))
        if kind == b"FAIL":
            raise _refusal(self._serial, path, printable(self._read(min(number, MAX_ERROR_BYTES))))
        return kind, number

    def _read(self, size: int) -> bytes:
        pieces, have, deadline = [self._buffer], len(self._buffer), time.monotonic() + _SYNC_SECONDS
        while have < size:
            data = _read_while_alive(self._connection, self._stream, max(0.0, deadline - time.monotonic()))
            if not data:
                raise DeviceLostError(f"{self._serial}: the device hung up during a transfer")
            pieces.append(data)
            have += len(data)
        joined = b"".join(pieces)
        self._buffer = joined[size:]
        return joined[:size]

    def _check_speed(self, moved: int, start: float) -> None:
        if time.monotonic() - start > _SYNC_SECONDS + moved / _SLOWEST_BYTES_PER_SECOND:
            raise DeviceLostError(f"{self._serial}: a transfer hardly moves; see that cable or Wi-Fi is good")

    def _nonsense(self) -> DeviceError:
        return DeviceError(f"{self._serial}: the device's file service answers nonsense; restart the device")

    def close(self) -> None:
        with suppress(DeviceLostError):
            self._stream.write(struct.pack("<4sI", b"QUIT", 0))
        self._stream.close()


def _read_while_alive(connection: AdbConnection, stream: AdbStream | ShellStream, timeout_seconds: float) -> bytes:
    """`stream.read`, but a device that has fallen silent is noticed before the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return stream.read(min(_SILENCE_SECONDS, max(0.0, deadline - time.monotonic())))
        except TimeoutError:
            if time.monotonic() >= deadline:
                raise
            connection.open("sync:").close()  # every daemon has this service, and it does nothing by itself


def _refusal(serial: str, path: str, reason: str) -> DeviceError:
    place = printable(path)
    if "No space left" in reason or "quota" in reason.lower():
        return DeviceSpaceError(f"{serial}: no space left on the device for {place}; free some and try again")
    return DeviceError(
        f"{serial}: {place} cannot be used on the device ({reason or 'no reason given'}); "
        "'profile-device doctor' looks into it"
    )


def _content(file: FileToPush) -> Iterator[bytes]:
    if isinstance(file.source, bytes):
        for first in range(0, len(file.source), _SYNC_CHUNK_BYTES):
            yield file.source[first : first + _SYNC_CHUNK_BYTES]
        return
    with file.source.open("rb") as content:
        while chunk := content.read(_SYNC_CHUNK_BYTES):
            yield chunk


def _digest(file: FileToPush) -> str:
    if isinstance(file.source, bytes):
        return hashlib.sha256(file.source).hexdigest()
    with Path(file.source).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _size(file: FileToPush) -> int:
    return len(file.source) if isinstance(file.source, bytes) else file.source.stat().st_size
