"""Raw records -> one trustworthy number per path.

Names load on first use, so that importing the package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpnas.tables.build import build_table
    from bpnas.tables.diff import diff_tables
    from bpnas.tables.doctor import diagnose_table
    from bpnas.tables.errors import BuildError, MissingEntryError, TableError
    from bpnas.tables.latency_table import LatencyTable
    from bpnas.tables.merge import merge_tables
    from bpnas.tables.published import import_table
    from bpnas.tables.table_meta import TableMeta

_HOME = {
    "BuildError": "errors",
    "LatencyTable": "latency_table",
    "MissingEntryError": "errors",
    "TableError": "errors",
    "TableMeta": "table_meta",
    "build_table": "build",
    "diagnose_table": "doctor",
    "diff_tables": "diff",
    "import_table": "published",
    "merge_tables": "merge",
}

__all__ = [
    "BuildError",
    "LatencyTable",
    "MissingEntryError",
    "TableError",
    "TableMeta",
    "build_table",
    "diagnose_table",
    "diff_tables",
    "import_table",
    "merge_tables",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
