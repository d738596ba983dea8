"""A published table -> a table of ours, of the rows that match; what matches nothing is counted, never forced."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.android_bench.device import DeviceInfo
from bpnas.base.errors import BpnasError, UsageError
from bpnas.base.file_kinds import kind_of
from bpnas.base.plain_text import storable
from bpnas.base.plurals import counted
from bpnas.profiler.backbone import Backbone
from bpnas.tables.build import geometry, name_some
from bpnas.tables.coverage import paths_everywhere
from bpnas.tables.errors import TableError
from bpnas.tables.readers.reader import (
    MOST_SAMPLES,
    ReadRow,
    TableReader,
    choose_reader,
    milliseconds,
    whole_number,
)
from bpnas.tables.schema import arrow_table
from bpnas.tables.table_meta import ImportedFrom, TableMeta

if TYPE_CHECKING:
    import pyarrow as pa

UNKNOWN = "unknown"
"""What the metadata say where a published table says nothing."""


@dataclass(frozen=True, slots=True)
class ImportedTable:
    """A table of ours, and what is not in it.

    Attributes:
        table, meta: its content.
        rows: of the file.
        mismatches: names of the rows that match no part of ours, by reason.
    """

    table: pa.Table
    meta: TableMeta
    rows: int
    mismatches: dict[str, tuple[str, ...]]


def import_table(
    file: Path,
    device: str,
    backbones: Sequence[Backbone],
    reader: str | None = None,
    column: str | None = None,
) -> ImportedTable:
    """Make a table of a published one.

    Args:
        file: the published table.
        device: what to call the device; fit for a file name.
        backbones: what the table is for; entries that belong to none of them are kept too.
        reader: name of the reader; default: the one that can read the file.
        column: which one, where the file holds several devices.

    Raises:
        UsageError: the name is not fit, or there is no such reader or column.
        TableError: the file is damaged, no row matches, or one entry has several values.
    """
    if not re.fullmatch(r"[\w.-]+", device, re.ASCII):
        raise UsageError(f"--device {device!r}: the table is named after it; use letters, digits, '.', '_' and '-'")
    if not file.exists():
        raise TableError(f"{file}: no such file; check the name")
    if not file.is_file():
        raise TableError(f"{file}: {kind_of(file).instead_of('published table')}")
    chosen = choose_reader(file, reader)
    rows = _rows(file, chosen, column)
    mismatches: dict[str, list[str]] = {}
    for row in rows:
        if row.part is None:
            mismatches.setdefault(row.mismatch, []).append(row.name)
    info = DeviceInfo(device, False, device, *[UNKNOWN] * 6)
    entries = _entries(file, rows)
    if not entries:
        reasons = "; ".join(f"{len(names):,} {reason}" for reason, names in mismatches.items())
        raise TableError(
            f"{file}: of its {counted(len(rows), 'row')}, none is a part of ours with exactly the same "
            f"operators ({reasons})"
        )
    fixed = {"device": info.name, "runtime": info.runtime, "source": f"imported:{chosen.name}"}
    table = arrow_table({**entries[key], **fixed} for key in sorted(entries))
    meta = TableMeta(
        device=info,
        settings=None,
        export_version=0,
        backbones=tuple(sorted(set(backbones), key=lambda b: (b.input_size, b.classes))),
        paths=paths_everywhere(backbones, entries),
        missing=(),
        imported=ImportedFrom(
            chosen.name, storable(file.name), hashlib.sha256(file.read_bytes()).hexdigest(), column or ""
        ),
    )
    return ImportedTable(table, meta, len(rows), {reason: tuple(names) for reason, names in mismatches.items()})


def _rows(file: Path, reader: TableReader, column: str | None) -> tuple[ReadRow, ...]:
    """All rows; the numbers of readers of other packages are checked like those of ours."""
    try:
        rows = tuple(reader.read(file, column))
    except BpnasError:
        raise
    except Exception as error:  # it may be somebody else's code
        what = f"the table reader {reader.name!r} failed ({type(error).__name__}: {error})"
        raise TableError(f"{file}: {what}; report it to those who made that reader") from error
    for row in rows:
        if row.part is not None:
            milliseconds(file, row.name, row.latency_ms)
            if row.samples is not None:
                whole_number(file, f"{row.name}, samples", row.samples, 0, MOST_SAMPLES)
    return rows


def _entries(file: Path, rows: Sequence[ReadRow]) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for row in rows:
        if row.part is None:
            continue
        key = row.part.key
        entry = {
            "key": key,
            "kind": row.part.kind,
            **geometry(row.part),
            "latency_ms": row.latency_ms,
            "samples": row.samples,
            "flags": row.flags,
        }
        if entries.setdefault(key, entry)["latency_ms"] != row.latency_ms:
            both = name_some([names[key], row.name])
            raise TableError(f"{file}: several values for {key} ({both}), and nothing is averaged; remove one of them")
        names.setdefault(key, row.name)
    return entries
