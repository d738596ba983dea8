"""A whole search: block proposals, block connections, retraining, export. It resumes where an earlier call stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bpnas.base.errors import UsageError
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block
from bpnas.search.connections.run import NetworkResult, check_target, run_connections
from bpnas.search.data.sources import Source
from bpnas.search.errors import InfeasibleLimitError
from bpnas.search.execution.executor import ExecutorKind, check_executor, default_threads, open_executor
from bpnas.search.execution.lost_workers import keep_losses
from bpnas.search.presets import Preset, check_lambda
from bpnas.search.progress import Progress, Silent
from bpnas.search.proposals.candidate_training import CandidateTraining
from bpnas.search.proposals.limits import check_bands, check_latency_ms, default_limits, feasible_limits
from bpnas.search.proposals.run import Proposal, read_proposals, run_proposals
from bpnas.search.proposals.space import BlockSpace
from bpnas.search.run_directory import RunDirectory
from bpnas.search.training.distributed import from_main, is_main, process_group, world_size
from bpnas.search.training.threads import set_threads, threads_kept

if TYPE_CHECKING:
    from bpnas.tables import LatencyTable

Stage = Literal["proposals", "connections", "all"]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        directory: where its files lie.
        mock: whether the table's latencies are computed, not measured.
        device, runtime: of the table.
        proposals: the best block per limit, in order of the limits; those given by the user have no score.
        network: the final network; None if only proposals were asked for.
        limits_ms: the latency limits of stage 1.
        additivity: the model that the table predicted with.
        networks: that network, and those for further targets, in order of their targets.
    """

    directory: Path
    mock: bool
    device: str
    runtime: str
    proposals: tuple[Proposal, ...]
    network: NetworkResult | None
    limits_ms: tuple[float, ...]
    additivity: str
    networks: tuple[NetworkResult, ...] = ()


