"""JSON as bpnas writes it, and nothing else: every key once, numbers of a sensible size, no deep nesting.

Python's own reader takes the last of two equal keys, makes infinity of 1e400, knows NaN, and gives up with an error of
its own kind at some depth. Everything that bpnas reads goes through `parsed`, whoever wrote it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from bpnas.base.plain_text import shortened

_MOST_LEVELS = 64
_LARGEST = 1e25  # of whole numbers; more than any count of nanoseconds, and than any seed


def parsed(content: bytes | str, *, finite: bool = True) -> Any:
    """The value that a text stands for.

    Args:
        finite: without it, all numbers are taken, NaN, Infinity and those of a thousand digits, too: the caller says
            which are right. More than Python reads is infinity.

    Raises:
        ValueError: the text is anything else; the message names the field, where it can.
    """
    try:
        text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
        values = _read(text)
    except RecursionError:
        raise ValueError(f"it {_TOO_DEEP}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no text in UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error.msg} in line {error.lineno}, character {error.colno}") from None
    if (fault := _fault([("", values)], finite, _MOST_LEVELS + 1)) is not None:
        path, what = fault
        place = "".join(reversed(path)).removeprefix(".")
        raise ValueError(f"'{shortened(place)}' {what}" if place and what != _TOO_DEEP else f"it {what}")
    return values


def kind_of(value: Any) -> str:
    """What a value of JSON is, in words, for messages."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return shortened(json.dumps(value[:200] if isinstance(value, str) else value))


_TOO_DEEP = f"is nested more than {_MOST_LEVELS} levels deep"


def _read(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # a key twice, or a number of thousands of digits, which Python does not read
        return _DECODER_OF_LONG_NUMBERS.decode(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for name in values if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"it has the key {shortened(twice, 40)!r} twice")
    return values


def _whole(text: str) -> int | float:
    return int(text) if len(text) < 4000 else math.inf  # which is refused as too large


# Made once: a log has a hundred thousand lines. A hook for every number would take as long as all the rest.
_DECODER = json.JSONDecoder(object_pairs_hook=_once)
_DECODER_OF_LONG_NUMBERS = json.JSONDecoder(object_pairs_hook=_once, parse_int=_whole)


def _fault(parts: Iterable[tuple[str | int, Any]], finite: bool, levels: int) -> tuple[list[str], str] | None:
    """What is wrong with one of these named values or within it, and the names on the way to it, innermost first."""
    if not levels:
        return [], _TOO_DEEP
    for name, value in parts:
        kind = type(value)
        if kind is dict:
            fault = _fault(value.items(), finite, levels - 1)
        elif kind is list:
            fault = _fault(enumerate(value), finite, levels - 1)
        elif kind not in _NUMBERS or -_LARGEST < value < _LARGEST or not finite:
            continue
        elif value != value:
            fault = [], "is NaN, which is no number of JSON"
        elif kind is float and math.isfinite(value):
            continue
        else:
            fault = [], "is too large a number"
        if fault is not None:
            fault[0].append(f"[{name}]" if isinstance(name, int) else f".{name}" if name else "")
            return fault
    return None


_NUMBERS = (int, float)
