"""Tables made by hand: what `build-table` would have made, without records."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bpnas.profiler.backbone import Backbone
from bpnas.profiler.campaign.records import Plan
from bpnas.profiler.campaign.run import plan_parts
from bpnas.profiler.campaign.session import Statistic
from bpnas.profiler.paths import Part
from bpnas.tables.build import geometry
from bpnas.tables.coverage import paths_everywhere
from bpnas.tables.errors import TableError
from bpnas.tables.schema import arrow_table, write_table
from bpnas.tables.table_meta import ImportedFrom, TableMeta
from tests.records_factory import backbone, make_plan

PLAN = make_plan(backbone(), paths="K1G1,K[35]E[246]G[12]")
BOTH = make_plan(backbone(), backbone(32), paths="K1G1,K[35]E[246]G[12]")
KEYS = tuple(sorted(part.key for part in plan_parts(PLAN)))

Row = dict[str, Any]


def make_row(part: Part, plan: Plan) -> Row:
    """An entry that depends on the part alone, of three sessions, known to one percent; more work takes longer."""
    place = geometry(part)
    latency_ms = 1.0 + 0.2 * random.Random(part.key).random() + 0.1 * (place.get("expansion") or 0)
    return {
        "key": part.key,
        "kind": part.kind,
        **place,
        "latency_ms": latency_ms,
        "low_ms": latency_ms * 0.99,
        "high_ms": latency_ms * 1.01,
        "mad_ms": latency_ms * 0.01,
        "p10_ms": latency_ms * 0.97,
        "p90_ms": latency_ms * 1.05,
        "sessions": 3,
        "samples": 150,
        "quarantined": 0,
        "flags": "",
        "device": plan.setup.device.name,
        "runtime": plan.setup.device.runtime,
        "source": "mock" if plan.setup.device.mock else "measured",
    }


def write(
    path: Path,
    plan: Plan = PLAN,
    change: Callable[[Row], Row | None] = lambda row: row,
    missing: Iterable[str] = (),
    imported: ImportedFrom | None = None,
    statistic: Statistic = "median",
) -> Path:
    """A table of all parts of a plan; None from `change` leaves an entry out. It may say what bpnas would not write."""
    source = {"source": f"imported:{imported.reader}"} if imported else {}
    made = [change({**make_row(part, plan), **source}) for part in plan_parts(plan)]
    rows = sorted((row for row in made if row is not None), key=lambda row: row["key"])
    backbones: tuple[Backbone, ...] = tuple(plan.backbones)
    meta = TableMeta(
        device=plan.setup.device,
        settings=None if imported else plan.setup.settings,
        export_version=plan.setup.export_version,
        backbones=backbones,
        paths=paths_everywhere(backbones, {row["key"] for row in rows}),
        missing=tuple(sorted(missing)),
        imported=imported,
        statistic=statistic,
    )
    with suppress(TableError):
        write_table(path, arrow_table(rows), meta)
        return path
    return seal(path, arrow_table(rows), meta.to_json())


def seal(path: Path, table: pa.Table, meta: str) -> Path:
    """Write a table as another program does that has read docs/table.md: whatever it says."""
    mark = "bpnas-table-sha256="
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"bpnas.meta": meta, "bpnas.sha256": mark + "0" * 64})
    return hash_again(path)


def hash_again(path: Path) -> Path:
    """Put the right hash into a table that was changed."""
    content = path.read_bytes()
    start = content.index(b"bpnas-table-sha256=") + len(b"bpnas-table-sha256=")
    content = content[:start] + b"0" * 64 + content[start + 64 :]
    digits = hashlib.sha256(content).hexdigest().encode()
    path.write_bytes(content[:start] + digits + content[start + 64 :])
    return path


def only(keys: Iterable[str]) -> Callable[[Row], Row | None]:
    """Keeps these entries."""
    kept = set(keys)
    return lambda row: row if row["key"] in kept else None


def slower(factor: float, chosen: Callable[[Row], bool] = lambda row: True) -> Callable[[Row], Row]:
    """Multiplies the times of the chosen entries."""

    def change(row: Row) -> Row:
        times = {name: value * factor for name, value in row.items() if name.endswith("_ms")}
        return {**row, **times} if chosen(row) else row

    return change


def damage(path: Path) -> Path:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path
