"""The commands about phones: `profile-device devices`, `doctor`, `bundle` and `operators`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bpnas.base.columns import NARROW, align, cut_inside, terminal_width
from bpnas.base.command import Command, fail, print_result
from bpnas.base.errors import UsageError
from bpnas.base.plurals import counted

if TYPE_CHECKING:
    from bpnas.android_bench.runner.lines import OperatorTime, Profiled


_LEAST_NAME = 12  # characters of an operator that stay


@click.command(cls=Command, short_help="List the phones that are attached.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def devices(as_json: bool) -> None:
    """List the phones that are attached: serial, state, model, and how each is reached."""
    from bpnas.android_bench.serials import attached_devices
    from bpnas.base.plain_text import printable

    header = ("serial", "state", "model", "via")
    rows = [tuple(printable(text) for text in (d.serial, d.state, d.model, d.via)) for d in attached_devices()]
    if rows:
        lines = align([header, *rows], "<<<<", terminal_width(), whole_names=True)
        if any(row[1] != "device" for row in rows):
            lines.append("What keeps a phone in another state than 'device': profile-device doctor --serial SERIAL")
    else:
        lines = [
            "No phone is attached. On the phone: tap Settings > About phone > Build number",
            "seven times, switch on USB debugging in Settings > Developer options, plug it",
            "in, and allow this computer on its screen. Over Wi-Fi: 'adb connect HOST:PORT',",
            "or --serial HOST:PORT. Then: profile-device doctor",
        ]
    result = {"devices": [dict(zip(header, row, strict=True)) for row in rows]}
    print_result(result, as_json, "\n".join(lines))


@click.command(cls=Command, short_help="Examine a phone, and say what to mend.")
@click.option("--serial", help="A USB serial, HOST:PORT, or 'local'.  [default: the one that is attached]")
@click.option("--directory", help="Folder on the phone to work in.  [default: /data/local/tmp/bpnas]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def doctor(serial: str | None, directory: str | None, as_json: bool) -> None:
    """Examine a phone before a campaign, and say line by line what is wrong and how to mend it.

    Exit code 1 if something keeps a campaign from running; warnings alone give 0.
    """
    from bpnas.android_bench.doctor import diagnose
    from bpnas.android_bench.serials import choose_serial
    from bpnas.base.findings import finding_lines
    from bpnas.base.plain_text import printable

    serial = serial or choose_serial()
    findings = diagnose(serial, directory)
    errors = sum(finding.level == "error" for finding in findings)
    lines = [f"{printable(serial)}:", *finding_lines(findings)]
    result = {"serial": serial, "errors": errors, "findings": [asdict(finding) for finding in findings]}
    print_result(result, as_json, "\n".join(lines))
    if errors:
        fail(f"{printable(serial)}: {counted(errors, 'thing')} to mend before a campaign can run", 1)


@click.command(cls=Command, short_help="Build the runner for a phone.")
@click.option("--arch", default="arm64", show_default=True, help="'arm64' (phones), 'x86_64' or 'host'.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to put it in.  [default: cache]")
@click.option(
    "--wheels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of runtime wheels that are there already: nothing is fetched.",
)
@click.option("--runtime", "runtimes", multiple=True, help="'tflite' or 'onnxruntime'; repeatable.  [default: both]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def bundle(arch: str, out: Path | None, wheels: Path | None, runtimes: tuple[str, ...], as_json: bool) -> None:
    """Build the runner for a phone, and put it in one folder with its libraries and the runtimes."""
    from bpnas.android_bench.device import RUNTIMES
    from bpnas.android_bench.runner.bundle import build_bundle, bundles_folder

    built = build_bundle(arch, out or bundles_folder(), runtimes=runtimes or RUNTIMES, wheels=wheels)
    size = sum(path.stat().st_size for path in built.directory.rglob("*") if path.is_file())
    result = {
        "directory": str(built.directory),
        "arch": arch,
        "sha256": built.sha256,
        "files": len(built.files),
        "bytes": size,
    }
    text = f"{built.directory}: {counted(len(built.files), 'file')}, {size / 1e6:.1f} MB, SHA-256 {built.sha256}"
    print_result(result, as_json, text)


@click.command(cls=Command, short_help="Time each operator of one model.")
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--serial", help="A USB serial, HOST:PORT, or 'local'.  [default: the one that is attached]")
@click.option("--bundle", type=click.Path(exists=True, file_okay=False, path_type=Path), help="[default: the newest]")
@click.option("--affinity", help="Cores, as a mask like 'f0', or 'none'.  [default: the big ones]")
@click.option("--directory", help="Folder on the device.  [default: /data/local/tmp/bpnas]")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads of the runtime.")
@click.option(
    "--input-shape", "input_shapes", multiple=True, metavar="NAME=N,N,...", help="As of profile-device --models."
)
@click.option(
    "--input-value", "input_values", multiple=True, metavar="NAME=N,...", help="As of profile-device --models."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def operators(
    model: Path,
    serial: str | None,
    bundle: Path | None,
    affinity: str | None,
    directory: str | None,
    threads: int,
    input_shapes: tuple[str, ...],
    input_values: tuple[str, ...],
    as_json: bool,
) -> None:
    """Time each operator of one model, a .tflite or .onnx file, by the runtime's own profiler.

    It is a pass of its own: profiling costs time, so the sum is more than the model's latency. Times are medians over
    at least 50 inferences and a second (10 of a slow model), and an operator that runs others, such as a loop, is
    listed without them. The runtimes count in whole microseconds: what takes less is shown as '< 0.0010 ms'.
    """
    from bpnas.android_bench.device import DeviceOptions
    from bpnas.android_bench.measurement import RunSettings
    from bpnas.android_bench.model_file import open_model_file
    from bpnas.android_bench.model_inputs import InputChoices
    from bpnas.android_bench.runner.device import open_native_device
    from bpnas.android_bench.serials import choose_serial

    choices = InputChoices.parse(input_shapes, input_values)
    file = open_model_file(model, choices)
    choices.refuse_unknown(file.inputs)
    serial = serial or choose_serial()
    if serial.startswith("mock:"):
        raise UsageError(f"--serial {serial}: a computed device has no profiler; name a phone, or 'local'")
    options = DeviceOptions(bundle=bundle, affinity=affinity, directory=directory)
    with open_native_device(serial, file.runtime, options) as device:
        # Samples of the whole model come first, which nobody sees: the warm-up before them is what counts.
        settings = RunSettings(runs=1, seconds=0.0, threads=threads)
        profile = device.profile(model, settings, file.told_feeds, [each.name for each in file.data])
        label = device.info.label
    result = {
        "device": label,
        "serial": serial,
        "operators": [{**asdict(time), "below_clock": time.below_clock} for time in profile.operators],
        "below_clock": sum(time.below_clock for time in profile.operators),
        "inference_ns": profile.inference_ns,
        "runs": profile.runs,
    }
    print_result(result, as_json, "\n".join([f"{model} on {label}", *_operator_lines(profile)]))


def _operator_lines(profile: Profiled) -> Iterator[str]:
    spreads = [_spread(time) for time in profile.operators]
    width, columns = max(map(len, spreads), default=0), terminal_width() or NARROW
    for time, spread in zip(profile.operators, spreads, strict=True):
        shown = _at_most(time.ns + time.resolution_ns) if time.below_clock else _milliseconds(time.ns)
        beginning = f"{shown:>11} ms  {spread:<{width}}  " if width else f"{shown:>11} ms  "
        yield beginning + cut_inside(f"{time.type}  {time.name}", max(columns - len(beginning), _LEAST_NAME))
    lowest = sum(time.ns for time in profile.operators)
    below = sum(time.below_clock for time in profile.operators)
    if not lowest:
        together = _at_most(sum(time.resolution_ns for time in profile.operators))
    else:
        together = f">= {math.floor(lowest / 100) / 1e4:.4f}" if below else _milliseconds(lowest)
    yield f"{together:>11} ms  together"
    if profile.inference_ns is not None:
        yield f"{_milliseconds(profile.inference_ns):>11} ms  one inference while profiled, by the runner's own clock"
    if below:
        verb = "is" if below == 1 else "are"
        these = f"{below} of {counted(len(profile.operators), 'operator')} {verb}"
        yield f"{these} below the resolution of the runtime's clock, 1 us"
    if profile.runs is not None:
        yield f"medians of {counted(profile.runs, 'inference')}; behind them the 10th and the 90th percentile"


def _spread(time: OperatorTime) -> str:
    if time.below_clock or time.p10_ns is None or time.p90_ns is None:
        return ""
    return f"{_milliseconds(time.p10_ns)} to {_milliseconds(time.p90_ns)}"


def _milliseconds(ns: float) -> str:
    return f"{ns / 1e6:.4f}" if ns >= 100 else f"{ns / 1e6:.6f}"


def _at_most(ns: float) -> str:
    return f"< {math.ceil(round(ns / 100, 6)) / 1e4:.4f}"  # rounded up, so that it stays true
