"""Evaluate a block: stack it through the whole backbone, train that network for a short time, measure its accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from bpnas.base.randomness import derived_seed
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block
from bpnas.search.data.batches import AnySplit, gpus, on_device, pick_device
from bpnas.search.data.dataset import Dataset, check_classes
from bpnas.search.errors import DivergedError
from bpnas.search.execution.evaluation import Evaluation
from bpnas.search.presets import ProposalSettings
from bpnas.search.proposals.halving import rung_epochs
from bpnas.search.training.seeded import seeded
from bpnas.search.training.train import Curve, accuracy, train


class CandidateEvaluator:
    """block -> `Evaluation` on held-out training images. BP-NAS, block proposal search.

    Test images are never used: the final network alone is evaluated on them. The score depends on the block, the seed
    and what the call is given, not on what was evaluated before, nor on interruptions; and, in its last bits, on the
    machine and its number of threads. Nothing is remembered: who calls keeps what it got (see `evaluate_trials`).

    Args:
        backbone: every site gets the block; its head must have the data set's classes.
        dataset: the images; `settings` say how many are used and which share is held out.
        settings: see `ProposalSettings`.
        seed: of weights, order and augmentation.

    Raises:
        UsageError: the head has another number of classes.
        DataError: there are too few images.
    """

    def __init__(
        self,
        backbone: Backbone,
        dataset: Dataset,
        settings: ProposalSettings,
        seed: int,
    ) -> None:
        check_classes(dataset, backbone.classes, backbone.input_size)
        self._backbone, self._dataset, self._settings, self._seed = backbone, dataset, settings, seed
        pool = on_device(dataset.train.first(settings.train.train_images), pick_device())
        rest, validation = pool.parted(1 - settings.validation_share)
        self._validation: AnySplit = validation
        self._train = rest.first(settings.subset)
        eta = settings.halving
        self._rungs = frozenset(rung_epochs(settings.train.epochs, eta) if eta is not None else ())

    def __call__(
        self, block: Block, stop_below: Sequence[tuple[int, float]] = (), checkpoint: Path | None = None
    ) -> Evaluation:
        """Train the network that has `block` at every site, and evaluate it.

        A training that diverges is an answer too: the block can't be trained by this recipe.

        Args:
            block: the candidate.
            stop_below: (epochs, accuracy): after this many epochs the accuracy is measured, and the training ends if it
                is lower; see `SuccessiveHalving`. The same ones must be given when resuming from `checkpoint`.
            checkpoint: where the state of the training is kept while it lasts, at most once a minute: a call that was
                interrupted resumes from there and returns the same score. Removed at the end.

        Raises:
            RunError: the checkpoint is damaged.
            SpaceError: no space for the checkpoint.
        """
        from bpnas.profiler import build_module

        start = perf_counter()
        settings, needed = self._settings.train, dict(stop_below)
        seed = derived_seed(self._seed, "candidate", block)
        model = seeded(seed, lambda: build_module([block] * len(self._backbone.sites), self._backbone))

        def ended(done: int, curve: Curve) -> bool:
            watched = self._settings.patience is not None or done == settings.epochs
            if watched or done in self._rungs or done in needed:
                curve.append((done, accuracy(model, self._dataset, self._validation, epochs=done)))
                return curve[-1][1] < needed.get(done, 0.0) or self._stagnates(curve)
            return False

        diverged: DivergedError | None = None
        try:
            curve = train(model, self._dataset, self._train, settings, seed=seed, checkpoint=checkpoint, ended=ended)
        except DivergedError as error:
            diverged = error
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        if diverged is not None:
            epochs = diverged.epoch + 1
            seconds, seen = perf_counter() - start, diverged.seen
            return Evaluation(0.0, len(self._train) * epochs, seconds, epochs, diverged=seen, gpus=gpus())
        epochs, score = curve[-1]  # where a training ends, its accuracy has been measured
        rungs = tuple(point for point in curve if point[0] in self._rungs or point[0] in needed)
        seconds = perf_counter() - start
        images, judged_on = len(self._train) * epochs, len(self._validation)
        return Evaluation(score, images, seconds, epochs, rungs, judged_on, gpus=gpus())

    def _stagnates(self, curve: Curve) -> bool:
        patience = self._settings.patience
        if patience is None or len(curve) <= patience:
            return False
        best = max(accuracy for _, accuracy in curve[:-patience])
        return all(accuracy <= best for _, accuracy in curve[-patience:])
