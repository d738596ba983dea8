"""What a study of connections says: intervals of every arm over seeds, and comparisons paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from bpnas.search.data.evaluation_images import EvaluationImages
from bpnas.search.studies.connections.paper_figures import PaperFigure
from bpnas.search.studies.statistics import Interval, PairedComparison, compare_pairs, mean_interval

Measure = Literal["accuracy", "best", "latency", "argmax", "expected", "skips", "entropy"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
COMPARED: tuple[Measure, ...] = ("accuracy", "latency", "argmax")


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """One network of one arm with one seed: a row of study.csv.

    Attributes:
        arm, seed: whose.
        number: from 0, where an arm has several networks a seed.
        lambda_below: of a searched one.
        blocks: with blanks between.
        sites, skips: how many there are, and how many are left out.
        channels: of the backbone's stages, with blanks between.
        latency_ms: by table; never above the target.
        latency: the same as a share of the target.
        argmax, expected: of the supernet, as shares of the target: the latency of the most probable candidate of every
            site, which no limit holds, and the expectation (Eq. 8).
        argmax_skips: how many sites the most probable candidates leave out.
        entropy: of the candidates' probabilities, in nats, mean over sites.
        accuracy: on test images, 0..1, mean over the trainings.
        trainings: that many.
    """

    arm: str
    seed: int
    number: int
    lambda_below: float | None
    blocks: str
    sites: int
    skips: int
    channels: str
    latency_ms: float
    latency: float
    argmax: float | None
    argmax_skips: int | None
    expected: float | None
    entropy: float | None
    accuracy: float | None
    trainings: int


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm over all seeds, None where it has no such measure.

    Of several networks a seed the mean counts, and in `best` the most accurate one. That is chosen by test images, so
    it is an upper bound of what trying several can give.
    """

    arm: str
    accuracy: Interval | None
    best: Interval | None
    latency: Interval | None
    argmax: Interval | None
    expected: Interval | None
    skips: Interval | None
    entropy: Interval | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """First minus second by one measure, paired by seed; p adjusted by Holm over the pairs of the study."""

    first: str
    second: str
    measure: Measure
    result: PairedComparison


@dataclass(frozen=True, slots=True)
class Summary:
    """All of it.

    Attributes:
        notes: what was left out, and why.
        seeds: how many.
        accuracy_on: the images that the accuracies are of; None without any.
        paper: what the paper's tables say of the arms.
    """

    notes: tuple[str, ...]
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    rows: tuple[NetworkRow, ...]
    seeds: int
    accuracy_on: EvaluationImages | None = None
    paper: tuple[PaperFigure, ...] = ()


def summarise(rows: Sequence[NetworkRow], pairs: Sequence[tuple[str, str]], notes: tuple[str, ...] = ()) -> Summary:
    """Compare `pairs` of arms; every arm must have rows for every seed."""
    seeds = tuple(dict.fromkeys(row.seed for row in rows))
    names = tuple(dict.fromkeys(row.arm for row in rows))
    at = {
        (name, seed): [row for row in rows if row.arm == name and row.seed == seed] for name in names for seed in seeds
    }

    def values(name: str, measure: Measure) -> list[float] | None:
        found = [_value(at[name, seed], measure) for seed in seeds]
        return None if None in found else [value for value in found if value is not None]

    def interval(name: str, measure: Measure) -> Interval | None:
        found = values(name, measure)
        return None if found is None else mean_interval(found)

    arms = tuple(ArmSummary(name, **{measure: interval(name, measure) for measure in MEASURES}) for name in names)
    comparisons: list[Comparison] = []
    for measure in COMPARED:
        both = [(first, second, values(first, measure), values(second, measure)) for first, second in pairs]
        evaluated = [(first, second, x, y) for first, second, x, y in both if x is not None and y is not None]
        results = compare_pairs([[a - b for a, b in zip(x, y, strict=True)] for _, _, x, y in evaluated])
        comparisons += [
            Comparison(first, second, measure, result)
            for (first, second, _, _), result in zip(evaluated, results, strict=True)
        ]
    return Summary(notes, arms, tuple(comparisons), tuple(rows), len(seeds))


def _value(rows: Sequence[NetworkRow], measure: Measure) -> float | None:
    """One arm's value with one seed; None where it has none."""
    if measure == "best":
        accuracies = [row.accuracy for row in rows if row.accuracy is not None]
        return max(accuracies) if len(accuracies) > 1 else None
    found: list[float] = [value for row in rows if (value := getattr(row, measure)) is not None]
    return sum(found) / len(found) if found else None
