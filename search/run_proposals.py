"""Stage 1 in a run directory: LEvoNAS once per latency limit. BP-NAS, block proposal search."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bpnas.profiler.block import Block, BlockError
from bpnas.search.chance import derived_seed
from bpnas.search.data import load_data
from bpnas.search.errors import RunError
from bpnas.search.evaluate import CandidateEvaluator
from bpnas.search.evolution import Trial
from bpnas.search.levonas import levonas
from bpnas.search.presets import Preset
from bpnas.search.progress import Progress
from bpnas.search.run_directory import RunDirectory
from bpnas.search.space import BlockSpace


@dataclass(frozen=True, slots=True)
class Proposal:
    """A block that stage 2 may put at every site.

    Attributes:
        block: the block.
        limit_ms: the limit it was searched under; None if the user gave it.
        latency_ms: of the network that has it at every site.
        score: its accuracy in stage 1.
    """

    block: Block
    limit_ms: float | None = None
    latency_ms: float | None = None
    score: float | None = None


def run_proposals(
    directory: RunDirectory,
    space: BlockSpace,
    limits_ms: Sequence[float],
    data: str,
    preset: Preset,
    seed: int,
    progress: Progress,
) -> tuple[Proposal, ...]:
    """The most accurate block found under each limit; every trial is on the disk before the next one starts.

    A later call replays the trials that are there and goes on behind them: chance depends on the seed and the number
    of the limit alone.
    """
    settings = preset.proposals
    recorded = _recorded(directory, limits_ms)
    progress.stage("block proposals", settings.cycles * len(limits_ms), sum(map(len, recorded)))
    known = {space.block(trial.genotype): trial.score for trials in recorded for trial in trials}
    dataset = load_data(data, space.backbone.input_size, settings.train.train_images)
    evaluator = CandidateEvaluator(space.backbone, dataset, settings, seed)
    images, seconds = 0, 0.0

    def evaluate(code: int) -> float:
        nonlocal images, seconds
        block = space.block(code)
        if block not in known:
            evaluation = evaluator(block)
            known[block] = evaluation.score
            images += evaluation.images
            seconds += evaluation.seconds
        return known[block]

    proposals = []
    for number, (limit, history) in enumerate(zip(limits_ms, recorded, strict=True)):
        trials = levonas(
            space,
            evaluate,
            limit_ms=limit,
            population=settings.population,
            sample=settings.sample,
            cycles=settings.cycles,
            rng=random.Random(derived_seed(seed, "levonas", number)),
            strategy=settings.strategy,
            history=history,
        )
        done = list(islice(trials, len(history)))
        for trial in trials:
            block = space.block(trial.genotype)
            directory.append("trials.jsonl", _line(number, limit, trial, block))
            progress.step(f"limit {limit:g} ms: {block}, {trial.latency_ms:.4g} ms, accuracy {trial.score:.3f}")
            done.append(trial)
        # Few validation images make many equals: of these the faster one is worth more.
        best = max(done, key=lambda trial: (trial.score, -trial.latency_ms))
        proposals.append(Proposal(space.block(best.genotype), limit, best.latency_ms, best.score))
    if seconds:
        directory.append("timings.jsonl", {"stage": "proposals", "images": images, "seconds": seconds})
    meta = space.table.meta
    directory.write_json(
        "proposals.json",
        {
            "mock": meta.mock,
            "device": meta.device_name,
            "runtime": meta.runtime,
            "table_sha256": space.table.sha256,
            "additivity": space.table.additivity,
            "backbone": space.backbone.to_dict(),
            "data": data,
            "seed": seed,
            "proposals": [
                {"block": str(p.block), "limit_ms": p.limit_ms, "latency_ms": p.latency_ms, "score": p.score}
                for p in proposals
            ],
        },
    )
    return tuple(proposals)


def read_proposals(directory: RunDirectory) -> tuple[Proposal, ...]:
    """What `run_proposals` wrote.

    Raises:
        RunError: the file is damaged.
    """
    return parse_proposals(directory.read_json("proposals.json"), str(directory.root / "proposals.json"))


def parse_proposals(values: Any, name: str) -> tuple[Proposal, ...]:
    """The proposals in the content of a proposals.json.

    Raises:
        RunError: it is damaged.
    """
    try:
        found = tuple(
            Proposal(Block.parse(entry["block"]), entry["limit_ms"], entry["latency_ms"], entry["score"])
            for entry in values["proposals"]
        )
    except (AttributeError, KeyError, TypeError, BlockError) as error:
        raise RunError(f"{name}: holds no block proposals ({error})") from error
    if not found:
        raise RunError(f"{name}: holds no block proposals")
    return found


def _line(number: int, limit_ms: float, trial: Trial[int], block: Block) -> dict[str, Any]:
    # Nothing that depends on the clock, so that an interrupted run ends with the same file as an undisturbed one.
    return {
        "limit": number,
        "limit_ms": limit_ms,
        "index": trial.index,
        "genotype": trial.genotype,
        "block": str(block),
        "latency_ms": trial.latency_ms,
        "score": trial.score,
        "parent": trial.parent,
    }


def _recorded(directory: RunDirectory, limits_ms: Sequence[float]) -> list[list[Trial[int]]]:
    """The trials on the disk, one list per limit."""
    path = directory.root / "trials.jsonl"
    recorded: list[list[Trial[int]]] = [[] for _ in limits_ms]
    for row, line in enumerate(directory.lines("trials.jsonl"), start=1):
        try:
            latency_ms, score = float(line["latency_ms"]), float(line["score"])
            trial = Trial(int(line["index"]), int(line["genotype"]), latency_ms, score, line["parent"])
            trials = recorded[line["limit"]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RunError(f"{path}: line {row} is no trial of this run ({error})") from error
        if trial.index != len(trials):
            raise RunError(f"{path}: line {row} is trial {trial.index}, but {len(trials)} should follow")
        trials.append(trial)
    return recorded
