"""The summary of a study of stage 2 in words."""

from __future__ import annotations

from bpnas.search.studies.connections.summary import Stage2Comparison, Stage2Summary
from bpnas.search.studies.proposals.text import LEVEL
from bpnas.search.studies.statistics import Interval, smallest_p

_COLUMNS = {
    "accuracy": "accuracy in %",
    "best": "best of several",
    "latency": "latency / T",
    "argmax": "argmax / T",
    "expected": "expected / T",
    "skips": "skips",
    "entropy": "entropy",
}


def stage2_lines(summary: Stage2Summary) -> list[str]:
    """The text, line by line."""
    seeds = f"{summary.seeds} seed{'s' * (summary.seeds != 1)}"
    lines = ["Mean over " + seeds + (" (95 % t interval):" if summary.seeds > 1 else ":")]
    if summary.accuracy_on is not None:
        lines.insert(0, f"Accuracies are on {summary.accuracy_on}.")
    columns = [name for name in _COLUMNS if any(getattr(arm, name) is not None for arm in summary.arms)]
    rows = [["arm", *(_COLUMNS[name] for name in columns)]]
    rows += [[arm.arm, *(_cell(getattr(arm, name), name) for name in columns)] for arm in summary.arms]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    of_accuracy = [comparison for comparison in summary.comparisons if comparison.measure == "accuracy"]
    of_argmax = [comparison for comparison in summary.comparisons if comparison.measure == "argmax"]
    if of_accuracy:
        lines += [
            f"By accuracy on {summary.accuracy_on or 'test images'}:",
            *(f"  {_sentence(each, seeds)}" for each in of_accuracy),
        ]
        lines += _best_other(summary)
    if of_argmax:
        lines += ["By the argmax network's latency / T:", *(f"  {_sentence(each, seeds)}" for each in of_argmax)]
    pairs = max(len(of_accuracy), len(of_argmax))
    least = min(1.0, smallest_p(summary.seeds) * max(pairs, 1))
    if pairs and least >= LEVEL:
        lines.append(
            f"With {seeds} and {pairs} comparison{'s' * (pairs != 1)} the exact two-sided sign-flip test, by Holm, "
            f"cannot give p below {least:.3g} for all of them, however large the differences are."
        )
    return lines


def _sentence(comparison: Stage2Comparison, seeds: str) -> str:
    accuracy = comparison.measure == "accuracy"
    difference, p = comparison.result.difference, comparison.result.p_adjusted
    size = f"{difference.mean * 100:+.1f} points" if accuracy else f"{difference.mean:+.3f}"
    ends = ""
    if difference.low is not None and difference.high is not None:
        scale, digits = (100, 1) if accuracy else (1, 3)
        ends = f", 95 % CI {difference.low * scale:.{digits}f} to {difference.high * scale:.{digits}f}"
    verdict = "a difference" if p < LEVEL else f"no difference that {seeds} can tell"
    return f"{comparison.first} - {comparison.second}: {size}{ends}, p = {p:.2g}: {verdict}"


def _best_other(summary: Stage2Summary) -> list[str]:
    """How the first arm stands against the one that is best by its mean, of those that it was compared with."""
    first = summary.comparisons[0].first
    means = {arm.arm: arm.accuracy.mean for arm in summary.arms if arm.accuracy is not None}
    others = [name for name in means if name != first]
    if len(others) < 2 or first not in means:
        return []
    best = max(others, key=means.__getitem__)
    difference = (means[first] - means[best]) * 100
    return [
        f"Best of the others by its mean: {best}, {means[best] * 100:.1f}; {first} is {difference:+.1f} points from it"
    ]


def _cell(interval: Interval | None, column: str) -> str:
    if interval is None:
        return "-"
    scale, digits = {"accuracy": (100, 1), "best": (100, 1), "skips": (1, 1)}.get(column, (1, 3))
    text = f"{interval.mean * scale:.{digits}f}"
    if interval.low is None or interval.high is None or interval.low == interval.high:
        return text
    return f"{text} ({interval.low * scale:.{digits}f} to {interval.high * scale:.{digits}f})"
