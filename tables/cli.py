"""The command `build-table`, and the ones below it that look into tables, compare, join and import them."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpnas.android_bench.command import Command, DefaultGroup, fail, print_result
from bpnas.android_bench.errors import UsageError
from bpnas.profiler.cli import main as profile_device
from bpnas.tables.model_record import MODEL_NAMES

if TYPE_CHECKING:
    from bpnas.tables.build import BuiltTable
    from bpnas.tables.model_record import TableModels
    from bpnas.tables.schema import TableMeta


@click.group(cls=DefaultGroup)
def main() -> None:
    """Latency tables: make one (see `build`), and look into those that are there."""


@main.command(cls=Command, hidden=True)
@click.argument("records", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The table.  [default: DEVICE.parquet]")
@click.option(
    "--format", "format_", type=click.Choice(["parquet", "csv"]), help="[default: as --out ends, else parquet]"
)
@click.option("--runtime", help="Which one, where the records hold several.")
@click.option("--backbone", help="Which one, where the records hold several.")
@click.option("--paths", help="Only paths that match, as in 'K3G1,K[35]E6G*'.  [default: all]")
@click.option("--allow-missing", is_flag=True, help="Make a table although parts are not measured; it names them.")
@click.option(
    "--additivity",
    type=click.Choice(MODEL_NAMES),
    help="What predicts a network from its parts.  [default: what is closest to whole networks, if any were timed]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def build(
    records: tuple[Path, ...],
    out: Path | None,
    format_: str | None,
    runtime: str | None,
    backbone: str | None,
    paths: str | None,
    allow_missing: bool,
    additivity: str | None,
    as_json: bool,
) -> None:
    """Make a latency table of RECORDS files (default: all in this directory).

    A table is of one device, one runtime and one setting; anything else is refused, and nothing is filled in.
    """
    from bpnas.tables.build import build_table
    from bpnas.tables.schema import write_table

    files = records or _records_here()
    built = build_table(
        files, runtime=runtime, backbone=backbone, paths=paths, allow_missing=allow_missing, additivity=additivity
    )
    as_csv = format_ == "csv" or (format_ is None and out is not None and out.suffix == ".csv")
    path = out or Path(f"{built.meta.device_name}.{'csv' if as_csv else 'parquet'}")
    _check_folder(path)
    if as_csv:
        _write_csv(path, built)
    else:
        write_table(path, built.table, built.meta)
    meta = built.meta
    flags = Counter(flag for entry in built.table["flags"].to_pylist() for flag in entry.split())
    doubtful = sum(map(bool, built.table["flags"].to_pylist()))
    result = {
        "table": str(path),
        "entries": built.table.num_rows,
        "missing": list(meta.missing),
        "device": meta.device_name,
        "mock": meta.mock,
        "runtime": meta.runtime,
        "input_sizes": sorted({b.input_size for b in meta.backbones}),
        "paths": len(meta.paths),
        "doubtful": doubtful,
        "flags": dict(sorted(flags.items())),
        "largest_drift_correction": round(built.largest_correction, 4),
        "models": meta.models.to_dict(),
    }
    text = [f"{path}: {built.table.num_rows} entries of {meta.device.label}", _coverage(meta)]
    if meta.missing:
        text.append(_missing(meta))
    if doubtful:
        text.append(f"{doubtful} entries are doubtful: {', '.join(f'{flag} {flags[flag]}' for flag in sorted(flags))}")
    if built.largest_correction:
        text.append(f"Drift of the device was corrected, by {built.largest_correction:.1%} at most")
    text.extend(_models_text(meta.models))
    if not as_csv:
        text.append(f"Next: run-search --table {path}")
    print_result(result, as_json, "\n".join(text))


@main.command(cls=Command)
@click.argument("table", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--serial", help="The device that the table is of.  [default: as profile-device; of a mock, that mock]")
@click.option("--networks", type=click.IntRange(1, 10_000), default=60, show_default=True, help="Of each input size.")
@click.option("--sessions", type=click.IntRange(1, 1000), default=3, show_default=True, help="Of each network.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the choice of networks.")
@click.option("--input-size", "input_sizes", type=int, multiple=True, help="Repeatable.  [default: all of the table]")
@click.option("--records", type=click.Path(dir_okay=False), help="Records file.  [default: TABLE.validation.sqlite]")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="The report.  [default: TABLE.validation.json]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def validate(
    table: Path,
    serial: str | None,
    networks: int,
    sessions: int,
    seed: int,
    input_sizes: tuple[int, ...],
    records: str | None,
    out: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Time whole networks on the device of TABLE, and say how far its predictions are off.

    The networks are random and none of them was ever fitted to. A call goes on where the last one ended.
    """
    import json

    from bpnas.android_bench.attached import choose_serial
    from bpnas.android_bench.device import DeviceOptions, open_device
    from bpnas.android_bench.files import write_atomically
    from bpnas.profiler.cli import campaign_display
    from bpnas.profiler.records import Records
    from bpnas.tables.latency_table import LatencyTable
    from bpnas.tables.time_networks import plan_networks, refuse_mock_mismatch, time_networks
    from bpnas.tables.validate import validate as compare

    out = out or table.with_suffix(".validation.json")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out}: the folder {out.absolute().parent} does not exist; create it first")
    loaded = LatencyTable.load(table)
    meta = loaded.meta
    serial = serial or (f"mock:{meta.device_name}" if meta.mock else choose_serial())
    refuse_mock_mismatch(meta, serial)
    options = DeviceOptions(**{name: value for name, value in settings.items() if value is not None})
    with open_device(serial, meta.runtime, options) as device:
        plan = plan_networks(
            meta, device, networks=networks, sessions=sessions, seed=seed, input_sizes=tuple(dict.fromkeys(input_sizes))
        )
        file = Path(records) if records else table.with_suffix(".validation.sqlite")
        with Records.write(file) as store, campaign_display(device.info.label) as show:
            timed = time_networks(device, store, plan, serial=serial, on_progress=show)
    if timed.networks or not timed.campaign.failures:
        report = compare(loaded, timed.networks)
        content = report.to_dict() | {
            "table": str(table),
            "records": str(file),
            "sessions": sessions,
            "seed": seed,
            "failures": [{"key": f.key, "kind": f.kind, "message": f.message} for f in timed.campaign.failures],
        }
        write_atomically(out, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
        print_result(content | {"out": str(out)}, as_json, f"{report.to_text()}\n\nAll of it: {out}")
    if timed.campaign.failures:
        first = timed.campaign.failures[0]
        fail(
            f"{len(timed.campaign.failures)} sessions failed, the first one, {first.key}, with {first.kind}: "
            f"{first.message}; call the same command again to try them again",
            1,
        )


# A phone is reached and prepared as for a campaign.
validate.params += [option for option in profile_device.params if getattr(option, "section", "") == "A phone"]


def _models_text(models: TableModels) -> list[str]:
    lines = [f"Networks are predicted by {models.default!r}: {models.reason}"]
    for record in models.records:
        error = record.error
        if error is not None:
            found = f"mean error {error.mape:.1%}, bias {error.bias:+.1%}, {error.within_5:.0%} within 5%"
            lines.append(f"  {record.name} at {record.input_size}: {found} ({error.networks} networks)")
        elif record.unavailable:
            lines.append(f"  {record.name} at {record.input_size}: not available, {record.unavailable}")
    return lines


@main.command(cls=Command, short_help="Show a table: what it is, and rows of it.")
@click.argument("table", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--kind", help="Only entries of this kind: path, stem, head, join ...")
@click.option("--path", "paths", help="Only paths that match, as in 'K3G1,K[35]E6G*'.")
@click.option("--site", help="Only paths at sites that match, as in 24-32s2x56 or '*x56'.")
@click.option("--sort", help="Column to sort by; -COLUMN: the largest first.  [default: key]")
@click.option("--limit", type=click.IntRange(0), help="So many rows; 0: all.  [default: 20, with --csv and --json all]")
@click.option("--csv", "as_csv", is_flag=True, help="Print the rows as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def show(
    table: Path,
    kind: str | None,
    paths: str | None,
    site: str | None,
    sort: str | None,
    limit: int | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show what TABLE is, and its rows."""
    from bpnas.tables.show import as_records, describe, header_lines, row_lines, view_table

    view = view_table(table, kind=kind, paths=paths, site=site, sort=sort)
    if limit is None:
        limit = 0 if as_csv or as_json else 20
    rows = view.rows.head(limit) if limit else view.rows
    if as_csv:
        click.echo(rows.to_csv(index=False), nl=False)
        return
    lines = [f"{table}:", *header_lines(view), ""]
    lines += row_lines(rows, _terminal_width()) if len(rows) else ["No entry matches."]
    if len(rows) < len(view.rows):
        lines.append(f"{len(view.rows) - len(rows):,} more; --limit 0 shows all")
    result = {**describe(view), "rows": as_records(rows)} if as_json else {}
    print_result(result, as_json, "\n".join(lines))


@main.command(cls=Command, short_help="Examine a table, and say what to mend.")
@click.argument("table", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def doctor(table: Path, as_json: bool) -> None:
    """Examine TABLE, and say line by line what is doubtful about it and how to mend it.

    Exit code 1 if a number in it cannot be true or a search cannot use it; warnings alone give 0.
    """
    from bpnas.android_bench.doctor import finding_lines
    from bpnas.tables.doctor import diagnose_table

    findings = diagnose_table(table)
    errors = sum(finding.level == "error" for finding in findings)
    result = {"table": str(table), "errors": errors, "findings": [asdict(finding) for finding in findings]}
    print_result(result, as_json, "\n".join([f"{table}:", *finding_lines(findings)]))
    if errors:
        fail(f"{table}: {errors} thing{'s' * (errors > 1)} to mend before this table can be relied on", 1)


@main.command(cls=Command, short_help="Compare two tables, entry by entry.")
@click.argument("a", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Compare also what was run with other settings or model files.")
@click.option("--limit", type=click.IntRange(0), help="So many entries; 0: all.  [default: 10, with --json all]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def diff(a: Path, b: Path, force: bool, limit: int | None, as_json: bool) -> None:
    """Compare table B with table A: two devices, systems, runtimes or dates.

    Says of every entry how much slower or faster it is, and whether that is more than noise.
    """
    from bpnas.tables.diff import diff_tables
    from bpnas.tables.diff_report import diff_lines, diff_result

    compared = diff_tables(a, b, force)
    if limit is None:
        limit = 0 if as_json else 10
    lines = diff_lines(compared, limit, _terminal_width())
    print_result(diff_result(compared, limit), as_json, "\n".join(lines))


@main.command(cls=Command, short_help="Join tables of one device.")
@click.argument("tables", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The joined table.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def merge(tables: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Join TABLES of one device, runtime and setting, as of several input sizes, to one.

    Nothing is averaged: entries that differ between tables are refused.
    """
    from bpnas.tables.merge import merge_tables
    from bpnas.tables.schema import write_table

    _check_folder(out)
    merged = merge_tables(tables)
    write_table(out, merged.table, merged.meta)
    meta = merged.meta
    sizes = sorted({b.input_size for b in meta.backbones})
    text = [
        f"{out}: {merged.table.num_rows:,} entries of {meta.label}",
        _coverage(meta),
    ]
    if meta.missing:
        text.append(_missing(meta))
    text.extend(_models_text(meta.models))
    result = {
        "table": str(out),
        "entries": merged.table.num_rows,
        "missing": list(meta.missing),
        "device": meta.device_name,
        "mock": meta.mock,
        "input_sizes": sizes,
        "paths": len(meta.paths),
        "models": meta.models.to_dict(),
    }
    print_result(result, as_json, "\n".join(text))


@main.command("import", cls=Command, short_help="Make a table of a published one.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--device", required=True, help="What to call the device.")
@click.option("--reader", help="What reads the file.  [default: whatever can]")
@click.option("--column", help="Which one, where the file holds several devices.")
@click.option("--backbone", default="mobilenetv2", show_default=True, help="What the table is for: a name, or a .toml.")
@click.option(
    "--input-size", "input_sizes", type=int, multiple=True, help="Of the backbone; repeatable.  [default: 224]"
)
@click.option("--classes", type=int, help="Of the head.  [default: as the backbone says]")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The table.  [default: DEVICE.parquet]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def import_(
    file: Path,
    device: str,
    reader: str | None,
    column: str | None,
    backbone: str,
    input_sizes: tuple[int, ...],
    classes: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Make a table of FILE, a latency table that others published.

    Only rows with exactly the operators of ours are taken; the others are counted and named.
    """
    from bpnas.profiler.backbone import Backbone
    from bpnas.tables.build import name_some
    from bpnas.tables.published import import_table
    from bpnas.tables.schema import write_table

    path = out or Path(f"{device}.parquet")
    backbones = [Backbone.load(backbone, size, classes) for size in dict.fromkeys(input_sizes or (224,))]
    imported = import_table(file, device, backbones, reader, column)
    _check_folder(path)
    write_table(path, imported.table, imported.meta)
    left = sum(map(len, imported.mismatches.values()))
    text = [
        f"{path}: {imported.table.num_rows:,} entries of {imported.meta.label}",
        _coverage(imported.meta),
        f"{imported.rows - left:,} of {imported.rows:,} rows of {file} have exactly the operators of ours"
        + ("; left out:" if left else ""),
    ]
    text += [f"  {len(names):,} {reason}: {name_some(names)}" for reason, names in imported.mismatches.items()]
    text.append(f"Next: build-table doctor {path}")
    result = {
        "table": str(path),
        "entries": imported.table.num_rows,
        "device": device,
        "imported": asdict(imported.meta.imported) if imported.meta.imported else None,
        "rows": imported.rows,
        "left_out": {reason: list(names) for reason, names in imported.mismatches.items()},
        "input_sizes": sorted({b.input_size for b in backbones}),
        "paths": len(imported.meta.paths),
    }
    print_result(result, as_json, "\n".join(text))


def _check_folder(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: the folder {path.absolute().parent} does not exist; create it first")


def _coverage(meta: TableMeta) -> str:
    sizes = ", ".join(map(str, sorted({b.input_size for b in meta.backbones})))
    return f"Backbone {meta.backbones[0].name} at input size {sizes}; {len(meta.paths)} of 272 paths at every site"


def _missing(meta: TableMeta) -> str:
    from bpnas.tables.build import name_some

    return f"{len(meta.missing)} planned entries are missing: {name_some(meta.missing)}"


def _terminal_width() -> int | None:
    """In characters; None where nobody looks at a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _records_here() -> list[Path]:
    from bpnas.profiler.records import is_records_file

    files = sorted(path for path in Path().glob("*.sqlite") if is_records_file(path))
    if not files:
        raise UsageError("no records in this directory; name a records file, or make one with profile-device")
    return files


def _write_csv(path: Path, built: BuiltTable) -> None:
    from bpnas.android_bench.files import write_atomically
    from bpnas.tables.latency_table import to_pandas

    write_atomically(path, to_pandas(built.table).to_csv(index=False).encode())
