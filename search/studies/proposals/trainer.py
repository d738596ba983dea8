"""What trains the networks of a study: candidates as a search does, and winners by the same recipe on test images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block
from bpnas.search.errors import DataError, DivergedError
from bpnas.search.presets import Preset, ProposalSettings
from bpnas.search.training.threads import set_threads

if TYPE_CHECKING:
    from bpnas.search.data.dataset import Dataset
    from bpnas.search.execution.evaluation import Evaluation

_RETRY = (
    "what was trained is kept, but all trainings of a study are alike: start another study with a smaller "
    "--proposal-rate and another --out"
)


@dataclass(frozen=True, slots=True)
class StudyTraining:
    """Makes a `StudyTrainer`; light, to be sent to where it is called.

    Attributes:
        backbone: every site gets the block.
        data: the images (see `bpnas.search.data.sources`).
        preset: its `proposals` are the recipe; a winner is evaluated on its `test_images`.
        threads: CPU threads of one training.
    """

    backbone: Backbone
    data: str
    preset: Preset
    threads: int = 1

    def __call__(self) -> StudyTrainer:
        """Load the images.

        Raises:
            DataError: they are missing or damaged.
        """
        from bpnas.search.data.dataset import load_data

        set_threads(self.threads)
        settings = self.preset.proposals
        dataset = load_data(self.data, self.backbone.input_size, settings.train.train_images)
        return StudyTrainer(self.backbone, dataset, settings, self.preset.test_images)


class StudyTrainer:
    """(block, seed, on_test) -> `Evaluation`, which depends on these alone: it may be done anywhere and in any order.

    Args:
        backbone, dataset, settings: as of `CandidateEvaluator`.
        test_images: a winner is evaluated on this many; None for all.
    """

    def __init__(
        self, backbone: Backbone, dataset: Dataset, settings: ProposalSettings, test_images: int | None
    ) -> None:
        self._backbone = backbone
        self._terms = {False: (dataset, settings), True: _with_test_images(dataset, settings, test_images)}

    def __call__(self, block: Block, *, seed: int, on_test: bool = False) -> Evaluation:
        """Train the network that has `block` at every site, and evaluate it.

        Raises:
            DivergedError: the training of a winner came to numbers that are not finite; for a candidate that is an
                answer, as it is in a search.
        """
        from bpnas.search.proposals.evaluator import CandidateEvaluator

        dataset, settings = self._terms[on_test]
        evaluation = CandidateEvaluator(self._backbone, dataset, settings, seed)(block)
        if on_test and evaluation.diverged is not None:
            raise DivergedError(evaluation.diverged, f"the training of the winner {block} on test images", _RETRY)
        return evaluation


def _with_test_images(
    dataset: Dataset, settings: ProposalSettings, count: int | None
) -> tuple[Dataset, ProposalSettings]:
    """The same recipe on the same training images, with test images in the place of held-out ones."""
    import torch

    from bpnas.search.data.dataset import Split

    train, _ = dataset.train.first(settings.train.train_images).parted(1 - settings.validation_share)
    test = dataset.test.first(count)
    if not (isinstance(train, Split) and isinstance(test, Split)):
        raise DataError(f"{dataset.source}: a study evaluates winners on images in memory, and these stay on disk")
    both = Split(torch.cat([train.images, test.images]), torch.cat([train.labels, test.labels]))
    share = len(test) / len(both)
    return replace(dataset, train=both), replace(
        settings, validation_share=share, train=replace(settings.train, train_images=None)
    )
