"""The commands `build-table show`, `doctor`, `diff`, `merge` and `import`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from bpnas.base.columns import terminal_width, wrapped
from bpnas.base.command import Command, echo, fail, print_result
from bpnas.base.plurals import counted, entries


@click.command(cls=Command, short_help="Show a table: what it is, and rows of it.")
@click.argument("table", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--kind", help="Only entries of this kind: path, stem, head, join ...")
@click.option("--path", "paths", help="Only paths that match, as in 'K3G1,K[35]E6G*'.")
@click.option("--site", help="Only paths at sites that match, as in 24-32s2x56 or '*x56'.")
@click.option("--sort", help="Column to sort by; -COLUMN: the largest first.  [default: key]")
@click.option("--limit", type=click.IntRange(0), help="Most rows; 0: all.  [default: 20, with --csv and --json all]")
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
    from bpnas.tables.tools.show import as_records, describe, header_lines, row_lines, view_table

    view = view_table(table, kind=kind, paths=paths, site=site, sort=sort)
    if limit is None:
        limit = 0 if as_csv or as_json else 20
    rows = view.rows.head(limit) if limit else view.rows
    if as_csv:
        echo(rows.to_csv(index=False).removesuffix("\n"))
        return
    width = terminal_width()
    lines = [f"{table}:", *wrapped(header_lines(view), width, " " * 10), ""]
    lines += row_lines(rows, width) if len(rows) else ["No entry matches."]
    if len(rows) < len(view.rows):
        lines.append(f"{len(view.rows) - len(rows):,} more; --limit 0 shows all")
    result = {**describe(view), "rows": as_records(rows)} if as_json else {}
    print_result(result, as_json, "\n".join(lines))


@click.command(cls=Command, short_help="Examine a table, and say what to mend.")
@click.argument("table", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def doctor(table: Path, as_json: bool) -> None:
    """Examine TABLE, and say line by line what is doubtful about it and how to mend it.

    Exit code 1 if a number in it cannot be true or a search cannot use it; warnings alone give 0.
    """
    from bpnas.base.findings import finding_lines
    from bpnas.tables.tools.doctor import diagnose_table

    findings = diagnose_table(table)
    errors = sum(finding.level == "error" for finding in findings)
    result = {"table": str(table), "errors": errors, "findings": [asdict(finding) for finding in findings]}
    print_result(result, as_json, "\n".join([f"{table}:", *finding_lines(findings)]))
    if errors:
        fail(f"{table}: {counted(errors, 'thing')} to mend before this table can be relied on", 1)


@click.command(cls=Command, short_help="Compare two tables, entry by entry.")
@click.argument("a", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Compare also what was run with other settings or model files.")
@click.option("--limit", type=click.IntRange(0), help="Most entries; 0: all.  [default: 10, with --json all]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def diff(a: Path, b: Path, force: bool, limit: int | None, as_json: bool) -> None:
    """Compare table B with table A: two devices, systems, runtimes or dates.

    Says of every entry how much slower or faster it is, and whether that is more than noise.
    """
    from bpnas.tables.tools.diff import diff_tables
    from bpnas.tables.tools.diff_report import diff_lines, diff_result

    compared = diff_tables(a, b, force)
    if limit is None:
        limit = 0 if as_json else 10
    lines = diff_lines(compared, limit, terminal_width())
    print_result(diff_result(compared, limit), as_json, "\n".join(lines))


@click.command(cls=Command, short_help="Join tables of one device.")
@click.argument("tables", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The joined table.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def merge(tables: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Join TABLES of one device, runtime and setting, as of several input sizes, to one.

    Nothing is averaged: entries that differ between tables are refused.
    """
    from bpnas.tables.build import missing_text
    from bpnas.tables.commands.text import check_folder, coverage_text, models_text
    from bpnas.tables.heads import heads_by_size, heads_text
    from bpnas.tables.schema import write_table
    from bpnas.tables.tools.merge import merge_tables

    check_folder(out)
    merged = merge_tables(tables)
    write_table(out, merged.table, merged.meta)
    meta = merged.meta
    sizes = sorted({b.input_size for b in meta.backbones})
    heads = heads_by_size(merged.table["key"].to_pylist(), meta.backbones)
    text = [
        f"{out}: {entries(merged.table.num_rows)} of {meta.label}",
        coverage_text(meta),
        f"Heads of {heads_text(heads)}",
    ]
    if meta.missing:
        text.append(missing_text(meta.missing))
    text.extend(models_text(meta.models))
    result = {
        "table": str(out),
        "entries": merged.table.num_rows,
        "missing": list(meta.missing),
        "device": meta.device_name,
        "mock": meta.mock,
        "input_sizes": sizes,
        "head_classes": {str(size): list(found) for size, found in heads.items()},
        "paths": len(meta.paths),
        "models": meta.models.to_dict(),
    }
    print_result(result, as_json, "\n".join(text))


@click.command("import", cls=Command, short_help="Make a table of a published one.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--device", required=True, help="What to call the device.")
@click.option("--reader", help="What reads the file.  [default: any that can]")
@click.option("--column", help="Which one, where the file holds several devices.")
@click.option("--backbone", default="mobilenetv2", show_default=True, help="What the table is for: a name, or a .toml.")
@click.option(
    "--input-size",
    "input_sizes",
    type=int,
    multiple=True,
    help="Input size of the backbone; repeatable.  [default: 224]",
)
@click.option("--classes", type=int, help="Classes of the head.  [default: as the backbone says]")
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
    from bpnas.tables.commands.text import check_folder, coverage_text
    from bpnas.tables.readers.published import import_table
    from bpnas.tables.schema import write_table

    path = out or Path(f"{device}.parquet")
    backbones = [Backbone.load(backbone, size, classes) for size in dict.fromkeys(input_sizes or (224,))]
    imported = import_table(file, device, backbones, reader, column)
    check_folder(path)
    write_table(path, imported.table, imported.meta)
    left = sum(map(len, imported.mismatches.values()))
    text = [
        f"{path}: {entries(imported.table.num_rows)} of {imported.meta.label}",
        coverage_text(imported.meta),
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
