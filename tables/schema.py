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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.android_bench.device import DeviceInfo
from bpnas.android_bench.files import write_atomically
from bpnas.android_bench.runner import RunSettings
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.file_kinds import kind_of
from bpnas.profiler.records import Setup
from bpnas.profiler.session import Statistic
from bpnas.tables.check_metadata import check_metadata
from bpnas.tables.check_rows import check_form, check_rows
from bpnas.tables.errors import TableError, ViolationError, in_short, shown
from bpnas.tables.model_record import TableModels

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 2

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

_REMEDY = "build the table again with build-table, or mend the program that wrote it"

_META_KEY, _HASH_KEY = "bpnas.meta", "bpnas.sha256"
_HASH_MARK = "bpnas-table-sha256="
_HASH_PATTERN = re.compile(_HASH_MARK.encode() + rb"([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class ImportedFrom:
    """The published file that a table was made of, where nothing was measured here.

    Attributes:
        reader: name of the reader that understood it.
        file: its name, without folders.
        sha256: of the file, in hexadecimal.
        column: which one was read, where the file holds several devices.
    """

    reader: str
    file: str
    sha256: str
    column: str = ""


@dataclass(frozen=True, slots=True)
class TableMeta:
    """Where the numbers of a table come from.

    Attributes:
        device: fingerprint of the device and the runtime.
        settings: of the runs; None where nobody said, in an imported table.
        export_version: of the model files; 0 where they were not ours.
        backbones: what the table covers, one per input size (and number of classes).
        paths: names of the paths that it covers at every site.
        missing: keys that were planned but are not there, where that was allowed.
        models: that predict whole networks; see there.
        imported: the published file that the numbers come from; None where bpnas took them.
        statistic: of samples that stands for a session, and of sessions that stands for a part.
    """

    device: DeviceInfo
    settings: RunSettings | None
    export_version: int
    backbones: tuple[Backbone, ...]
    paths: tuple[str, ...]
    missing: tuple[str, ...]
    models: TableModels = field(default_factory=TableModels)
    imported: ImportedFrom | None = None
    statistic: Statistic = "median"

    @property
    def mock(self) -> bool:
        """Whether the latencies were computed, not measured."""
        return self.device.mock

    @property
    def device_name(self) -> str:
        return self.device.name

    @property
    def runtime(self) -> str:
        return self.device.runtime

    @property
    def setup(self) -> Setup | None:
        """What the measurements have in common; None where nobody said, in an imported table."""
        return None if self.settings is None else Setup(self.device, self.settings, self.export_version)

    @property
    def label(self) -> str:
        """The device for people; says so where the numbers are computed or imported."""
        if self.imported is None:
            return self.device.label
        return f"{self.device.model} (imported, not measured here)"

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        values: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "mock": self.mock,
            "device": json.loads(self.device.to_json()),
            "settings": None if self.settings is None else asdict(self.settings),
            "export_version": self.export_version,
            "backbones": [backbone.to_dict() for backbone in self.backbones],
            "paths": self.paths,
            "missing": self.missing,
        }
        if self.models != TableModels():  # nothing to say without whole networks
            values["models"] = self.models.to_dict()
        if self.statistic != "median":
            values["statistic"] = self.statistic
        if self.imported is not None:
            values["imported"] = asdict(self.imported)
        return values

    def to_json(self) -> str:
        """Canonical: equal metadata give equal texts."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, path: Path) -> TableMeta:
        """The inverse of `to_json`; `path` is named in errors.

        Raises:
            TableError: another schema version, or no metadata of a table; the message names the field.
        """
        try:
            values = json.loads(text)
            version = values.get("schema_version", SCHEMA_VERSION) if isinstance(values, dict) else SCHEMA_VERSION
            if not isinstance(version, int) or isinstance(version, bool):
                raise ViolationError(f"metadata field schema_version: must be a whole number, not {shown(version)}")
            if version != SCHEMA_VERSION:
                raise TableError(
                    f"{path}: table schema version {shown(version)}, but this bpnas reads version {SCHEMA_VERSION}; "
                    "build the table again from its records with build-table"
                )
            check_metadata(values)
        except ViolationError as error:
            raise TableError(f"{path}: {error}; {_REMEDY}") from error
        except (ValueError, RecursionError) as error:  # of `json`; it nests deeper than any table's
            what = "too deep" if isinstance(error, RecursionError) else in_short(error)
            raise TableError(f"{path}: its metadata are no JSON ({what}); {_REMEDY}") from error
        return cls(
            device=DeviceInfo.from_json(json.dumps(values["device"])),
            settings=None if values["settings"] is None else RunSettings.from_json(json.dumps(values["settings"])),
            export_version=values["export_version"],
            backbones=tuple(Backbone.from_dict(backbone) for backbone in values["backbones"]),
            paths=tuple(values["paths"]),
            missing=tuple(values["missing"]),
            models=TableModels.from_dict(values["models"]) if "models" in values else TableModels(),
            imported=ImportedFrom(**values["imported"]) if "imported" in values else None,
            statistic=values.get("statistic", "median"),
        )


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
    zeros = "0" * 64
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_META_KEY: meta.to_json(), _HASH_KEY: _HASH_MARK + zeros})
    content = sink.getvalue().to_pybytes()
    digest = hashlib.sha256(content).hexdigest()
    write_atomically(path, content.replace((_HASH_MARK + zeros).encode(), (_HASH_MARK + digest).encode()))


def is_table_file(path: str | Path) -> bool:
    """Whether the file calls itself a bpnas table (whatever state it is in)."""
    try:
        return _HASH_PATTERN.search(Path(path).read_bytes()) is not None
    except OSError:
        return False


def read_table(path: Path) -> tuple[pa.Table, TableMeta, str]:
    """The content, the metadata and the hash of a table file.

    Raises:
        TableError: there is no such file, it is no table, it is damaged, of another schema version, or says what cannot
            be true (see `check_metadata` and `check_rows`).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = path.read_bytes()
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
        raise TableError(f"{path}: {error}; {_REMEDY}") from error
    except (pa.ArrowException, OSError, ValueError) as error:  # whole, but no good Parquet or no good UTF-8
        raise TableError(f"{path}: its content cannot be read ({in_short(error)}); {_REMEDY}") from error
    return table, meta, digest
