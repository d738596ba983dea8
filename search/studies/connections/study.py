"""A study of stage 2: ways to connect blocks, under equal terms, in a directory that a killed one goes on from.

Equal terms: the same limit by table, recipe, images and seeds. A seed gives every supernet the same start and every
network the same order of images; a network that two arms come to is trained once.

config.json        what determines the trainings; a later call must agree with it
searches.jsonl     one line per supernet, appended as soon as it is known
evaluations.jsonl  one line per trained network, likewise
study.csv          one row per network
summary.json       intervals and comparisons
study.png          accuracy, latency and Skips of every arm
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.base.errors import UsageError
from bpnas.base.files import write_atomically
from bpnas.base.randomness import derived_seed
from bpnas.profiler.block import Block
from bpnas.search.connections.latency_loss import LatencyLoss
from bpnas.search.connections.run import check_target
from bpnas.search.data.dataset import Dataset, load_data
from bpnas.search.data.judged_images import on_images
from bpnas.search.data.sources import Source
from bpnas.search.presets import Preset
from bpnas.search.progress import Progress, Silent
from bpnas.search.run_directory import RunDirectory
from bpnas.search.studies.connections.arms import (
    FixedArm,
    Network,
    RandomArm,
    SearchedArm,
    Stage2Arm,
    Stage2Study,
    Terms,
    random_networks,
)
from bpnas.search.studies.connections.memory import Searched, Stage2Work
from bpnas.search.studies.connections.summary import NetworkRow, Stage2Summary, summarise_stage2
from bpnas.search.studies.layout import STUDY_LAYOUT
from bpnas.search.training.threads import set_threads, threads_kept

if TYPE_CHECKING:
    from bpnas.tables import LatencyTable


@dataclass(frozen=True, slots=True)
class Stage2Result:
    """What a study found.

    Attributes:
        directory: where its files lie.
        facts: columns that are the same in every row of study.csv.
        summary: intervals and comparisons.
        notes: what was left out, and why.
        trainings: how many the directory holds, supernets included.
    """

    directory: Path
    facts: dict[str, Any]
    summary: Stage2Summary
    notes: tuple[str, ...]
    trainings: int


def run_stage2_study(
    design: Callable[[Terms], Stage2Study],
    table: LatencyTable,
    *,
    out: str | Path,
    proposals: Sequence[Block],
    target_ms: float | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    preset: Preset,
    data: str = "digits",
    input_size: int | None = None,
    retrain: int = 1,
    threads: int = 1,
    progress: Progress | None = None,
) -> Stage2Result:
    """Run a study, or go on with the one that `out` holds.

    Args:
        design: the study, given its terms; see `stage2_arms`.
        table: the latencies.
        out: the directory.
        proposals: of which the default target is made.
        target_ms: the limit of every network; default the latency of the middle proposal stacked, as in `run_search`.
        seeds: one search of every arm each. More may be asked for later: what was trained is kept.
        preset: its `connections` and `retraining` are the recipes; its `test_images` judge.
        data: the images (see `Source`).
        input_size: in pixels; default the images' own size.
        retrain: every network is trained so often with fresh seeds; 0 leaves accuracies out.
        threads: CPU threads of a training.
        progress: is told what happens.

    Raises:
        UsageError, InfeasibleLimitError: the request makes no sense or cannot be met; said before anything is trained.
        TableError, MissingEntryError: the table is damaged or lacks something.
        DataError: images are missing or damaged.
        RunError: `out` belongs to another study or to a search, is in use or is damaged.
        DivergedError: a supernet or a network came to numbers that are not finite.
    """
    watcher: Progress = Silent() if progress is None else progress
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds {', '.join(map(str, seeds)) or 'none'}: needs one or more, each once")
    if retrain < 0:
        raise UsageError(f"networks cannot be trained {retrain} times")
    if not proposals:
        raise UsageError("a study of connections needs block proposals")
    source = Source.parse(data)
    backbone = table.backbone(input_size or source.native_size, source.class_count())
    if target_ms is None:
        middle = [proposals[len(proposals) // 2]] * len(backbone.sites)
        target_ms = table.network(middle, backbone.input_size, backbone.classes)
    LatencyLoss(target_ms)  # refuses what is no latency
    terms = Terms(table, backbone, target_ms)
    study = design(terms)
    given: dict[tuple[str, int], tuple[Network, ...]] = {}
    for arm in study.arms:
        if isinstance(arm, SearchedArm):
            LatencyLoss(target_ms, arm.lambda_below)
        if not isinstance(arm, FixedArm):
            check_target(table, backbone, arm.proposals, target_ms)
        if isinstance(arm, RandomArm):
            given |= {(arm.name, seed): random_networks(terms, arm, seed) for seed in seeds}
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
        "target_ms": target_ms,
    }
    directory = RunDirectory(out, STUDY_LAYOUT)
    with directory.locked():
        # Neither the arms nor how many networks: what is trained under these terms does not depend on them.
        config = {
            "bpnas": version("bpnas"),
            "study": study.name,
            **facts,
            "data": source.absolute,
            "connections": preset.to_dict()["connections"],
            "retraining": preset.to_dict()["retraining"],
            "test_images": preset.test_images,
            "threads": threads,
        }
        del config["connections"]["lambda_below"]  # of an arm
        directory.agree(config)
        for note in study.notes:
            watcher.note(note)
        with threads_kept():
            set_threads(threads)
            work = Stage2Work(directory, terms, _images(data, backbone.input_size, preset), preset)
            rows = [
                row
                for seed in seeds
                for row in _rows_of(study, seed, seeds.index(seed), len(seeds), given, work, terms, retrain, watcher)
            ]
        summary = replace(summarise_stage2(rows, study.pairs), accuracy_on=work.images if retrain else None)
        where = f"{meta.device_name}, {meta.runtime}" + (" (mock: computed, not measured)" if meta.mock else "")
        title = f"{study.name}: {source.kind}, {len(seeds)} seeds, target {target_ms:.4g} ms by the table of {where}"
        _write(directory, study, summary, facts, title)
        return Stage2Result(directory.root, facts, summary, study.notes, len(work))


def _images(data: str, input_size: int, preset: Preset) -> Dataset:
    wanted = (preset.connections.train.train_images, preset.retraining.train_images)
    return load_data(data, input_size, None if None in wanted else max(n for n in wanted if n is not None))


def _rows_of(
    study: Stage2Study,
    seed: int,
    number: int,
    seeds: int,
    given: dict[tuple[str, int], tuple[Network, ...]],
    work: Stage2Work,
    terms: Terms,
    retrain: int,
    progress: Progress,
) -> list[NetworkRow]:
    """All arms with one seed."""
    searched = [arm for arm in study.arms if isinstance(arm, SearchedArm)]
    count = len(study.arms) - len(searched) + sum(arm.count - 1 for arm in study.arms if isinstance(arm, RandomArm))
    progress.stage(f"seed {seed} ({number + 1} of {seeds})", len(searched) + (len(searched) + count) * min(retrain, 1))
    found: dict[str, Searched] = {}
    for supernet in searched:
        one = found[supernet.name] = work.search(supernet, seed)
        progress.step(
            f"{supernet.name}: derived {one.network.latency_ms:.4g} ms, argmax {one.argmax.latency_ms:.4g} ms, target "
            f"{terms.target_ms:.4g} ms"
        )
    rows = []
    for arm in study.arms:
        for place, network in enumerate(_networks(arm, seed, found, given)):
            accuracy = None
            if retrain:
                starts = [derived_seed(seed, "study", "retraining", again) for again in range(retrain)]
                accuracy = sum(work.score(network, start) for start in starts) / retrain
                progress.step(
                    f"{arm.name}: {network.latency_ms:.4g} ms, accuracy {accuracy:.3f} {on_images(work.images)}"
                )
            rows.append(_row(arm, seed, place, network, found.get(arm.name), terms, accuracy, retrain))
    return rows


def _networks(
    arm: Stage2Arm, seed: int, found: dict[str, Searched], given: dict[tuple[str, int], tuple[Network, ...]]
) -> tuple[Network, ...]:
    if isinstance(arm, SearchedArm):
        return (found[arm.name].network,)
    return (arm.network,) if isinstance(arm, FixedArm) else given[arm.name, seed]


def _row(
    arm: Stage2Arm,
    seed: int,
    number: int,
    network: Network,
    searched: Searched | None,
    terms: Terms,
    accuracy: float | None,
    trainings: int,
) -> NetworkRow:
    stages = (network.backbone or terms.backbone).stages
    return NetworkRow(
        arm=arm.name,
        seed=seed,
        number=number,
        lambda_below=arm.lambda_below if isinstance(arm, SearchedArm) else None,
        blocks=" ".join("skip" if block is None else str(block) for block in network.blocks),
        sites=len(network.blocks),
        skips=network.skips,
        channels=" ".join(str(stage.channels) for stage in stages),
        latency_ms=network.latency_ms,
        latency=network.latency_ms / terms.target_ms,
        argmax=None if searched is None else searched.argmax.latency_ms / terms.target_ms,
        argmax_skips=None if searched is None else searched.argmax.skips,
        expected=None if searched is None else searched.expected_latency_ms / terms.target_ms,
        entropy=None if searched is None else searched.entropy,
        accuracy=accuracy,
        trainings=trainings,
    )


def _write(
    directory: RunDirectory, study: Stage2Study, summary: Stage2Summary, facts: dict[str, Any], title: str
) -> None:
    """The table, the summary and the plot."""
    from bpnas.search.studies.connections.plot import stage2_figure
    from bpnas.search.studies.proposals.plot import png

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["study", *(column.name for column in fields(NetworkRow)), *facts])
    writer.writerows([study.name, *astuple(row), *facts.values()] for row in summary.rows)
    write_atomically(directory.root / "study.csv", text.getvalue().encode())
    directory.write_json("summary.json", {"study": study.name, **facts, "notes": list(study.notes), **asdict(summary)})
    write_atomically(directory.root / "study.png", png(stage2_figure(summary, title)))
