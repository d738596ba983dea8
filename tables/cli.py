"""The command `build-table`."""

from __future__ import annotations

from collections import Counter
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


@click.group(cls=DefaultGroup)
def main() -> None:
    """Latency tables: make one (see `build`), judge one."""


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
    from bpnas.tables.build import build_table, name_some
    from bpnas.tables.schema import write_table

    files = records or _records_here()
    built = build_table(
        files, runtime=runtime, backbone=backbone, paths=paths, allow_missing=allow_missing, additivity=additivity
    )
    as_csv = format_ == "csv" or (format_ is None and out is not None and out.suffix == ".csv")
    path = out or Path(f"{built.meta.device_name}.{'csv' if as_csv else 'parquet'}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: the folder {path.absolute().parent} does not exist; create it first")
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
    sizes = ", ".join(map(str, sorted({b.input_size for b in meta.backbones})))
    text = [
        f"{path}: {built.table.num_rows} entries of {meta.device.label}",
        f"Backbone {meta.backbones[0].name} at input size {sizes}; {len(meta.paths)} of 272 paths at every site",
    ]
    if meta.missing:
        text.append(f"{len(meta.missing)} planned entries are missing: {name_some(meta.missing)}")
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
