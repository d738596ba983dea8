"""What the native runner needs of a machine: a POSIX shell, and a way to put files there.

A phone over ADB is one, this machine is another.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.base.plain_text import printable

MAX_SHELL_OUTPUT_BYTES = 1 << 20
"""A command that prints more is broken or hostile; `Remote.shell` gives it up."""

MAX_ERROR_BYTES = 4096
"""At most this much of the end of a stream's standard error is kept."""

_HARMLESS = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


@dataclass(frozen=True, slots=True)
class ShellResult:
    """How a command ended.

    Attributes:
        exit_code: of the command; 128 + N where signal N killed it.
        output: standard output, at most `MAX_SHELL_OUTPUT_BYTES`, with plain line ends.
        errors: standard error; empty on old daemons, which mix it into the output.
    """

    exit_code: int
    output: bytes
    errors: bytes = b""

    @property
    def text(self) -> str:
        """The output as text, without white space around it; what is not UTF-8 comes as replacement characters."""
        return self.output.decode(errors="replace").strip()


@dataclass(frozen=True, slots=True)
class FileToPush:
    """One file to put on a remote machine.

    Attributes:
        source: its content, or a file on this machine.
        path: where to, absolute.
        mode: permission bits.
    """

    source: bytes | Path
    path: str
    mode: int = 0o644


class ShellStream(Protocol):
    """A running command. Closing it ends the command."""

    @property
    def exit_code(self) -> int | None:
        """None until `read` has returned b''."""
        ...

    @property
    def errors(self) -> bytes:
        """The end of what came on standard error, at most `MAX_ERROR_BYTES`."""
        ...

    def read(self, timeout_seconds: float) -> bytes:
        """The next piece of standard output, of any length; b'' once the command has ended.

        Raises:
            TimeoutError: nothing came in that time; the command is still running as far as is known.
            DeviceLostError: the connection is gone.
        """
        ...

    def close(self) -> None:
        """Hang up; calling it twice does no harm."""
        ...


class Remote(Protocol):
    """A machine with a POSIX shell that takes files. Safe for use from several threads."""

    @property
    def serial(self) -> str:
        """As the user wrote it."""
        ...

    def shell(self, command: str, timeout_seconds: float = 30.0) -> ShellResult:
        """Run a command to its end.

        Raises:
            DeviceLostError: the connection is gone, or no end came in time.
            DeviceError: it printed more than `MAX_SHELL_OUTPUT_BYTES`.
        """
        ...

    def stream(self, command: str) -> ShellStream:
        """Start a command and read along.

        Raises:
            DeviceLostError: the connection is gone.
        """
        ...

    def push(self, files: Sequence[FileToPush]) -> None:
        """Put files there, whole or not at all: each goes to a temporary name, is checked there (size and SHA-256), and
        renamed. Missing folders are made.

        Raises:
            UsageError: a file on this machine cannot be read.
            DeviceSpaceError: no space left there.
            DeviceError: the place cannot be written, or what arrived differs.
            DeviceLostError: the connection is gone; no file is half there under its own name.
        """
        ...

    def pull(self, path: str, max_bytes: int) -> bytes:
        """The content of a file there.

        Raises:
            DeviceError: it cannot be read, or is longer than `max_bytes`.
            DeviceLostError: the connection is gone.
        """
        ...

    def hold(self, cores: Iterable[int], patience_seconds: float | None) -> bool:
        """Hold these cores until `close` and the end of all that was started, if this is a machine of which parts can
        be held; says whether it is. Where it is not, it is held as a whole, by a shell on it.

        Raises:
            DeviceError: somebody else has one of the cores, and did not free it in time.
        """
        return False

    def reconnect(self) -> None:
        """Drop the connection and make a new one; running streams are lost.

        Raises:
            DeviceLostError: nobody answers (yet).
            DeviceError: somebody answers and says no, as a phone that wants to be unlocked first.
        """
        ...

    def close(self) -> None:
        """Hang up; calling it twice does no harm."""
        ...


def run_to_end(
    serial: str, command: str, stream: ShellStream, timeout_seconds: float, read: Callable[[float], bytes] | None = None
) -> ShellResult:
    """What `Remote.shell` does with the stream of its command; closes it.

    Args:
        serial: for messages.
        command: the same.
        stream: of the command.
        timeout_seconds: the longest it may take in all.
        read: reads from the stream, where something else than its own `read` does.

    Raises:
        DeviceLostError: no end came in time, or what `read` raises.
        DeviceError: it printed more than `MAX_SHELL_OUTPUT_BYTES`.
    """
    deadline, output = time.monotonic() + timeout_seconds, bytearray()
    try:
        while data := (read or stream.read)(max(0.0, deadline - time.monotonic())):
            output += data
            if len(output) > MAX_SHELL_OUTPUT_BYTES:
                raise DeviceError(
                    f"{serial}: a shell command printed more than {MAX_SHELL_OUTPUT_BYTES} bytes "
                    f"({printable(command, 60)}); restart the device"
                )
    except TimeoutError:
        raise DeviceLostError(f"{serial}: no answer within {timeout_seconds:g} s to {printable(command, 60)}") from None
    finally:
        stream.close()
    assert stream.exit_code is not None
    return ShellResult(stream.exit_code, bytes(output), stream.errors)


def until_ready(stream: ShellStream, timeout_seconds: float) -> bytes:
    """What a command says until the word `ready` is in it, or until it has ended or the time is over.

    Raises:
        DeviceLostError: the connection is gone.
    """
    said, deadline = b"", time.monotonic() + timeout_seconds
    with suppress(TimeoutError):
        while b"ready" not in said and len(said) < 1024:
            data = stream.read(max(0.0, deadline - time.monotonic()))
            if not data:
                break
            said += data
    return said


def quote(text: str) -> str:
    """`text` as one word of a POSIX shell command, regardless of its characters.

    Raises:
        ValueError: it holds a NUL or a line end, which no file name or property that bpnas passes on may have.
    """
    if not text.isprintable():
        raise ValueError(f"{text!r} must not reach a shell")
    return text if _HARMLESS.fullmatch(text) else "'" + text.replace("'", "'\\''") + "'"
