"""Raw records -> one trustworthy number per path.

Names load on first use, so that importing the package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpnas.tables.build import build_table
    from bpnas.tables.errors import BuildError, MissingEntryError, TableError
    from bpnas.tables.latency_table import LatencyTable
    from bpnas.tables.schema import TableMeta

_HOME = {
    "BuildError": "errors",
    "LatencyTable": "latency_table",
    "MissingEntryError": "errors",
    "TableError": "errors",
    "TableMeta": "schema",
    "build_table": "build",
}

__all__ = ["BuildError", "LatencyTable", "MissingEntryError", "TableError", "TableMeta", "build_table"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
