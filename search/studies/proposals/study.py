"""A study of ways to propose blocks: searches of all arms under several latency limits.

A seed gives every arm the same start of its random numbers and every block the same training, so that a block which
one arm has trained is not trained again in another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Protocol

from bpnas.base.errors import UsageError
from bpnas.base.randomness import derived_seed
from bpnas.profiler.block import Block
from bpnas.search.data.evaluation_images import on_images
from bpnas.search.execution.executor import Executor, open_executor
from bpnas.search.execution.lost_workers import keep_losses
from bpnas.search.execution.worker_pool import EvaluatorFactory, LostWorker
from bpnas.search.presets import ProposalSettings
from bpnas.search.proposals.limits import default_limits, feasible_limits
from bpnas.search.proposals.run import Proposal
from bpnas.search.proposals.space import BlockSpace
from bpnas.search.run_directory import RunDirectory
from bpnas.search.studies.proposals.arms import ProposalArm
from bpnas.search.studies.proposals.memory import NetworkTraining, TrainingMemory
from bpnas.search.studies.proposals.plot import study_figure
from bpnas.search.studies.proposals.search import StudySearch, StudyTrial, run_searches
from bpnas.search.studies.proposals.summary import Summary, summarise
from bpnas.search.studies.proposals.text import summary_lines
from bpnas.search.studies.proposals.trainer import StudyTraining
from bpnas.search.studies.study import NOT_OF_STUDIES, Findings, Study, StudyRequest, StudyResult, run_study

_COLUMNS = "arm seed limit_ms index parent block genotype latency_ms score best_so_far repeat".split()


class OpenExecutor(Protocol):
    """Given what makes an evaluator, and what to tell of lost workers, says where trainings are done."""

    def __call__(self, make: EvaluatorFactory, *, on_loss: Callable[[LostWorker], None]) -> Executor: ...


_HERE: OpenExecutor = partial(open_executor, "local")


def run_proposals_study(
    study: Study[ProposalArm],
    request: StudyRequest,
    *,
    constraints: Sequence[float] = (),
    executor: OpenExecutor = _HERE,
) -> StudyResult[Summary]:
    """Run `study`, or resume the one that `request.out` holds.

    Args:
        study: the arms.
        request: the `proposals` of its preset are the terms of all searches, and the recipe of winners too.
        constraints: latency limits in ms; default the tightest, the middle and the loosest of `default_limits`.
        executor: where trainings are done; default in this process, one after the other. A study may be resumed
            elsewhere.

    Raises:
        UsageError, InfeasibleLimitError: the request makes no sense or cannot be met; said before anything is trained.
        TableError, MissingEntryError: the table is damaged or lacks something.
        DataError, RunError: as of `bpnas.search.studies.study.run_study`.
        DivergedError: the training of a winner diverged, or that of all candidates of a search; else a candidate that
            diverges is a trial of score 0.
        StuckError: the paper's strategy found no feasible block at all; one that finds no child ends early instead.
    """
    settings = request.preset.proposals
    if settings.cycles <= settings.population:
        raise UsageError(
            f"cycles must be more than the population of {settings.population}, not {settings.cycles}: what comes "
            "before the first mutation is random in every arm"
        )
    if settings.halving is not None:
        raise UsageError("a study compares candidates that are all trained alike: leave successive halving out")
    backbone = request.backbone()
    spaces = {
        coding: BlockSpace(request.table, backbone.input_size, coding, backbone.classes)
        for coding in dict.fromkeys(arm.coding for arm in study.arms)
    }
    space = next(iter(spaces.values()))
    limits = feasible_limits(space, tuple(constraints) or _three_limits(space))

    def run(directory: RunDirectory) -> Findings[Summary]:
        training = StudyTraining(backbone, request.source.absolute, request.preset, request.threads)
        with executor(training, on_loss=keep_losses(directory, request.progress)) as opened:
            memory = TrainingMemory(directory, opened, request.source, backbone.input_size)
            searches = [
                _search(arm, spaces[arm.coding], settings, limit, seed, number)
                for seed in request.seeds
                for number, limit in enumerate(limits)
                for arm in study.arms
            ]
            found = _findings(study, searches, memory, request)
            _hand_on(directory, searches, request, memory)
            return found

    recipe = {k: v for k, v in request.preset.to_dict()["proposals"].items() if k not in NOT_OF_STUDIES}
    config = {"constraints_ms": list(limits), "proposals": recipe}
    return run_study(request, study.name, run, limits="limits", config=config)


def _three_limits(space: BlockSpace) -> tuple[float, ...]:
    limits = default_limits(space).limits_ms
    return limits[0], limits[len(limits) // 2], limits[-1]


def _search(
    arm: ProposalArm, space: BlockSpace, settings: ProposalSettings, limit_ms: float, seed: int, number: int
) -> StudySearch:
    # The same chance for all arms: they begin alike where they draw alike, which makes their difference surer.
    rng = random.Random(derived_seed(seed, "study", number))
    proposer = arm.proposer(space, settings, limit_ms, rng)
    return StudySearch(arm, limit_ms, seed, settings.cycles, space, proposer)


def _findings(
    study: Study[ProposalArm], searches: Sequence[StudySearch], memory: TrainingMemory, request: StudyRequest
) -> Findings[Summary]:
    """Run the searches, train their winners again, compare."""
    run_searches(searches, memory, request.progress)
    tests = _retrain(searches, memory, request)
    outcomes = [search.outcome(test) for search, test in zip(searches, tests, strict=True)]
    found_on, test_on = memory.images(on_test=False), memory.images(on_test=True) if request.retrain else None
    summary = replace(summarise(outcomes, study.pairs), found_on=found_on, test_on=test_on)
    rows = [_row(search, trial) for search in searches for trial in search.trials]
    lines = summary_lines(summary)
    return Findings(_COLUMNS, rows, summary, lines, partial(study_figure, searches), len(memory.done))


def _hand_on(
    directory: RunDirectory, searches: Sequence[StudySearch], request: StudyRequest, memory: TrainingMemory
) -> None:
    """Write each arm's winners of a seed as block proposals, for stage 2: the best of each limit, no block twice."""
    meta, images = request.table.meta, memory.images(on_test=False)
    found: dict[str, dict[Block, Proposal]] = {}
    for search in searches:
        winner = search.winner
        proposals = found.setdefault(handed_on(search.arm.name, search.seed), {})
        proposal = Proposal(winner.block, search.limit_ms, winner.latency_ms, winner.score, images)
        proposals.setdefault(winner.block, proposal)
    (directory.root / "proposals").mkdir(exist_ok=True)
    for name, proposals in found.items():
        facts = {"mock": meta.mock, "device": meta.device_name, "runtime": meta.runtime}
        facts["table_sha256"] = request.table.sha256
        listed = [proposal.values() for proposal in proposals.values()]
        directory.write_json(name, {**facts, "data": request.data, "proposals": listed})


