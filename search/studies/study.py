"""A study: several ways to search, its arms, under equal terms, in a directory that a killed one resumes from.

Equal terms: the same latency limits, recipe, images and seeds for all arms. A seed gives every arm the same start of
its random numbers and every training the same weights and order of images, and what two arms come to is trained once.

config.json        what determines the trainings; a later call must agree with it
evaluations.jsonl  one line per trained network, appended as soon as it is known
searches.jsonl     one line per supernet, likewise
study.csv          one row per trial of a search of proposals, or per network
summary.json       intervals and comparisons
study.png          the same as a plot
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from bpnas.base.errors import UsageError
from bpnas.base.files import write_atomically
from bpnas.base.plurals import counted
from bpnas.base.randomness import derived_seed
from bpnas.profiler.backbone import Backbone
from bpnas.search.data.sources import Source
from bpnas.search.presets import Preset
from bpnas.search.progress import Progress, Silent
from bpnas.search.run_directory import Layout, RunDirectory, Stage
from bpnas.search.studies.plot import png
from bpnas.search.training.threads import threads_kept

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from matplotlib.figure import Figure

    from bpnas.tables import LatencyTable


def _of_today(config: dict[str, Any]) -> dict[str, Any]:
    """Without what is of an arm, or of earlier times."""
    proposals = config.get("proposals")
    if not isinstance(proposals, dict):
        return config
    return {**config, "proposals": {k: v for k, v in proposals.items() if k not in NOT_OF_STUDIES}}


NOT_OF_STUDIES = ("limit_quantiles", "coding", "warm_start")
"""Settings of proposals that determine no training of a study: limits are told apart, and arms have the others."""

STUDY_LAYOUT = Layout(("study",), (Stage(("searches.jsonl", "evaluations.jsonl", "study.csv")),), _of_today)


class Arm(Protocol):
    """One way to search; what else is asked of it, its own kind of study knows."""

    @property
    def name(self) -> str:
        """In tables, plots and files."""
        ...


A = TypeVar("A", bound=Arm)
S = TypeVar("S", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Study(Generic[A]):
    """Arms to compare.

    Attributes:
        name: of its command.
        arms: that are run.
        pairs: of names of arms that are evaluated, the one that is hoped to be better first.
        notes: what was left out, and why.
    """

    name: str
    arms: tuple[A, ...]
    pairs: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()

    def only(self, names: tuple[str, ...]) -> Study[A]:
        """The same with these arms only, and the pairs that are then left.

        Raises:
            UsageError: an arm is unknown.
        """
        known = {arm.name for arm in self.arms}
        for name in names:
            if name not in known:
                raise UsageError(f"study {self.name} has no arm {name!r}: its arms are {', '.join(sorted(known))}")
        arms = tuple(arm for arm in self.arms if arm.name in names)
        return Study(self.name, arms, tuple(pair for pair in self.pairs if set(pair) <= set(names)), self.notes)


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """What is asked of any study.

    Attributes:
        table: the latencies.
        out: the directory.
        preset: the recipes; networks are evaluated on its `test_images`.
        seeds: one search of every arm each. More may be asked for later: what was trained is kept.
        data: the images (see `Source`).
        input_size: in pixels; default the images' own size.
        retrain: what a search ends with is trained this many times with fresh seeds and evaluated on test images; 0
            leaves that out.
        threads: CPU threads of one training.
        progress: is told what happens.

    Raises:
        UsageError: seeds or trainings make no sense.
    """

    table: LatencyTable
    out: str | Path
    preset: Preset
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    data: str = "digits"
    input_size: int | None = None
    retrain: int = 1
    threads: int = 1
    progress: Progress = field(default_factory=Silent)

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UsageError(f"seeds {', '.join(map(str, self.seeds)) or 'none'}: needs one or more, each once")
        if self.retrain < 0:
            raise UsageError(f"networks cannot be trained {self.retrain} times")

    @property
    def source(self) -> Source:
        """The images. Raises UsageError if there is no such source."""
        return Source.parse(self.data)

    @property
    def pixels(self) -> int:
        """The input size."""
        return self.input_size or self.source.native_size

    def backbone(self) -> Backbone:
        """Where blocks sit. Raises DataError if the images are missing, TableError if the table lacks their size."""
        return self.table.backbone(self.pixels, self.source.class_count())

    def retraining_seeds(self, seed: int) -> list[int]:
        """Those of the trainings of what the search with `seed` ends with."""
        return [derived_seed(seed, "study", "retraining", number) for number in range(self.retrain)]


@dataclass(frozen=True, slots=True)
class Findings(Generic[S]):
    """What the arms came to.

    Attributes:
        columns, rows: of study.csv, behind the name of the study and in front of what is the same in every row.
        summary: intervals and comparisons.
        lines: the same in words.
        draw: the plot with this title.
        trainings: how many the directory holds, supernets included.
        heading: lines above those of the summary, for people.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    summary: S
    lines: Sequence[str]
    draw: Callable[[str], Figure]
    trainings: int
    heading: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyResult(Generic[S]):
    """What a study found.

    Attributes:
        directory: where its files are.
        values: those of summary.json: name, facts, summary.
        found: what the arms came to.
    """

    directory: Path
    values: dict[str, Any]
    found: Findings[S]


def run_study(
    request: StudyRequest,
    name: str,
    run: Callable[[RunDirectory], Findings[S]],
    *,
    limits: str,
    config: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
) -> StudyResult[S]:
    """Run a study whose request was checked, or resume the one that the directory holds.

    Args:
        name: of the study.
        run: searches and trains in the directory what an earlier call has not.
        limits: under which latency limits, in words.
        config: what determines its trainings, next to what does so in every study.
        facts: columns that are the same in every row, next to those of every study.

    Raises:
        RunError: the directory belongs to another study or to a search, is in use or is damaged.
        DataError: images are missing or damaged.
        DivergedError, StuckError: as of its trainings and searches.
    """
    source, meta, preset = request.source, request.table.meta, request.preset
    facts = {
        "mock": meta.mock,
        "device": meta.device_name,
        "runtime": meta.runtime,
        "additivity": request.table.additivity,
        "table_sha256": request.table.sha256,
        "data": source.kind,
        "input_size": request.pixels,
        "preset": preset.name,
        **(facts or {}),
    }
    # Neither the arms nor the seeds: what is trained under these terms does not depend on them.
    config = {**facts, "data": source.absolute, **config}
    config |= {"test_images": preset.test_images, "threads": request.threads}
    directory = RunDirectory(request.out, STUDY_LAYOUT)
    with directory.locked():
        directory.agree({"bpnas": version("bpnas"), "study": name, **config})
        with threads_kept():
            found = run(directory)
        values = {"study": name, **facts, **asdict(found.summary)}
        where = f"{meta.device_name}, {meta.runtime}" + (" (mock: computed, not measured)" if meta.mock else "")
        title = f"{name}: {source.kind}, {counted(len(request.seeds), 'seed')}, {limits} by the table of {where}"
        write_atomically(directory.root / "study.csv", _table(name, found, facts))
        directory.write_json("summary.json", values)
        write_atomically(directory.root / "study.png", png(found.draw(title)))
    return StudyResult(directory.root, values, found)


def _table(name: str, found: Findings[S], facts: Mapping[str, Any]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["study", *found.columns, *facts])
    writer.writerows([name, *row, *facts.values()] for row in found.rows)
    return text.getvalue().encode()
