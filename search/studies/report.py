"""How the numbers of all studies are written, and the report of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bpnas.base.plurals import counted
from bpnas.search.studies.statistics import Interval
from bpnas.search.studies.study import StudyResult

LEVEL = 0.05
"""Below this adjusted p a difference is called one."""


@dataclass(frozen=True, slots=True)
class Unit:
    """In which unit, and to how many digits, a measure is written."""

    scale: float = 1.0
    digits: int = 3

    def number(self, value: float) -> str:
        """One value."""
        return f"{value * self.scale:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """One difference."""
        return f"{value * self.scale:+.{self.digits}f}"

    def ends(self, interval: Interval, before: str, sign: float = 1.0) -> str:
        """Both ends of an interval, times `sign`, behind `before`; nothing where it has none."""
        if interval.low is None or interval.high is None:
            return ""
        low, high = sorted((sign * interval.low, sign * interval.high))
        return f"{before}{self.number(low)} to {self.number(high)}"

    def cell(self, interval: Interval | None) -> str:
        """A mean with its interval, or a dash."""
        if interval is None:
            return "-"
        return self.number(interval.mean) + self.ends(interval, " (") + (")" if interval.low is not None else "")


POINTS = Unit(100.0, 1)
"""The unit of accuracies: percent."""


def seed_count(count: int) -> str:
    """As in `3 seeds`."""
    return counted(count, "seed")


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells, the first their headings, as lines with columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def as_json(result: StudyResult[Any]) -> dict[str, Any]:
    """All of a study for machines."""
    found = result.found
    return {"out": str(result.directory), **result.values, "trainings": found.trainings, "text": list(found.lines)}


def report_lines(result: StudyResult[Any]) -> list[str]:
    """All of a study for people."""
    facts = result.values
    mock = " (mock: computed, not measured)" if facts["mock"] else ""
    return [
        f"Device: {facts['device']}, {facts['runtime']}{mock}; networks are predicted by {facts['additivity']!r}",
        *result.found.heading,
        *result.found.lines,
        f"Files: {result.directory}/study.csv, study.png, summary.json; {counted(result.found.trainings, 'training')}",
    ]
