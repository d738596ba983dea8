"""What an old daemon does on a stream: run a command on a terminal, or take and give files."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import struct
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tests.phone.legacy_wire import MAX_PAYLOAD, ProtocolError

MAX_CHUNK = 64 * 1024
MAX_PATH = 1024


class Stream(Protocol):
    """Bytes in both directions; reading and writing raise EOFError once it is closed."""

    def read(self) -> bytes: ...

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


def run_shell(stream: Stream, command: str, directory: Path, environment: Mapping[str, str]) -> None:
    """`command` on a terminal, which ends lines with CR LF and mixes both outputs. No exit code reaches the client.
    When the client hangs up, so does the terminal, also on programs that do not heed the signal."""
    ours, theirs = pty.openpty()
    gone, going = os.pipe()
    arguments = ["setsid", "--ctty", "/bin/sh", *(["-c", command] if command else [])]
    process = subprocess.Popen(arguments, stdin=theirs, stdout=theirs, stderr=theirs, cwd=directory, env=environment)
    os.close(theirs)

    def hang_up() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGHUP)

    def type_in() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                os.write(ours, stream.read())
        os.close(going)
        hang_up()

    typist = threading.Thread(target=type_in, daemon=True)
    typist.start()
    try:
        # EIO: nobody has the terminal open any more.
        with contextlib.suppress(OSError):
            while ours in select.select([ours, gone], [], [])[0] and (data := os.read(ours, MAX_PAYLOAD)):
                stream.write(data)
    finally:
        stream.close()
        hang_up()
        typist.join()
        os.close(ours)
        os.close(gone)
        process.wait()


def print_for_ever(stream: Stream) -> None:
    while True:
        stream.write(b"y\r\n" * (MAX_PAYLOAD // 3))


class Sync:
    """The service that takes and gives files. Only below `directory` may anything be written.

    Raises:
        ProtocolError: what arrives is no request, or too long.
    """

    def __init__(self, stream: Stream, directory: Path) -> None:
        self._stream = stream
        self._directory = directory
        self._received = b""

    def run(self) -> None:
        while True:
            name, length = self._header()
            if name == b"QUIT":
                return
            if length > MAX_PATH:
                raise ProtocolError(f"sync {name!r}: a path of {length} bytes")
            path = self._read(length).decode()
            if name == b"STAT":
                self._stat(path)
            elif name == b"RECV":
                self._give(path)
            elif name == b"SEND":
                path, _, mode = path.rpartition(",")
                self._take(path, int(mode))
            else:
                raise ProtocolError(f"sync: no request: {name!r}")

    def _stat(self, path: str) -> None:
        try:
            found = os.lstat(path)
            values = (found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))
        except OSError:
            values = (0, 0, 0)
        self._stream.write(b"STAT" + struct.pack("<III", *values))

    def _give(self, path: str) -> None:
        try:
            with Path(path).open("rb") as file:
                while data := file.read(MAX_CHUNK):
                    self._answer(b"DATA", data)
        except OSError as error:
            self._fail(error)
        else:
            self._answer(b"DONE", b"")

    def _take(self, path: str, mode: int) -> None:
        """The old daemon's way: after a failure it says so and goes on listening to the end."""
        target = Path(path)
        failure: OSError | None = None
        with contextlib.ExitStack() as stack:
            try:
                if not target.resolve().is_relative_to(self._directory.resolve()):
                    raise PermissionError(13, "Permission denied")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                file = stack.enter_context(target.open("xb"))
            except OSError as error:
                failure = error
                self._fail(error)
            while True:
                name, length = self._header()
                if name == b"DONE":
                    break
                if name != b"DATA" or length > MAX_CHUNK:
                    raise ProtocolError(f"sync SEND: {name!r} of {length} bytes where data must come")
                data = self._read(length)
                if failure is None:
                    try:
                        file.write(data)
                        file.flush()
                    except OSError as error:
                        failure = error
                        target.unlink()
                        self._fail(error)
        if failure is None:
            target.chmod(mode & 0o777)
            os.utime(target, (length, length))
            self._answer(b"OKAY", b"")

    def _fail(self, error: OSError) -> None:
        self._answer(b"FAIL", (error.strerror or "failed").encode())

    def _answer(self, name: bytes, data: bytes) -> None:
        self._stream.write(name + struct.pack("<I", len(data)) + data)

    def _header(self) -> tuple[bytes, int]:
        header = self._read(8)
        return header[:4], int.from_bytes(header[4:], "little")

    def _read(self, count: int) -> bytes:
        while len(self._received) < count:
            self._received += self._stream.read()
        data, self._received = self._received[:count], self._received[count:]
        return data
