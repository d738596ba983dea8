"""How people name a table."""

from __future__ import annotations

from importlib import resources
from typing import Any

import click

MOCK_TABLE = "mock:s9"
"""Name of the table that comes with bpnas, like the serial of the computed device that it is of."""


class TablePath(click.Path):
    """A table file, or `mock:s9`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(dir_okay=False, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(_shipped() if value == MOCK_TABLE else value, param, ctx)


def table_name(path: str) -> str:
    """What people type for the table at a path."""
    return MOCK_TABLE if path == _shipped() else path


def _shipped() -> str:
    return str(resources.files("bpnas.tables") / "mock_s9.parquet")
