"""The sessions of one setup in one or several records files, read part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bpnas.profiler.campaign.order import Integers, RowOrder, places
from bpnas.profiler.campaign.records import Records, Setup
from bpnas.profiler.campaign.sentinel import is_sentinel
from bpnas.profiler.campaign.session import Session, Statistic, with_samples

Samples = Mapping[Session, npt.NDArray[np.float64]]
"""Samples of each session, in ms per inference."""


class SetupSessions:
    """What was measured with one setup until now. A row that comes again, from a copied file, is one session.

    Args:
        records: files of one device, open.
        setup: others are not read.
        statistic: of the samples of a session; it stands for the session.

    Raises:
        RecordsError: a file is damaged; from any method too.
    """

    def __init__(self, records: Sequence[Records], setup: Setup, statistic: Statistic) -> None:
        self.setup = setup
        self._statistic: Statistic = statistic
        orders = [file.row_order(setup) for file in records]
        self._files = [_File(*each) for each in zip(records, orders, places(orders), strict=True)]

    def of_part(self, key: str) -> Samples:
        """Its sessions with their samples."""
        found: dict[Session, npt.NDArray[np.float64]] = {}
        for file in self._files:
            at, order = file.rows_of(key), file.order
            measured = file.records.of_rows(order.rows[at].tolist())
            serials = [order.serials[device] for device in order.device[at].tolist()]
            found.update(with_samples(measured, serials, file.place[at].tolist(), self._statistic))
        return found

    def of_sentinels(self) -> Iterator[Session]:
        """The sessions of the sentinels."""
        for key in sorted(set().union(*(file.order.keys for file in self._files))):
            if is_sentinel(key):
                yield from self.of_part(key)


class _File:
    """A records file, with the places of its rows."""

    def __init__(self, records: Records, order: RowOrder, place: Integers) -> None:
        self.records, self.order, self.place = records, order, place
        by_part = np.argsort(order.part, kind="stable")  # and within a part by row
        ends = np.cumsum(np.bincount(order.part, minlength=len(order.keys)))[:-1]
        self._rows = dict(zip(order.keys, np.split(by_part, ends), strict=bool(order.keys)))

    def rows_of(self, key: str) -> Integers:
        """Where the rows of a part are in `order`."""
        return self._rows.get(key, np.empty(0, np.int64))
