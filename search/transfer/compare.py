"""Runs of one transfer task side by side: networks, seeds, figures and cost, next to the paper's."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpnas.base.errors import UsageError
from bpnas.base.plain_text import shortened
from bpnas.search.fields import FieldError, Fields, fields_of
from bpnas.search.sealed import read_sealed
from bpnas.search.transfer.paper_figures import PAPER_FIGURES

_MOST_HOURS = 1e6


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What result.json of a transfer task says.

    Attributes:
        path: the run's directory.
        task: `detection`, `face` or `reid`.
        network: the model, or the network.json of a searched one, and which weights it started from.
        mock: whether the network's latency is a mock's; None where it has none.
        predicted_latency_ms: None where unknown.
        seed: of the run.
        terms: recipe and data, which runs that are compared have in common.
        figures: 0..1, by name; None where there is nothing to find.
        hours, gpu_hours: None where an earlier bpnas did not note them.
    """

    path: Path
    task: str
    network: str
    mock: bool | None
    predicted_latency_ms: float | None
    seed: int
    terms: dict[str, Any]
    figures: dict[str, float | None]
    hours: float | None
    gpu_hours: float | None

    @classmethod
    def load(cls, path: Path) -> FinishedRun:
        """Read a run directory, or its result.json.

        Raises:
            RunError: it is missing or damaged, or of no transfer task.
        """
        file = path / "result.json" if path.is_dir() else path
        values = read_sealed(file)
        with fields_of(f"{file}: is no result of a transfer task", "name the directory of a finished run"):
            fields = Fields.of(values)
            task = fields.text("task")
            if task not in PAPER_FIGURES:
                raise FieldError(f"'task' must be one of {', '.join(PAPER_FIGURES)}")
            start = fields.text("network") if fields.has("network") else fields.text("model")
            trained = "trained" if fields.has("weights") else "random"
            cost = fields.part("cost") if fields.has("cost") else None
            return cls(
                file.parent,
                task,
                f"{start}, {trained} weights",
                fields.flag("mock") if fields.has("mock") else None,
                fields.latency("predicted_latency_ms") if fields.has("predicted_latency_ms") else None,
                fields.whole("seed", -(2**63)),
                {
                    "data": values.get("data"),
                    **fields.part("recipe" if task == "detection" else "settings").values,
                },
                _figures(task, fields),
                None if cost is None else cost.number("hours", 0, _MOST_HOURS),
                None if cost is None else cost.number("gpu_hours", 0, _MOST_HOURS),
            )


def _figures(task: str, fields: Fields) -> dict[str, float | None]:
    if task == "detection":
        metrics = fields.part("metrics")
        return {name: metrics.share(name) if metrics.has(name) else None for name in ("AP", "AP50", "AP75")}
    if task == "face":
        return {f"Rank-1 of {row.whole('distractors')}": row.share("rate") for row in fields.parts("rank_1")}
    return {"Rank-1": fields.share("rank_1"), "mAP": fields.share("mean_average_precision")}


def compared(paths: Sequence[Path]) -> dict[str, Any]:
    """The runs by network, those of one network over its seeds.

    Returns:
        `task`, `paper` (figures in percent by network, for `metrics`), and `networks`: each with its `network`,
        `seeds`, `mock`, `predicted_latency_ms`, `figures` (name -> `mean`, `std` of its seeds, 0..1; None where
        unknown) and its `hours` and `gpu_hours` of all seeds.

    Raises:
        UsageError: the runs are of several tasks, recipes or data, or one is there twice.
        RunError: see `FinishedRun.load`.
    """
    runs = [FinishedRun.load(path) for path in paths]
    first = runs[0]
    networks: dict[str, list[FinishedRun]] = {}
    for run in runs:
        if run.task != first.task:
            raise UsageError(f"{run.path} is of {run.task} and {first.path} of {first.task}: compare runs of one task")
        if (name := _other(first.terms, run.terms)) is not None:
            raise UsageError(
                f"{run.path} and {first.path} differ in {shortened(name, 60)}: compare runs of one recipe on the same "
                "data"
            )
        known = networks.setdefault(run.network, [])
        if any(run.seed == other.seed for other in known):
            raise UsageError(f"{run.path}: another run of {shortened(run.network)} has the seed {run.seed}, too")
        known.append(run)
    paper = PAPER_FIGURES[first.task]
    return {
        "task": first.task,
        "networks": [_row(name, known) for name, known in networks.items()],
        "paper": {"data": paper.data, "metrics": list(paper.metrics), "rows": paper.rows},
    }


def _other(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """The first field in which they differ."""
    for name in dict.fromkeys((*ours, *theirs)):
        one, other = ours.get(name), theirs.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            if (inner := _other(one, other)) is not None:
                return f"{name}.{inner}"
        elif one != other:
            return name
    return None


def _row(network: str, runs: list[FinishedRun]) -> dict[str, Any]:
    names = dict.fromkeys(name for run in runs for name in run.figures)
    return {
        "network": network,
        "seeds": [run.seed for run in runs],
        "mock": runs[0].mock,
        "predicted_latency_ms": runs[0].predicted_latency_ms,
        "figures": {name: _spread([run.figures.get(name) for run in runs]) for name in names},
        "hours": _total([run.hours for run in runs]),
        "gpu_hours": _total([run.gpu_hours for run in runs]),
    }


def _spread(values: list[float | None]) -> dict[str, float | None]:
    found = [value for value in values if value is not None]
    if len(found) < len(values):
        return {"mean": None, "std": None}
    return {"mean": statistics.mean(found), "std": statistics.stdev(found) if len(found) > 1 else None}


def _total(values: list[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) if len(found) == len(values) else None
