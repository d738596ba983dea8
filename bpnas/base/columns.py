"""Tables for people: cells in columns, as wide as the terminal at most."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from functools import partial

NARROW = 80
"""Columns of the narrowest terminal that most people use."""

_LEAST_NAME = 20  # characters of a name that stay where it shares its line


def terminal_width() -> int | None:
    """In characters; None where nobody looks at a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def align(
    cells: Sequence[Sequence[str]], sides: str, width: int | None = None, *, whole_names: bool = False
) -> list[str]:
    """Cells as lines of columns.

    Where they do not fit, the first column, where long names are, is shortened; where that is not enough, a name has a
    line of its own, with the rest of its row below; and where that does not fit either, lines are cut.

    Args:
        cells: rows of texts.
        sides: of each column, whether it is aligned left (`<`) or right (`>`).
        width: of the terminal, in characters; None for as much as it takes.
        whole_names: names are no shorter than a line, as people copy them or cannot tell them apart otherwise.
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rest = sum(widths[1:]) + 2 * len(widths[1:])
    lines = []
    if width is not None and widths[0] + rest > width:
        least = widths[0] if whole_names else min(widths[0], _LEAST_NAME)
        if width < least + rest and 2 + rest <= width:
            for name, *others in cells:
                lines += [_cut(name, width), "  " + _joined(others, sides[1:], widths[1:])]
            return lines
        widths[0] = min(widths[0], max(width - rest, _LEAST_NAME))
    for name, *others in cells:
        line = _joined([_cut(name, widths[0]), *others], sides, widths)
        lines.append(line if width is None else _cut(line, width))
    return lines


def wrapped(lines: Iterable[str], width: int | None, indent: str = "") -> list[str]:
    """Lines of words, none longer than `width` unless a single word is; what goes on is indented."""
    if width is None:
        return list(lines)
    as_it_is = partial(textwrap.wrap, width=width, break_long_words=False, break_on_hyphens=False)
    return [
        part for line in lines for part in ([line] if len(line) <= width else as_it_is(line, subsequent_indent=indent))
    ]


def cut_inside(text: str, width: int) -> str:
    """Cut in its middle: a name's beginning has its kind, and its end tells it from others."""
    if len(text) <= width:
        return text
    half = max(width - 3, 0) // 2
    return f"{text[: max(width - 3, 0) - half]}...{text[len(text) - half :]}"


def _joined(cells: Sequence[str], sides: str, widths: Sequence[int]) -> str:
    return "  ".join(f"{c:{side}{w}}" for c, side, w in zip(cells, sides, widths, strict=True)).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
