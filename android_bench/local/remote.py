"""This machine as a `Remote`: the same commands as on a phone, through its own shell."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from bpnas.android_bench.errors import DeviceError, DeviceLostError, DeviceSpaceError
from bpnas.android_bench.local.held_cores import HeldCores
from bpnas.android_bench.remote import (
    MAX_ERROR_BYTES,
    FileToPush,
    Remote,
    ShellResult,
    ShellStream,
    run_to_end,
)
from bpnas.base.errors import SpaceError, UsageError
from bpnas.base.files import write_atomically

LOOK_UP_SECONDS = 0.2  # a reader of a silent stream notices this often that somebody closed it


class LocalRemote(Remote):
    """This machine; `push` copies."""

    _held: HeldCores | None = None

    @property
    def serial(self) -> str:
        return "local"

    def shell(self, command: str, timeout_seconds: float = 30.0) -> ShellResult:
        return run_to_end(self.serial, command, self._start(command), timeout_seconds)

    def stream(self, command: str) -> ShellStream:
        return self._start(command)

    def _start(self, command: str) -> _ProcessStream:
        return _ProcessStream(command, () if self._held is None else self._held.descriptors)

    def hold(self, cores: Iterable[int], patience_seconds: float | None) -> bool:
        if self._held is None:
            self._held = HeldCores(cores, patience_seconds)
        return True

    def push(self, files: Sequence[FileToPush]) -> None:
        for file in files:
            path, content = Path(file.path), _content(file)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content)
                path.chmod(file.mode)
            except SpaceError as error:
                raise DeviceSpaceError(str(error)) from error
            except OSError as error:
                raise DeviceError(f"local: {path} cannot be written ({error.strerror})") from error

    def pull(self, path: str, max_bytes: int) -> bytes:
        try:
            with Path(path).open("rb") as file:
                content = bytearray()
                while len(content) <= max_bytes and (piece := file.read(min(max_bytes + 1, 1 << 20))):
                    content += piece
        except OSError as error:
            raise DeviceError(f"local: {path} cannot be read ({error.strerror})") from error
        if len(content) > max_bytes:
            raise DeviceError(f"local: {path} is longer than the {max_bytes} bytes expected")
        return bytes(content)

    def reconnect(self) -> None:
        pass

    def close(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()


def _content(file: FileToPush) -> bytes:
    if isinstance(file.source, bytes):
        return file.source
    try:
        return file.source.read_bytes()
    except OSError as error:
        raise UsageError(f"{file.source}: cannot be read ({error.strerror}), and so not pushed") from error


class _ProcessStream:
    def __init__(self, command: str, descriptors: Sequence[int]) -> None:
        self.exit_code: int | None = None
        self.errors = b""
        self._is_closed = False
        self._in_use = threading.Lock()  # the pipes' numbers are given out again once they are closed
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,  # it ends with this process: a command that watches it notices
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=descriptors,
            start_new_session=True,  # Ctrl-C goes to the campaign, which ends it in its own time
        )
        self._pipes = selectors.PollSelector()  # select() cannot wait on file descriptors above 1023
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            self._pipes.register(pipe, selectors.EVENT_READ)

    def read(self, timeout_seconds: float) -> bytes:
        if self.exit_code is not None:
            return b""
        with self._in_use:
            return self._read(time.monotonic() + timeout_seconds)

    def _read(self, deadline: float) -> bytes:
        while self._pipes.get_map():
            left = deadline - time.monotonic()
            ready = [] if self._is_closed else self._pipes.select(max(0.0, min(left, LOOK_UP_SECONDS)))
            if self._is_closed:
                raise DeviceLostError("local: the stream was closed on this side")
            if not ready:
                if left > LOOK_UP_SECONDS:
                    continue
                raise TimeoutError
            pipe = ready[0][0]
            data = os.read(pipe.fd, 1 << 18)
            if not data:
                self._pipes.unregister(pipe.fileobj)
            elif pipe.fileobj is self._process.stdout:
                return data
            else:
                self.errors = (self.errors + data)[-MAX_ERROR_BYTES:]
                if left < 0:
                    raise TimeoutError
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))  # it may have closed both and still run
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        self.exit_code = 128 - code if code < 0 else code
        return b""

    def close(self) -> None:
        self._is_closed = True
        if self.exit_code is None:  # otherwise the number may be another process' by now
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        with self._in_use:
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                if stream is not None:
                    stream.close()
