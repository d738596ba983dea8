"""A study's summary in words: what every arm reached, which is better, and what so few seeds cannot tell."""

from __future__ import annotations

from collections import Counter

from bpnas.base.plurals import counted
from bpnas.search.studies.proposals.summary import Comparison, Measure, Summary
from bpnas.search.studies.report import LEVEL, POINTS, seed_count, table_lines
from bpnas.search.studies.statistics import smallest_p

_MEANING: dict[Measure, str] = {
    "found": "best score of the search",
    "anytime": "mean best score so far",
    "test": "winner trained again, on test images",
}


def summary_lines(summary: Summary) -> list[str]:
    """The text, line by line."""
    lines = ["Accuracy in %, mean" + (" (95 % t interval over seeds)" if summary.seeds > 1 else "") + ":"]
    if summary.found_on is not None:
        winners = "" if summary.test_on is None else f", winners trained again on {summary.test_on}"
        lines.insert(0, f"Searches are evaluated on {summary.found_on}{winners}.")
    measures: list[Measure] = ["found", "anytime"]
    if any(arm.test for arm in summary.arms):
        measures.append("test")
    rows = [["limit", "arm", *(_MEANING[measure] for measure in measures), "different blocks"]]
    for arm in summary.arms:
        intervals = [POINTS.cell(getattr(arm, measure)) for measure in measures]
        rows.append([f"{arm.limit_ms:g} ms", arm.arm, *intervals, f"{arm.distinct:.1f}"])
    lines += table_lines(rows)
    for measure in measures:
        lines.append(f"By the {_MEANING[measure]}:")
        lines += [
            f"  {_where(comparison)}: {sentence(comparison, summary.seeds)}"
            for comparison in summary.comparisons
            if comparison.measure == measure
            and (measure == "found" or summary.limits == 1 or comparison.limit_ms is None)
        ]
    if summary.correlation is not None:
        lines.append(
            f"Rank correlation of the winners' scores in the search and on test images: {summary.correlation:.2f} "
            f"({counted(len(summary.outcomes), 'winner')})"
        )
    lines += _stuck(summary) + _power(summary)
    return lines


def sentence(comparison: Comparison, seeds: int) -> str:
    """Which of the two is better, or that it cannot be told."""
    result, difference = comparison.result, comparison.result.difference
    first, second = comparison.first, comparison.second
    if result.p_adjusted >= LEVEL:
        size = f"{POINTS.signed(difference.mean)} points"
        return (
            f"no difference between {first} and {second} can be told with {seed_count(seeds)} "
            f"({size}{POINTS.ends(difference, ', 95 % CI ')}, p = {result.p_adjusted:.2g})"
        )
    better, worse, sign = (first, second, 1.0) if difference.mean > 0 else (second, first, -1.0)
    size = f"{POINTS.number(sign * difference.mean)} points"
    return (
        f"{better} is better than {worse} by {size} "
        f"({POINTS.ends(difference, '95 % CI ', sign)}, p = {result.p_adjusted:.2g}, {seed_count(seeds)})"
    )


def _where(comparison: Comparison) -> str:
    return "all limits together" if comparison.limit_ms is None else f"limit {comparison.limit_ms:g} ms"


def _stuck(summary: Summary) -> list[str]:
    counts = Counter((outcome.arm, outcome.limit_ms) for outcome in summary.outcomes if outcome.stuck)
    return [
        f"{arm} found no feasible child and ended early in {count} of {summary.seeds} searches under {limit:g} ms: "
        "what it had found by then counts."
        for (arm, limit), count in counts.items()
    ]


def _power(summary: Summary) -> list[str]:
    least = smallest_p(summary.seeds)
    adjusted = min(1.0, least * summary.limits)
    if adjusted < LEVEL or not summary.comparisons:
        return []
    needed = next(count for count in range(2, 64) if smallest_p(count) * summary.limits < LEVEL)
    over = f", {adjusted:.3g} by Holm over {summary.limits} limits" if summary.limits > 1 else ""
    text = (
        f"With {seed_count(summary.seeds)} the exact two-sided sign-flip test cannot give p below {least:.3g}{over}: "
        f"under a single limit no difference can reach p < {LEVEL:g}, however large; that takes {needed} seeds."
    )
    return [text]
