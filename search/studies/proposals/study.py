"""A study: searches of several arms under equal terms, in a directory that a killed one goes on from.

Equal terms: the same limits, number of trials, recipe and seeds. A seed gives every arm the same start of its random
numbers and every block the same training, so that a block which one arm has trained is not trained again in another.

config.json        what determines the trainings; a later call must agree with it
evaluations.jsonl  one line per training, appended as soon as it is known
study.csv          one row per trial
summary.json       intervals and comparisons
study.png          the best score so far over trials
"""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bpnas.base.errors import UsageError
from bpnas.base.files import write_atomically
from bpnas.base.randomness import derived_seed
from bpnas.search.data.judged_images import JudgedImages, on_images
from bpnas.search.data.sources import Source
from bpnas.search.errors import InfeasibleLimitError
from bpnas.search.execution.executor import Executor, LocalExecutor
from bpnas.search.execution.lost_workers import keep_losses
from bpnas.search.execution.worker_pool import EvaluatorFactory, Loss
from bpnas.search.presets import Preset, ProposalSettings
from bpnas.search.progress import Progress, Silent
from bpnas.search.proposals.space import BlockSpace
from bpnas.search.run_directory import RunDirectory
from bpnas.search.studies.layout import STUDY_LAYOUT
from bpnas.search.studies.proposals.arms import Arm, Study, proposer
from bpnas.search.studies.proposals.memory import Training, TrainingMemory
from bpnas.search.studies.proposals.search import StudySearch, run_searches
from bpnas.search.studies.proposals.summary import Outcome, Summary, summarise
from bpnas.search.studies.proposals.trainer import StudyTraining
from bpnas.search.training.threads import threads_kept

if TYPE_CHECKING:
    from bpnas.tables import LatencyTable


class OpenExecutor(Protocol):
    """Given what makes an evaluator, and what to tell of lost workers, says where trainings are done."""

    def __call__(self, make: EvaluatorFactory, *, on_loss: Callable[[Loss], None]) -> Executor: ...


