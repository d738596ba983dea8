"""How a running search is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from bpnas.base.command import echo
from bpnas.base.plain_text import as_text

if TYPE_CHECKING:
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
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
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
    """One bar per stage, with the last step's outcome above it."""

    def __init__(self, bar: Any, mark: str) -> None:
        self._bar, self._mark, self._task, self._title, self._done = bar, mark, None, "", 0

    def stage(self, title: str, steps: int, done: int = 0) -> None:
        self._title, self._done = as_text(f"{title}{self._mark}"), done
        self._task = self._bar.add_task(self._title, total=steps, completed=done)

    def within(self, share: float, text: str) -> None:
        self._bar.update(self._task, completed=self._done + share, description=as_text(f"{self._title}: {text}"))

    def step(self, text: str) -> None:
        self._done += 1
        self._bar.update(self._task, completed=self._done, description=self._title)
        self._bar.console.print(as_text(text), markup=False, highlight=False)

    def note(self, text: str) -> None:
        self._bar.console.print(as_text(f"{text}{self._mark}"), markup=False, highlight=False)
