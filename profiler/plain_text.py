"""Texts of others: as a message has them, and as a file has them."""

from __future__ import annotations

import reprlib


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
