"""What the stages of a run have cost so far, from the times that its trainings took.

timings.jsonl      a line per candidate or epoch as soon as it is done: stage, images, seconds and GPUs at a time
cost.json          the sums, once a stage has ended

An interrupted run adds up what all its calls have spent, work that had to be done again included; what a killed process
did since its last line is not known. Times depend on the clock, and so are in files of their own: all others are the
same for an interrupted run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bpnas.search.fields import FieldError, Fields, fields_of
from bpnas.search.run_directory import RunDirectory
from bpnas.search.sealed import LINE_REMEDY

_NAME = "timings.jsonl"

STAGES = ("proposals", "connections", "retraining")

PAPER_GPU_HOURS = {"proposals": 3600.0, "connections": 288.0}
"""BP-NAS, results: stage 1 once, and what follows it for each network."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one stage has cost.

    Attributes:
        stage: one of `STAGES`.
        hours: of all its trainings, one after the other; one on several GPUs counts once.
        gpu_hours: the same times the GPUs of each; 0 where there were none, None where an earlier bpnas did not note
            them.
    """

    stage: str
    hours: float
    gpu_hours: float | None


def note_time(directory: RunDirectory, stage: str, images: int, seconds: float, gpus: int, **more: Any) -> None:
    """Keep how long a part of `stage` took: `gpus` of them worked on it together, none on a CPU."""
    directory.append(_NAME, {"stage": stage, **more, "images": images, "seconds": round(seconds, 6), "gpus": gpus})


def spent(directory: RunDirectory) -> tuple[Spent, ...]:
    """The cost of each stage that a run has begun, its further networks included.

    Raises:
        RunError: timings.jsonl is damaged.
    """
    seconds: dict[str, float] = {}
    gpus: dict[str, float | None] = {}
    for place in _places(directory):
        path, row = place.root / _NAME, 0
        with fields_of(lambda: f"{path}: line {row} is no timing", LINE_REMEDY):  # noqa: B023 - called within
            for row, line in enumerate(place.lines(_NAME), start=1):  # noqa: B007 - the text has it
                fields = Fields(line)
                stage, took = fields.text("stage"), fields.number("seconds", 0)
                if stage not in STAGES:
                    raise FieldError(f"'stage' must be one of {', '.join(STAGES)}")
                count = fields.whole("gpus") if fields.has("gpus") else None
                seconds[stage] = seconds.get(stage, 0.0) + took
                before = gpus.get(stage, 0.0)
                gpus[stage] = None if count is None or before is None else before + took * count
    hours = {stage: None if (of_gpus := gpus[stage]) is None else of_gpus / 3600 for stage in seconds}
    return tuple(Spent(stage, seconds[stage] / 3600, hours[stage]) for stage in STAGES if stage in seconds)


def noted(directory: RunDirectory) -> tuple[int, ...]:
    """How much is noted of what the stages cost: as long as it is the same, so is `spent`, which has to read it all."""
    files = (place.root / _NAME for place in _places(directory))
    return tuple(file.stat().st_size for file in files if file.exists())


def _places(directory: RunDirectory) -> list[RunDirectory]:
    """Where times are noted: in a run, and in those of its further networks."""
    further = sorted(path.parent.relative_to(directory.root) for path in directory.root.glob(f"networks/*/{_NAME}"))
    return [directory, *map(directory.below, further)]


def cost_values(cost: Sequence[Spent]) -> dict[str, Any]:
    """For machines, with the paper's beside it."""
    return {"stages": [asdict(each) for each in cost], "paper_gpu_hours": PAPER_GPU_HOURS}


def write_cost(directory: RunDirectory) -> tuple[Spent, ...]:
    """Write cost.json where it is not up to date, and return what it says; of a run without times nothing."""
    cost = spent(directory)
    values = cost_values(cost)
    if cost and not (directory.has("cost.json") and directory.read_json("cost.json") == values):
        directory.write_json("cost.json", values)
    return cost


def cost_lines(cost: Sequence[Spent]) -> list[str]:
    """The same for people; a dash for what is not known."""
    lines = [f"{'Cost':12} {'hours':>9} {'GPU hours':>10} {'the paper, GPU hours':>21}"]
    by_stage = {each.stage: each for each in cost}
    for stage in STAGES:
        each = by_stage.get(stage)
        hours = "-" if each is None else f"{each.hours:.4f}"
        of_gpus = "-" if each is None or each.gpu_hours is None else f"{each.gpu_hours:.4f}"
        paper = f"{PAPER_GPU_HOURS[stage]:,.0f}" if stage in PAPER_GPU_HOURS else "included"
        lines.append(f"  {stage:10} {hours:>9} {of_gpus:>10} {paper:>21}")
    return lines
