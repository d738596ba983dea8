"""A table for people: what it is, and the rows that were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.base.columns import align
from bpnas.base.errors import UsageError
from bpnas.base.plurals import counted
from bpnas.profiler.paths import select_paths
from bpnas.tables.build import name_some
from bpnas.tables.heads import heads_by_size, heads_text
from bpnas.tables.latency_table import to_pandas
from bpnas.tables.schema import COLUMNS, read_table
from bpnas.tables.table_meta import TableMeta

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = ("key", "latency_ms", "low_ms", "high_ms", "mad_ms", "sessions", "flags")


@dataclass(frozen=True, slots=True)
class TableView:
    """A table, or some of its rows.

    Attributes:
        path, meta, sha256: of the file.
        rows: those that were asked for, in that order; the columns are `COLUMNS`.
        kinds: how many entries of each kind the whole table has.
        doubtful: how many of all entries carry a flag, or have sessions that are not used.
        heads: the numbers of classes of which it has heads, by input size.
    """

    path: Path
    meta: TableMeta
    sha256: str
    rows: pd.DataFrame
    kinds: dict[str, int]
    doubtful: int
    heads: dict[int, tuple[int, ...]]


def view_table(
    path: Path, kind: str | None = None, paths: str | None = None, site: str | None = None, sort: str | None = None
) -> TableView:
    """Read a table and choose rows.

    Args:
        path: the file.
        kind: only entries of this kind.
        paths: only paths that match this filter, as in `K3G1,K[35]E6G*`.
        site: only paths at the sites that match this pattern, as in `24-32s2x56` or `*x56`.
        sort: name of the column to sort by, with a minus in front for the largest first; default: by key.

    Raises:
        TableError: the file is no good table.
        UsageError: there is no such kind, path, site or column.
    """
    table, meta, digest = read_table(path)
    frame = to_pandas(table)
    kinds = {str(name): int(count) for name, count in frame["kind"].value_counts().sort_index().items()}
    doubtful = int(((frame["flags"].fillna("") != "") | (frame["quarantined"].fillna(0) > 0)).sum())
    rows = frame
    if kind is not None:
        if kind not in kinds:
            raise UsageError(f"{path}: no entries of kind {kind!r}; there are {', '.join(kinds)}")
        rows = rows[rows["kind"] == kind]
    if paths is not None:
        rows = rows[rows["path"].isin([str(chosen) for chosen in select_paths(paths)])]
    if site is not None:
        rows = _at_site(path, frame, rows, site)
    column = "key" if sort is None else sort.removeprefix("-")
    if column not in COLUMNS:
        raise UsageError(f"no column is called {column!r}; there are {', '.join(COLUMNS)}")
    descending = sort is not None and sort.startswith("-")
    rows = rows.sort_values([column, "key"], ascending=[not descending, True], na_position="last")
    heads = heads_by_size(frame["key"].tolist(), meta.backbones)
    return TableView(path, meta, digest, rows, kinds, doubtful, heads)


def _at_site(path: Path, frame: pd.DataFrame, rows: pd.DataFrame, pattern: str) -> pd.DataFrame:
    sites = frame[frame["kind"] == "path"]["key"].str.partition("@")[2]
    known = sorted(set(sites))
    matching = {text for text in known if fnmatchcase(text, pattern)}
    if not matching:
        raise UsageError(f"{path}: no site matches {pattern!r}; there are {name_some(known)}, and '*x56' is a pattern")
    return rows[(rows["kind"] == "path") & rows["key"].str.partition("@")[2].isin(list(matching))]


def describe(view: TableView) -> dict[str, Any]:
    """What the table is, for machines."""
    meta = view.meta
    return {
        "table": str(view.path),
        "sha256": view.sha256,
        "entries": sum(view.kinds.values()),
        "kinds": view.kinds,
        "doubtful": view.doubtful,
        "head_classes": {str(size): list(counts) for size, counts in view.heads.items()},
        "metadata": meta.to_dict(),
    }


def header_lines(view: TableView) -> list[str]:
    """What the table is, for people."""
    meta, device = view.meta, view.meta.device
    lines = []
    if meta.mock:
        lines.append("MOCK: COMPUTED, NOT MEASURED")
    if meta.imported is not None:
        column = f", column {meta.imported.column}" if meta.imported.column else ""
        lines.append("IMPORTED, NOT MEASURED HERE")
        source = f"{meta.imported.file} (SHA-256 {_short(meta.imported.sha256)}){column}"
        lines.append(f"{'source':9} {source}, read by {meta.imported.reader}")
    affinity = f", cores {device.affinity}" if device.affinity else ""
    lines.append(f"{'device':9} {device.name}: {device.model}, {device.platform}, {device.os}, {device.abi}{affinity}")
    lines.append(f"{'runtime':9} {device.runtime}, {device.runtime_version}, SHA-256 {_short(device.runtime_sha256)}")
    lines.append(f"{'settings':9} {_settings(meta)}")
    if meta.statistic != "median":
        lines.append(f"{'statistic':9} {meta.statistic} instead of medians")
    sizes = ", ".join(f"{b.input_size} ({b.classes} classes)" for b in meta.backbones)
    lines.append(f"{'backbone':9} {meta.backbones[0].name} at input size {sizes}")
    others = "; others are interpolated" if all(len(counts) > 1 for counts in view.heads.values()) else ""
    lines.append(f"{'heads':9} {heads_text(view.heads)}{others}")
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in view.kinds.items())
    lines.append(f"{'entries':9} {sum(view.kinds.values()):,} ({kinds}); {len(meta.paths)} of 272 paths at every site")
    missing = f"{len(meta.missing):,}: {name_some(meta.missing)}" if meta.missing else "none"
    lines.append(f"{'missing':9} {missing}")
    lines.append(f"{'doubtful':9} {f'{view.doubtful:,}' if view.doubtful else 'none'}")
    lines.append(f"{'SHA-256':9} {view.sha256}")
    return lines


def _short(sha256: str) -> str:
    return sha256 if len(sha256) < 64 else f"{sha256[:12]}…"


def _settings(meta: TableMeta) -> str:
    s = meta.settings
    if s is None:
        return "unknown"
    return (
        f"{counted(s.threads, 'thread')}, warm-up {counted(s.warmup_runs, 'run')} and {s.warmup_seconds:g} s, "
        f"{counted(s.runs, 'sample')} and {s.seconds:g} s; export version {meta.export_version}"
    )


def row_lines(rows: pd.DataFrame, width: int | None = None) -> list[str]:
    """Rows in columns, headings first; `width` as in `align`."""
    cells = [[_cell(value) for value in row] for row in rows[list(_SHOWN)].itertuples(index=False)]
    return align([list(_SHOWN), *cells], "<>>>>><", width)


def _cell(value: Any) -> str:
    import pandas as pd

    if pd.isna(value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def as_records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON: what is absent is None."""
    return [
        {str(k): v for k, v in row.items()} for row in rows.astype(object).where(rows.notna(), None).to_dict("records")
    ]
