"""How a running search is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bpnas.search.progress import Progress


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
    """One line per step, for logs."""

    def __init__(self, mark: str) -> None:
        self._mark, self._title, self._steps, self._done = mark, "", 0, 0

    def stage(self, title: str, steps: int, done: int = 0) -> None:
        self._title, self._steps, self._done = title, steps, done

    def step(self, text: str) -> None:
        self._done += 1
        click.echo(f"{self._title}{self._mark} {self._done}/{self._steps}: {text}", err=True)

    def note(self, text: str) -> None:
        click.echo(f"{text}{self._mark}", err=True)


class _Bars:
    """One bar per stage, with the last step's outcome above it."""

    def __init__(self, bar: Any, mark: str) -> None:
        self._bar, self._mark, self._task = bar, mark, None

    def stage(self, title: str, steps: int, done: int = 0) -> None:
        self._task = self._bar.add_task(f"{title}{self._mark}", total=steps, completed=done)

    def step(self, text: str) -> None:
        self._bar.advance(self._task)
        self._bar.console.print(text, markup=False, highlight=False)

    def note(self, text: str) -> None:
        self._bar.console.print(f"{text}{self._mark}", markup=False, highlight=False)
