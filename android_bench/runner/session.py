"""One run of the native runner over a batch of models that are on the device: lines in, outcomes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bpnas.android_bench.errors import DeviceError, RuntimeUnavailableError
from bpnas.android_bench.measurement import FailureKind
from bpnas.android_bench.remote import Remote, ShellStream
from bpnas.android_bench.runner.lines import (
    MAX_NOISE_BYTES,
    Answer,
    AnswerError,
    Begin,
    End,
    Hello,
    LineReader,
    Refused,
    Timed,
    TimedOut,
    parse_line,
)
from bpnas.base.plain_text import printable

_SLICE_SECONDS = 10.0
"""After this long without a word it is asked whether the device is still there."""

_GRACE_SECONDS = 30.0
"""What a runner may need beyond its own limits before it must be ended from here."""

_MAX_ANSWERS = 1000
"""Lines without an outcome for the model in question, at most; while it waits there is one every five seconds."""

EXIT_USAGE, EXIT_RUNTIME, EXIT_MODELS, EXIT_AFFINITY = 2, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Fault:
    """Model number `index` gave no samples."""

    index: int
    kind: FailureKind
    message: str


class MayNotStartError(Exception):
    """The runner ended before it said a word about a model; `exit_code` and the message say why."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NativeSession:
    """One process of the runner.

    Args:
        remote: where it runs.
        command: that starts it.
        names: of the models, in order, as the list on the device has them.
        first: number of the model that it starts with.
        model_seconds: its own limit for one model, which it may time twice.
        cool_seconds: its own limit for one wait until the device is cool.
        parse: from a line to an answer.
        on_hello: called with what it says of itself, before any outcome; raises to end it.
    """

    def __init__(
        self,
        remote: Remote,
        command: str,
        names: Sequence[str],
        first: int,
        model_seconds: float,
        cool_seconds: float,
        on_hello: Callable[[Hello], None],
        parse: Callable[[bytes], Answer | None] = parse_line,
    ) -> None:
        self._remote = remote
        self._names = names
        self._next = first
        self._model_seconds = model_seconds
        self._silence_seconds = 2 * (model_seconds + cool_seconds) + _GRACE_SECONDS
        self._moved_on = 0.0
        self._parse = parse
        self._on_hello = on_hello
        self._lines = LineReader()
        self._noise_bytes, self._last_noise, self._answers_taken = 0, b"", 0
        self._has_begun = False
        self._command = command
        self._stream: ShellStream | None = None

    @property
    def has_started(self) -> bool:
        """Whether there is a process: if the device is lost now, it may be the fault of the model it is at."""
        return self._stream is not None

    def outcomes(self) -> Iterator[Timed | Refused | Fault]:
        """An outcome for one model after the other, until the process has ended.

        A model that kills the process, or about which it says nothing that can be believed, gives a `Fault`, the last
        one of this process: another one continues with the next model.

        Raises:
            MayNotStartError: it ended before a model.
            DeviceLostError: the connection is gone, or the device does not answer any more.
        """
        self._stream, self._moved_on = self._remote.stream(self._command), time.monotonic()
        try:
            for answer in self._answers():
                if isinstance(answer, Hello):
                    self._on_hello(answer)
                elif isinstance(answer, Begin):
                    if answer.index == self._next + 1 and self._has_begun:
                        yield self._fault("invalid", f"its answer did not arrive whole ({self._noise()})")
                    if answer.index == self._next:
                        self._has_begun = True
                elif isinstance(answer, Timed | Refused) and self._is_expected(answer):
                    yield self._done(answer)
                elif isinstance(answer, TimedOut) and self._is_expected(answer):
                    yield self._fault("timeout", f"no end within {self._model_seconds:g} s")
                    return
                elif isinstance(answer, End):
                    break
            fault = self._ending(self._exit_code())
            if fault is not None:
                yield fault
        except AnswerError as error:
            if self._has_begun:
                yield self._fault("invalid", f"the runner's answer makes no sense: {error}")
            elif self._next < len(self._names):  # otherwise all is there, and how it ends is its own affair
                raise MayNotStartError(0, f"its answers make no sense: {error}") from None
        finally:
            self.close()

    def close(self) -> None:
        """End the process."""
        if self._stream is not None:
            self._stream.close()

    def _answers(self) -> Iterator[Answer]:
        assert self._stream is not None
        while True:
            if time.monotonic() - self._moved_on > self._silence_seconds:
                raise AnswerError(f"no outcome for {self._silence_seconds:.0f} s")
            try:
                data = self._stream.read(min(_SLICE_SECONDS, self._silence_seconds))
            except TimeoutError:
                self._remote.shell("true", timeout_seconds=_SLICE_SECONDS)  # raises when the device is gone
                continue
            if not data:
                return
            for line in self._lines.feed(data):
                answer = self._parse(line)
                if answer is None:
                    self._take_noise(line)
                    continue
                self._answers_taken += 1
                if self._answers_taken > _MAX_ANSWERS:
                    raise AnswerError(f"more than {_MAX_ANSWERS} lines and no outcome")
                yield answer

    def _take_noise(self, line: bytes) -> None:
        self._noise_bytes += len(line) + 1
        self._last_noise = line[:1000] or self._last_noise
        if self._noise_bytes > MAX_NOISE_BYTES:
            raise AnswerError(f"more than {MAX_NOISE_BYTES >> 20} MiB that are no answer ({self._noise()})")

    def _noise(self) -> str:
        return f"last it said {printable(self._last_noise, 80)!r}" if self._last_noise else "it said nothing else"

    def _is_expected(self, answer: Timed | Refused | TimedOut) -> bool:
        return self._has_begun and answer.index == self._next and answer.name == self._names[self._next]

    def _done(self, answer: Timed | Refused) -> Timed | Refused:
        self._go_on()
        return answer

    def _fault(self, kind: FailureKind, message: str) -> Fault:
        fault = Fault(self._next, kind, message)
        self._go_on()
        return fault

    def _go_on(self) -> None:
        self._next += 1
        self._has_begun, self._moved_on = False, time.monotonic()
        self._noise_bytes, self._last_noise, self._answers_taken = 0, b"", 0

    def _exit_code(self) -> int:
        """Of the process; what it still says after its last word is dropped, within bounds."""
        assert self._stream is not None
        dropped, deadline = 0, time.monotonic() + _SLICE_SECONDS
        try:
            while data := self._stream.read(max(0.0, deadline - time.monotonic())):
                dropped += len(data)
                if dropped > MAX_NOISE_BYTES:
                    raise AnswerError("it goes on after its last word")
        except TimeoutError:
            raise AnswerError("it does not end after its last word") from None
        assert self._stream.exit_code is not None
        return self._stream.exit_code

    def _ending(self, code: int) -> Fault | None:
        """What the end of the process says about the model that was begun, or would have been next."""
        assert self._stream is not None
        if self._next == len(self._names) and not self._has_begun:
            return None
        said = printable(self._stream.errors.strip().rpartition(b"\n")[2] or self._last_noise)
        how = f"signal {code - 128}" if 128 < code < 160 else f"exit code {code}"
        reason = f"the process died ({how}{', out of memory?' if code == 137 else ''}){f': {said}' if said else ''}"
        if self._has_begun:
            if code == 0:
                return self._fault("invalid", f"its answer did not arrive whole ({self._noise()})")
            return self._fault("crash", reason)
        raise MayNotStartError(code, said or reason)


def start_error(serial: str, runtime: str, error: MayNotStartError) -> DeviceError:
    """What a runner that does not start means for the caller."""
    if error.exit_code == EXIT_RUNTIME:
        return RuntimeUnavailableError(f"{serial}: runtime {runtime} does not start on the device: {error}")
    if error.exit_code == EXIT_AFFINITY:
        return DeviceError(f"{serial}: {error}; choose other cores with --affinity, or none with --affinity none")
    if error.exit_code in (126, 127):
        return DeviceError(f"{serial}: the runner cannot be started ({error}); is it built for this processor?")
    return DeviceError(f"{serial}: the runner does not start ({error}); see 'profile-device doctor --serial {serial}'")
