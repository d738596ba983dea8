"""The table that comes with bpnas, and how people name it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

MOCK_TABLE = "mock:s9"
"""In place of a file's name, like the serial of the computed device that it is of."""

_FILE = "mock_s9.parquet"


def table_bytes(path: Path) -> bytes:
    """The content of a table file, or of that one. Raises OSError."""
    return (resources.files("bpnas.tables") / _FILE if str(path) == MOCK_TABLE else path).read_bytes()


def beside_table(path: str | Path) -> Path:
    """What files and folders that belong to a table begin with: its path without the suffix; here, if it came along."""
    return Path(Path(_FILE).stem) if str(path) == MOCK_TABLE else Path(path).with_suffix("")
