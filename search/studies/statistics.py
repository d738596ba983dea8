"""How sure a comparison of searches is: intervals over seeds, and an exact paired test for few of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
_EXACT_PAIRS = 16
"""Up to this many pairs all 2^n signs are enumerated; above, as many are drawn at random."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % t interval over `count` values; without ends where a single value gives none."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """First minus second, pair by pair.

    Attributes:
        difference: its mean and interval.
        p: of the exact two-sided sign-flip test.
        p_adjusted: the same by Holm over all comparisons of one family.
    """

    difference: Interval
    p: float
    p_adjusted: float


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % t interval of independent values, at least one."""
    from scipy import stats

    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Interval(mean, None, None, count)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of "the differences are as likely negative as positive", by the permutation test on their mean.

    With n pairs it is at least `smallest_p(n)`, however large the differences are.
    """
    import numpy as np
    from scipy import stats

    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or not values.any():
        return 1.0
    exact = len(values) <= _EXACT_PAIRS
    result = stats.permutation_test(
        (values,),
        lambda sample, axis: sample.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf if exact else 2**_EXACT_PAIRS,
        batch=1024,
        random_state=0,
    )
    return float(result.pvalue)


def smallest_p(pairs: int) -> float:
    """The smallest p that `sign_flip_p` can give: both of the 2^n signs that all agree."""
    return min(1.0, 2.0 ** (1 - pairs))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p of each, by Holm's step-down procedure."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def compare_pairs(families: Sequence[Sequence[float]]) -> list[PairedComparison]:
    """Compare each list of paired differences with zero; their p are adjusted for each other."""
    p_values = [sign_flip_p(differences) for differences in families]
    return [
        PairedComparison(mean_interval(differences), p, adjusted)
        for differences, p, adjusted in zip(families, p_values, holm(p_values), strict=True)
    ]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rho; None where one of them does not vary."""
    from scipy import stats

    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(stats.spearmanr(first, second).statistic)
