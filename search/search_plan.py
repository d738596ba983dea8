"""What a search will do, before anything of it is done: a request, checked against a latency table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bpnas.base.errors import UsageError
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block
from bpnas.search.connections.run import check_target
from bpnas.search.data.sources import Source
from bpnas.search.errors import InfeasibleLimitError
from bpnas.search.execution.executor import ExecutorKind, check_executor
from bpnas.search.presets import Preset, check_lambda
from bpnas.search.proposals.limits import (
    check_bands,
    check_latency_ms,
    default_limits,
    feasible_limits,
    reference_block,
)
from bpnas.search.proposals.space import BlockSpace

if TYPE_CHECKING:
    from bpnas.tables import LatencyTable

_MOST_CLASSES = 1_000_000  # of any head

Stage = Literal["proposals", "connections", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Where and how the candidates of stage 1 are trained.

    Attributes:
        executor, workers, ray_address: see `open_executor`. A run may be resumed elsewhere: they do not change its
            results.
        window: candidates of stage 1 under way at a time (see `evaluate_trials`). With the seed and `threads` it
            decides the trials. Default: the number of workers; a run that is resumed keeps the one that it began with.
        threads: CPU threads of the training of one candidate. Default: torch's own for "local", the cores' share of a
            worker for "processes", 1 for "ray"; a run that is resumed keeps those that it began with.
        asynchronous: tell results as they come. No worker waits then, but the trials depend on timing.
    """

    executor: ExecutorKind = "local"
    workers: int | None = None
    ray_address: str | None = None
    window: int | None = None
    threads: int | None = None
    asynchronous: bool = False

    def check(self) -> None:
        """Refuse what makes no sense. Raises UsageError."""
        check_executor(self.executor, self.workers, self.ray_address)
        for name, count in (("window", self.window), ("threads", self.threads)):
            if count is not None and count < 1:
                raise UsageError(f"{name} must be at least 1, not {count}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """What somebody wants to have searched.

    Attributes:
        stage: "proposals" searches blocks only, "connections" goes from proposals to networks, "all" does both.
        preset: all hyper-parameters.
        constraints: latency limits of stage 1 in ms; none for those of `default_limits`, around the targets.
        bands: each limit is searched above the one before it only, so that the proposals spread over the budget.
        target_ms: limit of the final network; None for the middle limit, or where the two stages have different input
            sizes, the latency of the middle proposal at the second.
        targets_ms: limits of networks that are all taken from the one supernet, each retrained. Its latency loss aims
            at `target_ms`, by default the middle one of them. More of them may be asked for later.
        data, connections_data: images of the two stages (see `Source`); None for those of the first.
        input_size, connections_input_size: in pixels; None for the images' own size.
        deploy_classes: targets hold for the network with a head of that many classes, which will be deployed, while it
            is searched and trained with the classes of its images; None for the same head.
        proposals: blocks in place of a search for them.
        seed: of all random choices.
        execution: where the candidates of stage 1 are trained.
    """

    stage: Stage = "all"
    preset: Preset = field(default_factory=lambda: Preset.load("tiny"))
    constraints: tuple[float, ...] = ()
    bands: bool = False
    target_ms: float | None = None
    targets_ms: tuple[float, ...] = ()
    data: str = "digits"
    connections_data: str | None = None
    input_size: int | None = None
    connections_input_size: int | None = None
    deploy_classes: int | None = None
    proposals: tuple[Block, ...] = ()
    seed: int = 0
    execution: Execution = Execution()

    def check(self) -> None:
        """Refuse what makes no sense, with any table. Raises UsageError."""
        if self.stage not in ("proposals", "connections", "all"):
            raise UsageError(f"stage {self.stage!r} is unknown: use proposals, connections or all")
        if self.stage == "proposals" and self.proposals:
            raise UsageError("with given proposals there is nothing to do in stage proposals: use stage connections")
        if self.deploy_classes is not None and not 2 <= self.deploy_classes <= _MOST_CLASSES:
            raise UsageError(f"--deploy-classes must be from 2 to {_MOST_CLASSES:,}, not {self.deploy_classes:,}")
        if self.proposals and self.constraints:
            raise UsageError("limits are for the search of proposals; with given ones, leave --constraints out")
        self.execution.check()


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """A request that can be carried out; see `plan_search`.

    Attributes:
        request: as it was made.
        table: the latencies.
        sources: the images of stage 1, and of what follows.
        space: the blocks of stage 1; None if they are given.
        limits_ms: of stage 1; none if the blocks are given.
        backbone: of the networks.
        deployed: the same with the head that will be deployed, for which targets hold.
        target_ms: of the network that the supernet aims at; None where it is known only with the proposals.
        further_ms: targets of further networks.
        limits_from: where the limits come from, for people; empty where they were given.
    """

    request: SearchRequest
    table: LatencyTable
    sources: tuple[Source, Source]
    space: BlockSpace | None
    limits_ms: tuple[float, ...]
    backbone: Backbone
    deployed: Backbone
    target_ms: float | None
    further_ms: tuple[float, ...]
    limits_from: str = ""

    @property
    def targets_ms(self) -> tuple[float, ...]:
        """All targets that are known, in ascending order; none of a search that ends with its proposals."""
        if self.request.stage == "proposals":
            return ()
        return tuple(sorted({*self.further_ms, *([] if self.target_ms is None else [self.target_ms])}))

    @property
    def head_notes(self) -> tuple[str, ...]:
        """For people: which heads' latencies are interpolated."""
        backbones = [*([] if self.space is None else [self.space.backbone]), self.backbone, self.deployed]
        notes = (self.table.head(each.input_size, each.classes).note for each in backbones)
        return tuple(dict.fromkeys(note for note in notes if note))

    @property
    def deploy_classes(self) -> int | None:
        """Of the head that will be deployed, where the networks have another one; else None."""
        return None if self.deployed == self.backbone else self.deployed.classes

    @property
    def heads(self) -> str:
        """For people: with which heads the latencies of both stages are."""
        stages = {} if self.space is None else {"of stage 1": _head_text(self.table, self.space.backbone)}
        if self.request.stage != "proposals":
            later = _head_text(self.table, self.deployed)
            if self.deploy_classes is not None:
                later += f", which will be deployed (trained with {self.backbone.classes:,})"
            stages["of targets and stage 2"] = later
        if len(heads := set(stages.values())) == 1:
            return f"latencies {heads.pop()}"
        return f"latencies {', '.join(f'{which} {head}' for which, head in stages.items())}"

    @property
    def input_sizes(self) -> tuple[int, int]:
        """Input sizes of the two stages, in pixels."""
        return self.request.input_size or self.sources[0].native_size, self.backbone.input_size

    def config(self, window: int | None, threads: int | None) -> dict[str, Any]:
        """The content of config.json: what determines the run."""
        request, meta, (size, later) = self.request, self.table.meta, self.input_sizes
        schedule = "asynchronous: the trials depend on timing" if request.execution.asynchronous else "ordered"
        return {
            "bpnas": version("bpnas"),
            "table_sha256": self.table.sha256,
            "additivity": self.table.additivity,
            "device": meta.device_name,
            "runtime": meta.runtime,
            "mock": meta.mock,
            "data": self.sources[0].absolute,
            "connections_data": self.sources[1].absolute,
            "input_size": size,
            "connections_input_size": later,
            "constraints_ms": list(self.limits_ms),
            "bands": request.bands,
            "target_ms": self.target_ms,
            "deploy_classes": self.deploy_classes,
            "proposals": [str(block) for block in request.proposals],
            "seed": request.seed,
            "schedule": schedule,
            "preset": request.preset.to_dict(),
            "window": window,
            "threads": threads,
        }

    @property
    def skippable_sites(self) -> int:
        """Sites of a network that may be Skip."""
        return sum(site.is_residual for site in self.backbone.sites)

    def typical_blocks(self) -> tuple[Block, ...]:
        """Blocks as the networks will have them: those given, else for each limit the slowest block that meets it."""
        if self.space is None:
            return self.request.proposals
        latencies = self.space.latencies()
        slowest = [int(np.where(latencies <= limit, latencies, -np.inf).argmax()) for limit in self.limits_ms]
        return tuple(self.space.blocks(np.array(slowest)))

    def forced_skips(self, target_ms: float) -> int:
        """How many sites must be Skip in a network within `target_ms` of typical blocks, even of the fastest ones.

        Where a target is far below the limits of stage 1, little is left to choose from.
        """
        table, backbone, candidates = self.table, self.deployed, self.typical_blocks()
        blocks: list[Block | None] = []
        skippable: list[tuple[float, int]] = []
        for number, site in enumerate(backbone.sites):
            ms, block = min(
                ((table.block(block, site, backbone.input_size), block) for block in candidates), key=itemgetter(0)
            )
            blocks.append(block)
            if site.is_residual:
                skippable.append((ms, number))
        for skips, (_, number) in enumerate(sorted(skippable, reverse=True)):
            # By the same sum as the search itself, so that a target that is met exactly is met here too.
            if table.network(blocks, backbone.input_size, backbone.classes) <= target_ms:
                return skips
            blocks[number] = None
        return len(skippable)


def plan_search(request: SearchRequest, table: LatencyTable) -> SearchPlan:
    """Check a request against a table. Nothing is trained or written.

    Raises:
        UsageError, InfeasibleLimitError: it makes no sense or cannot be met, as far as that can be known.
        TableError, MissingEntryError: the table lacks something.
        DataError: images are missing or damaged.
    """
    request.check()
    preset, given = request.preset, request.proposals
    source = Source.parse(request.data)
    later = Source.parse(request.connections_data) if request.connections_data is not None else source
    backbone = None if given else _backbone(table, source, request.input_size)
    later_size = request.connections_input_size or (request.input_size if later == source else None)
    later_backbone = _backbone(table, later, later_size)
    deployed = later_backbone
    if request.deploy_classes is not None:
        deployed = table.backbone(later_backbone.input_size, request.deploy_classes)
    targets = sorted({float(ms) for ms in request.targets_ms})
    for wanted_ms in (*targets, *([] if request.target_ms is None else [request.target_ms])):
        check_latency_ms(wanted_ms, "latency target")
    space: BlockSpace | None = None
    limits: tuple[float, ...] = ()
    limits_from = ""
    if backbone is not None:
        space = BlockSpace(table, backbone.input_size, preset.proposals.coding, backbone.classes)
        limits, limits_from = _limits(request, space, deployed)
    target_ms = request.target_ms
    if target_ms is None and targets:
        target_ms = targets[len(targets) // 2]
    if target_ms is None and space is not None and deployed == space.backbone:
        target_ms = limits[len(limits) // 2]
    wanted = [ms for ms in (*targets, target_ms) if ms is not None]
    check_lambda(preset.connections.lambda_below)
    if wanted and request.stage != "proposals":
        if given:
            for wanted_ms in wanted:
                check_target(table, deployed, given, wanted_ms)
        else:
            _check_reachable(table, deployed, wanted)
    further = tuple(ms for ms in targets if ms != target_ms)
    sources = (source, later)
    return SearchPlan(request, table, sources, space, limits, later_backbone, deployed, target_ms, further, limits_from)


def _limits(request: SearchRequest, space: BlockSpace, later: Backbone) -> tuple[tuple[float, ...], str]:
    """The limits of stage 1, and where they come from.

    Args:
        later: what targets are for.

    Raises:
        UsageError, InfeasibleLimitError: one that is given is no latency or cannot be met.
    """
    if request.constraints:
        limits = feasible_limits(space, request.constraints)
        if request.bands:
            check_bands(space, limits)
        return limits, ""
    targets = sorted({*request.targets_ms, *([] if request.target_ms is None else [request.target_ms])})
    table, here, text = space.table, space.backbone, ""
    if targets and later != here:
        # A target for another input size or head is worth as much here as MobileNetV2's block is at both.
        there = set(table.paths(later.input_size, later.classes))
        if not (common := [path for path in space.paths if path in there]):
            raise UsageError("the table has no path at both input sizes: name the limits of stage 1 with --constraints")
        block = reference_block(common, here)
        ours, theirs = (
            table.network([block] * len(size.sites), size.input_size, size.classes) for size in (here, later)
        )
        heads = later.classes != here.classes
        at_later, at_here = (
            f"at {each.input_size} px{f' {_head_text(table, each)}' if heads else ''}" for each in (later, here)
        )
        text = (
            f"; so much do {', '.join(f'{ms:.4g}' for ms in targets)} ms {at_later} correspond to {at_here}, "
            f"as {block} at every site takes {theirs:.4g} and {ours:.4g} ms"
        )
        targets = [ms * ours / theirs for ms in targets]
    found = default_limits(space, targets)
    return found.limits_ms, found.text + text


def _check_reachable(table: LatencyTable, backbone: Backbone, targets_ms: Sequence[float]) -> None:
    """Refuse a target that no proposals at all could meet: the fastest path everywhere, Skip where it can be."""
    space = BlockSpace(table, backbone.input_size, classes=backbone.classes)
    fastest = table.path_latencies(backbone.input_size, backbone.classes).min(axis=0)
    fastest = fastest + table.once_latencies(backbone.input_size, backbone.classes)
    needed = [ms for ms, site in zip(fastest, backbone.sites, strict=True) if not site.is_residual]
    smallest = space.fixed_ms + float(sum(needed))
    for target_ms in targets_ms:
        if smallest > target_ms:
            raise InfeasibleLimitError(target_ms, smallest, "network")


def _backbone(table: LatencyTable, source: Source, input_size: int | None) -> Backbone:
    return table.backbone(input_size or source.native_size, source.class_count())


def _head_text(table: LatencyTable, backbone: Backbone) -> str:
    return table.head(backbone.input_size, backbone.classes).text
