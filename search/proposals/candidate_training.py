"""What a worker needs to evaluate candidates: not images, but where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpnas.profiler.backbone import Backbone
from bpnas.search.presets import ProposalSettings
from bpnas.search.training.threads import set_threads

if TYPE_CHECKING:
    from bpnas.search.proposals.evaluator import CandidateEvaluator


@dataclass(frozen=True, slots=True)
class CandidateTraining:
    """Makes the `CandidateEvaluator` of a worker. It is what is sent to workers, in place of images.

    Attributes:
        backbone, settings, seed: as of `CandidateEvaluator`.
        data: the images (see `bpnas.search.Source`), which each worker loads.
        threads: CPU threads of one training. The order of sums depends on them, and with it the last bits of a score.
    """

    backbone: Backbone
    data: str
    settings: ProposalSettings
    seed: int
    threads: int

    def __call__(self) -> CandidateEvaluator:
        """Load the images.

        Raises:
            UsageError: there are fewer cores than threads.
            DataError: images are missing or damaged.
        """
        from bpnas.search.data.dataset import load_data
        from bpnas.search.proposals.evaluator import CandidateEvaluator

        set_threads(self.threads)
        dataset = load_data(self.data, self.backbone.input_size, self.settings.train.train_images)
        return CandidateEvaluator(self.backbone, dataset, self.settings, self.seed)
