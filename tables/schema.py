"""The table's file format: columns, metadata, version and hash.

A table is one Parquet file. Its footer carries `bpnas.meta` (a JSON object, see `TableMeta`) and `bpnas.sha256`: the
SHA-256 of the whole file with the 64 digits of the hash itself set to zero. So a reader notices any change of any byte
before it believes a number.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.base.file_kinds import TABLE_HASH_MARK, kind_of
from bpnas.base.files import write_atomically
from bpnas.tables.check_metadata import check_metadata
from bpnas.tables.check_rows import check_form, check_rows
from bpnas.tables.errors import TableError, ViolationError, in_short
from bpnas.tables.shipped import table_bytes
from bpnas.tables.table_meta import REMEDY, TableMeta

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = {
    "key": "string",
    "kind": "string",
    "path": "string",
    "kernel": "int32",
    "groups": "int32",
    "expansion": "int32",
    "c_in": "int32",
    "c_out": "int32",
    "stride": "int32",
    "input_size": "int32",
    "latency_ms": "float64",
    "low_ms": "float64",
    "high_ms": "float64",
    "mad_ms": "float64",
    "p10_ms": "float64",
    "p90_ms": "float64",
    "sessions": "int32",
    "samples": "int32",
    "quarantined": "int32",
    "flags": "string",
    "device": "string",
    "runtime": "string",
    "source": "string",
}
"""Name and type of every column, in order; docs/table.md says what each one means."""

_META_KEY, _HASH_KEY = "bpnas.meta", "bpnas.sha256"
_HASH_PATTERN = re.compile(TABLE_HASH_MARK + rb"([0-9a-f]{64})")


def arrow_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows of values by column name as a table; what a row does not name is null."""
    import pyarrow as pa

    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()])
    return pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in rows], schema=schema)


def write_table(path: Path, table: pa.Table, meta: TableMeta) -> None:
    """Write a table atomically, with its metadata and its hash.

    Raises:
        TableError: it says what no reader would believe; nothing is written.
        SpaceError: the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        check_metadata(json.loads(meta.to_json()))
        check_rows(table, meta)
    except ViolationError as error:
        remedy = "measure that part again into other records, or correct the file that was imported"
        raise TableError(f"{path}: is not written, for it would say what cannot be: {error}; {remedy}") from error
    mark, zeros = TABLE_HASH_MARK.decode(), "0" * 64
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_META_KEY: meta.to_json(), _HASH_KEY: mark + zeros})
    content = sink.getvalue().to_pybytes()
    digest = hashlib.sha256(content).hexdigest()
    write_atomically(path, content.replace((mark + zeros).encode(), (mark + digest).encode()))


def is_table_file(path: str | Path) -> bool:
    """Whether the file calls itself a bpnas table (in any state)."""
    try:
        return _HASH_PATTERN.search(Path(path).read_bytes()) is not None
    except OSError:
        return False


def read_table(path: Path) -> tuple[pa.Table, TableMeta, str]:
    """The content, the metadata and the hash of a table file, or of `mock:s9`.

    Raises:
        TableError: there is no such file, it is no table, it is damaged, of another schema version, or says what cannot
            be true (see `check_metadata` and `check_rows`).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = table_bytes(path)
    except OSError as error:
        raise TableError(f"{path}: the table cannot be read ({error.strerror}); make one with build-table") from error
    if not content.startswith(b"PAR1"):
        raise TableError(f"{path}: {kind_of(path).instead_of('bpnas table')}")
    marks = list(_HASH_PATTERN.finditer(content))
    if len(marks) != 1:
        raise TableError(f"{path}: no bpnas table, or a damaged one; restore a copy, or make one with build-table")
    start, end = marks[0].span(1)
    digest = content[start:end].decode()
    if hashlib.sha256(content[:start] + b"0" * 64 + content[end:]).hexdigest() != digest:
        raise TableError(f"{path}: damaged or edited (its SHA-256 differs); build the table again from its records")
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        stored = (file.metadata.metadata or {}).get(_META_KEY.encode())
        if stored is None:
            raise ViolationError(f"no bpnas table: its footer has no {_META_KEY}")
        meta = TableMeta.from_json(stored.decode(), path)
        check_form(file, COLUMNS)
        table = file.read()
        table.validate(full=True)  # that texts are UTF-8, for example
        check_rows(table, meta)
    except ViolationError as error:
        raise TableError(f"{path}: {error}; {REMEDY}") from error
    except (pa.ArrowException, OSError, ValueError) as error:  # whole, but no good Parquet or no good UTF-8
        raise TableError(f"{path}: its content cannot be read ({in_short(error)}); {REMEDY}") from error
    return table, meta, digest
