"""The trainings of a study: each is done once, and is on the disk before it is used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bpnas.profiler.block import Block
from bpnas.search.execution.executor import Executor
from bpnas.search.fields import SEEDS, Fields, fields_of
from bpnas.search.run_directory import RunDirectory
from bpnas.search.sealed import LINE_REMEDY

EVALUATIONS = "evaluations.jsonl"


@dataclass(frozen=True, slots=True)
class Training:
    """One network to train and judge.

    Attributes:
        block: at every site.
        seed: of weights, order and augmentation.
        on_test: judged on test images, as winners are; else on held-out training images, as in a search.
    """

    block: Block
    seed: int
    on_test: bool = False


class TrainingMemory:
    """What was trained, and what is being trained.

    Args:
        directory: holds evaluations.jsonl, a line per training.
        executor: does the trainings.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(self, directory: RunDirectory, executor: Executor) -> None:
        self._directory, self._executor = directory, executor
        self._scores: dict[Training, float] = {}
        self._diverged: dict[Training, str | None] = {}
        self._images: dict[bool, int] = {}
        self._under_way: dict[int, Training] = {}
        self._submitted = 0
        for row, line in enumerate(directory.lines(EVALUATIONS), start=1):
            with fields_of(f"{directory.root / EVALUATIONS}: line {row} is no evaluation", LINE_REMEDY):
                fields = Fields(line)
                training = Training(fields.block("block"), fields.whole("seed", -SEEDS, SEEDS), fields.flag("on_test"))
                self._scores[training] = fields.share("score")
                self._diverged[training] = fields.text("diverged") if fields.has("diverged") else None
                if fields.has("judged_on"):
                    self._images[training.on_test] = fields.whole("judged_on") or self.judged_on(training.on_test)

    def __len__(self) -> int:
        return len(self._scores)

    def __contains__(self, training: Training) -> bool:
        return training in self._scores

    def score(self, training: Training) -> float:
        """Its score. Raises KeyError if it was not done."""
        return self._scores[training]

    def diverged(self, training: Training) -> str | None:
        """How it diverged, which has a score of 0; None if it did not. Raises KeyError if it was not done."""
        return self._diverged[training]

    def judged_on(self, on_test: bool) -> int:
        """How many images judge such trainings; 0 where that is not known."""
        return self._images.get(on_test, 0)

    def fetch(self, wanted: Iterable[Training]) -> None:
        """Have the first of `wanted` trained, as many as there are workers, and wait until one more is done."""
        for training in wanted:
            if len(self._under_way) >= self._executor.workers:
                break
            if training not in self._scores and training not in self._under_way.values():
                self._under_way[self._submitted] = training
                self._executor.submit(self._submitted, training.block, seed=training.seed, on_test=training.on_test)
                self._submitted += 1
        number, evaluation = self._executor.next()
        training = self._under_way.pop(number)
        line = {
            "block": str(training.block),
            "seed": training.seed,
            "on_test": training.on_test,
            "score": evaluation.score,
            "images": evaluation.images,
            "seconds": evaluation.seconds,
            "judged_on": evaluation.judged_on,
        }
        if evaluation.diverged is not None:
            line["diverged"] = evaluation.diverged
        self._directory.append(EVALUATIONS, line)
        self._scores[training], self._diverged[training] = evaluation.score, evaluation.diverged
        self._images[training.on_test] = evaluation.judged_on or self.judged_on(training.on_test)
