"""Published tables: what reads them, and what other packages need to read more of them.

Names load on first use.
"""

from typing import TYPE_CHECKING

from bpnas.base.lazy import lazy_names

if TYPE_CHECKING:
    from bpnas.tables.readers.reader import ReadRow, TableReader, milliseconds, number, whole_number

_HOMES = {
    "ReadRow": "reader",
    "TableReader": "reader",
    "milliseconds": "reader",
    "number": "reader",
    "whole_number": "reader",
}

__all__ = [
    "ReadRow",
    "TableReader",
    "milliseconds",
    "number",
    "whole_number",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
