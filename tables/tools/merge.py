"""Several tables of one device -> one table: their union, and nothing but.

Nothing is averaged: where two tables say different things about one entry, the merge is refused. So the order of the
tables does not matter, a table merged with itself is itself, and parts of one table give it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.profiler.backbone import Backbone
from bpnas.tables.build import name_some
from bpnas.tables.check_metadata import PER_INPUT_SIZE
from bpnas.tables.coverage import paths_everywhere
from bpnas.tables.errors import TableError
from bpnas.tables.latency_table import LatencyTable
from bpnas.tables.schema import arrow_table, read_table
from bpnas.tables.table_meta import TableMeta
from bpnas.tables.tools.comparable import device_differences, settings_differences, source_differences
from bpnas.tables.validation.model_choice import choose_models

if TYPE_CHECKING:
    import pyarrow as pa

_NAMED = 3  # that many differing fields in a message


@dataclass(frozen=True, slots=True)
class MergedTable:
    """The union; its models are fitted again, to the networks of all tables."""

    table: pa.Table
    meta: TableMeta


@dataclass(frozen=True, slots=True)
class _Input:
    file: Path
    table: pa.Table
    meta: TableMeta


def merge_tables(files: Sequence[Path]) -> MergedTable:
    """The union of tables of one device, runtime, setting, export version and backbone; input sizes may differ.

    Raises:
        TableError: a file is no good table, they differ in what they must have in common, or one entry has several
            values.
    """
    distinct: dict[str, _Input] = {}
    for file in files:
        table, meta, digest = read_table(file)
        distinct.setdefault(digest, _Input(file, table, meta))
    inputs = list(distinct.values())
    first = inputs[0]
    if len(inputs) == 1:
        return MergedTable(first.table, first.meta)
    for other in inputs[1:]:
        _check_setup(first, other)
    for one, other in combinations(inputs, 2):
        _check_backbones(one, other)
    rows = _union(inputs)
    backbones = {backbone for each in inputs for backbone in each.meta.backbones}
    ordered = tuple(sorted(backbones, key=lambda b: (b.input_size, b.classes)))
    missing = {key for each in inputs for key in each.meta.missing}
    meta = TableMeta(
        device=first.meta.device,
        settings=first.meta.settings,
        export_version=first.meta.export_version,
        backbones=ordered,
        paths=paths_everywhere(ordered, rows),
        missing=tuple(sorted(missing - rows.keys())),
        imported=first.meta.imported,
        statistic=first.meta.statistic,
    )
    table = arrow_table(rows[key] for key in sorted(rows))
    if meta.imported is None:  # what was fitted to the networks of one table does not hold for those of all
        meta = replace(meta, models=choose_models(LatencyTable(table, meta)))
    return MergedTable(table, meta)


def _check_setup(one: _Input, other: _Input) -> None:
    metas = (one.meta, other.meta)
    different = [*device_differences(metas), *settings_differences(metas), *source_differences(metas)]
    if different:
        raise TableError(
            f"{one.file} and {other.file}: not of one device with one runtime and one setting, and latencies of "
            f"different ones must not meet in one table ({'; '.join(different[:_NAMED])}); 'build-table diff' compares "
            "such tables"
        )


def _check_backbones(one: _Input, other: _Input) -> None:
    for mine in one.meta.backbones:
        for theirs in other.meta.backbones:
            # One table may hold several input sizes, each with its own stem stride, and several numbers of classes.
            same_place = (mine.input_size, mine.classes) == (theirs.input_size, theirs.classes)
            different = list(_backbone_differences(mine, theirs, () if same_place else PER_INPUT_SIZE))
            if different:
                raise TableError(
                    f"{one.file} and {other.file}: of different backbones ({'; '.join(different[:_NAMED])}); a table "
                    "has one"
                )


def _backbone_differences(mine: Backbone, theirs: Backbone, ignored: Sequence[str]) -> Iterator[str]:
    for field in fields(Backbone):
        values = getattr(mine, field.name), getattr(theirs, field.name)
        if field.name not in ignored and values[0] != values[1]:
            yield field.name if field.name == "stages" else f"{field.name}: {values[0]} | {values[1]}"


def _union(inputs: Sequence[_Input]) -> dict[str, Mapping[str, Any]]:
    rows: dict[str, Mapping[str, Any]] = {}
    files: dict[str, Path] = {}
    for each in inputs:
        conflicts = []
        for row in each.table.to_pylist():
            files.setdefault(row["key"], each.file)
            if row != rows.setdefault(row["key"], row):
                conflicts.append(row["key"])
        if conflicts:
            file = files[conflicts[0]]
            raise TableError(
                f"{file} and {each.file}: entries with different numbers in both: {len(conflicts):,} "
                f"({name_some(conflicts)}), and nothing is averaged; 'build-table diff' shows them, and build-table "
                "makes one table of all the records together"
            )
    return rows
