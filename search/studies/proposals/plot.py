"""The plot of a study: the best score so far over trials, a panel per limit, a line with its band per arm."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bpnas.search.studies.proposals.search import StudySearch
from bpnas.search.studies.statistics import mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by people who see fewer; the strokes differ too, for print in grey.
_STYLES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))
_PANEL_INCHES = 4.2
_DPI = 150


def study_figure(searches: Sequence[StudySearch], title: str) -> Figure:
    """Draw it, with neither a screen nor a global state.

    Args:
        searches: finished ones, of equal length.
        title: says what was compared, and whether the table is a mock's.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    limits = sorted({search.limit_ms for search in searches})
    arms = list(dict.fromkeys(search.arm.name for search in searches))
    figure = Figure(figsize=(_PANEL_INCHES * max(len(limits), 2), 4.4), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(limits), squeeze=False)[0]
    for panel, limit in zip(panels, limits, strict=True):
        shown: list[float] = []
        for name, (colour, stroke) in zip(arms, _STYLES, strict=False):
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
        margin = 0.05 * (max(shown) - min(shown)) or 1.0
        panel.set_ylim(min(shown) - margin, max(shown) + margin)
        panel.set_title(f"at most {limit:g} ms", fontsize="medium")
        panel.set_xlabel("trials")
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("best accuracy so far in %")
    panels[0].legend(loc="lower right")
    figure.suptitle(title, fontsize="medium")
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
