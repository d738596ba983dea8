"""Aging evolution under a latency limit, asked for genotypes and told scores. BP-NAS, Algorithms 1 and 2.

`Evolution` holds no loop: who drives it may evaluate one genotype after the other (`bpnas.search.levonas`) or many at
once (`bpnas.search.drive`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from bpnas.android_bench.errors import UsageError
from bpnas.search.chance import Rng
from bpnas.search.chance import sample as draw
from bpnas.search.errors import InfeasibleLimitError, SearchError, StuckError

G = TypeVar("G")

MAX_TRIES = 10_000
"""Every loop that waits for a feasible genotype gives up after so many draws."""

_SINGLE_FLIPS = 64
"""Single mutations of a parent before the default strategy walks further; 23 bits are covered by then mostly."""

_WALK_STEPS = 4
"""Mutations in a row that the default strategy takes at most away from a parent."""

Strategy = Literal["default", "paper"]


class Space(Protocol[G]):
    """What `levonas` needs of a search space.

    An optional `feasible(limit_ms)` gives an object with `size`, `smallest_ms` and `sample(rng)`; with it the default
    strategy is exact where chance would be slow.
    """

    def random(self, rng: Rng) -> G: ...
    def mutate(self, genotype: G, rng: Rng) -> G: ...
    def latency(self, genotype: G) -> float: ...


@dataclass(frozen=True, slots=True)
class Trial(Generic[G]):
    """One evaluated genotype.

    Attributes:
        index: its place in the history, from 0.
        genotype: for a `BlockSpace`, the 23-bit code.
        latency_ms: of the network, at most the limit.
        score: what `evaluate` answered; higher is better.
        parent: index of the trial that it was mutated from; None if it was drawn at random.
    """

    index: int
    genotype: G
    latency_ms: float
    score: float
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate(Generic[G]):
    """A genotype that waits for its score.

    Attributes:
        index: its place in the history, from 0, in the order of asking.
        genotype, latency_ms, parent: as in `Trial`.
    """

    index: int
    genotype: G
    latency_ms: float
    parent: int | None = None


class Evolution(Generic[G]):
    """Proposes feasible genotypes of `space`, and learns from their scores.

    The population is a queue. Trials join it on the right in the order in which they are told, and once there are more
    than `population` the oldest leaves on the left. What is proposed depends on `rng` and on the order of calls of
    `ask` and `tell` alone.

    Args: as of `bpnas.search.levonas`.

    Raises:
        InfeasibleLimitError, UsageError: as `levonas` does.
    """

    def __init__(
        self,
        space: Space[G],
        *,
        limit_ms: float,
        population: int,
        sample: int,
        cycles: int,
        rng: Rng,
        strategy: Strategy,
    ) -> None:
        if population < 1 or not 1 <= sample <= population or cycles < 1:
            raise UsageError(
                f"population {population}, sample {sample}, cycles {cycles}: needs 1 <= sample <= population, "
                "cycles >= 1"
            )
        if strategy not in ("default", "paper"):
            raise UsageError(f"strategy {strategy!r} is unknown: use 'default' or 'paper'")
        if math.isnan(limit_ms):
            raise UsageError("the latency limit is not a number")
        self.cycles = cycles
        self._population, self._sample, self._rng = population, sample, rng
        self._finder = _Finder(space, limit_ms, rng, strategy)
        self._queue: deque[Trial[G]] = deque()
        self._waiting: dict[int, Candidate[G]] = {}
        self._asked = 0
        self._told = 0
        # The first draw comes at once: an infeasible limit is known now, not at the first trial.
        self._first = self._finder.initial()

    @property
    def asked(self) -> int:
        """How many candidates were proposed so far; at most `cycles` should be."""
        return self._asked

    @property
    def told(self) -> int:
        """How many trials there are."""
        return self._told

    def restore(self, trials: Iterable[Trial[G]]) -> None:
        """Take up the trials of an earlier evolution, in the order in which they were told there.

        Chance is not replayed: what is proposed now depends on this evolution's `rng`. Candidates that were still
        waiting there are forgotten, and their numbers not used again.
        """
        for trial in trials:
            self._join(trial)
            self._asked = max(self._asked, trial.index + 1)

    def ask(self) -> Candidate[G]:
        """The next candidate. Earlier ones may still wait for their scores.

        Raises:
            StuckError: "paper" found no feasible child.
        """
        index, parent = self._asked, None
        if index == 0:
            genotype = self._first
        elif index < self._population or not self._queue:
            genotype = self._finder.initial()
        else:
            # max() takes the first of equals, and the draw is in random order: ties fall by chance.
            members = draw(self._rng, self._queue, min(self._sample, len(self._queue)))
            parent = max(members, key=lambda trial: trial.score)
            genotype = self._finder.child(parent.genotype)
        self._asked += 1
        candidate = Candidate(index, genotype, self._finder.latency(genotype), None if parent is None else parent.index)
        self._waiting[index] = candidate
        return candidate

    def tell(self, index: int, score: float) -> Trial[G]:
        """Candidate number `index` has this score.

        Raises:
            SearchError: the score is not a number.
            KeyError: no such candidate waits.
        """
        candidate = self._waiting.pop(index)
        if math.isnan(score):
            raise SearchError(f"the score of genotype {candidate.genotype} is not a number")
        trial = Trial(index, candidate.genotype, candidate.latency_ms, score, candidate.parent)
        self._join(trial)
        return trial

    def _join(self, trial: Trial[G]) -> None:
        self._told += 1
        self._queue.append(trial)
        if len(self._queue) > self._population:
            self._queue.popleft()


class _Finder(Generic[G]):
    """Finds feasible genotypes, in bounded time."""

    def __init__(self, space: Space[G], limit_ms: float, rng: Rng, strategy: Strategy) -> None:
        self._space, self._limit_ms, self._rng, self._strategy = space, limit_ms, rng, strategy
        feasible: Any = getattr(space, "feasible", None)
        self._exact: Any = None if feasible is None else feasible(limit_ms)
        if self._exact is not None and not self._exact.size:
            raise InfeasibleLimitError(limit_ms, self._exact.smallest_ms)

    def latency(self, genotype: G) -> float:
        return float(self._space.latency(genotype))

    def _fits(self, genotype: G) -> bool:
        return self.latency(genotype) <= self._limit_ms

    def initial(self) -> G:
        """A random feasible genotype."""
        if self._exact is not None and self._strategy == "default":
            exact: G = self._exact.sample(self._rng)
            return exact
        smallest = math.inf
        for _ in range(MAX_TRIES):
            genotype = self._space.random(self._rng)
            if self._fits(genotype):
                return genotype
            smallest = min(smallest, self.latency(genotype))
        if self._exact is not None:
            raise StuckError(
                f"{MAX_TRIES} random draws met no block within {self._limit_ms:.6g} ms, though {self._exact.size} "
                "exist: strategy 'default' finds them"
            )
        raise InfeasibleLimitError(self._limit_ms, smallest, "genotype", exact=False)

    def child(self, parent: G) -> G:
        """A feasible mutation of `parent`."""
        if self._strategy == "paper":
            for _ in range(MAX_TRIES):
                child = self._space.mutate(parent, self._rng)
                if self._fits(child):
                    return child
            raise StuckError(
                f"no mutation of {parent} meets {self._limit_ms:.6g} ms in {MAX_TRIES} tries: "
                "strategy 'default' walks further"
            )
        for _ in range(_SINGLE_FLIPS):
            child = self._space.mutate(parent, self._rng)
            if self._fits(child):
                return child
        # Under a tight limit feasible genotypes form islands: pass through infeasible ones to the next island.
        for _ in range(_SINGLE_FLIPS):
            child = parent
            for _ in range(_WALK_STEPS):
                child = self._space.mutate(child, self._rng)
                if self._fits(child):
                    return child
        # No island in reach. A random feasible genotype is then the best use of a trial.
        return self.initial()
