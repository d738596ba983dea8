"""Aging evolution under a latency limit, asked for genotypes and told scores. BP-NAS, Algorithms 1 and 2.

`Evolution` holds no loop: who drives it may evaluate one genotype after the other (`levonas`) or many at once
(`bpnas.search.proposals.schedules`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Generic, Literal

from bpnas.base.errors import UsageError
from bpnas.base.randomness import Rng
from bpnas.base.randomness import sample as draw
from bpnas.search.errors import SearchError
from bpnas.search.proposals.feasible_sampling import G, NoRepeatSampler, PaperSampler, Space

__all__ = ["Candidate", "Evolution", "G", "Space", "Strategy", "Trial"]

Strategy = Literal["default", "paper"]

_PARENTS = 3
"""This many of the best of a tournament are asked for a new child before anything further away is looked at."""

_AT_RANDOM = 8
"""This many trials are random before evolution begins, if the population has room and half a tournament is fewer."""

_IMMIGRANTS = 0.05
"""Share of trials that are random, besides the first ones."""


@dataclass(frozen=True, slots=True)
class Trial(Generic[G]):
    """One evaluated genotype.

    Attributes:
        index: its place in the history, from 0.
        genotype: for a `BlockSpace`, the 23-bit code.
        latency_ms: of the network, at most the limit.
        score: what `evaluate` answered; higher is better.
        parent: index of the trial that it was mutated from, or whose genotype is evaluated again; None if it was drawn
            at random.
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

    Args: as of `bpnas.search.proposals.levonas`, and
        inherited: trials under other limits, in an order that their searches give. "default" begins with those that
            are feasible here, the best of them as its population; number i from 0 is, as a parent, number -1 - i.
            "paper" has no use for them.

    Raises:
        InfeasibleLimitError, UsageError: as `levonas` does.
    """

    def __init__(
        self,
        space: Space[G],
        *,
        limit_ms: float,
        at_least_ms: float = 0.0,
        population: int,
        sample: int,
        cycles: int,
        rng: Rng,
        strategy: Strategy,
        inherited: Sequence[Trial[G]] = (),
    ) -> None:
        if population < 1 or not 1 <= sample <= population or cycles < 1:
            raise UsageError(
                f"population {population}, sample {sample}, cycles {cycles}: needs 1 <= sample <= population, "
                "cycles >= 1"
            )
        if strategy not in ("default", "paper"):
            raise UsageError(f"strategy {strategy!r} is unknown: use 'default' or 'paper'")
        if math.isnan(limit_ms) or math.isnan(at_least_ms):
            raise UsageError("the latency limit is not a number")
        if at_least_ms > limit_ms:
            raise UsageError(f"a latency of at least {at_least_ms:.6g} ms is above the limit of {limit_ms:.6g} ms")
        self.cycles = cycles
        self._population, self._sample, self._rng = population, sample, rng
        paper = strategy == "paper"
        self._sampler = (PaperSampler if paper else NoRepeatSampler)(space, limit_ms, at_least_ms, rng)
        # The paper fills the population at random. Half a tournament is enough to start from [ours], but one or two
        # trials are not: they would decide for long where the search stays.
        self._at_random = population if paper else max((sample + 1) // 2, min(population, _AT_RANDOM))
        self._parents, self._immigrants = (1, 0.0) if paper else (_PARENTS, _IMMIGRANTS)
        self._queue: deque[Trial[G]] = deque()
        self._waiting: dict[int, Candidate[G]] = {}
        self._opinions: dict[Hashable, tuple[Trial[G], list[float]]] = {}
        self._round: deque[Trial[G]] = deque()
        self._asked = 0
        self._told = 0
        self._inherited = 0 if paper else self._inherit(inherited, limit_ms, at_least_ms)
        # The first draw comes at once: an infeasible limit is known now, not at the first trial.
        self._first = self._proposal(0)

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
            self._sampler.remember(trial.genotype)
            self._join(trial)
            self._asked = max(self._asked, trial.index + 1)

    @property
    def waiting(self) -> tuple[Candidate[G], ...]:
        """Candidates without a score, in the order of asking."""
        return tuple(self._waiting.values())

    def state(self) -> dict[str, Any]:
        """What its next candidates depend on besides `rng` and the trials inherited and told, as plain values for JSON.

        Its genotypes and their canonical forms must be whole numbers, and trials told in the order of asking.
        """
        return {
            "waiting": [[one.genotype, one.parent] for one in self._waiting.values()],
            "round": [trial.index for trial in self._round],
            "sampler": self._sampler.state(),
        }

    def take_up(self, trials: Sequence[Trial[G]], state: Mapping[str, Any]) -> None:
        """Be what an equal, fresh evolution was when it had told these trials and gave this `state`, apart from `rng`.

        Raises:
            LookupError, TypeError, ValueError, BpnasError: it is no state; then this evolution is of no more use.
        """
        self.restore(trials)
        self._sampler.take_up(state["sampler"])
        for index, (genotype, parent) in enumerate(state["waiting"], start=self._told):
            self._sampler.remember(genotype)
            self._waiting[index] = Candidate(index, genotype, self._sampler.latency(genotype), parent)
        self._asked = self._told + len(self._waiting)
        first_of = {trial.index: trial for trial, _ in self._opinions.values()}
        self._round.extend(first_of[index] for index in state["round"])

    def ask(self) -> Candidate[G]:
        """The next candidate. Earlier ones may still wait for their scores.

        Raises:
            StuckError: "paper" found no feasible child.
        """
        index = self._asked
        genotype, parent = (self._proposal(index) if index else self._first) or self._again()
        self._asked += 1
        candidate = Candidate(index, genotype, self._sampler.latency(genotype), parent)
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

    def _inherit(self, trials: Sequence[Trial[G]], limit_ms: float, at_least_ms: float) -> int:
        """Begin with them; how many there are."""
        found: dict[Hashable, Trial[G]] = {}
        for number, trial in enumerate(trials):
            if at_least_ms <= trial.latency_ms <= limit_ms:
                heir = Trial(-1 - number, trial.genotype, trial.latency_ms, trial.score)
                found.setdefault(self._sampler.canonical(trial.genotype), heir)
        for key, trial in found.items():
            self._sampler.remember(trial.genotype)
            self._opinions[key] = (trial, [trial.score])
        # The worst stand on the left, from where they leave first.
        self._queue.extend(sorted(found.values(), key=lambda trial: trial.score)[-self._population :])
        return len(found)

    def _join(self, trial: Trial[G]) -> None:
        self._told += 1
        self._queue.append(trial)
        self._opinions.setdefault(self._sampler.canonical(trial.genotype), (trial, []))[1].append(trial.score)
        if len(self._queue) > self._population:
            self._queue.popleft()

    def _proposal(self, index: int) -> tuple[G, int | None] | None:
        """A genotype and its parent's index; None if there is nothing that was not evaluated."""
        if (
            index + self._inherited < self._at_random
            or not self._queue
            or (self._immigrants and self._rng.random() < self._immigrants)
        ):
            genotype = self._sampler.anything()
            return None if genotype is None else (genotype, None)
        members = draw(self._rng, self._queue, min(self._sample, len(self._queue)))
        # The draw is in random order, and sorting is stable: ties fall by chance.
        best = sorted(members, key=lambda trial: -trial.score)[: self._parents]
        found = self._sampler.child([trial.genotype for trial in best])
        return None if found is None else (found[0], None if found[1] is None else best[found[1]].index)

    def _again(self) -> tuple[G, int | None]:
        """A further opinion on what was evaluated already, as scores may be noisy: the better half in turns."""
        if not self._opinions:
            candidate = next(iter(self._waiting.values()))
            return candidate.genotype, candidate.index
        if not self._round:
            ranked = sorted(self._opinions.values(), key=lambda opinion: -fmean(opinion[1]))
            self._round.extend(trial for trial, _ in ranked[: (len(ranked) + 1) // 2])
        trial = self._round.popleft()
        return trial.genotype, trial.index
