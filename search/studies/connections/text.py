"""The summary of a study of connections in words."""

from __future__ import annotations

from dataclasses import replace

from bpnas.base.plurals import counted
from bpnas.search.studies.connections.paper_figures import LAMBDA_0
from bpnas.search.studies.connections.summary import Comparison, Summary
from bpnas.search.studies.report import LEVEL, POINTS, Unit, seed_count, table_lines
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
_SHARE = Unit()
_UNITS = {"accuracy": POINTS, "best": POINTS, "skips": Unit(digits=1)}


def summary_lines(summary: Summary) -> list[str]:
    """The text, line by line."""
    seeds = seed_count(summary.seeds)
    lines = ["Mean over " + seeds + (" (95 % t interval):" if summary.seeds > 1 else ":")]
    if summary.accuracy_on is not None:
        lines.insert(0, f"Accuracies are on {summary.accuracy_on}.")
    columns = [name for name in _COLUMNS if any(getattr(arm, name) is not None for arm in summary.arms)]
    rows = [["arm", *(_COLUMNS[name] for name in columns)]]
    rows += [[arm.arm, *(_cell(getattr(arm, name), name) for name in columns)] for arm in summary.arms]
    lines += table_lines(rows)
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
            f"With {seeds} and {counted(pairs, 'comparison')} the exact two-sided sign-flip test, by Holm, "
            f"cannot give p below {least:.3g} for all of them, however large the differences are."
        )
    return [*lines, *summary.notes]


def paper_lines(summary: Summary, device: str, mock: bool) -> list[str]:
    """Our figures beside the paper's; none where it has none of these arms."""
    if not summary.paper:
        return []
    rows = [["arm", "ours, %", "ours, ms", "paper, %", "paper, ms"]]
    for figure in summary.paper:
        networks = [row for row in summary.rows if row.arm == figure.arm]
        arm = next(arm for arm in summary.arms if arm.arm == figure.arm)
        latency_ms = sum(row.latency_ms for row in networks) / len(networks)
        accuracy = "-" if arm.accuracy is None else POINTS.number(arm.accuracy.mean)
        rows.append(
            [figure.arm, accuracy, f"{latency_ms:.4g}", POINTS.number(figure.accuracy), f"{figure.latency_ms:.4g}"]
        )
    ours = f"by the table of {device}" + (", mock: computed, not measured" if mock else "")
    lines = [f"Beside the paper's (ours {ours}; the paper's on ImageNet and a Galaxy S9, T = 55 ms):"]
    lines += table_lines(rows)
    return [*lines, LAMBDA_0] if any(figure.arm == "lambda 0" for figure in summary.paper) else lines


def _sentence(comparison: Comparison, seeds: str) -> str:
    unit = _UNITS.get(comparison.measure, _SHARE)
    difference, p = comparison.result.difference, comparison.result.p_adjusted
    size = unit.signed(difference.mean) + (" points" if unit is POINTS else "")
    ends = unit.ends(difference, ", 95 % CI ")
    verdict = "a difference" if p < LEVEL else f"no difference that {seeds} can tell"
    return f"{comparison.first} - {comparison.second}: {size}{ends}, p = {p:.2g}: {verdict}"


def _best_other(summary: Summary) -> list[str]:
    """How the first arm compares with the one that is best by its mean, of those that it was compared with."""
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


def _cell(interval: Interval | None, measure: str) -> str:
    if interval is not None and interval.low == interval.high:
        interval = replace(interval, low=None, high=None)
    return _UNITS.get(measure, _SHARE).cell(interval)
