"""How far predicted latencies are from measured ones, and whether they order networks rightly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy of some predictions; errors and shares are fractions, 0.05 for 5 %.

    Attributes:
        networks: how many were predicted.
        within_5, within_10: share whose error is at most 5 % or 10 % of what was measured.
        mape: mean absolute error, relative to what was measured.
        bias: mean signed error, relative; negative where predictions are too low.
        spearman, kendall: rank correlations (Kendall's tau-b); None where there are fewer than three networks, or all
            predictions or measurements are equal.
    """

    networks: int
    within_5: float
    within_10: float
    mape: float
    bias: float
    spearman: float | None
    kendall: float | None


def accuracy(predicted_ms: Sequence[float], measured_ms: Sequence[float]) -> Accuracy:
    """Compare predictions with what was measured, of the same networks in the same order.

    Raises:
        ValueError: there is none, or the lengths differ.
    """
    import numpy as np

    if not len(measured_ms):
        raise ValueError("no network was measured")
    errors = np.array([p / m - 1 for p, m in zip(predicted_ms, measured_ms, strict=True)])
    spearman = kendall = None
    if len(errors) > 2 and len(set(predicted_ms)) > 1 and len(set(measured_ms)) > 1:
        from scipy import stats

        spearman = float(stats.spearmanr(predicted_ms, measured_ms).statistic)
        kendall = float(stats.kendalltau(predicted_ms, measured_ms).statistic)
    return Accuracy(
        networks=len(errors),
        within_5=float(np.mean(np.abs(errors) <= 0.05)),
        within_10=float(np.mean(np.abs(errors) <= 0.10)),
        mape=float(np.mean(np.abs(errors))),
        bias=float(np.mean(errors)),
        spearman=spearman,
        kendall=kendall,
    )
