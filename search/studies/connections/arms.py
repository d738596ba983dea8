"""Ways to come to networks of block proposals, and the studies that compare them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bpnas.base.randomness import derived_seed
from bpnas.profiler.block import Block
from bpnas.search.connections.connect import candidate_latencies
from bpnas.search.connections.derive import most_probable_blocks
from bpnas.search.connections.random_connections import RandomConnections
from bpnas.search.connections.run import check_target
from bpnas.search.errors import InfeasibleLimitError
from bpnas.search.presets import check_lambda
from bpnas.search.studies.connections.terms import StudyNetwork, StudyTerms
from bpnas.search.studies.connections.work import Searched, Work
from bpnas.search.studies.study import Study

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


class ConnectionArm:
    """One way to come to networks: what an arm does that has one network and no supernet."""

    __slots__ = ()

    name: str
    supernets: ClassVar[int] = 0
    """That it trains per seed."""
    count: int = 1
    """Number of its networks per seed."""

    def check(self, terms: StudyTerms, seeds: Sequence[int]) -> None:
        """Refuse what cannot be done with these seeds, before anything is trained.

        Raises:
            UsageError, InfeasibleLimitError, MissingEntryError: says what.
        """

    def search(self, work: Work, seed: int) -> Searched | None:
        """What its supernet comes to, trained unless an earlier call has done so; None without one."""
        return None

    def networks(self, work: Work, seed: int) -> tuple[StudyNetwork, ...]:
        """Its networks, within the target."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class SearchedArm(ConnectionArm):
    """The block connection search over `proposals` and Skip."""

    name: str
    proposals: tuple[Block, ...]
    lambda_below: float
    supernets: ClassVar[int] = 1

    def check(self, terms: StudyTerms, seeds: Sequence[int]) -> None:
        """See `ConnectionArm`."""
        check_lambda(self.lambda_below)
        check_target(terms.table, terms.backbone, self.proposals, terms.target_ms)

    def search(self, work: Work, seed: int) -> Searched:
        """See `ConnectionArm`."""
        return work.search(self.name, self.proposals, self.lambda_below, seed)

    def networks(self, work: Work, seed: int) -> tuple[StudyNetwork, ...]:
        """See `ConnectionArm`."""
        return (self.search(work, seed).network,)


@dataclass(frozen=True, slots=True)
class RandomArm(ConnectionArm):
    """`count` random connections of `proposals` and Skip per seed."""

    name: str
    proposals: tuple[Block, ...]
    count: int = 1

    def check(self, terms: StudyTerms, seeds: Sequence[int]) -> None:
        """See `ConnectionArm`."""
        check_target(terms.table, terms.backbone, self.proposals, terms.target_ms)
        for seed in seeds:
            self.drawn(terms, seed)

    def networks(self, work: Work, seed: int) -> tuple[StudyNetwork, ...]:
        """See `ConnectionArm`."""
        return self.drawn(work.terms, seed)

    def drawn(self, terms: StudyTerms, seed: int) -> tuple[StudyNetwork, ...]:
        """Connections of the proposals, all that take 90 to 100 % of the target equally likely [ours].

        Raises:
            InfeasibleLimitError: none does.
        """
        rows = candidate_latencies(terms.table, terms.backbone, self.proposals)
        target, exact_ms = terms.target_ms, terms.exact_ms(self.proposals)
        connections = RandomConnections(rows, target, NEAR * target, terms.fixed_ms, exact_ms)
        rng = random.Random(derived_seed(seed, "study", "random connections"))
        choices = [connections.sample(rng) for _ in range(self.count)]
        return tuple(StudyNetwork(terms.chosen(self.proposals, one), exact_ms(one)) for one in choices)


@dataclass(frozen=True, slots=True)
class FixedArm(ConnectionArm):
    """One network, the same for every seed."""

    name: str
    network: StudyNetwork

    def networks(self, work: Work, seed: int) -> tuple[StudyNetwork, ...]:
        """See `ConnectionArm`."""
        return (self.network,)


ConnectionStudy = Study[ConnectionArm]
"""For annotations; Python 3.11 makes no slotted, frozen object of a subscripted class."""


def lambda_study(
    proposals: tuple[Block, ...], lambdas: Sequence[float] = LAMBDAS, reference: float = 0.01
) -> ConnectionStudy:
    """One search per lambda below the target; all are held against `reference`, the paper's, where it is among them."""
    names = {value: f"lambda {value:g}" for value in lambdas}
    pairs = tuple((names[value], names[reference]) for value in names if value != reference and reference in names)
    return Study("lambda", tuple(SearchedArm(name, proposals, value) for value, name in names.items()), pairs)


def random_study(proposals: tuple[Block, ...], lambda_below: float, count: int) -> ConnectionStudy:
    """The search against random connections of the same proposals."""
    arms = (SearchedArm("searched", proposals, lambda_below), RandomArm("random", proposals, count))
    return Study("random-stage2", arms, (("searched", "random"),))


def fbnet_study(proposals: tuple[Block, ...], lambda_below: float) -> ConnectionStudy:
    """The same search over block proposals and over FBNet's hand-made candidates."""
    arms = (SearchedArm("proposals", proposals, lambda_below), SearchedArm("fbnet", FBNET_BLOCKS, lambda_below))
    return Study("fbnet-candidates", arms, (("proposals", "fbnet"),))


def connections_study(
    terms: StudyTerms,
    proposals: tuple[Block, ...],
    lambda_below: float,
    count: int,
    widths: Sequence[LatencyTable] = (),
) -> ConnectionStudy:
    """The search against all that is simpler: random connections, every proposal stacked, MobileNetV2.

    Args:
        widths: tables of the same device and backbone with other numbers of channels, for MobileNetV2.
    """
    arms: list[ConnectionArm] = list(random_study(proposals, lambda_below, count).arms)
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
    return Study("connections", tuple(arms), pairs, tuple(notes))


def stacked_network(terms: StudyTerms, block: Block) -> StudyNetwork:
    """`block` at every site, or with Skips where it is too slow so: those that bring it nearest to the target [ours].

    Raises:
        InfeasibleLimitError: it is too slow even with Skip wherever Skip can be.
        MissingEntryError: the table lacks a path of it.
    """
    whole = (block,) * len(terms.backbone.sites)
    if (latency := terms.latency_ms(whole)) <= terms.target_ms:
        return StudyNetwork(whole, latency)
    rows = candidate_latencies(terms.table, terms.backbone, [block])
    # With latencies in the place of log probabilities it is the slowest one within the limit.
    found = most_probable_blocks(rows, rows, terms.target_ms, terms.fixed_ms, terms.exact_ms([block]))
    return StudyNetwork(terms.chosen([block], found.choices), found.latency_ms)


def mobilenetv2_network(terms: StudyTerms, widths: Sequence[LatencyTable]) -> StudyNetwork:
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
            network = stacked_network(StudyTerms(table, backbone, terms.target_ms), MOBILENETV2_BLOCK)
        except InfeasibleLimitError as error:
            refused.append(error)
        else:
            found.append(replace(network, backbone=backbone))
    if not found:
        raise InfeasibleLimitError(
            terms.target_ms, min(error.smallest_ms for error in refused), "width of MobileNetV2 that was given"
        )
    return max(found, key=lambda network: (-network.skips, network.latency_ms))
