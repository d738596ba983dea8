"""The plot of a study: the best score so far over trials, a panel per limit, a line with its band per arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bpnas.search.studies.plot import COLOURS, panels, span
from bpnas.search.studies.proposals.search import StudySearch
from bpnas.search.studies.statistics import mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STROKES = ("-", "--", "-.", ":")
_PANEL_INCHES = 4.2


def study_figure(searches: Sequence[StudySearch], title: str) -> Figure:
    """Draw it.

    Args:
        searches: finished ones, of equal length.
        title: says what was compared, and whether the table is a mock's.
    """
    limits = sorted({search.limit_ms for search in searches})
    arms = list(dict.fromkeys(search.arm.name for search in searches))
    figure, axes = panels(len(limits), (_PANEL_INCHES * max(len(limits), 2), 4.4), title)
    for panel, limit in zip(axes, limits, strict=True):
        shown: list[float] = []
        for name, colour, stroke in zip(arms, COLOURS, _STROKES, strict=False):
            curves = [
                [score * 100 for score in search.curve]
                for search in searches
                if search.limit_ms == limit and search.arm.name == name
            ]
            intervals = [mean_interval(values) for values in zip(*curves, strict=True)]
            trials = range(1, len(intervals) + 1)
            means = [interval.mean for interval in intervals]
            panel.plot(trials, means, color=colour, linestyle=stroke, label=name)
            if len(curves) > 1:
                lows, highs = [i.low for i in intervals], [i.high for i in intervals]
                panel.fill_between(trials, lows, highs, color=colour, alpha=0.15, linewidth=0)
            # The first bands are so wide that they would press everything else flat.
            late = intervals[len(intervals) // 2 :]
            shown += [*means, *(end for i in late for end in (i.low, i.high) if end is not None)]
        panel.set_ylim(*span(shown, 0.05))
        panel.set_title(f"at most {limit:g} ms", fontsize="medium")
        panel.set_xlabel("trials")
        panel.grid(alpha=0.25)
    axes[0].set_ylabel("best accuracy so far in %")
    axes[0].legend(loc="lower right")
    return figure
