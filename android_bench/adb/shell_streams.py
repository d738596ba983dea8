"""The output of a shell command over ADB, of new daemons and of old ones.

Source: AOSP, packages/modules/adb/shell_protocol.h (shell v2).
"""

from __future__ import annotations

import struct
import time
from abc import ABC, abstractmethod

from bpnas.android_bench.adb.connection import AdbStream
from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.remote import MAX_ERROR_BYTES

_OUT, _ERR, _EXIT = 1, 2, 3  # shell v2: what a frame carries


class _ShellStream(ABC):
    """The output as it comes; how it is wrapped, and how the end and its exit code are told, is each shell's own."""

    def __init__(self, serial: str, stream: AdbStream) -> None:
        self.exit_code: int | None = None
        self.errors = b""
        self._serial = serial
        self._stream = stream

    def read(self, timeout_seconds: float) -> bytes:
        deadline = time.monotonic() + timeout_seconds
        output = self._take(b"")
        while not output and self.exit_code is None:
            left = deadline - time.monotonic()
            if left < 0:
                raise TimeoutError
            data = self._stream.read(left)
            output = self._take(data) if data else self._finish()
        return output

    @abstractmethod
    def _take(self, data: bytes) -> bytes:
        """The output in what came until now, `data` last, and not handed out yet; sets `exit_code` at the end."""

    def _finish(self) -> bytes:
        """The stream has ended.

        Raises:
            DeviceLostError: the command has not.
        """
        raise DeviceLostError(f"{self._serial}: the connection ended before the command did")

    def close(self) -> None:
        self._stream.close()


class ShellV2Stream(_ShellStream):
    """Frames of an id, a length (`<BI`) and that many bytes; handed on as they come, however long they claim to be."""

    def __init__(self, serial: str, stream: AdbStream) -> None:
        super().__init__(serial, stream)
        self._buffer = bytearray()
        self._kind, self._left = 0, 0

    def _take(self, data: bytes) -> bytes:
        self._buffer += data
        output, at = bytearray(), 0  # the buffer is cut once, at the end: frames may be many and small
        while self.exit_code is None:
            if self._left == 0:
                if len(self._buffer) - at < 5:
                    break
                self._kind, self._left = struct.unpack_from("<BI", self._buffer, at)
                at += 5
                continue
            piece = self._buffer[at : at + self._left]
            if not piece or (self._kind == _EXIT and output):  # the output first; the exit code is for the next call
                break
            at += len(piece)
            self._left -= len(piece)
            if self._kind == _OUT:
                output += piece
            elif self._kind == _ERR:
                self.errors = (self.errors + piece[-MAX_ERROR_BYTES:])[-MAX_ERROR_BYTES:]
            elif self._kind == _EXIT:
                self.exit_code = piece[0]
        del self._buffer[:at]
        return bytes(output)


class ShellV1Stream(_ShellStream):
    """Everything in one stream, through a terminal with line ends of two bytes; the exit code is the last line."""

    def __init__(self, serial: str, stream: AdbStream, mark: bytes) -> None:
        super().__init__(serial, stream)
        self._mark = mark
        self._buffer = b""

    def _take(self, data: bytes) -> bytes:
        self._buffer = (self._buffer + data).replace(b"\r\n", b"\n")
        # What may be the beginning of the mark, or half a line end, waits for what comes after it.
        at = self._buffer.find(self._mark)
        if at < 0:
            longest = min(len(self._mark), len(self._buffer))
            held = next((n for n in range(longest, 0, -1) if self._buffer.endswith(self._mark[:n])), 0)
            at = len(self._buffer) - (held or self._buffer.endswith(b"\r"))
        output, self._buffer = self._buffer[:at], self._buffer[at:]
        if len(self._buffer) > MAX_ERROR_BYTES:
            raise DeviceError(f"{self._serial}: the shell did not stop after its command had ended; restart the device")
        return output

    def _finish(self) -> bytes:
        # What comes after that line is of a process that the command left behind.
        code = self._buffer.removeprefix(self._mark).partition(b"\n")[0].strip()
        if not self._buffer.startswith(self._mark) or not code.isdigit():
            return super()._finish()
        self.exit_code = int(code) & 0xFF
        return b""
