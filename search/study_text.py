"""A study's summary in words: what every arm reached, which is better, and what so few seeds cannot tell."""

from __future__ import annotations

from dataclasses import dataclass

from bpnas.search.statistics import Interval, smallest_p
from bpnas.search.study_summary import ArmSummary, Comparison, Measure, Summary

LEVEL = 0.05
"""Below this adjusted p a difference is called one."""

_MEANING: dict[Measure, str] = {
    "found": "best score of the search",
    "anytime": "mean best score so far",
    "test": "winner trained anew, on test images",
}


@dataclass(frozen=True, slots=True)
class Unit:
    """How scores are written.

    Attributes:
        factor: from a score to what is shown.
        digits: behind the point.
        name, difference: of a value, of a difference of two.
    """

    factor: float
    digits: int
    name: str
    difference: str


ACCURACY = Unit(100.0, 1, "accuracy in %", " points")
REGRET = Unit(1.0, 4, "score minus the best feasible score, 0 at best", "")


def summary_lines(summary: Summary, unit: Unit) -> list[str]:
    """The text, line by line."""
    several = summary.seeds > 1
    lines = [
        f"{unit.name[0].upper()}{unit.name[1:]}, mean" + (" (95 % t interval over seeds)" if several else "") + ":"
    ]
    measures: list[Measure] = ["found", "anytime"]
    if any(arm.test for arm in summary.arms):
        measures.append("test")
    rows = [["limit", "arm", *(_MEANING[measure] for measure in measures), "different blocks"]]
    for arm in summary.arms:
        intervals = [_interval(_of(arm, measure), unit) for measure in measures]
        rows.append([f"{arm.limit_ms:g} ms", arm.arm, *intervals, f"{arm.distinct:.1f}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for measure in measures:
        lines.append(f"By the {_MEANING[measure]}:")
        lines += [
            f"  {_where(comparison)}: {sentence(comparison, unit, summary.seeds)}"
            for comparison in summary.comparisons
            if comparison.measure == measure
            and (measure == "found" or summary.limits == 1 or comparison.limit_ms is None)
        ]
    if summary.correlation is not None:
        lines.append(
            f"Rank correlation of the winners' scores in the search and on test images: {summary.correlation:.2f} "
            f"({len(summary.outcomes)} winners)"
        )
    lines += _power(summary)
    return lines


def sentence(comparison: Comparison, unit: Unit, seeds: int) -> str:
    """Which of the two is better, or that it cannot be told."""
    result, difference = comparison.result, comparison.result.difference
    first, second = comparison.first, comparison.second
    if result.p_adjusted >= LEVEL:
        size = f"{_signed(difference.mean, unit)}{unit.difference}"
        return (
            f"no difference between {first} and {second} can be told with {_seeds(seeds)} "
            f"({size}{_bounds(difference, unit, ', 95 % CI ')}, p = {result.p_adjusted:.2g})"
        )
    better, worse, sign = (first, second, 1.0) if difference.mean > 0 else (second, first, -1.0)
    size = f"{_scaled(sign * difference.mean, unit)}{unit.difference}"
    return (
        f"{better} is better than {worse} by {size} "
        f"({_bounds(difference, unit, '95 % CI ', sign)}, p = {result.p_adjusted:.2g}, {_seeds(seeds)})"
    )


def _where(comparison: Comparison) -> str:
    return "all limits together" if comparison.limit_ms is None else f"limit {comparison.limit_ms:g} ms"


def _power(summary: Summary) -> list[str]:
    least = smallest_p(summary.seeds)
    adjusted = min(1.0, least * summary.limits)
    if adjusted < LEVEL or not summary.comparisons:
        return []
    needed = next(count for count in range(2, 64) if smallest_p(count) * summary.limits < LEVEL)
    over = f", {adjusted:.3g} by Holm over {summary.limits} limits" if summary.limits > 1 else ""
    text = (
        f"With {_seeds(summary.seeds)} the exact two-sided sign-flip test cannot give p below {least:.3g}{over}: under "
        f"a single limit no difference can reach p < {LEVEL:g}, however large; that takes {needed} seeds."
    )
    return [text]


def _of(arm: ArmSummary, measure: Measure) -> Interval | None:
    return {"found": arm.found, "anytime": arm.anytime, "test": arm.test}[measure]


def _interval(interval: Interval | None, unit: Unit) -> str:
    if interval is None:
        return "-"
    return _scaled(interval.mean, unit) + _bounds(interval, unit, " (") + (")" if interval.low is not None else "")


def _bounds(interval: Interval, unit: Unit, before: str, sign: float = 1.0) -> str:
    if interval.low is None or interval.high is None:
        return ""
    low, high = sorted((sign * interval.low, sign * interval.high))
    return f"{before}{_scaled(low, unit)} to {_scaled(high, unit)}"


def _scaled(value: float, unit: Unit) -> str:
    return f"{value * unit.factor:.{unit.digits}f}"


def _signed(value: float, unit: Unit) -> str:
    return f"{value * unit.factor:+.{unit.digits}f}"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"
