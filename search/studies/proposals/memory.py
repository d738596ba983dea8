"""The trainings of a study of proposals, done by an executor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bpnas.profiler.block import Block
from bpnas.search.data.evaluation_images import HELD_OUT, EvaluationImages
from bpnas.search.data.sources import Source
from bpnas.search.execution.evaluation import Evaluation
from bpnas.search.execution.executor import Executor
from bpnas.search.fields import SEEDS, Fields
from bpnas.search.run_directory import RunDirectory
from bpnas.search.studies.journal import Journal


@dataclass(frozen=True, slots=True)
class NetworkTraining:
    """One network to train and evaluate.

    Attributes:
        block: at every site.
        seed: of weights, order and augmentation.
        on_test: evaluated on test images, as winners are; else on held-out training images, as in a search.
    """

    block: Block
    seed: int
    on_test: bool = False


class TrainingMemory:
    """What was trained, and what is being trained.

    Args:
        directory: holds evaluations.jsonl, a line per training.
        executor: does the trainings.
        source, input_size: of the images.

    Attributes:
        done: what came out of those that were done; of one that diverged a score of 0.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(self, directory: RunDirectory, executor: Executor, source: Source, input_size: int) -> None:
        self._executor, self._source, self._input_size = executor, source, input_size
        self._under_way: dict[int, NetworkTraining] = {}
        self._submitted = 0
        self.done = Journal(directory, "evaluations.jsonl", "evaluation", _read)

    def images(self, on_test: bool) -> EvaluationImages | None:
        """Those that such trainings are evaluated on; None where they are not known."""
        split = self._source.test_name() if on_test else HELD_OUT
        for training, evaluation in reversed(self.done.items()):
            if training.on_test == on_test and evaluation.judged_on:
                return EvaluationImages(self._source.absolute, split, evaluation.judged_on, self._input_size)
        return None

    def fetch(self, wanted: Iterable[NetworkTraining]) -> None:
        """Have the first of `wanted` trained, as many as there are workers, and wait until one more is done."""
        for training in wanted:
            if len(self._under_way) >= self._executor.workers:
                break
            if training not in self.done and training not in self._under_way.values():
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
        self.done.add(training, evaluation, line)


def _read(line: Fields) -> tuple[NetworkTraining, Evaluation]:
    training = NetworkTraining(line.block("block"), line.whole("seed", -SEEDS, SEEDS), line.flag("on_test"))
    judged_on = line.whole("judged_on") if line.has("judged_on") else 0
    diverged = line.text("diverged") if line.has("diverged") else None
    # What it cost is not asked for again.
    return training, Evaluation(line.share("score"), 0, 0.0, judged_on=judged_on, diverged=diverged)
