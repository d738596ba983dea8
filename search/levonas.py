"""LEvoNAS: aging evolution under a latency limit. BP-NAS, Algorithms 1 and 2."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from bpnas.android_bench.errors import UsageError
from bpnas.search.chance import Rng
from bpnas.search.chance import sample as draw
from bpnas.search.errors import InfeasibleLimitError, RunError, SearchError, StuckError

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


def levonas(
    space: Space[G],
    evaluate: Callable[[G], float],
    *,
    limit_ms: float,
    population: int = 100,
    sample: int = 25,
    cycles: int = 300,
    rng: Rng,
    strategy: Strategy = "default",
    history: Sequence[Trial[G]] = (),
) -> Iterator[Trial[G]]:
    """Search `space` for the genotype of the highest score whose latency is at most `limit_ms`.

    The population is a queue. It is filled with `population` random feasible genotypes; then, until `cycles` trials
    exist, the best of `sample` members is mutated to a feasible child, which joins on the right while the oldest
    leaves on the left. The best of all trials, not of the last population, is the result:
    `max(trials, key=lambda trial: trial.score)`.

    Args:
        space: any object with `random`, `mutate` and `latency` (see `Space`).
        evaluate: genotype -> score, higher is better.
        limit_ms: latency limit in ms.
        population, sample: P and S of the paper.
        cycles: C, the number of trials in all, the initial ones included.
        rng: `random.Random`, `numpy.random.Generator` or anything else with `random()`; the sole source of chance.
        strategy: "paper" draws at random and mutates once, again and again until feasible, as Algorithm 2 has it;
            "default" uses the space's exact feasible set where there is one, and walks further when all single
            mutations of a parent are too slow. Both are bounded.
        history: the first trials of an earlier call with the same arguments and seed: they are not evaluated again but
            replayed, so that the search goes on as if it had never stopped.

    Returns:
        An iterator over all `cycles` trials in order, replayed ones included. Each is evaluated when it is asked for.

    Raises:
        InfeasibleLimitError: at once, if nothing meets the limit; without an exact set, if nothing of `MAX_TRIES`
            random genotypes does.
        UsageError: an argument is out of range.
        StuckError: "paper" found no feasible child (while iterating).
        RunError: `history` is not of this search (while iterating).
    """
    if population < 1 or not 1 <= sample <= population or cycles < 1:
        raise UsageError(
            f"population {population}, sample {sample}, cycles {cycles}: needs 1 <= sample <= population, cycles >= 1"
        )
    if strategy not in ("default", "paper"):
        raise UsageError(f"strategy {strategy!r} is unknown: use 'default' or 'paper'")
    if math.isnan(limit_ms):
        raise UsageError("the latency limit is not a number")
    finder = _Finder(space, limit_ms, rng, strategy)
    # The first draw comes before the iterator is handed out: an infeasible limit is known now, not at the first trial.
    return _evolve(finder, finder.initial(), evaluate, population, sample, cycles, rng, tuple(history))


def _evolve(
    finder: _Finder[G],
    first: G,
    evaluate: Callable[[G], float],
    population: int,
    sample: int,
    cycles: int,
    rng: Rng,
    history: tuple[Trial[G], ...],
) -> Iterator[Trial[G]]:
    queue: deque[Trial[G]] = deque()
    for index in range(cycles):
        parent: Trial[G] | None = None
        if index == 0:
            genotype = first
        elif index < population:
            genotype = finder.initial()
        else:
            # max() takes the first of equals, and the draw is in random order: ties fall by chance.
            parent = max(draw(rng, queue, sample), key=lambda trial: trial.score)
            genotype = finder.child(parent.genotype)
        if index < len(history):
            score = _replayed(history[index], index, genotype)
        else:
            score = float(evaluate(genotype))
            if math.isnan(score):
                raise SearchError(f"the score of genotype {genotype} is not a number")
        trial = Trial(index, genotype, finder.latency(genotype), score, None if parent is None else parent.index)
        yield trial
        queue.append(trial)
        if len(queue) > population:
            queue.popleft()


def _replayed(trial: Trial[G], index: int, genotype: G) -> float:
    if trial.genotype != genotype:
        raise RunError(
            f"trial {index} of the earlier history is {trial.genotype}, but this search arrives at {genotype}: "
            "it has another seed, table or setting"
        )
    return trial.score


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
