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
        if value == MOCK_TABLE:
            value = str(resources.files("bpnas.tables") / "mock_s9.parquet")
        return super().convert(value, param, ctx)
