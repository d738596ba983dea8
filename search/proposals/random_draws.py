"""Random feasible blocks in the place of evolution: BP-NAS, ablation of the block proposal search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bpnas.base.randomness import Rng
from bpnas.profiler.block import Block
from bpnas.search.proposals.evolution import Candidate, Trial
from bpnas.search.proposals.space import BlockSpace

_REDRAWS = 64
"""Draws in a row that may meet what was drawn before, until one is taken again."""


class RandomDraws:
    """Random feasible blocks, all equally likely, each once as long as others are met: random search at its best.

    Args:
        space, limit_ms, at_least_ms, rng: as of `levonas`.
        cycles: the number of trials.
        inherited: trials under other limits, whose blocks are not drawn as long as others are met.

    Raises:
        InfeasibleLimitError: nothing meets the limit.
    """

    def __init__(
        self,
        space: BlockSpace,
        limit_ms: float,
        rng: Rng,
        *,
        at_least_ms: float = 0.0,
        cycles: int = 0,
        inherited: Sequence[Trial[int]] = (),
    ) -> None:
        self.cycles = cycles
        self._space, self._feasible, self._rng = space, space.feasible(limit_ms, at_least_ms), rng
        if not self._feasible.size:
            raise self._feasible.empty()
        self._seen: set[Block] = {space.block(trial.genotype) for trial in inherited}
        self._waiting: dict[int, Candidate[int]] = {}
        self._asked = self._told = 0

    @property
    def asked(self) -> int:
        """How many candidates were drawn so far."""
        return self._asked

    @property
    def told(self) -> int:
        """How many trials there are."""
        return self._told

    def restore(self, trials: Iterable[Trial[int]]) -> None:
        """Take up the trials of earlier draws; see `Evolution.restore`."""
        for trial in trials:
            self._seen.add(self._space.block(trial.genotype))
            self._asked, self._told = max(self._asked, trial.index + 1), self._told + 1

    @property
    def waiting(self) -> tuple[Candidate[int], ...]:
        """Candidates without a score, in the order of drawing."""
        return tuple(self._waiting.values())

    def state(self) -> dict[str, Any]:
        """As of `Evolution.state`."""
        return {"waiting": [candidate.genotype for candidate in self.waiting]}

    def take_up(self, trials: Sequence[Trial[int]], state: Mapping[str, Any]) -> None:
        """As of `Evolution.take_up`."""
        self.restore(trials)
        for code in state["waiting"]:
            self._wait(code)

    def ask(self) -> Candidate[int]:
        """The next one."""
        for _ in range(_REDRAWS):
            code = self._feasible.sample(self._rng)
            if self._space.block(code) not in self._seen:
                break
        return self._wait(code)

    def _wait(self, code: int) -> Candidate[int]:
        self._seen.add(self._space.block(code))
        candidate = self._waiting[self._asked] = Candidate(self._asked, code, self._space.latency(code))
        self._asked += 1
        return candidate

    def tell(self, index: int, score: float) -> Trial[int]:
        """Candidate number `index` has this score, which changes nothing here."""
        candidate = self._waiting.pop(index)
        self._told += 1
        return Trial(index, candidate.genotype, candidate.latency_ms, score)
