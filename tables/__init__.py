"""Raw records -> one trustworthy number per path.

Names load on first use, so that importing the package is cheap.
"""

from typing import TYPE_CHECKING

from bpnas.base.lazy import lazy_names

if TYPE_CHECKING:
    from bpnas.tables.build import build_table
    from bpnas.tables.errors import BuildError, MissingEntryError, TableError
    from bpnas.tables.latency_table import LatencyTable
    from bpnas.tables.readers.published import import_table
    from bpnas.tables.table_meta import TableMeta
    from bpnas.tables.tools.diff import diff_tables
    from bpnas.tables.tools.doctor import diagnose_table
    from bpnas.tables.tools.merge import merge_tables
    from bpnas.tables.validation.validate import TimedNetwork, validate

_HOMES = {
    "BuildError": "errors",
    "LatencyTable": "latency_table",
    "MissingEntryError": "errors",
    "TableError": "errors",
    "TableMeta": "table_meta",
    "TimedNetwork": "validation.validate",
    "build_table": "build",
    "diagnose_table": "tools.doctor",
    "diff_tables": "tools.diff",
    "import_table": "readers.published",
    "merge_tables": "tools.merge",
    "validate": "validation.validate",
}

__all__ = [
    "BuildError",
    "LatencyTable",
    "MissingEntryError",
    "TableError",
    "TableMeta",
    "TimedNetwork",
    "build_table",
    "diagnose_table",
    "diff_tables",
    "import_table",
    "merge_tables",
    "validate",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
