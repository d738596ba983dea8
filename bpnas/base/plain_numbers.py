"""Numbers in texts of others: read only where there is one way to read them.

Python's `float` and `int` take more than a file or a person can mean: `1_000`, digits of other scripts, `nan`, `inf`,
and `1e400`, which becomes infinite.
"""

from __future__ import annotations

import math
import re

from bpnas.base.plain_text import shown

# No `+` and no leading zeros: `010` is eight to some programs and ten to others.
_NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,17}))(?:\.0*)?")  # pandas writes a column with gaps as 112.0


def read_number(text: str) -> float:
    """The number that a text is, as in `1.25`, `-3` or `1e-3`; blanks around it do not count.

    Raises:
        ValueError: it is no plain decimal number, or too large to be one.
    """
    number = float(text) if _NUMBER.fullmatch(text := text.strip(" \t")) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is no plain decimal number")
    return number


def read_whole_number(text: str) -> int:
    """The whole number of at most 18 digits that a text is, as in `112` or `112.0`; blanks around it do not count.

    Raises:
        ValueError: it is none.
    """
    match = _WHOLE.fullmatch(text.strip(" \t"))
    if match is None:
        raise ValueError(f"{shown(text)} is no whole number")
    return int(match[1])
