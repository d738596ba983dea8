"""The sessions of one setup in one or several records files, read part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bpnas.profiler.campaign.order import places
from bpnas.profiler.campaign.records import Records, Setup
from bpnas.profiler.campaign.sentinel import is_sentinel
from bpnas.profiler.campaign.session import Session, Statistic, summarize_all

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
        self._files = list(zip(records, orders, places(orders), strict=True))

    def of_part(self, key: str) -> Samples:
        """Its sessions with their samples."""
        found: dict[Session, npt.NDArray[np.float64]] = {}
        for file, order, place in self._files:
            newest = int(order.rows[-1]) if len(order.rows) else 0  # a campaign may append others meanwhile
            numbered = [each for each in file.numbered(self.setup, key, conditions=False) if each[0] <= newest]
            if numbered:
                measured = [one for _, one in numbered]
                at = np.searchsorted(order.rows, [row for row, _ in numbered])
                serials = [order.serials[device] for device in order.device[at].tolist()]
                summaries = summarize_all(measured, place[at].tolist(), self._statistic, serials)
                for session, one in zip(summaries, measured, strict=True):
                    found[session] = np.asarray(one.samples_ns, np.float64) / one.repeats / 1e6
        return found

    def of_sentinels(self) -> Iterator[Session]:
        """The sessions of the sentinels."""
        for key in sorted(set().union(*(file.keys(self.setup) for file, _, _ in self._files))):
            if is_sentinel(key):
                yield from self.of_part(key)