def _here(make: EvaluatorFactory, *, on_loss: Callable[[Loss], None]) -> Executor:
    return LocalExecutor(make)


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a study found.

    Attributes:
        directory: where its files lie.
        facts: columns that are the same in every row of study.csv.
        summary: intervals and comparisons.
        trainings: how many the directory holds.
    """

    directory: Path
    facts: dict[str, Any]
    summary: Summary
    trainings: int


def run_study(
    study: Study,
    table: LatencyTable,
    *,
    out: str | Path,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    preset: Preset,
    constraints: Sequence[float] = (),
    data: str = "digits",
    input_size: int | None = None,
    retrain: int = 1,
    executor: OpenExecutor = _here,
    threads: int = 1,
    progress: Progress | None = None,
) -> StudyResult:
    """Run `study`, or go on with the one that `out` holds.

    Args:
        study: the arms.
        table: the latencies.
        out: the directory.
        seeds: one search of every arm under every limit each. More may be asked for later: what was trained is kept.
        preset: its `proposals` are the terms of all searches.
        constraints: latency limits in ms; default the tightest, the middle and the loosest of the preset's.
        data: the images (see `Source`).
        input_size: in pixels; default the images' own size.
        retrain: every winner is trained so often with fresh seeds, by the same recipe, and judged on test images.
        executor: where trainings are done; default in this process, one after the other. A study may go on elsewhere.
        threads: CPU threads of one training.
        progress: is told what happens.

    Raises:
        UsageError, InfeasibleLimitError: the request makes no sense or cannot be met; said before anything is trained.
        TableError, MissingEntryError: the table is damaged or lacks something.
        DataError: images are missing or damaged.
        RunError: `out` belongs to another study or to a search, is in use or is damaged.
        DivergedError: the training of a winner diverged, or that of all candidates of a search; else a candidate that
            diverges is a trial of score 0.
        StuckError: the paper's strategy found no feasible block at all; one that finds no child ends early instead.
    """
    watcher: Progress = Silent() if progress is None else progress
    settings = preset.proposals
    _check_terms(seeds, settings)
    if settings.halving is not None:
        raise UsageError("a study compares candidates that are all trained alike: leave successive halving out")
    if retrain < 0:
        raise UsageError(f"winners cannot be trained {retrain} times")
    source = Source.parse(data)
    backbone = table.backbone(input_size or source.native_size, source.class_count())
    spaces = {
        coding: BlockSpace(table, backbone.input_size, coding, backbone.classes)
        for coding in dict.fromkeys(arm.coding for arm in study.arms)
    }
    limits = _limits(next(iter(spaces.values())), constraints, settings)
    meta = table.meta
    facts = {
        "mock": meta.mock,
        "device": meta.device_name,
        "runtime": meta.runtime,
        "additivity": table.additivity,
        "table_sha256": table.sha256,
        "data": source.kind,
        "input_size": backbone.input_size,
        "preset": preset.name,
    }
    directory = RunDirectory(out, STUDY_LAYOUT)
    with directory.locked():
        directory.agree(
            {
                "bpnas": version("bpnas"),
                "study": study.name,
                **facts,
                "data": source.absolute,
                "constraints_ms": list(limits),
                "proposals": preset.to_dict()["proposals"],
                "test_images": preset.test_images,
                "threads": threads,
            }
        )
        training = StudyTraining(backbone, source.absolute, preset, threads)
        with threads_kept(), executor(training, on_loss=keep_losses(directory, watcher)) as opened:
            memory = TrainingMemory(directory, opened)
            searches = [
                _search(arm, spaces[arm.coding], settings, limit, seed, number)
                for seed in seeds
                for number, limit in enumerate(limits)
                for arm in study.arms
            ]
            images = _Images(memory, source, backbone.input_size)
            run_searches(searches, memory, watcher, images.found)
            tests = _retrain(searches, memory, retrain, watcher, images)
        where = f"{meta.device_name}, {meta.runtime}" + (" (mock: computed, not measured)" if meta.mock else "")
        title = f"{study.name}: {source.kind}, {len(seeds)} seeds, limits by the table of {where}"
        return _conclude(directory, study, searches, facts, tests, title, len(memory), images)


@dataclass(frozen=True, slots=True)
class _Images:
    """Which images the trainings in `memory` are judged on."""

    memory: TrainingMemory
    source: Source
    input_size: int

    def found(self) -> JudgedImages | None:
        """Those of candidates."""
        return JudgedImages.held_out(self.source.absolute, self.memory.judged_on(on_test=False), self.input_size)

    def test(self) -> JudgedImages | None:
        """Those of winners."""
        count = self.memory.judged_on(on_test=True)
        return JudgedImages(self.source.absolute, self.source.test_name(), count, self.input_size) if count else None


def _search(
    arm: Arm, space: BlockSpace, settings: ProposalSettings, limit_ms: float, seed: int, number: int
) -> StudySearch:
    # The same chance for all arms: they begin alike where they draw alike, which makes their difference surer.
    rng = random.Random(derived_seed(seed, "study", number))
    return StudySearch(arm, limit_ms, seed, settings.cycles, space, proposer(arm, space, settings, limit_ms, rng))


def _check_terms(seeds: Sequence[int], settings: ProposalSettings) -> None:
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds {', '.join(map(str, seeds)) or 'none'}: needs one or more, each once")
    if settings.cycles <= settings.population:
        raise UsageError(
            f"cycles must be more than the population of {settings.population}, not {settings.cycles}: what comes "
            "before the first mutation is random in every arm"
        )


def _limits(space: BlockSpace, constraints: Sequence[float], settings: ProposalSettings) -> tuple[float, ...]:
    limits = tuple(sorted({float(limit) for limit in constraints}))
    if not limits:
        from bpnas.search.search_plan import default_limits

        all_limits = default_limits(space, settings.limit_quantiles)
        return tuple(sorted({all_limits[0], all_limits[len(all_limits) // 2], all_limits[-1]}))
    for limit in limits:
        if not 0 < limit < math.inf:
            raise UsageError(f"a latency limit must be positive, not {limit:g} ms")
        feasible = space.feasible(limit)
        if not feasible.size:
            raise InfeasibleLimitError(limit, feasible.smallest_ms)
    return limits


def _retrain(
    searches: Sequence[StudySearch], memory: TrainingMemory, times: int, progress: Progress, images: _Images
) -> list[float | None]:
    """The mean test score of every search's winner; None if they are not trained again."""
    if not times:
        return [None] * len(searches)
    trainings = [
        [
            Training(search.winner.block, derived_seed(search.seed, "study", "retraining", number), on_test=True)
            for number in range(times)
        ]
        for search in searches
    ]
    every = dict.fromkeys(chain.from_iterable(trainings))
    missing = [training for training in every if training not in memory]
    progress.stage("winners on test images", len(every), len(every) - len(missing))
    while missing:
        memory.fetch(missing)
        for training in missing:
            if training in memory:
                progress.step(f"{training.block}: accuracy {memory.score(training):.3f} {on_images(images.test())}")
        missing = [training for training in missing if training not in memory]
    return [sum(map(memory.score, several)) / times for several in trainings]


def _conclude(
    directory: RunDirectory,
    study: Study,
    searches: Sequence[StudySearch],
    facts: Mapping[str, Any],
    tests: Sequence[float | None],
    title: str,
    trainings: int,
    images: _Images,
) -> StudyResult:
    """Write the table, the summary and the plot."""
    from bpnas.search.studies.proposals.plot import png, study_figure

    outcomes = [
        Outcome(
            search.arm.name,
            search.limit_ms,
            search.seed,
            str(search.winner.block),
            search.winner.latency_ms,
            search.winner.score,
            search.anytime,
            test,
            search.distinct,
            search.stuck,
        )
        for search, test in zip(searches, tests, strict=True)
    ]
    tested = any(test is not None for test in tests)
    summary = replace(
        summarise(outcomes, study.pairs), found_on=images.found(), test_on=images.test() if tested else None
    )
    write_atomically(directory.root / "study.csv", _rows(study, searches, facts).encode())
    directory.write_json("summary.json", {"study": study.name, **facts, **asdict(summary)})
    write_atomically(directory.root / "study.png", png(study_figure(searches, title)))
    return StudyResult(directory.root, dict(facts), summary, trainings)


def _rows(study: Study, searches: Sequence[StudySearch], facts: Mapping[str, Any]) -> str:
    """study.csv: a header and a row per trial."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = "study arm seed limit_ms index parent block genotype latency_ms score best_so_far repeat".split()
    writer.writerow([*columns, *facts])
    for search in searches:
        for trial in search.trials:
            of_search = (study.name, search.arm.name, search.seed, search.limit_ms)
            of_trial = (trial.index, trial.parent, trial.block, trial.genotype, trial.latency_ms)
            of_score = (trial.score, trial.best_so_far, trial.repeat)
            writer.writerow([*of_search, *of_trial, *of_score, *facts.values()])
    return text.getvalue()
