"""What all arms of a study of connections have in common, and the networks that they come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block, Blocks
from bpnas.search.connections.choose_network import chosen_blocks
from bpnas.search.connections.supernet import site_candidates

if TYPE_CHECKING:
    from bpnas.tables import LatencyTable


@dataclass(frozen=True, slots=True)
class StudyTerms:
    """What all arms have in common.

    Attributes:
        table, backbone: the latencies, and where blocks sit.
        target_ms: the limit of every network.
    """

    table: LatencyTable
    backbone: Backbone
    target_ms: float

    def latency_ms(self, blocks: Blocks) -> float:
        """Latency of a network on the backbone, by table."""
        return self.table.network(blocks, self.backbone.input_size, self.backbone.classes)

    @property
    def fixed_ms(self) -> float:
        """Latency of stem and head."""
        return self.table.fixed(self.backbone.input_size, self.backbone.classes)

    def chosen(self, proposals: Sequence[Block], choices: Sequence[int]) -> Blocks:
        """The blocks of an assignment of these proposals."""
        return chosen_blocks([site_candidates(proposals, site) for site in self.backbone.sites], choices)

    def exact_ms(self, proposals: Sequence[Block]) -> Callable[[tuple[int, ...]], float]:
        """The latency of assignments of these proposals."""
        return lambda choices: self.latency_ms(self.chosen(proposals, choices))


@dataclass(frozen=True, slots=True)
class StudyNetwork:
    """One network to train.

    Attributes:
        blocks: one per site, None for Skip.
        latency_ms: by table.
        backbone: where it is not the study's own, as for another width.
    """

    blocks: Blocks
    latency_ms: float
    backbone: Backbone | None = None

    @property
    def skips(self) -> int:
        """How many sites are left out."""
        return self.blocks.count(None)
