"""How a running search is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from bpnas.base.command import echo

if TYPE_CHECKING:
    from bpnas.base.live_bar import LiveBar, Stage
    from bpnas.search.progress import Progress

_LOG_SECONDS = 60.0


@contextmanager
def display(mock: bool) -> Iterator[Progress]:
    """A progress bar on a terminal, a line per step elsewhere; both on standard error, marked for a mock's table."""
    from rich.console import Console

    console = Console(stderr=True)
    mark = " [mock]" if mock else ""
    if not console.is_terminal:
        yield _Lines(mark)
        return
    from bpnas.base.live_bar import live_bar

    with live_bar(console) as bar:
        yield _Bars(bar, mark)


class _Lines:
    """One line per step, for logs; within a step one a minute."""

    def __init__(self, mark: str) -> None:
        self._mark, self._title, self._steps, self._done, self._spoke = mark, "", 0, 0, 0.0

    def stage(self, title: str, steps: int, done: int = 0) -> None:
        self._title, self._steps, self._done, self._spoke = title, steps, done, monotonic()

    def within(self, share: float, text: str) -> None:
        if monotonic() - self._spoke >= _LOG_SECONDS:
            self._spoke = monotonic()
            echo(f"{self._title}{self._mark} {self._done + share:.2f}/{self._steps}: {text}", err=True)

    def step(self, text: str) -> None:
        self._done += 1
        self._spoke = monotonic()
        echo(f"{self._title}{self._mark} {self._done}/{self._steps}: {text}", err=True)

    def note(self, text: str) -> None:
        echo(f"{text}{self._mark}", err=True)


class _Bars:
    """One bar per stage, with the outcome of each step above it."""

    def __init__(self, bar: LiveBar, mark: str) -> None:
        self._bar, self._mark, self._title, self._done = bar, mark, "", 0
        self._stage: Stage

    def stage(self, title: str, steps: int, done: int = 0) -> None:
        self._title, self._done = f"{title}{self._mark}", done
        self._stage = self._bar.stage(self._title, steps, done)

    def within(self, share: float, text: str) -> None:
        self._bar.move(self._stage, self._done + share, title=f"{self._title}: {text}")

    def step(self, text: str) -> None:
        self._done += 1
        self._bar.move(self._stage, self._done, title=self._title)
        self._bar.line(text)

    def note(self, text: str) -> None:
        self._bar.line(f"{text}{self._mark}")
