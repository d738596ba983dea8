"""One search of a study: an arm under a limit with a seed, told one score after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bpnas.profiler.block import Block
from bpnas.search.data.evaluation_images import on_images
from bpnas.search.errors import StuckError
from bpnas.search.progress import Progress
from bpnas.search.proposals.evolution import Candidate
from bpnas.search.proposals.space import BlockSpace
from bpnas.search.proposals.survivors import Survivors, check_survivor
from bpnas.search.studies.proposals.arms import ProposalArm, Proposer
from bpnas.search.studies.proposals.memory import NetworkTraining, TrainingMemory
from bpnas.search.studies.proposals.summary import SearchOutcome


@dataclass(frozen=True, slots=True)
class StudyTrial:
    """One row of the study.

    Attributes:
        index, genotype, latency_ms, score, parent: as of `Trial`.
        block: that the genotype stands for.
        best_so_far: the best score up to here.
        repeat: the search has had the block before; it was not trained again.
        diverged: how its training diverged, which has a score of 0; None if it did not.
    """

    index: int
    genotype: int
    block: Block
    latency_ms: float
    score: float
    parent: int | None
    best_so_far: float
    repeat: bool
    diverged: str | None = None


class StudySearch:
    """A search that is under way, or finished.

    Args:
        arm, limit_ms, seed, cycles: what it is; `cycles` is the number of trials.
        space: whose codes are searched.
        proposer: of the arm, not asked yet.

    Attributes:
        arm, limit_ms, seed: as given.
        trials: so far.
        stuck: whether it ended before its time, because its arm found no feasible child.
    """

    def __init__(
        self, arm: ProposalArm, limit_ms: float, seed: int, cycles: int, space: BlockSpace, proposer: Proposer
    ) -> None:
        self.arm, self.limit_ms, self.seed, self.cycles = arm, limit_ms, seed, cycles
        self.trials: list[StudyTrial] = []
        self.stuck = False
        self._space, self._proposer = space, proposer
        self._seen: set[Block] = set()
        self._waiting: Candidate[int] | None = None
        self._survivors = Survivors()

    @property
    def wanted(self) -> NetworkTraining | None:
        """What must be trained before it can continue; None if it is finished."""
        if self._waiting is None and len(self.trials) < self.cycles and not self.stuck:
            try:
                self._waiting = self._proposer.ask()
            except StuckError:
                self.stuck = True
        return None if self._waiting is None else NetworkTraining(self._space.block(self._waiting.genotype), self.seed)

    def tell(self, score: float, diverged: str | None = None) -> StudyTrial:
        """What is wanted has this score.

        Raises:
            DivergedError: all candidates so far have diverged, and they are enough to say so.
        """
        assert self._waiting is not None
        trial = self._proposer.tell(self._waiting.index, score)
        self._waiting = None
        block = self._space.block(trial.genotype)
        best = max(score, self.trials[-1].best_so_far) if self.trials else score
        repeat, genotype, latency_ms = block in self._seen, trial.genotype, trial.latency_ms
        done = StudyTrial(trial.index, genotype, block, latency_ms, score, trial.parent, best, repeat, diverged)
        self._seen.add(block)
        self.trials.append(done)
        self._survivors.tell(diverged)
        return done

    def advance(self, memory: TrainingMemory) -> list[StudyTrial]:
        """Continue as far as scores are known, and return the new trials."""
        trials = []
        while (training := self.wanted) is not None and training in memory.done:
            trained = memory.done[training]
            trials.append(self.tell(trained.score, trained.diverged))
        return trials

    @property
    def winner(self) -> StudyTrial:
        """The trial of the highest score; few validation images make many equals, and of these it is the fastest.

        Raises:
            DivergedError: each trial has diverged.
        """
        check_survivor((trial.diverged for trial in self.trials), self.limit_ms)
        return max(
            (trial for trial in self.trials if trial.diverged is None),
            key=lambda trial: (trial.score, -trial.latency_ms),
        )

    @property
    def curve(self) -> list[float]:
        """The best score after each of all `cycles` trials; one that got stuck keeps what it had."""
        scores = [trial.best_so_far for trial in self.trials]
        return scores + scores[-1:] * (self.cycles - len(scores))

    @property
    def anytime(self) -> float:
        """The mean of `curve`, the area under it, which also counts how soon something good was found."""
        return sum(self.curve) / self.cycles

    def outcome(self, test: float | None) -> SearchOutcome:
        """What it came to, where its winner has the score `test` on test images.

        Raises:
            DivergedError: each trial has diverged.
        """
        winner, of_search = self.winner, (self.arm.name, self.limit_ms, self.seed)
        of_winner = (str(winner.block), winner.latency_ms, winner.score)
        return SearchOutcome(*of_search, *of_winner, self.anytime, test, len(self._seen), self.stuck)


def run_searches(searches: Sequence[StudySearch], memory: TrainingMemory, progress: Progress) -> None:
    """Run all to their ends. What an earlier call has trained is told at once.

    A search depends on its own scores alone: in what
    order trainings end changes nothing.
    """
    for search in searches:
        search.advance(memory)
    done = sum(len(search.trials) for search in searches)
    progress.stage("searches", sum(search.cycles for search in searches), done)
    while wanted := [training for search in searches if (training := search.wanted) is not None]:
        memory.fetch(wanted)
        for search in searches:
            for trial in search.advance(memory):
                progress.step(
                    f"seed {search.seed}, limit {search.limit_ms:g} ms, {search.arm.name}: {trial.block}, "
                    f"{trial.latency_ms:.4g} ms, "
                    + (
                        f"accuracy {trial.score:.3f} {on_images(memory.images(on_test=False))}"
                        if trial.diverged is None
                        else f"diverged {trial.diverged}"
                    )
                )
