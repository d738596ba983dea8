"""What a reader of published tables is, and which ones are installed.

A reader is a class that an installed package names in the entry-point group `bpnas.table_readers`::

    [project.entry-points."bpnas.table_readers"]
    my-format = "my_package.my_module:MyReader"

It is called without arguments, and gives a `TableReader`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from bpnas.android_bench.errors import UsageError
from bpnas.profiler.paths import Part
from bpnas.tables.errors import TableError

GROUP = "bpnas.table_readers"


@dataclass(frozen=True, slots=True)
class ReadRow:
    """One row of a published table.

    Attributes:
        name: what the file calls it.
        part: the part of ours that has exactly these operators; None if there is none.
        latency_ms: in milliseconds.
        mismatch: where there is no such part, why.
        samples: how many measurements are behind it; None if the file does not say.
        flags: what is doubtful about the number; empty if nothing.
    """

    name: str
    part: Part | None
    latency_ms: float
    mismatch: str = ""
    samples: int | None = None
    flags: str = ""


class TableReader(Protocol):
    """Reads one format."""

    @property
    def name(self) -> str:
        """What `--reader` calls it."""
        ...

    def can_read(self, path: Path) -> bool:
        """Whether the file looks as if it had this format; quick, and without errors."""
        ...

    def read(self, path: Path, column: str | None = None) -> Iterable[ReadRow]:
        """All rows, also those that match no part of ours.

        Args:
            path: the file.
            column: which one, where the format holds several devices.

        Raises:
            TableError: the file cannot be read, or a number in it makes no sense; the message names file and row.
            UsageError: there is no such column, or several and none was named.
        """
        ...


def readers() -> dict[str, TableReader]:
    """The installed readers by name.

    Raises:
        TableError: one of them does not load.
    """
    found: dict[str, TableReader] = {}
    for point in entry_points(group=GROUP):
        try:
            reader: TableReader = point.load()()
        except Exception as error:  # it is somebody else's code
            raise TableError(f"the table reader {point.name!r} ({point.value}) does not load: {error}") from error
        found[reader.name] = reader
    return dict(sorted(found.items()))


def choose_reader(path: Path, name: str | None = None) -> TableReader:
    """The reader of that name, or the one that can read the file.

    Raises:
        UsageError: there is no such reader, or not exactly one can read the file.
        TableError: the named one cannot.
    """
    installed = readers()
    if name is None:
        able = [reader for reader in installed.values() if reader.can_read(path)]
        if len(able) != 1:
            what = (
                f"several readers can read it: {', '.join(r.name for r in able)}" if able else "no reader can read it"
            )
            raise UsageError(f"{path}: {what}; name one with --reader ({', '.join(installed)})")
        return able[0]
    if name not in installed:
        raise UsageError(f"no table reader is called {name!r}; there are {', '.join(installed)}")
    if not installed[name].can_read(path):
        raise TableError(f"{path}: not what reader {name} reads, or damaged; docs/table.md says what that is")
    return installed[name]


def milliseconds(path: Path, row: str, value: object) -> float:
    """A latency as a reader finds it.

    Raises:
        TableError: it is no positive number.
    """
    try:
        latency = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        latency = 0.0
    if not 0 < latency < float("inf"):
        raise TableError(f"{path}: {row}: {value!r} is no positive number of milliseconds; mend or remove that row")
    return latency
