"""Signals that ask a program to end: heard whenever they come, obeyed where that does no harm.

An exception out of a signal handler is lost in a destructor, turned into another one where everything is caught, and
leaves a half-loaded module behind in the middle of an import. So a signal is a request that is kept until the program
has obeyed: the exception is put off in those places, and raised again where it was swallowed.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_AGAIN_SECONDS = 0.05


class Interrupted(KeyboardInterrupt):
    """A signal that asks the program to end, treated like Ctrl-C: what it uses is put in order first.

    Attributes:
        exit_code: 128 + the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


@contextmanager
def orderly_end() -> Iterator[None]:
    """Ctrl-C, SIGTERM, and the SIGHUP of a terminal that went away, as `Interrupted`.

    The first one counts: nothing cuts short the cleaning up that it causes. A signal that is handled by somebody else
    or ignored, as by `nohup`, stays as it is. In other threads than the main one this does nothing.

    Raises:
        Interrupted: also in the place of an error that came of the interruption, and at the end of the block at the
            latest. Errors of bpnas say what they have to say themselves.
    """
    from bpnas.base.errors import BpnasError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    request = _Request()
    defaults = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    before = {number: default for number, default in defaults.items() if signal.getsignal(number) is default}
    hook, sys.unraisablehook = sys.unraisablehook, _but_interruptions(sys.unraisablehook)
    for number in before:
        signal.signal(number, request.hear)
    try:
        yield
        request.obey()
    except (Interrupted, BpnasError):
        raise
    except BaseException:
        request.obey()
        raise
    finally:
        request.close()
        for number, default in before.items():
            signal.signal(number, default)
        sys.unraisablehook = hook


class _Request:
    """The wish of the first signal, until it is obeyed."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._number: int | None = None
        self._raised: weakref.ref[Interrupted] | None = None
        self._is_closed = False
        self._sending = threading.Lock()

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if os.getpid() != self._process:  # a fork, which has nothing to put in order
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self._number is None:
            self._number = number
            # Not `threading.Thread`, which takes locks that the interrupted code may hold.
            _thread.start_new_thread(self._repeat, (threading.get_ident(),))
        if not (self._is_closed or self._is_under_way() or _does_harm_in(frame)):
            self.obey()

    def obey(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self._number is None:
            return
        interrupted = Interrupted(self._number)
        self._raised = weakref.ref(interrupted)
        try:
            raise interrupted
        finally:
            del interrupted  # or the frame in its own traceback would keep it alive

    def _is_under_way(self) -> bool:
        # An exception that was swallowed is gone; one that unwinds the stack, or is being handled, is not.
        return self._raised is not None and self._raised() is not None

    def _repeat(self, thread: int) -> None:
        """Send the signal again until it is obeyed: for where it was put off, or its exception swallowed."""
        assert self._number is not None
        while not self._is_closed:
            time.sleep(_AGAIN_SECONDS)
            with self._sending:
                if not self._is_closed and not self._is_under_way():
                    signal.pthread_kill(thread, self._number)

    def close(self) -> None:
        """Nothing is raised any more, and no signal is on its way when this returns."""
        self._is_closed = True
        with self._sending:
            pass
        signal.pthread_sigmask(signal.SIG_BLOCK, ())  # a system call: what was sent is delivered by its end


def _does_harm_in(frame: FrameType | None) -> bool:
    """Whether an import or a destructor is under way."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _but_interruptions(hook: Any) -> Any:
    def report(lost: Any) -> None:
        if not issubclass(lost.exc_type, Interrupted):  # which comes again
            hook(lost)

    return report
