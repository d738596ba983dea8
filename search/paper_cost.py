"""What the paper's recipe would cost, from the speed of trainings that were run."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bpnas.search.fields import FieldError, Fields, fields_of
from bpnas.search.presets import Preset, TrainSettings
from bpnas.search.proposals.limits import default_limits
from bpnas.search.proposals.space import BlockSpace
from bpnas.search.run import SearchResult
from bpnas.search.run_directory import RunDirectory
from bpnas.search.sealed import LINE_REMEDY

CIFAR_IMAGES = 50_000


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """An extrapolation, not a measurement.

    Attributes:
        seconds: of the paper's recipe on all of CIFAR-10, by stage; only of stages that this run has timed.
        images_per_second: trained in this run, by stage.
    """

    seconds: dict[str, float]
    images_per_second: dict[str, float]

    @property
    def total_seconds(self) -> float:
        """The sum of all stages."""
        return sum(self.seconds.values())


def stage_images(preset: Preset, limits: int) -> dict[str, int]:
    """How many images each stage trains on all of CIFAR-10, over all candidates and epochs.

    ImageNet, which the paper takes for the second and the third stage, costs far more.
    """
    proposals, connections, retraining = preset.proposals, preset.connections.train, preset.retraining
    candidate = round(_images(proposals.train) * (1 - proposals.validation_share)) * proposals.train.epochs
    return {
        "proposals": limits * proposals.cycles * candidate,
        "connections": connections.epochs * _images(connections),
        "retraining": retraining.epochs * _images(retraining),
    }


def estimate_paper_cost(result: SearchResult, space: BlockSpace) -> CostEstimate:
    """Scale this run's images per second to the paper's numbers of images.

    Networks of the paper's higher default limits train more slowly: the time per image is taken to grow like the mean
    limit.
    """
    paper = Preset.load("paper")
    seen: dict[str, list[float]] = {}
    paper_limits = default_limits(space, paper.proposals.limit_quantiles)
    slower = statistics.mean(paper_limits) / statistics.mean(result.limits_ms) if result.limits_ms else 1.0
    images = stage_images(paper, len(paper_limits))
    directory = RunDirectory(result.directory)
    for row, line in enumerate(directory.lines("timings.jsonl"), start=1):
        with fields_of(f"{directory.root / 'timings.jsonl'}: line {row} is no timing", LINE_REMEDY):
            fields = Fields(line)
            if (stage := fields.text("stage")) not in images:
                raise FieldError(f"'stage' must be one of {', '.join(images)}")
            totals = seen.setdefault(stage, [0.0, 0.0])
            totals[0] += fields.whole("images")
            # This many trained at the same time.
            totals[1] += fields.number("seconds", 0) / (fields.whole("workers", 1) if fields.has("workers") else 1)
    rates = {stage: count / seconds for stage, (count, seconds) in seen.items() if seconds > 0}
    return CostEstimate({stage: images[stage] / rate * slower for stage, rate in rates.items()}, rates)


def _images(settings: TrainSettings) -> int:
    return min(CIFAR_IMAGES, settings.train_images or CIFAR_IMAGES)
