"""What can go wrong with tables (see `bpnas.android_bench.errors` for the tree)."""

from __future__ import annotations

from bpnas.android_bench.errors import BpnasError


class TableError(BpnasError):
    """A table that cannot be read, is damaged, or does not fit the question."""


class MissingEntryError(TableError, KeyError):
    """The table has no entry for what was asked; nothing is ever filled in."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class BuildError(BpnasError):
    """Records from which no table can be made."""
