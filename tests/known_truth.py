"""Records of a device on which the latency of every network is known, for tests of what predicts it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bpnas.android_bench.measurement import Measurement
from bpnas.profiler import Backbone
from bpnas.profiler.backbone import Stage
from bpnas.profiler.campaign.records import Plan
from bpnas.profiler.campaign.run import plan_parts
from bpnas.profiler.cost import path_cost
from bpnas.profiler.paths import (
    ContextPart,
    JoinPart,
    NeighboursPart,
    NetworkPart,
    Part,
    PathPart,
    head_part,
    stem_part,
)
from tests.records_factory import make_plan, measurement, write_records

PATHS = "K[137]G1,K[37]E[14]G[18]"


def known_backbone(input_size: int = 32) -> Backbone:
    """Six sites of four geometries; three of them are residual, and two of those alike."""
    return Backbone("known", input_size, 16, 1, (Stage(16, 2, 1), Stage(24, 3, 2), Stage(32, 1, 2)), 32, 10)


@dataclass(frozen=True)
class Truth:
    """A device without surprises.

    Attributes:
        path, kernel_7: what a path costs inside a network, relative to alone; the same for those of kernel 7.
        join: what an addition costs inside a network, relative to alone.
        constant_ms: what every network has beside.
        noise: standard deviation of the latency of a network, relative.
    """

    path: float = 1.0
    kernel_7: float | None = None
    join: float = 1.0
    constant_ms: float = 0.0
    noise: float = 0.0

    def part_ms(self, part: Part) -> float:
        """As it is measured; alone, but for networks and paths in context."""
        match part:
            case PathPart(path, site):
                cost = path_cost(path, site)
                # Irregular, as real ones are: no rule of the counts alone gives them.
                return (0.004 + cost.macs / 8e6 + cost.activation_mb / 9) * random.Random(part.key).uniform(0.8, 1.25)
            case JoinPart():
                return 0.002 + part.channels * part.input_size**2 / 4e5
            case NeighboursPart():
                return 0.003 + part.channels * part.input_size**2 / 2e6
            case ContextPart():
                inside_ms = self._inside(PathPart(part.path, part.site, part.channel_shuffle))
                return inside_ms + sum(map(self.part_ms, part.neighbours)) / 2
            case NetworkPart():
                return self.network_ms(part) * random.Random(part.key).gauss(1.0, self.noise)
        return 0.25

    def network_ms(self, network: NetworkPart) -> float:
        """Without noise."""
        backbone = network.backbone
        total = self.constant_ms + self.part_ms(stem_part(backbone)) + self.part_ms(head_part(backbone))
        for block, site in zip(network.blocks, backbone.sites, strict=True):
            if block is not None:
                join_ms = self.join * self.part_ms(JoinPart(site.c_out, site.output_size))
                total += sum(self._inside(PathPart(path, site)) for path in block.paths)
                total += join_ms * (len(block.paths) - 1 + site.is_residual)
        return total

    def _inside(self, part: PathPart) -> float:
        factor = self.kernel_7 if part.path.kernel == 7 and self.kernel_7 is not None else self.path
        return factor * self.part_ms(part)

    def measure(self, plan: Plan) -> Callable[[str, int], Measurement]:
        """For `write_records`: one sample of everything."""
        parts = {part.key: part for part in plan_parts(plan)}

        def make(key: str, session: int) -> Measurement:
            return measurement(key, session, samples_ns=(round(self.part_ms(parts[key]) * 1e6),), repeats=1)

        return make


def known_plan(*sizes: int, networks: int = 0, context: bool = False, paths: str = PATHS, **changes) -> Plan:
    """A plan for backbones of these sizes."""
    backbones = [known_backbone(size) for size in sizes or (32,)]
    plan = make_plan(*backbones, networks=networks, paths=paths, **changes)
    return Plan(plan.setup, plan.backbones, plan.paths, plan.sessions, networks, context)


def known_records(path: Path, truth: Truth, plan: Plan) -> Path:
    """Records of all of a plan."""
    return write_records(path, plan, truth.measure(plan))
