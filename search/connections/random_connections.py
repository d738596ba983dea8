"""Random connections near a latency limit: all assignments of candidates to sites in a window are equally likely.

Source: BP-NAS compares its block connection search with random connections; how those are drawn is not said [ours].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from bpnas.base.randomness import Rng
from bpnas.search.connections.derive import most_probable_blocks
from bpnas.search.errors import InfeasibleLimitError

Floats = npt.NDArray[np.float64]

_BINS = 20_000
"""Steps of latency from 0 to the limit in which assignments are counted."""

_DRAWS = 10_000
"""Draws in a row that may miss the window, which one in some hundred does."""


class RandomConnections:
    """All assignments whose latency is in `at_least_ms`..`limit_ms`.

    Exact: dynamic programming over sites counts the assignments by rounded latency, a draw follows the counts through
    the sites, and one whose latency proper is outside is drawn again.

    Args:
        latencies_ms: one (candidates,) array per site.
        limit_ms, at_least_ms: the window.
        fixed_ms: stem and head.
        exact_ms: the latency of an assignment as it will be checked later; default: as summed here.

    Raises:
        InfeasibleLimitError: the window is empty.
    """

    def __init__(
        self,
        latencies_ms: Sequence[Floats],
        limit_ms: float,
        at_least_ms: float,
        fixed_ms: float = 0.0,
        exact_ms: Callable[[tuple[int, ...]], float] | None = None,
    ) -> None:
        def summed(choices: tuple[int, ...]) -> float:
            return fixed_ms + sum(float(row[i]) for row, i in zip(latencies_ms, choices, strict=True))

        self._latencies, self._fixed, self._exact = latencies_ms, fixed_ms, exact_ms or summed
        self._limit, self._at_least = limit_ms, at_least_ms
        unit = limit_ms / _BINS
        self._steps = [np.rint(row / unit).astype(np.intp) for row in latencies_ms]
        # Each rounded latency may be half a step off.
        slack = len(latencies_ms) / 2 + 1
        self._high = int((limit_ms - fixed_ms) / unit + slack)
        self._low = max(0, int((at_least_ms - fixed_ms) / unit - slack))
        if self._high < 0:
            raise self._empty()
        counts = np.zeros(self._high + 1)
        counts[0] = 1
        self._counts = [counts]  # of what follows site i, by its steps, at i
        for steps in reversed(self._steps):
            before = np.zeros_like(counts)
            for step in steps:
                if step <= self._high:
                    before[step:] += counts[: self._high + 1 - step]
            counts = before
            self._counts.insert(0, counts)
        self._ends = np.cumsum(counts[self._low :])
        if not (self._ends.size and self._ends[-1]):
            raise self._empty()

    def sample(self, rng: Rng) -> tuple[int, ...]:
        """The number of a candidate per site.

        Raises:
            InfeasibleLimitError: the window is as good as empty.
        """
        for _ in range(_DRAWS):
            left = self._low + _drawn(self._ends, rng)
            choices = []
            for steps, after in zip(self._steps, self._counts[1:], strict=True):
                weights = [after[left - step] if step <= left else 0.0 for step in steps]
                choices.append(_drawn(np.cumsum(weights), rng))
                left -= int(steps[choices[-1]])
            if self._at_least <= self._exact(tuple(choices)) <= self._limit:
                return tuple(choices)
        raise self._empty()

    def _empty(self) -> InfeasibleLimitError:
        try:
            below = most_probable_blocks(self._latencies, self._latencies, self._at_least, self._fixed).latency_ms
        except InfeasibleLimitError as error:
            return InfeasibleLimitError(self._limit, error.smallest_ms, "network of these block proposals")
        what = "network of these block proposals"
        nearest = (below, np.inf)
        return InfeasibleLimitError(self._limit, below, what, at_least_ms=self._at_least, nearest_ms=nearest)


def _drawn(ends: Floats, rng: Rng) -> int:
    """A place, each as likely as its cumulated weights say."""
    return int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))
