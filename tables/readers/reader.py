"""What a reader of published tables is, and which ones are installed.

A reader is a class that an installed package names in the entry-point group `bpnas.table_readers`::

    [project.entry-points."bpnas.table_readers"]
    my-format = "my_package.my_module:MyReader"

It is called without arguments, and gives a `TableReader`. `milliseconds`, `number` and `whole_number` read the numbers
of a file for it, and refuse what is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from bpnas.base.errors import UsageError
from bpnas.base.file_kinds import kind_of
from bpnas.base.plain_numbers import read_number, read_whole_number
from bpnas.base.plain_text import shown
from bpnas.profiler.paths import Part
from bpnas.tables.errors import TableError

GROUP = "bpnas.table_readers"

LEAST_MS, MOST_MS = 1e-6, 86_400_000.0
"""A nanosecond, the step of the clocks that samples are taken with, and a day: no latency of a part is outside them."""

MOST_SIZE = 65_536
"""Channels, and pixels of a side, that a part can have."""

MOST_SAMPLES = 2**31 - 1
"""What the table's column holds."""


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
            what = "no reader can read it"
            if able:
                what = f"several readers can read it: {', '.join(reader.name for reader in able)}"
            elif not (kind := kind_of(path)).is_text:
                raise UsageError(f"{path}: {kind.instead_of('published table')}")
            raise UsageError(f"{path}: {what}; name one with --reader ({', '.join(installed)})")
        return able[0]
    if name not in installed:
        raise UsageError(f"no table reader is called {name!r}; there are {', '.join(installed)}")
    if not installed[name].can_read(path):
        raise TableError(f"{path}: reader {name} cannot read it: it has another format, or is damaged")
    return installed[name]


def milliseconds(path: Path, row: str, value: object, *, may_be_zero: bool = False) -> float:
    """A latency as a reader finds it: a text of the file, or a number that its format has.

    Args:
        path, row: for the message; `row` says the line and the column, or the key.
        value: see above. A truth value is no number.
        may_be_zero: for rows that become no entry, such as a Skip.

    Raises:
        TableError: it is no plain number, or no time that an inference can take.
    """
    latency_ms = number(path, row, value)
    if LEAST_MS <= latency_ms <= MOST_MS or (may_be_zero and latency_ms == 0):
        return latency_ms
    raise TableError(
        f"{path}: {row}: {shown(value)} is no latency in milliseconds, which is from {LEAST_MS:f} (a nanosecond) to "
        f"{MOST_MS:,.0f} (a day); correct it, or remove that row"
    )


def number(path: Path, row: str, value: object) -> float:
    """A finite number as a reader finds it, of any sign and size; arguments as in `milliseconds`.

    Raises:
        TableError: it is none, or can be read in more than one way.
    """
    try:
        if isinstance(value, str):
            return read_number(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise TableError(f"{path}: {row}: {shown(value)} is no plain number; write it as in 1.25, or remove that row")


def whole_number(path: Path, row: str, value: object, least: int, most: int) -> int:
    """A whole number as a reader finds it; `path`, `row` and `value` as in `milliseconds`.

    Raises:
        TableError: it is none, or not from `least` to `most`.
    """
    found: int | None = None
    if isinstance(value, str):
        with suppress(ValueError):
            found = read_whole_number(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        found = value
    if found is None or not least <= found <= most:
        raise TableError(
            f"{path}: {row}: {shown(value)} is no whole number from {least:,} to {most:,}; correct it, or remove that "
            "row"
        )
    return found
