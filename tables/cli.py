"""The command `build-table`, and the ones below it that look into tables, compare, join and import them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bpnas.base.command import Command, DefaultGroup, print_result
from bpnas.base.errors import UsageError
from bpnas.base.plurals import entries
from bpnas.tables.additivity.model_record import MODEL_NAMES
from bpnas.tables.commands.tools import diff, doctor, import_, merge, show
from bpnas.tables.commands.validate import validate

if TYPE_CHECKING:
    from bpnas.profiler.campaign.session import Statistic
    from bpnas.tables.build import BuiltTable


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
@click.option(
    "--statistic",
    type=click.Choice(["median", "p10"]),
    default="median",
    show_default=True,
    help="Statistic of samples, and of sessions. p10, the 10th percentile, is for computers whose cores have other "
    "work: what a model takes when nobody disturbs it.",
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
    statistic: Statistic,
    as_json: bool,
) -> None:
    """Make a latency table of RECORDS files (default: all in this directory).

    A table is of one device, one runtime and one setting; anything else is refused, and nothing is filled in.
    """
    from bpnas.tables.build import build_table, missing_text
    from bpnas.tables.commands.text import check_folder, coverage_text, default_path, models_text, next_step
    from bpnas.tables.latency_table import LatencyTable
    from bpnas.tables.schema import write_table

    files = records or _records_here()
    built = build_table(
        files,
        runtime=runtime,
        backbone=backbone,
        paths=paths,
        allow_missing=allow_missing,
        additivity=additivity,
        statistic=statistic,
    )
    as_csv = format_ == "csv" or (format_ is None and out is not None and out.suffix == ".csv")
    path = out or default_path(built.meta.device_name, ".csv" if as_csv else ".parquet")
    check_folder(path)
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
        "statistic": meta.statistic,
        "doubtful": doubtful,
        "flags": dict(sorted(flags.items())),
        "largest_drift_correction": round(built.largest_correction, 4),
        "models": meta.models.to_dict(),
    }
    text = [f"{path}: {entries(built.table.num_rows)} of {meta.device.label}", coverage_text(meta)]
    if meta.missing:
        text.append(missing_text(meta.missing))
    if doubtful:
        are = "is" if doubtful == 1 else "are"
        text.append(
            f"{entries(doubtful)} {are} doubtful: {', '.join(f'{flag} {flags[flag]}' for flag in sorted(flags))}"
        )
    if built.largest_correction:
        text.append(f"Drift of the device was corrected, by {built.largest_correction:.1%} at most")
    text.extend(models_text(meta.models))
    if not as_csv:
        text.append(next_step(path, LatencyTable(built.table, meta)))
    print_result(result, as_json, "\n".join(text))


for _command in (validate, show, doctor, diff, merge, import_):
    main.add_command(_command)


def _records_here() -> list[Path]:
    from bpnas.profiler.campaign.records import is_records_file

    files = sorted(path for path in Path().glob("*.sqlite") if is_records_file(path))
    if not files:
        raise UsageError("no records in this directory; name a records file, or make one with profile-device")
    return files


def _write_csv(path: Path, built: BuiltTable) -> None:
    from bpnas.base.files import write_atomically
    from bpnas.tables.latency_table import to_pandas

    write_atomically(path, to_pandas(built.table).to_csv(index=False).encode())
