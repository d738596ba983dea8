"""Text of others: as a terminal may have it, shown and never obeyed; as a message has it; as a file has it."""

from __future__ import annotations

import reprlib


def as_text(text: str) -> str:
    r"""`text` with every character written out that is neither printable nor the end of a line or a tab: the escape
    character as `\x1b`, a change of direction as `\u202e`, a byte that is no UTF-8 as `\udce4`.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)


def printable(text: str | bytes, limit: int = 200) -> str:
    """What somebody else said, fit for a message: one line, no control characters, cut after `limit` characters."""
    if isinstance(text, bytes):
        text = text[: limit * 8].decode(errors="replace")
    words = " ".join(text[: limit * 8].split())
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def shortened(text: str, most: int = 120) -> str:
    """A part of a message that comes from a file: one line, and not a long one; escaped as `as_text` has it."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(text[: 8 * most].split()))
    return line if len(line) <= most and len(text) <= 8 * most else f"{line[:most]} ..."


def shown(value: object, limit: int = 60) -> str:
    """A value as Python writes it, for a message: cut where it takes more than about `limit` characters."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    try:
        return short.repr(value)
    except (ValueError, RecursionError):  # Python writes no number of more than 4,300 digits
        return f"a very long {type(value).__name__}"


def storable(text: str) -> str:
    r"""The text as UTF-8 can hold it: a byte of a file's name that is no UTF-8 is written out, as in `M\udce4rz`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