def handed_on(arm: str, seed: int) -> str:
    """The file of an arm's winners, in the directory of a study."""
    return f"proposals/{arm}-seed{seed}.json"


def _retrain(searches: Sequence[StudySearch], memory: TrainingMemory, request: StudyRequest) -> list[float | None]:
    """The mean test score of every search's winner; None if they are not trained again."""
    if not request.retrain:
        return [None] * len(searches)
    trainings = [
        [NetworkTraining(search.winner.block, seed, on_test=True) for seed in request.retraining_seeds(search.seed)]
        for search in searches
    ]
    every = dict.fromkeys(chain.from_iterable(trainings))
    missing = [training for training in every if training not in memory.done]
    request.progress.stage("winners on test images", len(every), len(every) - len(missing))
    while missing:
        memory.fetch(missing)
        for training in missing:
            if training in memory.done:
                score = memory.done[training].score
                where = on_images(memory.images(on_test=True))
                request.progress.step(f"{training.block}: accuracy {score:.3f} {where}")
        missing = [training for training in missing if training not in memory.done]
    return [sum(memory.done[training].score for training in several) / request.retrain for several in trainings]


def _row(search: StudySearch, trial: StudyTrial) -> tuple[Any, ...]:
    of_search = (search.arm.name, search.seed, search.limit_ms)
    of_trial = (trial.index, trial.parent, trial.block, trial.genotype, trial.latency_ms)
    return (*of_search, *of_trial, trial.score, trial.best_so_far, trial.repeat)
