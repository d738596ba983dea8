"""What can go wrong with tables (see `bpnas.android_bench.errors` for the tree)."""

from __future__ import annotations

from bpnas.base.errors import BpnasError
from bpnas.base.plurals import counted


class TableError(BpnasError):
    """A table that cannot be read, is damaged, or does not fit the question."""


class MissingEntryError(TableError, KeyError):
    """The table has no entry for what was asked; nothing is ever filled in."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class BuildError(BpnasError):
    """Records from which no table can be made."""


class ViolationError(ValueError):
    """What a table says that no table may say: where, and what it must be. What reads the file makes a `TableError`
    of it, with the file's name and the remedy.
    """


def shown(value: object) -> str:
    """A value of somebody else's for a message, however large it is."""
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {counted(len(value), 'value')}"
    return in_short(repr(value[:100] if isinstance(value, str) else value), 60)


def in_short(said: object, most: int = 200) -> str:
    """What somebody else's library says, on one line, and without the semicolon that comes in front of a remedy."""
    text = " ".join(str(said).split()).replace("; ", ", ")
    return text if len(text) <= most else f"{text[: most - 1]}…"
