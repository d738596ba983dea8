"""What a study of stage 2 compares: its arms, each a way to come to networks, and the pairs of them that it judges."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bpnas.base.randomness import derived_seed
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block, Blocks
from bpnas.search.connections.connect import candidate_latencies
from bpnas.search.connections.derive import most_probable_blocks
from bpnas.search.connections.random_connections import RandomConnections
from bpnas.search.connections.supernet import site_candidates
from bpnas.search.errors import InfeasibleLimitError

if TYPE_CHECKING:
    from bpnas.tables import LatencyTable

LAMBDAS = (0.0, 0.001, 0.01, 0.05, 0.5, 1.0)
"""Lambda below T in the paper's ablation."""

FBNET_BLOCKS = tuple(
    map(Block.parse, "K3E1G1 K3E1G2 K3E3G1 K3E6G1 K5E1G1 K5E1G2 K5E3G1 K5E6G1".split())
)  # fmt: skip
"""FBNet's candidates, which are nine with Skip; "BCS-A" of the paper."""

MOBILENETV2_BLOCK = Block.parse("K3E6G1")

NEAR = 0.9
"""Random connections take at least this share of the target."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What all arms have in common.

    Attributes:
        table, backbone: the latencies, and where blocks sit.
        target_ms: the limit of every network.
    """

    table: LatencyTable
    backbone: Backbone
    target_ms: float

    def latency_ms(self, blocks: Blocks) -> float:
        """Of a network on the backbone, by table."""
        return self.table.network(blocks, self.backbone.input_size, self.backbone.classes)

    @property
    def fixed_ms(self) -> float:
        """Of stem and head."""
        return self.table.fixed(self.backbone.input_size, self.backbone.classes)

    def chosen(self, proposals: Sequence[Block], choices: Sequence[int]) -> Blocks:
        """The blocks of an assignment of these proposals."""
        candidates = (site_candidates(proposals, site) for site in self.backbone.sites)
        return tuple(options[choice] for options, choice in zip(candidates, choices, strict=True))

    def exact_ms(self, proposals: Sequence[Block]) -> Callable[[tuple[int, ...]], float]:
        """The latency of assignments of these proposals."""
        return lambda choices: self.latency_ms(self.chosen(proposals, choices))


@dataclass(frozen=True, slots=True)
class Network:
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


@dataclass(frozen=True, slots=True)
class SearchedArm:
    """The block connection search over `proposals` and Skip; one network per seed."""

    name: str
    proposals: tuple[Block, ...]
    lambda_below: float


@dataclass(frozen=True, slots=True)
class RandomArm:
    """`count` random connections of `proposals` and Skip per seed; see `random_networks`."""

    name: str
    proposals: tuple[Block, ...]
    count: int


@dataclass(frozen=True, slots=True)
class FixedArm:
    """One network, the same for every seed."""

    name: str
    network: Network


Stage2Arm = SearchedArm | RandomArm | FixedArm


@dataclass(frozen=True, slots=True)
class Stage2Study:
    """Arms under equal terms.

    Attributes:
        name: of its command.
        arms: that are run.
        pairs: of names of arms that are judged, the one that is hoped to be better first.
        notes: what was left out, and why.
    """

    name: str
    arms: tuple[Stage2Arm, ...]
    pairs: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = field(default=())


def lambda_study(
    proposals: tuple[Block, ...], lambdas: Sequence[float] = LAMBDAS, reference: float = 0.01
) -> Stage2Study:
    """One search per lambda below the target; all are held against `reference`, the paper's, where it is among them."""
    names = {value: f"lambda {value:g}" for value in lambdas}
    pairs = tuple((names[value], names[reference]) for value in names if value != reference and reference in names)
    return Stage2Study("lambda", tuple(SearchedArm(name, proposals, value) for value, name in names.items()), pairs)


def random_study(proposals: tuple[Block, ...], lambda_below: float, count: int) -> Stage2Study:
    """The search against random connections of the same proposals."""
    arms = (SearchedArm("searched", proposals, lambda_below), RandomArm("random", proposals, count))
    return Stage2Study("random-stage2", arms, (("searched", "random"),))


