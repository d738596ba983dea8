"""The plot of a study of connections: an arm a line; accuracy, latency and Skips side by side, a point per seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bpnas.search.studies.connections.summary import ArmSummary, Summary
from bpnas.search.studies.plot import COLOURS, panels, span
from bpnas.search.studies.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FIRST, _SECOND, _THIRD = zip(COLOURS, "os^", strict=False)

_Series = tuple[str, str, tuple[str, str], float]
"""Attribute of a row and of an arm, label, style, scale."""


def study_figure(summary: Summary, title: str) -> Figure:
    """Draw it.

    Args:
        summary: of finished arms.
        title: says what was compared, and whether the table is a mock's.
    """
    contents: list[tuple[str, Sequence[_Series]]] = []
    if any(arm.accuracy for arm in summary.arms):
        contents.append(("accuracy on test images in %", [("accuracy", "", _FIRST, 100.0)]))
    latencies: list[_Series] = [("latency", "derived network", _FIRST, 1.0)]
    if any(arm.argmax for arm in summary.arms):
        latencies += [("argmax", "argmax per site", _SECOND, 1.0), ("expected", "expected", _THIRD, 1.0)]
    contents += [("latency / target", latencies), ("Skips", [("skips", "", _FIRST, 1.0)])]
    height = 1.6 + 0.42 * len(summary.arms)
    figure, axes = panels(len(contents), (4.0 * len(contents) + 1, height), title, same_lines=True)
    for axis, (label, series) in zip(axes, contents, strict=True):
        shown = [1.0] if label.startswith("latency") else []
        for number, (name, legend, (colour, marker), scale) in enumerate(series):
            offset = (number - (len(series) - 1) / 2) * 0.22
            for line, arm in enumerate(summary.arms):
                values = [getattr(row, name) for row in summary.rows if row.arm == arm.arm]
                points = [value * scale for value in values if value is not None]
                shown += points
                axis.plot(points, [line + offset] * len(points), marker, color=colour, alpha=0.35, markersize=4)
                _mark_mean(axis.errorbar, arm, name, line + offset, colour, scale)
            if legend:
                axis.plot([], [], marker, color=colour, label=legend)
        if len(series) > 1:
            axis.legend(fontsize="x-small")
        # Intervals of a few seeds are so wide that they would press everything else flat: they may leave the panel.
        axis.set_xlim(*span(shown, 0.15))
        axis.set_xlabel(label)
        axis.grid(alpha=0.25)
        if label.startswith("latency"):
            axis.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes[0].set_yticks(range(len(summary.arms)), [arm.arm for arm in summary.arms])
    axes[0].invert_yaxis()
    return figure


def _mark_mean(
    errorbar: Callable[..., object], arm: ArmSummary, name: str, line: float, colour: str, scale: float
) -> None:
    interval: Interval | None = getattr(arm, name)
    if interval is None:
        return
    mean = interval.mean * scale
    ends = None
    if interval.low is not None and interval.high is not None:
        ends = [[mean - interval.low * scale], [interval.high * scale - mean]]
    errorbar([mean], [line], xerr=ends, fmt="|", color=colour, markersize=10, capsize=3)
