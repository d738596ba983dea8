"""A progress bar that fits its terminal: what is least needed goes first where there is little room.

Only to be imported where there is a terminal, since rich takes a while to load.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import Progress, Task, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bpnas.base.durations import duration
from bpnas.base.plain_text import as_text

Stage = TaskID

_MARGIN = 3  # columns kept free for the ^C of a terminal: a line that it made longer would be shown twice
_BAR = (8, 40)  # columns, least and most


class LiveBar:
    """Bars on a terminal's last lines, texts above them: two lines for what is under way, one for what is done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def stage(self, title: str, total: int | None = None, done: int = 0) -> Stage:
        """One more bar; `total` may be said later."""
        return self._progress.add_task(as_text(title), total=total, completed=done, facts=None)

    def move(
        self,
        stage: Stage,
        done: float,
        *,
        total: int | None = None,
        title: str | None = None,
        facts: Sequence[str] | None = None,
    ) -> None:
        """Move a bar; `facts` stand behind it, the most needed ones first: default is how long it still takes."""
        if facts is not None:
            self._progress.update(stage, facts=[as_text(fact) for fact in facts])
        description = None if title is None else as_text(title)
        self._progress.update(stage, completed=done, total=total, description=description)

    def line(self, text: str) -> None:
        """A line of its own above the bars."""
        self._progress.console.print(as_text(text), markup=False, highlight=False)


class _FittingProgress(Progress):
    def get_renderables(self) -> Iterator[RenderableType]:
        for task in self.tasks:
            width = max(1, self.console.width - _MARGIN)
            if task.finished:
                took = "" if task.finished_time is None else f" in {duration(task.finished_time)}"
                yield _one_line(task.description, width, f": {_counted(task)}{took}")
            else:
                yield _one_line(task.description, width)
                yield _bar_line(task, width)


def _one_line(text: str, width: int, behind: str = "") -> RenderableType:
    """The text, cut where it leaves no room for what stands behind it."""
    line = Text(text, no_wrap=True)
    line.truncate(max(1, width - len(behind)), overflow="ellipsis")
    return line.append(behind)


def _bar_line(task: Task, width: int) -> RenderableType:
    facts = _remaining(task) if task.fields["facts"] is None else task.fields["facts"]
    texts = [_counted(task), *facts]
    while len(texts) > 1 and sum(len(text) + 2 for text in texts) + _BAR[0] > width:
        texts.pop()
    behind = "  ".join(texts)
    bar = min(_BAR[1], width - len(behind) - 2)
    if bar < _BAR[0]:
        return _one_line(behind, width)
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_row(
        ProgressBar(total=task.total, completed=task.completed, width=bar, pulse=not task.started, animation_time=0),
        Text(behind, no_wrap=True),
    )
    return line


def _counted(task: Task) -> str:
    return f"{int(task.completed):,}/{'?' if task.total is None else f'{int(task.total):,}'}"


def _remaining(task: Task) -> list[str]:
    elapsed = [] if task.elapsed is None else [f"{duration(task.elapsed)} so far"]
    return ([] if task.time_remaining is None else [f"{duration(task.time_remaining)} left"]) + elapsed


@contextmanager
def live_bar(console: Console) -> Iterator[LiveBar]:
    """Bars on this terminal until the end of the `with`."""
    with _FittingProgress(console=console) as progress:
        yield LiveBar(progress)
