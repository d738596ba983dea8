"""The command `build-table validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bpnas.base.columns import terminal_width
from bpnas.base.command import Command, print_result
from bpnas.profiler.cli import main as profile_device


@click.command(cls=Command)
@click.argument("table", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--serial", help="The device that the table is of.  [default: as profile-device; of a mock, that mock]")
@click.option("--networks", type=click.IntRange(1, 10_000), default=60, show_default=True, help="For each input size.")
@click.option("--sessions", type=click.IntRange(1, 1000), default=3, show_default=True, help="For each network.")
@click.option(
    "--max-sessions",
    type=click.IntRange(1, 1000),
    help="For one network, where sessions were noisy.  [default: 10, or --sessions if that is more]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed of the networks.")
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
    max_sessions: int | None,
    seed: int,
    input_sizes: tuple[int, ...],
    records: str | None,
    out: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Time whole networks on the device of TABLE, and say how far its predictions are off.

    The networks are random and none of them was ever fitted to. A call resumes where the last one ended.
    """
    import json

    from bpnas.android_bench.device import DeviceOptions
    from bpnas.android_bench.opening import open_device
    from bpnas.android_bench.serials import choose_serial
    from bpnas.base.files import write_atomically
    from bpnas.profiler.campaign.records import Records
    from bpnas.profiler.commands.campaign_display import campaign_display
    from bpnas.profiler.commands.campaign_options import fail_for, failure_fields, given_options, most_sessions
    from bpnas.tables.commands.text import check_folder
    from bpnas.tables.latency_table import LatencyTable
    from bpnas.tables.shipped import beside_table
    from bpnas.tables.validation.time_networks import plan_networks, refuse_mock_mismatch, time_networks
    from bpnas.tables.validation.validate import validate as compare

    out = out or Path(f"{beside_table(table)}.validation.json")
    check_folder(out)
    most = most_sessions(sessions, max_sessions)
    loaded = LatencyTable.load(table)
    meta = loaded.meta
    serial = serial or (f"mock:{meta.device_name}" if meta.mock else choose_serial())
    refuse_mock_mismatch(meta, serial)
    options = given_options(DeviceOptions, settings)
    with open_device(serial, meta.runtime, options) as device:
        plan = plan_networks(
            meta, device, networks=networks, sessions=sessions, seed=seed, input_sizes=tuple(dict.fromkeys(input_sizes))
        )
        file = Path(records) if records else Path(f"{beside_table(table)}.validation.sqlite")
        display = campaign_display(device.info.label, file, plan.setup.device, plan.setup.settings)
        with Records.write(file) as store, display as show:
            timed = time_networks(
                device,
                store,
                plan,
                statistic=meta.statistic,
                max_sessions=most,
                serial=serial,
                on_progress=show,
            )
    if timed.networks or not timed.campaign.failures:
        report = compare(loaded, timed.networks)
        content = report.to_dict() | {
            "table": str(table),
            "records": str(file),
            "sessions": sessions,
            "seed": seed,
            "failures": failure_fields(timed.campaign.failures),
        }
        write_atomically(out, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
        print_result(content | {"out": str(out)}, as_json, f"{report.to_text(terminal_width())}\n\nAll of it: {out}")
    fail_for(timed.campaign.failures)


# A phone is reached and prepared as for a campaign.
validate.params += [option for option in profile_device.params if getattr(option, "section", "") == "A phone"]