def fbnet_study(proposals: tuple[Block, ...], lambda_below: float) -> Stage2Study:
    """The same search over block proposals and over FBNet's hand-made candidates."""
    arms = (SearchedArm("proposals", proposals, lambda_below), SearchedArm("fbnet", FBNET_BLOCKS, lambda_below))
    return Stage2Study("fbnet-candidates", arms, (("proposals", "fbnet"),))


def connections_study(
    terms: Terms,
    proposals: tuple[Block, ...],
    lambda_below: float,
    count: int,
    widths: Sequence[LatencyTable] = (),
) -> Stage2Study:
    """The search against all that is simpler: random connections, every proposal stacked, MobileNetV2.

    Args:
        widths: tables of the same device and backbone with other numbers of channels, for MobileNetV2.
    """
    arms: list[Stage2Arm] = list(random_study(proposals, lambda_below, count).arms)
    notes = []
    for block in dict.fromkeys(proposals):
        try:
            arms.append(FixedArm(f"stacked {block}", stacked_network(terms, block)))
        except InfeasibleLimitError as error:
            notes.append(f"stacked {block} is left out: {error}")
    if widths:
        try:
            arms.append(FixedArm("mobilenetv2", mobilenetv2_network(terms, widths)))
        except InfeasibleLimitError as error:
            notes.append(f"mobilenetv2 is left out: {error}")
    else:
        notes.append("mobilenetv2 is left out: it takes tables of the backbone at other widths (--width-table)")
    pairs = tuple(("searched", arm.name) for arm in arms[1:])
    return Stage2Study("connections", tuple(arms), pairs, tuple(notes))


def stacked_network(terms: Terms, block: Block) -> Network:
    """`block` at every site, or with Skips where it is too slow so: those that bring it nearest to the target [ours].

    Raises:
        InfeasibleLimitError: it is too slow even with Skip wherever Skip can be.
        MissingEntryError: the table lacks a path of it.
    """
    whole = (block,) * len(terms.backbone.sites)
    if (latency := terms.latency_ms(whole)) <= terms.target_ms:
        return Network(whole, latency)
    rows = candidate_latencies(terms.table, terms.backbone, [block])
    # With latencies in the place of log probabilities it is the slowest one within the limit.
    found = most_probable_blocks(rows, rows, terms.target_ms, terms.fixed_ms, terms.exact_ms([block]))
    return Network(terms.chosen([block], found.choices), found.latency_ms)


def random_networks(terms: Terms, arm: RandomArm, seed: int) -> tuple[Network, ...]:
    """Connections of the arm's proposals, all that take 90 to 100 % of the target equally likely [ours].

    Raises:
        InfeasibleLimitError: none does.
    """
    rows = candidate_latencies(terms.table, terms.backbone, arm.proposals)
    target, exact_ms = terms.target_ms, terms.exact_ms(arm.proposals)
    drawn = RandomConnections(rows, target, NEAR * target, terms.fixed_ms, exact_ms)
    rng = random.Random(derived_seed(seed, "study", "random connections"))
    choices = [drawn.sample(rng) for _ in range(arm.count)]
    return tuple(Network(terms.chosen(arm.proposals, one), exact_ms(one)) for one in choices)


def mobilenetv2_network(terms: Terms, widths: Sequence[LatencyTable]) -> Network:
    """MobileNetV2's block at every site, on the backbone among those of `widths` that comes nearest to the target.

    Where it is too slow on all of them, Skips are put in as in `stacked_network`, as few as any width needs [ours].

    Raises:
        InfeasibleLimitError: it is too slow on all of them even so.
        MissingEntryError, TableError: a table lacks its path or the input size.
    """
    found, refused = [], []
    for table in widths:
        backbone = table.backbone(terms.backbone.input_size, terms.backbone.classes)
        try:
            network = stacked_network(Terms(table, backbone, terms.target_ms), MOBILENETV2_BLOCK)
        except InfeasibleLimitError as error:
            refused.append(error)
        else:
            found.append(replace(network, backbone=backbone))
    if not found:
        raise InfeasibleLimitError(
            terms.target_ms, min(error.smallest_ms for error in refused), "width of MobileNetV2 that was given"
        )
    return max(found, key=lambda network: (-network.skips, network.latency_ms))
