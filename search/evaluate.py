"""Judge a block: stack it through the whole backbone, train that network for a short time, measure its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TypeVar

import torch

from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block
from bpnas.search.chance import derived_seed
from bpnas.search.data import Dataset, check_classes
from bpnas.search.presets import ProposalSettings

T = TypeVar("T")


class CandidateEvaluator:
    """block -> accuracy (0..1) on held-out training images. BP-NAS, block proposal search.

    Test images are never used: they judge the final network only. Two codes of one block are trained once. The
    result depends on the block and the seed alone, not on what was evaluated before.

    Args:
        backbone: every site gets the block; its head must have the data set's classes.
        dataset: the images; `settings` say how many are used and which share is held out.
        settings: see `ProposalSettings`.
        seed: of weights, order and augmentation.
        known: scores of earlier runs.

    Attributes:
        images: trained so far.
        seconds: that took, evaluation included.

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
        known: Mapping[Block, float] | None = None,
    ) -> None:
        check_classes(dataset, backbone.classes, backbone.input_size)
        self._backbone, self._dataset, self._settings, self._seed = backbone, dataset, settings, seed
        pool = dataset.train.first(settings.train.train_images)
        self._train, self._validation = pool.parted(1 - settings.validation_share)
        self._scores = dict(known or {})
        self.images = 0
        self.seconds = 0.0

    def __call__(self, block: Block) -> float:
        if block not in self._scores:
            start = perf_counter()
            self._scores[block] = self._evaluate(block)
            self.images += len(self._train) * self._settings.train.epochs
            self.seconds += perf_counter() - start
        return self._scores[block]

    def _evaluate(self, block: Block) -> float:
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
