"""In which order the sessions of each device were measured: that of the rows in the records, not of the wall clock.

A clock that is set back in the middle of a campaign so changes nothing. Only between several files, which have no
common order of rows, does the clock decide, each file's having been made to run forwards first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RowOrder:
    """All measurements of one setup in one records file, in the order of its rows.

    Attributes:
        rows: their numbers in the file, ascending.
        serials: of the devices.
        device: index of the row's device among `serials`.
        started_at: seconds since 1970, by a clock that may jump.
        digests: of the rows' content: a row that was copied into another file has the same.
        keys: of the parts.
        part: index of the row's part among `keys`.
    """

    rows: Integers
    serials: tuple[str, ...]
    device: Integers
    started_at: Floats
    digests: Integers
    keys: tuple[str, ...]
    part: Integers


def places(files: Sequence[RowOrder]) -> list[Integers]:
    """The place (see `Session`) of each row of each file; copies of a row have the same one.

    Which file comes first, and whether one comes twice, changes nothing.
    """
    found = [np.zeros(len(file.rows), np.int64) for file in files]
    for serial in sorted({serial for file in files for serial in file.serials}):
        chosen = [_rows_of(file, serial) for file in files]
        digests = np.concatenate([file.digests[rows] for file, rows in zip(files, chosen, strict=True)])
        times = np.concatenate([_forwards(file.started_at[rows]) for file, rows in zip(files, chosen, strict=True)])
        numbers = np.concatenate([file.rows[rows] for file, rows in zip(files, chosen, strict=True)])
        _, first, copy_of = np.unique(digests, return_index=True, return_inverse=True)
        # Of a row in several files the latest place counts: it is that in the file that has most of the rows before it.
        latest = np.lexsort((numbers, times, copy_of))
        last = latest[np.flatnonzero(np.diff(copy_of[latest], append=-1))]
        rank = np.empty(len(first), np.int64)
        rank[np.lexsort((np.arange(len(last)), numbers[last], times[last]))] = np.arange(1, len(last) + 1)
        ranks = np.split(rank[copy_of], np.cumsum([len(rows) for rows in chosen])[:-1])
        for place, rows, ranked in zip(found, chosen, ranks, strict=True):
            place[rows] = ranked
    return found


def _rows_of(file: RowOrder, serial: str) -> Integers:
    if serial not in file.serials:
        return np.empty(0, np.int64)
    return np.flatnonzero(file.device == file.serials.index(serial))


def _forwards(started_at: Floats) -> Floats:
    """The times of one file's rows, by a clock that stands still where this one jumps back."""
    back = np.maximum(0.0, -np.diff(started_at, prepend=started_at[:1]))
    return np.maximum.accumulate(started_at + np.cumsum(back))  # sums are rounded
