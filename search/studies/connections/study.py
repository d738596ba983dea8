"""A study of ways to connect blocks: networks of all arms within one latency target.

A seed gives every supernet the same start and every network the same order of images; a network that two arms come to
is trained once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, fields, replace
from functools import partial

from bpnas.base.errors import UsageError
from bpnas.profiler.block import Block
from bpnas.search.connections.run import default_target
from bpnas.search.data.dataset import load_data
from bpnas.search.data.evaluation_images import on_images
from bpnas.search.networks.network_file import block_texts
from bpnas.search.proposals.limits import check_latency_ms
from bpnas.search.run_directory import RunDirectory
from bpnas.search.studies.connections.arms import ConnectionArm, ConnectionStudy
from bpnas.search.studies.connections.paper_figures import paper_figures
from bpnas.search.studies.connections.plot import study_figure
from bpnas.search.studies.connections.summary import NetworkRow, Summary, summarise
from bpnas.search.studies.connections.terms import StudyNetwork, StudyTerms
from bpnas.search.studies.connections.text import paper_lines, summary_lines
from bpnas.search.studies.connections.work import Work
from bpnas.search.studies.study import Findings, StudyRequest, StudyResult, run_study
from bpnas.search.training.threads import set_threads


def run_connections_study(
    design: Callable[[StudyTerms], ConnectionStudy],
    request: StudyRequest,
    *,
    proposals: Sequence[Block],
    target_ms: float | None = None,
) -> StudyResult[Summary]:
    """Run a study, or resume the one that `request.out` holds.

    Args:
        design: the study, given its terms; see `bpnas.search.studies.connections.arms`.
        request: the `connections` and `retraining` of its preset are the recipes.
        proposals: of which the default target is made.
        target_ms: the limit of every network; default the latency of the middle proposal stacked, as in `run_search`.

    Raises:
        UsageError, InfeasibleLimitError: the request makes no sense or cannot be met; said before anything is trained.
        TableError, MissingEntryError: the table is damaged or lacks something.
        DataError, RunError: as of `bpnas.search.studies.study.run_study`.
        DivergedError: a supernet or a network came to numbers that are not finite.
    """
    if not proposals:
        raise UsageError("a study of connections needs block proposals")
    table, backbone, preset = request.table, request.backbone(), request.preset
    if target_ms is None:
        target_ms = default_target(table, backbone, proposals)
    check_latency_ms(target_ms, "latency target")
    terms = StudyTerms(table, backbone, target_ms)
    study = design(terms)
    for arm in study.arms:
        arm.check(terms, request.seeds)

    def run(directory: RunDirectory) -> Findings[Summary]:
        for note in study.notes:
            request.progress.note(note)
        set_threads(request.threads)
        work = Work(directory, terms, load_data(request.data, backbone.input_size, preset.later_images), preset)
        rows = [row for number in range(len(request.seeds)) for row in _rows(study, request, number, work)]
        judged_on = work.images if request.retrain else None
        summary = replace(summarise(rows, study.pairs, study.notes), accuracy_on=judged_on)
        summary = replace(summary, paper=paper_figures(study.name, tuple(arm.name for arm in study.arms)))
        return Findings(
            columns=[column.name for column in fields(NetworkRow)],
            rows=[astuple(row) for row in rows],
            summary=summary,
            lines=[*summary_lines(summary), *paper_lines(summary, table.meta.device_name, table.meta.mock)],
            draw=partial(study_figure, summary),
            trainings=len(work),
            heading=(f"Target T = {target_ms:.4g} ms by table; every network is within it",),
        )

    recipes = preset.to_dict()
    del recipes["connections"]["lambda_below"]  # of an arm
    return run_study(
        request,
        study.name,
        run,
        limits=f"target {target_ms:.4g} ms",
        config={"connections": recipes["connections"], "retraining": recipes["retraining"]},
        facts={"target_ms": target_ms},
    )


def _rows(study: ConnectionStudy, request: StudyRequest, number: int, work: Work) -> Iterator[NetworkRow]:
    """The networks of all arms with seed number `number`."""
    seed, retrain, progress, target_ms = request.seeds[number], request.retrain, request.progress, work.terms.target_ms
    steps = sum(arm.supernets + arm.count * min(retrain, 1) for arm in study.arms)
    progress.stage(f"seed {seed} ({number + 1} of {len(request.seeds)})", steps)
    for arm in study.arms:
        if (searched := arm.search(work, seed)) is not None:
            derived, argmax = searched.network.latency_ms, searched.argmax.latency_ms
            progress.step(f"{arm.name}: derived {derived:.4g} ms, argmax {argmax:.4g} ms, target {target_ms:.4g} ms")
    for arm in study.arms:
        for place, network in enumerate(arm.networks(work, seed)):
            accuracy = None
            if retrain:
                scores = [work.score(network, start) for start in request.retraining_seeds(seed)]
                accuracy = sum(scores) / retrain
                progress.step(
                    f"{arm.name}: {network.latency_ms:.4g} ms, accuracy {accuracy:.3f} {on_images(work.images)}"
                )
            yield _row(arm, seed, place, network, work, accuracy, retrain)


def _row(
    arm: ConnectionArm,
    seed: int,
    number: int,
    network: StudyNetwork,
    work: Work,
    accuracy: float | None,
    trainings: int,
) -> NetworkRow:
    searched, target_ms = arm.search(work, seed), work.terms.target_ms
    return NetworkRow(
        arm=arm.name,
        seed=seed,
        number=number,
        lambda_below=None if searched is None else searched.lambda_below,
        blocks=" ".join(block_texts(network.blocks)),
        sites=len(network.blocks),
        skips=network.skips,
        channels=" ".join(str(stage.channels) for stage in (network.backbone or work.terms.backbone).stages),
        latency_ms=network.latency_ms,
        latency=network.latency_ms / target_ms,
        argmax=None if searched is None else searched.argmax.latency_ms / target_ms,
        argmax_skips=None if searched is None else searched.argmax.skips,
        expected=None if searched is None else searched.expected_latency_ms / target_ms,
        entropy=None if searched is None else searched.entropy,
        accuracy=accuracy,
        trainings=trainings,
    )
