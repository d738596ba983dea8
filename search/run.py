"""A whole search: block proposals, block connections, retraining, export. It resumes where an earlier call stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bpnas.base.errors import UsageError
from bpnas.profiler.block import Block
from bpnas.search.connections.run import SEARCH_LAYOUT, NetworkResult, default_target, run_connections
from bpnas.search.execution.executor import ExecutorKind, default_threads, open_executor
from bpnas.search.execution.lost_workers import keep_losses
from bpnas.search.fields import Fields, fields_of
from bpnas.search.presets import Preset
from bpnas.search.progress import Progress, Silent
from bpnas.search.proposals.candidate_training import CandidateTraining
from bpnas.search.proposals.run import Proposal, ProposalSearch, read_proposals, run_proposals
from bpnas.search.run_directory import RESTORE_CONFIG, RunDirectory
from bpnas.search.search_plan import Execution, SearchPlan, SearchRequest, Stage, plan_search
from bpnas.search.spent import Spent, noted, spent, write_cost
from bpnas.search.training.distributed import check_batch, from_main, is_main, process_group, world_size
from bpnas.search.training.threads import set_threads, threads_kept

if TYPE_CHECKING:
    from bpnas.tables import LatencyTable


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        directory: where its files are.
        mock: whether the table's latencies are computed, not measured.
        device, runtime: of the table.
        proposals: the best block per limit, in order of the limits; those given by the user have no score.
        network: the final network; None if only proposals were asked for.
        limits_ms: the latency limits of stage 1.
        additivity: the model that the table predicted with.
        networks: that network, and those for further targets, in order of their targets.
        cost: of each stage, over all calls; see `bpnas.search.spent`.
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
    cost: tuple[Spent, ...] = ()


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
    deploy_classes: int | None = None,
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
    """Search a network for the device of `table`, or resume the search in `out`: `plan_search`, then `carry_out`.

    Args:
        table: the latencies, or the file that holds them.
        out: the run directory; see `run_directory`.
        preset: all hyper-parameters, or their name.
        proposals: blocks, as objects or texts, in place of a search for them.
        progress: is told what happens.

    The others are those of `SearchRequest` and of its `Execution`.

    Raises:
        UsageError, InfeasibleLimitError: the request makes no sense or cannot be met; said before anything is trained,
            as far as that can be known.
        TableError, MissingEntryError: the table is damaged or lacks something.
        DataError, DivergedError, SearchError, WorkerLostError, RunError: see `carry_out`.
    """
    from bpnas.tables import LatencyTable

    request = SearchRequest(
        stage=stage,
        preset=Preset.load(preset) if isinstance(preset, str) else preset,
        constraints=tuple(constraints),
        bands=bands,
        target_ms=target_ms,
        targets_ms=tuple(targets_ms),
        data=data,
        connections_data=connections_data,
        input_size=input_size,
        connections_input_size=connections_input_size,
        deploy_classes=deploy_classes,
        proposals=tuple(Block.parse(block) if isinstance(block, str) else block for block in proposals),
        seed=seed,
        execution=Execution(
            executor=executor,
            workers=workers,
            window=window,
            threads=threads,
            asynchronous=asynchronous,
            ray_address=ray_address,
        ),
    )
    loaded = LatencyTable.load(table) if isinstance(table, str | Path) else table
    return carry_out(plan_search(request, loaded), out, progress)


@process_group()
def carry_out(plan: SearchPlan, out: str | Path, progress: Progress | None = None) -> SearchResult:
    """Do what is planned, or what is left of it in `out`.

    Where torchrun started several processes, each calls this with the same plan. They train the supernet and the
    networks together; the first one writes.

    Args:
        plan: what to do.
        out: the run directory; see `run_directory`.
        progress: is told what happens.

    Raises:
        UsageError: it cannot be done under torchrun, or with fewer images in a batch than it started processes.
        DataError: images are missing or damaged.
        DivergedError: a training came to numbers that are not finite. That of a single candidate of stage 1 is a trial.
        SearchError: another process of torchrun has ended.
        WorkerLostError: an evaluation has lost its worker too often.
        RunError: `out` belongs to another search, is in use or is damaged.
        InfeasibleLimitError: no network of the proposals that were found meets a target.
    """
    watcher: Progress = Silent() if progress is None else progress
    directory = RunDirectory(out, SEARCH_LAYOUT, is_main())
    networks: tuple[NetworkResult, ...] = ()
    with directory.locked():
        before = noted(directory)
        plan = _as_begun(plan, directory)
        if plan.limits_from and not directory.has("proposals.json"):
            watcher.note(f"latency limits of the block proposals: {plan.limits_from}")
        if plan.deploy_classes is not None:
            watcher.note(plan.heads)
        _check_batches(plan, directory)
        found = _proposals(plan, directory, watcher)
        if plan.request.stage != "proposals":
            networks = _networks(plan, directory, watcher, tuple(proposal.block for proposal in found))
        changed = noted(directory) != before or directory.has("cost.json")
        cost = write_cost(directory) if changed else spent(directory)
    meta = plan.table.meta
    return SearchResult(
        directory.root,
        meta.mock,
        meta.device_name,
        meta.runtime,
        found,
        networks[0] if networks else None,
        plan.limits_ms,
        plan.table.additivity,
        tuple(sorted(networks, key=lambda network: network.target_ms)),
        cost,
    )


def _as_begun(plan: SearchPlan, directory: RunDirectory) -> SearchPlan:
    """The plan with what an earlier call chose where this one leaves it open: a run keeps the limits it began with.

    A run of an earlier bpnas keeps its strategy, too.
    """
    request, proposals = plan.request, plan.request.preset.proposals
    if not directory.has_begun():
        return plan
    stored = directory.read_json("config.json")
    if stored.get("table_sha256") != plan.table.sha256:
        return plan
    constraints = request.constraints
    with fields_of(f"{directory.root / 'config.json'}: is damaged", RESTORE_CONFIG):
        config = Fields(stored)
        if not constraints and not request.proposals and config.has("constraints_ms"):
            limits = config.items("constraints_ms")
            constraints = tuple(Fields({"constraints_ms": ms}).latency("constraints_ms") for ms in limits)
        earlier = config.part("preset").part("proposals").values if config.has("preset") else {}
    if earlier and not earlier.get("warm_start", False):
        # The strategy of its preset "paper" was the default one, and nothing else could be chosen.
        kept = earlier.get("strategy") == "default" and request.preset.name == "paper"
        proposals = replace(proposals, warm_start=False, strategy="default" if kept else proposals.strategy)
    preset = replace(request.preset, proposals=proposals)
    if (constraints, preset) == (request.constraints, request.preset):
        return plan
    return plan_search(replace(request, constraints=constraints, preset=preset), plan.table)


def _check_batches(plan: SearchPlan, directory: RunDirectory) -> None:
    """Refuse, before anything is trained, what some training of this search would refuse under torchrun."""
    preset = plan.request.preset
    if plan.request.stage == "proposals":
        return
    if not from_main(directory.has("connections.json")):
        check_batch(preset.connections.train.batch, "--connection-batch")
    if plan.further_ms or not from_main(directory.has("network.json")):
        check_batch(preset.retraining.batch, "--retrain-batch")


def _proposals(plan: SearchPlan, directory: RunDirectory, watcher: Progress) -> tuple[Proposal, ...]:
    """Those that are given, or were found earlier, or are found now."""
    request, execution = plan.request, plan.request.execution
    missing = request.stage != "connections" and plan.space is not None and not directory.has("proposals.json")
    if from_main(missing) and world_size() > 1:
        raise UsageError(
            "torchrun's processes train one network together, not many candidates: search the proposals without "
            "it, with --stage proposals --executor processes, then connect them with it, with --stage connections"
        )
    window = execution.window or directory.settled("window")
    threads = execution.threads or directory.settled("threads")
    if missing:
        return _search_proposals(plan, directory, watcher, window, threads)
    directory.agree(plan.config(window, threads))
    if request.proposals:
        return tuple(Proposal(block) for block in request.proposals)
    if directory.has("proposals.json"):
        return read_proposals(directory)
    raise UsageError(
        f"{directory.root}: holds no proposals yet; search them with --stage proposals or give them with --proposals"
    )


def _search_proposals(
    plan: SearchPlan, directory: RunDirectory, watcher: Progress, window: int | None, threads: int | None
) -> tuple[Proposal, ...]:
    request, execution, space = plan.request, plan.request.execution, plan.space
    assert space is not None
    threads = threads or default_threads(execution.executor, execution.workers)
    training = CandidateTraining(
        space.backbone, plan.sources[0].absolute, request.preset.proposals, request.seed, threads
    )
    with (
        threads_kept(),
        open_executor(
            execution.executor,
            training,
            workers=execution.workers,
            ray_address=execution.ray_address,
            on_loss=keep_losses(directory, watcher),
        ) as evaluations,
    ):
        window = window or evaluations.workers
        directory.agree(plan.config(window, threads))
        search = ProposalSearch(
            space,
            plan.limits_ms,
            request.data,
            request.preset.proposals,
            request.seed,
            request.bands,
            window,
            execution.asynchronous,
        )
        # On a cluster a worker may see another disk.
        return run_proposals(search, directory, watcher, evaluations, checkpoints=execution.executor != "ray")


def _networks(
    plan: SearchPlan, directory: RunDirectory, watcher: Progress, blocks: tuple[Block, ...]
) -> tuple[NetworkResult, ...]:
    request, target_ms = plan.request, plan.target_ms
    if target_ms is None:
        target_ms = default_target(plan.table, plan.deployed, blocks)
    with threads_kept():
        set_threads(default_threads("local", None))
        return run_connections(
            directory,
            plan.table,
            plan.backbone,
            blocks,
            request.connections_data or request.data,
            (target_ms, *plan.further_ms),
            request.preset,
            request.seed,
            watcher if is_main() else Silent(),
            plan.deploy_classes,
        )
