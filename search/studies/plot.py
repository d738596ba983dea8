"""What the plots of all studies share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""Okabe and Ito's, told apart by people who see fewer; strokes and markers differ too, for print in grey."""

_DPI = 150


def panels(
    count: int, size: tuple[float, float], title: str, *, same_lines: bool = False
) -> tuple[Figure, Sequence[Any]]:
    """A figure of `count` panels in a row, made with neither a screen nor a global state.

    Args:
        size: width and height in inches.
        title: above all of them.
        same_lines: they share the vertical axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize="medium")
    return figure, figure.subplots(1, count, squeeze=False, sharey=same_lines)[0]


def span(shown: Sequence[float], margin: float) -> tuple[float, float]:
    """Ends of an axis on which `shown` has a margin, as a share of its extent."""
    space = margin * (max(shown) - min(shown)) or 1.0
    return min(shown) - space, max(shown) + space


def png(figure: Figure) -> bytes:
    """The figure as a file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