@process_group()
def run_search(
    table: LatencyTable | str | Path,
    *,
    out: str | Path,
    stage: Stage = "all",
    preset: Preset | str = "tiny",
    constraints: Sequence[float] = (),
    bands: bool = False,
    target_ms: float | None = None,
    targets_ms: Sequence[float] = (),
    data: str = "digits",
    connections_data: str | None = None,
    input_size: int | None = None,
    connections_input_size: int | None = None,
    proposals: Sequence[Block | str] = (),
    seed: int = 0,
    executor: ExecutorKind = "local",
    workers: int | None = None,
    window: int | None = None,
    threads: int | None = None,
    asynchronous: bool = False,
    ray_address: str | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Search a network for the device of `table`, or go on with the search that `out` holds.

    Where torchrun started several processes, each calls this with the same arguments. They train the supernet and the
    networks together; the first one writes.

    Args:
        table: the latencies, or the file that holds them.
        out: the run directory; see `run_directory`.
        stage: "proposals" searches blocks only, "connections" goes on from proposals, "all" does both.
        preset: all hyper-parameters.
        constraints: latency limits of stage 1 in ms; default quantiles of the latencies of all blocks.
        bands: each limit is searched above the one before it only, so that the proposals spread over the budget.
        target_ms: limit of the final network; default the middle limit, or where the two stages have different input
            sizes, the latency of the middle proposal at the second.
        targets_ms: limits of networks that are all taken from the one supernet, each retrained. Its latency loss aims
            at `target_ms`, by default the middle one of them. More of them may be asked for later.
        data, connections_data: images of the two stages (see `Source`); the second defaults to the first.
        input_size, connections_input_size: in pixels; default the images' own size.
        proposals: blocks, as objects or texts, in place of a search for them.
        seed: of everything that is drawn.
        executor, workers, ray_address: where the candidates of stage 1 are trained (see `open_executor`). A run may go
            on elsewhere: they do not change its results.
        window: candidates of stage 1 under way at a time (see `drive`). With the seed and `threads` it decides the
            trials. Default: the number of workers; a run that goes on keeps the one that it began with.
        threads: CPU threads of the training of one candidate. Default: torch's own for "local", the cores' share of a
            worker for "processes", 1 for "ray"; a run that goes on keeps those that it began with.
        asynchronous: tell results as they come. No worker waits then, but the trials depend on timing.
        progress: is told what happens.

    Raises:
        UsageError, InfeasibleLimitError: the request makes no sense or cannot be met; said before anything is trained,
            as far as that can be known.
        TableError, MissingEntryError: the table is damaged or lacks something.
        DataError: images are missing or damaged.
        DivergedError: a training came to numbers that are not finite. That of a single candidate of stage 1 is a trial.
        SearchError: another process of torchrun has ended.
        WorkerLostError: an evaluation has lost its worker too often.
        RunError: `out` belongs to another search, is in use or is damaged.
    """
    from bpnas.tables import LatencyTable

    watcher: Progress = Silent() if progress is None else progress
    if isinstance(table, str | Path):
        table = LatencyTable.load(table)
    preset = Preset.load(preset) if isinstance(preset, str) else preset
    if stage not in ("proposals", "connections", "all"):
        raise UsageError(f"stage {stage!r} is unknown: use proposals, connections or all")
    if stage == "proposals" and proposals:
        raise UsageError("with given proposals there is nothing to do in stage proposals: use stage connections")
    if proposals and constraints:
        raise UsageError("limits are for the search of proposals; with given ones, leave --constraints out")
    check_executor(executor, workers, ray_address)
    for name, count in (("window", window), ("threads", threads)):
        if count is not None and count < 1:
            raise UsageError(f"{name} must be at least 1, not {count}")
    given = tuple(Block.parse(block) if isinstance(block, str) else block for block in proposals)

    source = Source.parse(data)
    later_source = Source.parse(connections_data) if connections_data is not None else source
    later_size = connections_input_size or (input_size if later_source == source else None)
    space: BlockSpace | None = None
    limits: tuple[float, ...] = ()
    if not given:
        backbone = _backbone(table, source, input_size)
        space = BlockSpace(table, backbone.input_size, classes=backbone.classes)
        limits = feasible_limits(space, tuple(constraints) or default_limits(space, preset.proposals.limit_quantiles))
        if bands:
            check_bands(space, limits)
    later_backbone = _backbone(table, later_source, later_size)
    targets = sorted({float(ms) for ms in targets_ms})
    if target_ms is None and targets:
        target_ms = targets[len(targets) // 2]
    if target_ms is None and space is not None and later_backbone == space.backbone:
        target_ms = limits[len(limits) // 2]
    further = [ms for ms in targets if ms != target_ms]
    for wanted_ms in (*targets, target_ms):
        if wanted_ms is None:
            continue
        check_latency_ms(wanted_ms, "latency target")
        check_lambda(preset.connections.lambda_below)
        if stage == "proposals":
            continue
        if given:
            check_target(table, later_backbone, given, wanted_ms)
        else:
            _check_reachable(BlockSpace(table, later_backbone.input_size, classes=later_backbone.classes), wanted_ms)

    directory = RunDirectory(out, writes=is_main())
    config = {
        "bpnas": version("bpnas"),
        "table_sha256": table.sha256,
        "additivity": table.additivity,
        "device": table.meta.device_name,
        "runtime": table.meta.runtime,
        "mock": table.meta.mock,
        "data": source.absolute,
        "connections_data": later_source.absolute,
        "input_size": input_size or source.native_size,
        "connections_input_size": later_size or later_source.native_size,
        "constraints_ms": list(limits),
        "bands": bands,
        "target_ms": target_ms,
        "proposals": [str(block) for block in given],
        "seed": seed,
        "schedule": "asynchronous: the trials depend on timing" if asynchronous else "ordered",
        "preset": preset.to_dict(),
    }
    with directory.locked():
        searches = stage != "connections" and space is not None and not directory.has("proposals.json")
        if from_main(searches) and world_size() > 1:
            raise UsageError(
                "torchrun's processes train one network together, not many candidates: search the proposals without "
                "it, with --stage proposals --executor processes, then connect them with it, with --stage connections"
            )
        window, threads = window or directory.settled("window"), threads or directory.settled("threads")
        if searches and space is not None:
            threads = threads or default_threads(executor, workers)
            training = CandidateTraining(space.backbone, source.absolute, preset.proposals, seed, threads)
            losses = keep_losses(directory, watcher)
            with (
                threads_kept(),
                open_executor(
                    executor, training, workers=workers, ray_address=ray_address, on_loss=losses
                ) as evaluations,
            ):
                window = window or evaluations.workers
                directory.agree({**config, "window": window, "threads": threads})
                found = run_proposals(
                    directory,
                    space,
                    limits,
                    data,
                    preset,
                    seed,
                    watcher,
                    evaluations,
                    bands=bands,
                    window=window,
                    asynchronous=asynchronous,
                    # On a cluster a worker may see another disk.
                    checkpoints=executor != "ray",
                )
        else:
            directory.agree({**config, "window": window, "threads": threads})
            if given:
                found = tuple(Proposal(block) for block in given)
            elif directory.has("proposals.json"):
                found = read_proposals(directory)
            else:
                raise UsageError(
                    f"{directory.root}: holds no proposals yet; search them with --stage proposals or give them with "
                    "--proposals"
                )
        networks: tuple[NetworkResult, ...] = ()
        if stage != "proposals":
            blocks = tuple(proposal.block for proposal in found)
            if target_ms is None:
                middle = [blocks[len(blocks) // 2]] * len(later_backbone.sites)
                target_ms = table.network(middle, later_backbone.input_size, later_backbone.classes)
            with threads_kept():
                set_threads(default_threads("local", None))
                networks = run_connections(
                    directory,
                    table,
                    later_backbone,
                    blocks,
                    connections_data or data,
                    target_ms,
                    preset,
                    seed,
                    watcher if is_main() else Silent(),
                    further,
                )
    meta = table.meta
    return SearchResult(
        directory.root,
        meta.mock,
        meta.device_name,
        meta.runtime,
        found,
        networks[0] if networks else None,
        limits,
        table.additivity,
        tuple(sorted(networks, key=lambda network: network.target_ms)),
    )


def _check_reachable(space: BlockSpace, target_ms: float) -> None:
    """Refuse a target that no proposals whatever could meet: the fastest path everywhere, Skip where it can be."""
    table, where = space.table, (space.backbone.input_size, space.backbone.classes)
    fastest = table.path_latencies(*where).min(axis=0) + table.once_latencies(*where)
    needed = [ms for ms, site in zip(fastest, space.backbone.sites, strict=True) if not site.is_residual]
    smallest = space.fixed_ms + float(sum(needed))
    if smallest > target_ms:
        raise InfeasibleLimitError(target_ms, smallest, "network")


def _backbone(table: LatencyTable, source: Source, input_size: int | None) -> Backbone:
    return table.backbone(input_size or source.native_size, source.class_count())
