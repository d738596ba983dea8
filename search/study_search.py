"""One search of a study: an arm under a limit with a seed, told one score after the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from bpnas.search.errors import StuckError
from bpnas.search.evolution import Candidate, Trial
from bpnas.search.progress import Progress
from bpnas.search.study_arms import Arm, Proposer

G = TypeVar("G")


@dataclass(frozen=True, slots=True)
class StudyTrial:
    """One row of the study.

    Attributes:
        index: from 0.
        identity: what was evaluated: the distinct block, or the genotype where there are no blocks.
        genotype: as text.
        latency_ms, score, parent: as of `Trial`.
        best_so_far: the best score up to here.
        repeat: the search has had it before; its score was known.
    """

    index: int
    identity: Hashable
    genotype: str
    latency_ms: float
    score: float
    parent: int | None
    best_so_far: float
    repeat: bool


class Scores(Protocol):
    """Where scores come from."""

    def known(self, search: StudySearch[Any]) -> float | None:
        """The score of what `search` wants, if it is there."""

    def fetch(self, searches: Iterable[StudySearch[Any]]) -> None:
        """Wait until one more of what these want is known."""


class StudySearch(Generic[G]):
    """A search that is under way, or finished.

    Attributes:
        arm, limit_ms, seed, cycles: what it is.
        trials: so far.
        stuck: whether it ended before its time, because its arm found no feasible child of a parent.
    """

    def __init__(
        self,
        arm: Arm,
        limit_ms: float,
        seed: int,
        proposer: Proposer[G],
        cycles: int,
        identity: Callable[[G], Hashable],
    ) -> None:
        self.arm, self.limit_ms, self.seed = arm, limit_ms, seed
        self.trials: list[StudyTrial] = []
        self.stuck = False
        self.cycles = cycles
        self._proposer, self._identity = proposer, identity
        self._seen: set[Hashable] = set()
        self._waiting: Candidate[G] | None = None

    @property
    def wanted(self) -> Hashable | None:
        """What must be evaluated for it to go on; None if it is finished.

        Raises:
            StuckError: the arm found not even a first block.
        """
        if self._waiting is None and len(self.trials) < self.cycles and not self.stuck:
            try:
                self._waiting = self._proposer.ask()
            except StuckError:
                if not self.trials:
                    raise
                self.stuck = True
        return None if self._waiting is None else self._identity(self._waiting.genotype)

    def tell(self, score: float) -> StudyTrial:
        """What is wanted has this score."""
        assert self._waiting is not None
        trial: Trial[G] = self._proposer.tell(self._waiting.index, score)
        self._waiting = None
        identity = self._identity(trial.genotype)
        done = StudyTrial(
            trial.index,
            identity,
            str(trial.genotype),
            trial.latency_ms,
            trial.score,
            trial.parent,
            max(trial.score, self.trials[-1].best_so_far) if self.trials else trial.score,
            identity in self._seen,
        )
        self._seen.add(identity)
        self.trials.append(done)
        return done

    @property
    def winner(self) -> StudyTrial:
        """The trial of the highest score; few validation images make many equals, and of these it is the fastest."""
        return max(self.trials, key=lambda trial: (trial.score, -trial.latency_ms))

    @property
    def curve(self) -> list[float]:
        """The best score after each of all `cycles` trials; one that got stuck keeps what it had."""
        scores = [trial.best_so_far for trial in self.trials]
        return scores + scores[-1:] * (self.cycles - len(scores))

    @property
    def anytime(self) -> float:
        """The mean of `curve`, the area under it, which also counts how soon something good was found."""
        return sum(self.curve) / self.cycles

    @property
    def distinct(self) -> int:
        """How many different blocks it had."""
        return len(self._seen)


def run_searches(searches: Sequence[StudySearch[Any]], scores: Scores, progress: Progress) -> None:
    """Run all to their ends. What an earlier call has evaluated is gone through at once.

    A search depends on its own scores alone: in what order they come changes nothing.
    """
    for search in searches:
        _advance(search, scores)
    unfinished = [search for search in searches if search.wanted is not None]
    done = sum(len(search.trials) for search in searches)
    progress.stage("searches", sum(search.cycles for search in searches), done)
    while unfinished:
        scores.fetch(unfinished)
        for search in unfinished:
            for trial in _advance(search, scores):
                progress.step(
                    f"seed {search.seed}, limit {search.limit_ms:g} ms, {search.arm.name}: {trial.identity}, "
                    f"{trial.latency_ms:.4g} ms, score {trial.score:.3f}"
                )
        unfinished = [search for search in unfinished if search.wanted is not None]


def _advance(search: StudySearch[Any], scores: Scores) -> list[StudyTrial]:
    """Run it as far as scores are known."""
    trials = []
    while search.wanted is not None and (score := scores.known(search)) is not None:
        trials.append(search.tell(score))
    return trials
