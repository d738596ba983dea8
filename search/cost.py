"""What the paper's recipe would cost on the machine that has just run a small one."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bpnas.search.presets import Preset
from bpnas.search.run import SearchResult, default_limits
from bpnas.search.run_directory import RunDirectory
from bpnas.search.space import BlockSpace

_CIFAR_IMAGES = 50_000


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
        """Of all stages."""
        return sum(self.seconds.values())


def estimate_paper_cost(result: SearchResult, space: BlockSpace) -> CostEstimate:
    """Scale this run's images per second to the paper's numbers of images.

    Networks of the paper's higher default limits train more slowly: the time per image is taken to grow like the mean
    limit. All three stages are counted on CIFAR-10; ImageNet for the second and the third costs far more.
    """
    paper = Preset.load("paper")
    seen: dict[str, list[float]] = {}
    for line in RunDirectory(result.directory).lines("timings.jsonl"):
        totals = seen.setdefault(line["stage"], [0.0, 0.0])
        totals[0] += line["images"]
        totals[1] += line["seconds"] / line.get("workers", 1)  # so many trained at the same time
    rates = {stage: images / seconds for stage, (images, seconds) in seen.items() if seconds > 0}
    paper_limits = default_limits(space, paper.proposals.limit_quantiles)
    slower = statistics.mean(paper_limits) / statistics.mean(result.limits_ms) if result.limits_ms else 1.0
    proposals = paper.proposals
    images = {
        "proposals": len(paper_limits)
        * proposals.cycles
        * proposals.train.epochs
        * _CIFAR_IMAGES
        * (1 - proposals.validation_share),
        "connections": paper.connections.train.epochs * _CIFAR_IMAGES,
        "retraining": paper.retraining.epochs * _CIFAR_IMAGES,
    }
    seconds = {stage: images[stage] / rate * slower for stage, rate in rates.items()}
    return CostEstimate(seconds, rates)
