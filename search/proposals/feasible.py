"""Feasible sets that are known exactly, not estimated: every distinct block of a space within a latency band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bpnas.base.randomness import Rng, below
from bpnas.profiler.block import Block
from bpnas.search.errors import InfeasibleLimitError


class Enumerated(Protocol):
    """A space whose distinct blocks are known, all of them, in a fixed order; see `BlockSpace`."""

    def latencies(self) -> npt.NDArray[np.float64]:
        """In ms, of all distinct blocks in their order: shape (blocks,)."""
        ...

    def code_at(self, index: int, rng: Rng) -> int:
        """One of the codes of distinct block number `index`, all equally likely."""
        ...

    def codes(self, indices: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int32]:
        """One code for each of these blocks: shape (indices,)."""
        ...

    def blocks(self, indices: npt.NDArray[np.int64]) -> Sequence[Block]:
        """The distinct blocks of these numbers."""
        ...


class FeasibleSet:
    """The distinct blocks of a space that meet a latency limit, and perhaps a lower one.

    Attributes:
        limit_ms, at_least_ms: both ends of the band, included.
        size: how many distinct blocks are in it; 0 if none does.
        smallest_ms: the smallest latency in the whole space, whether it is in the band or not.
    """

    def __init__(self, space: Enumerated, limit_ms: float, at_least_ms: float = 0.0) -> None:
        latencies = space.latencies()
        inside = latencies <= limit_ms
        if at_least_ms > 0:
            inside &= latencies >= at_least_ms
        self._space = space
        self._members = np.flatnonzero(inside)
        self.limit_ms, self.at_least_ms = limit_ms, at_least_ms
        self.size = len(self._members)
        self.smallest_ms = float(latencies.min())

    def sample(self, rng: Rng) -> int:
        """The code of a feasible block, all distinct blocks equally likely, as are the codes of one block.

        Raises:
            InfeasibleLimitError: there is none.
        """
        if not self.size:
            raise self.empty()
        return self._space.code_at(int(self._members[below(rng, self.size)]), rng)

    def sample_many(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int32]:
        """`count` codes, drawn as by `sample` and independently: shape (count,).

        Raises:
            InfeasibleLimitError: there is no feasible block.
        """
        if not self.size:
            raise self.empty()
        return self._space.codes(self._members[rng.integers(self.size, size=count)], rng)

    def blocks(self) -> Sequence[Block]:
        """All of them."""
        return self._space.blocks(self._members)

    def empty(self) -> InfeasibleLimitError:
        """What to raise where there is no feasible block: it says what is nearest."""
        latencies = self._space.latencies()
        below_ms = latencies[latencies < self.at_least_ms].max(initial=-np.inf)
        above_ms = latencies[latencies > self.limit_ms].min(initial=np.inf)
        return InfeasibleLimitError(
            self.limit_ms, self.smallest_ms, at_least_ms=self.at_least_ms, nearest_ms=(float(below_ms), float(above_ms))
        )
