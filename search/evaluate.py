"""Judge a block: stack it through the whole backbone, train that network for a short time, measure its accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import torch

from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block
from bpnas.search.chance import derived_seed
from bpnas.search.data import Dataset, check_classes
from bpnas.search.presets import ProposalSettings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the training of one candidate gave.

    Attributes:
        score: accuracy on held-out training images, 0..1.
        images: trained, over all epochs.
        seconds: that took, measuring the accuracy included.
    """

    score: float
    images: int
    seconds: float


class CandidateEvaluator:
    """block -> `Evaluation` on held-out training images. BP-NAS, block proposal search.

    Test images are never used: they judge the final network only. The score depends on the block and the seed alone,
    not on what was evaluated before. Nothing is remembered: who calls keeps what it got (see `bpnas.search.drive`).

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
        pool = dataset.train.first(settings.train.train_images)
        self._train, self._validation = pool.parted(1 - settings.validation_share)

    def __call__(self, block: Block) -> Evaluation:
        """Train the network that has `block` at every site, and judge it."""
        start = perf_counter()
        score = self._score(block)
        images = len(self._train) * self._settings.train.epochs
        return Evaluation(score, images, perf_counter() - start)

    def _score(self, block: Block) -> float:
        from bpnas.profiler import build_module
        from bpnas.search.train import accuracy, train

        seed = derived_seed(self._seed, "candidate", block)
        model = seeded(seed, lambda: build_module([block] * len(self._backbone.sites), self._backbone))
        train(model, self._dataset, self._train, self._settings.train, seed=seed)
        return accuracy(model, self._dataset, self._validation)


def seeded(seed: int, build: Callable[[], T]) -> T:
    """What `build()` makes when torch's global generator starts from `seed`; the generator is then as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
