"""What a study says: intervals of every arm, paired comparisons, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bpnas.search.data.evaluation_images import EvaluationImages
from bpnas.search.studies.statistics import Interval, PairedComparison, compare_pairs, mean_interval, rank_correlation

Measure = Literal["found", "anytime", "test"]
MEASURES: tuple[Measure, ...] = ("found", "anytime", "test")


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """What one search came to. Higher is better throughout.

    Attributes:
        arm, limit_ms, seed: the search.
        block, latency_ms: of its winner.
        found: the winner's score, the best of many noisy ones and so an optimistic one.
        anytime: the mean of the best score so far over all trials.
        test: the winner's mean score on test images, trained again with other seeds; None if that was not done.
        distinct: how many different blocks were evaluated.
        stuck: it ended early, since its arm found no feasible child; what it had found by then counts.
    """

    arm: str
    limit_ms: float
    seed: int
    block: str
    latency_ms: float
    found: float
    anytime: float
    test: float | None
    distinct: int
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm under one limit, over all seeds."""

    arm: str
    limit_ms: float
    found: Interval
    anytime: Interval
    test: Interval | None
    distinct: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two arms by one measure, paired by seed.

    Attributes:
        limit_ms: under this limit, p adjusted by Holm over the limits; None: all limits together, a pair per limit and
            seed.
    """

    first: str
    second: str
    measure: Measure
    limit_ms: float | None
    result: PairedComparison


@dataclass(frozen=True, slots=True)
class Summary:
    """All of it.

    Attributes:
        arms, comparisons, outcomes: in order of limits.
        seeds, limits: how many.
        correlation: Spearman's, between `found` and `test` of all winners; None where there is none.
        found_on, test_on: the images that `found` and `anytime`, and that `test` are of; None where they are not known.
    """

    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    outcomes: tuple[SearchOutcome, ...]
    seeds: int
    limits: int
    correlation: float | None
    found_on: EvaluationImages | None = None
    test_on: EvaluationImages | None = None


def summarise(outcomes: Sequence[SearchOutcome], pairs: Sequence[tuple[str, str]]) -> Summary:
    """Compare `pairs` of arms; every arm must have an outcome for every limit and seed."""
    limits = tuple(sorted({outcome.limit_ms for outcome in outcomes}))
    seeds = tuple(dict.fromkeys(outcome.seed for outcome in outcomes))
    at = {(outcome.arm, outcome.limit_ms, outcome.seed): outcome for outcome in outcomes}
    arms = tuple(
        _arm_summary([at[arm, limit, seed] for seed in seeds])
        for limit in limits
        for arm in dict.fromkeys(outcome.arm for outcome in outcomes)
    )
    tested = [(outcome.found, outcome.test) for outcome in outcomes if outcome.test is not None]
    comparisons: list[Comparison] = []
    for measure in MEASURES if tested else MEASURES[:2]:
        for first, second in pairs:
            families = [
                [getattr(at[first, limit, seed], measure) - getattr(at[second, limit, seed], measure) for seed in seeds]
                for limit in limits
            ]
            results = compare_pairs(families)
            comparisons += [
                Comparison(first, second, measure, limit, result) for limit, result in zip(limits, results, strict=True)
            ]
            if len(limits) > 1:
                (together,) = compare_pairs([[value for family in families for value in family]])
                comparisons.append(Comparison(first, second, measure, None, together))
    correlation = rank_correlation(*zip(*tested, strict=True)) if tested else None
    return Summary(arms, tuple(comparisons), tuple(outcomes), len(seeds), len(limits), correlation)


def _arm_summary(outcomes: Sequence[SearchOutcome]) -> ArmSummary:
    tests = [outcome.test for outcome in outcomes if outcome.test is not None]
    return ArmSummary(
        outcomes[0].arm,
        outcomes[0].limit_ms,
        mean_interval([outcome.found for outcome in outcomes]),
        mean_interval([outcome.anytime for outcome in outcomes]),
        mean_interval(tests) if tests else None,
        sum(outcome.distinct for outcome in outcomes) / len(outcomes),
    )
