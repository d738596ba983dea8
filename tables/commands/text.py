"""What the commands about tables have in common: checks of what was asked for, and lines about a table."""

from __future__ import annotations

from pathlib import Path

from bpnas.base.errors import UsageError
from bpnas.base.files import missing_folder
from bpnas.base.plain_text import shown
from bpnas.base.plurals import counted
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.paths import head_part, stem_part
from bpnas.tables.additivity.model_record import TableModels
from bpnas.tables.latency_table import LatencyTable
from bpnas.tables.table_meta import TableMeta

_LONGEST_NAME = 200


def check_folder(path: Path) -> None:
    """Refuse to write where there is no folder, before any work is done for it; raises UsageError."""
    if (reason := missing_folder(path)) is not None:
        raise UsageError(reason)


def default_path(device: str, suffix: str) -> Path:
    """The table of a device, in the current folder.

    Raises:
        UsageError: what the records call the device is no name of a file there.
    """
    if "/" in device or device.startswith(".") or not device.isprintable() or len(device) > _LONGEST_NAME:
        raise UsageError(f"the device is called {shown(device)}, which is no name for a file; name one with --out")
    return Path(f"{device}{suffix}")


def coverage_text(meta: TableMeta) -> str:
    """What a table is for."""
    sizes = ", ".join(map(str, sorted({b.input_size for b in meta.backbones})))
    return f"Backbone {meta.backbones[0].name} at input size {sizes}; {len(meta.paths)} of 272 paths at every site"


def next_step(path: Path, table: LatencyTable) -> str:
    """The command that goes on with a table: a search, or what a search still lacks."""
    sizes = [b.input_size for b in table.meta.backbones if _can_be_searched(table, b)]
    if not sizes:
        return (
            "A search takes stem, head and a path at every site, which this table lacks: finish the campaign with the "
            "same profile-device command, then build-table"
        )
    every = {b.input_size for b in table.meta.backbones}
    return f"Next: run-search --table {path}" + ("" if set(sizes) == every else f" --input-size {sizes[0]}")


def _can_be_searched(table: LatencyTable, backbone: Backbone) -> bool:
    return (
        stem_part(backbone) in table
        and head_part(backbone) in table
        and bool(table.paths(backbone.input_size, backbone.classes))
    )


def models_text(models: TableModels) -> list[str]:
    """How a table predicts networks, and how well."""
    lines = [f"Networks are predicted by {models.default!r}: {models.reason}"]
    for record in models.records:
        error = record.error
        if error is not None:
            found = f"mean error {error.mape:.1%}, bias {error.bias:+.1%}, {error.within_5:.0%} within 5%"
            lines.append(f"  {record.name} at {record.input_size}: {found} ({counted(error.networks, 'network')})")
        elif record.unavailable:
            lines.append(f"  {record.name} at {record.input_size}: not available, {record.unavailable}")
    return lines
