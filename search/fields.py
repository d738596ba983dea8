"""The fields of what a search stores (see `bpnas.base.fields`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bpnas.base import fields
from bpnas.base.fields import FieldError
from bpnas.profiler.block import Block
from bpnas.search.errors import RunError
from bpnas.search.sealed import RESTORE

__all__ = ["SEEDS", "FieldError", "Fields", "fields_of"]

SEEDS = 2**64
"""No seed is larger, nor below the negative of it."""


def fields_of(what: str | Callable[[], str], remedy: str = RESTORE) -> AbstractContextManager[None]:
    """The same as there; raises RunError."""
    return fields.fields_of(what, remedy, RunError)


@dataclass(frozen=True, slots=True)
class Fields(fields.Fields):
    """One object of JSON."""

    def block(self, name: str) -> Block:
        """A block as text. Raises FieldError, BlockError."""
        return Block.parse(self.text(name))
