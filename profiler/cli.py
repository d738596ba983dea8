"""The command `profile-device`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bpnas.android_bench.cli import bundle, devices, doctor, operators
from bpnas.android_bench.command import Command, Group, Option, fail, print_result
from bpnas.android_bench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bpnas.android_bench.device import DeviceInfo, DeviceOptions
    from bpnas.android_bench.runner import Failure, RunSettings
    from bpnas.profiler.campaign import CampaignResult, Progress
    from bpnas.profiler.estimate import Estimate
    from bpnas.profiler.other_models import OtherPart, Timing
    from bpnas.profiler.records import Setup

_DEFAULT_SIZES = (32, 224)
_SESSIONS_OF_MODELS = 3  # a few models are soon timed, and what differs between sessions is worth knowing
_ABOUT_BACKBONES = {"backbone", "input_sizes", "classes", "paths", "sessions", "networks", "models"}
_PLAIN_LINE_SECONDS = 30.0
_LEAST, _MOST = 0.001, 0.5  # precision that can be asked for
_WORST = 5  # so many of the parts that are not known well enough are named
_NOT_SHOWN = {"governor", "selinux", "charging", "battery_temperature_c"}  # in the records, but hardly ever another


def _share(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """A share as people write it: `2%` or `0.02`."""
    if text is None:
        return None
    try:
        share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = float("nan")
    if not _LEAST <= share <= _MOST:
        problem = f"{text!r} is no precision from {_LEAST:.1%} to {_MOST:.0%}; write for example 2% or 0.02"
        raise click.BadParameter(problem, context, parameter)
    return share


_what = partial(click.option, cls=Option, section="What to measure")
_how = partial(click.option, cls=Option, section="How to measure it")
_phone = partial(click.option, cls=Option, section="A phone")
_folder = click.Path(exists=True, file_okay=False, path_type=Path)
_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(cls=Group, invoke_without_command=True, subcommand_metavar="[COMMAND ...]")
@click.option(
    "--serial",
    "serials",
    multiple=True,
    help="A phone's USB serial or HOST:PORT, 'local' (this machine) or 'mock:s9' (computed); phones that are alike "
    "share the work if it is repeated.  [default: ANDROID_SERIAL, else the phone that is attached, else local]",
)
@click.option("--runtime", default="tflite", show_default=True, help="'tflite' or 'onnxruntime'.")
@click.option("--records", type=click.Path(dir_okay=False), help="Records file.  [default: DEVICE.sqlite]")
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), help="Stop after so many minutes.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that write models.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of measuring.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@_what("--backbone", default="mobilenetv2", show_default=True, help="A shipped backbone, or a .toml file.")
@_what("--input-size", "input_sizes", type=int, multiple=True, help="Image size; repeatable.  [default: 32, 224]")
@_what("--classes", type=int, help="Outputs of the head.  [default: 10 up to size 64, else 1000]")
@_what("--paths", help="Only paths that match, as in 'K3G1,K[35]E6G*'.  [default: all 272]")
@_what("--sessions", type=click.IntRange(1, 1000), default=3, show_default=True, help="Fresh sessions of each part.")
@_what(
    "--networks",
    type=click.IntRange(0, 10_000),
    default=0,
    show_default=True,
    help="Random whole networks of each size, too.",
)
@_how(
    "--precision",
    metavar="SHARE",
    callback=_share,
    help="Add sessions of each part until it is known to within this, as 2% or 0.02.  [default: only say what is not "
    "known within 5%]",
)
@_how("--max-sessions", type=click.IntRange(1, 1000), help="Of one part.  [default: 10, or --sessions if that is more]")
@_what("--context", "context_", is_flag=True, help="Each path between two neighbours, too: about twice the time.")
@_what(
    "--models",
    many=True,
    type=click.Path(path_type=Path),
    help="Time these .onnx and .tflite files instead, each in three sessions if --sessions does not say otherwise.",
)
@_how("--warmup-runs", type=int, help="At least so many runs before anything counts.  [default: 10]")
@_how("--warmup-seconds", type=float, help="And at least so long.  [default: 0.5]")
@_how("--runs", type=int, help="At least so many samples.  [default: 50]")
@_how("--seconds", type=float, help="And for at least so long.  [default: 1.0]")
@_how("--sample-ms", type=float, help="A faster model is run several times within a sample.  [default: 1.0]")
@_how("--threads", type=int, help="Of the runtime.  [default: 1]")
@_how("--timeout", "timeout_seconds", type=float, help="Seconds until a model is given up.  [default: 300]")
@_phone("--bundle", type=_folder, help="Made by 'profile-device bundle'.  [default: the newest one that fits]")
@_phone("--runner", type=_file, help="Your own build of the runner, or TensorFlow's benchmark_model.")
@_phone("--runtime-library", type=_file, help="The runtime that --runner loads.  [default: it is linked in]")
@_phone("--affinity", help="Cores, as a mask like 'f0', or 'none'.  [default: the big ones]")
@_phone(
    "--max-temperature",
    "max_temperature_c",
    type=float,
    help="No model starts above so many degrees Celsius; 0: whatever it is.  [default: 45]",
)
@_phone(
    "--sentinel-limit",
    type=float,
    help="A phone slower than so many times its own beginning is cooled down first; 0: never.  [default: 1.1]",
)
@_phone(
    "--reconnect",
    "reconnect_seconds",
    type=float,
    help="A lost phone is waited for so many seconds.  [default: 300]",
)
@_phone("--keep-governor", is_flag=True, help="Leave the frequency governor alone also where root could set it.")
@_phone("--directory", help="Folder on the phone to work in.  [default: /data/local/tmp/bpnas]")
@click.pass_context
def main(
    context: click.Context,
    /,
    serials: tuple[str, ...],
    runtime: str,
    records: str | None,
    budget: float | None,
    jobs: int,
    seed: int,
    as_json: bool,
    backbone: str,
    input_sizes: tuple[int, ...],
    classes: int | None,
    paths: str | None,
    sessions: int,
    networks: int,
    precision: float | None,
    max_sessions: int | None,
    context_: bool,
    models: tuple[Path, ...],
    **settings: Any,
) -> None:
    """Time every path of a backbone on a device, and keep every sample.

    A call goes on where the last one on the same records file ended. Once all is measured, it measures what is not
    known well enough once more. The commands at the end are about phones.
    """
    if context.invoked_subcommand is not None:
        return
    if max_sessions is not None and max_sessions < sessions:
        raise UsageError(f"--max-sessions {max_sessions} is less than --sessions {sessions}: leave it out, or raise it")
    if models:
        _time_files(context, models, runtime, sessions, serials, records, budget, jobs, seed, as_json, settings)
        return
    from bpnas.android_bench.device import open_device
    from bpnas.profiler.backbone import Backbone
    from bpnas.profiler.campaign import plan_parts, refuse_unequal, run_campaign
    from bpnas.profiler.graph import EXPORT_VERSION
    from bpnas.profiler.records import Plan, Records, Setup
    from bpnas.profiler.rounds import MAX_SESSIONS

    options, run_settings = _split(settings)
    sizes = dict.fromkeys(input_sizes or _DEFAULT_SIZES)
    backbones = tuple(Backbone.load(backbone, size, classes) for size in sizes)
    serials = _serials(serials)
    with ExitStack() as stack:
        devices = {serial: stack.enter_context(open_device(serial, runtime, options)) for serial in serials}
        info = devices[serials[0]].info
        setup = Setup(info, run_settings, EXPORT_VERSION)
        plan = Plan(setup, backbones, paths, sessions, networks, context=context_, precision=precision)
        plan_parts(plan)  # a wrong filter or unequal devices are errors before any file is made
        refuse_unequal(devices, plan.setup)
        path = Path(records or f"{info.name}.sqlite")
        label = info.label if len(devices) == 1 else f"{info.label}, {len(devices)} devices"
        store, show = stack.enter_context(Records.write(path)), stack.enter_context(campaign_display(label))
        store.refuse_other_setups(plan.setup)
        result = run_campaign(
            list(devices.values()),
            store,
            plan,
            serials=serials,
            seed=seed,
            max_sessions=MAX_SESSIONS if max_sessions is None else max_sessions,
            budget_seconds=None if budget is None else budget * 60,
            jobs=jobs,
            on_progress=show,
        )
    summary = {
        "records": str(path),
        "device": info.name,
        "mock": info.mock,
        "runtime": runtime,
        "fingerprint": info.fingerprint,
        "total": result.total,
        "done": result.done,
        "measured": result.measured,
        "failures": [
            {"key": f.key, "session": f.session, "kind": f.kind, "message": f.message} for f in result.failures
        ],
        "lost": list(result.lost),
        "precision": result.assessment.precision,
        "short": len(result.assessment.short),
        "worst": [_not_known(each, result.assessment.precision) for each in result.assessment.short[:_WORST]],
        "flags": dict(result.assessment.doubts),
        "largest_drift_correction": round(result.assessment.largest_correction, 4),
        "seconds": round(result.elapsed_seconds, 3),
    }
    print_result(summary, as_json, _summary(path, label, result))
    _fail_for(result.failures)


def _split(settings: dict[str, Any]) -> tuple[DeviceOptions, RunSettings]:
    """The options about the device and those about its runs; what was not given keeps its default."""
    from bpnas.android_bench.device import DeviceOptions
    from bpnas.android_bench.runner import RunSettings

    given = {name: value for name, value in settings.items() if value is not None}
    options = DeviceOptions(**{each.name: given.pop(each.name) for each in fields(DeviceOptions) if each.name in given})
    return options, RunSettings(**given)


def _fail_for(failures: Sequence[Failure]) -> None:
    if failures:
        first = failures[0]
        fail(
            f"{len(failures)} models failed, the first one, {first.key}, with {first.kind}: {first.message}; "
            "all are noted in the records, call the same command again to try them again",
            1,
        )


def _time_files(context: click.Context, models: tuple[Path, ...], runtime: str, sessions: int, *arguments: Any) -> None:
    from bpnas.profiler.other_models import file_parts

    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    for parameter in context.command.params:
        if parameter.name in given & _ABOUT_BACKBONES - {"models", "sessions"}:
            raise UsageError(f"{parameter.opts[0]}: is about backbones; leave it out, or --models")
    groups = file_parts(models, runtime if "runtime" in given else None)
    _time_others(groups, sessions if "sessions" in given else _SESSIONS_OF_MODELS, *arguments)


def _time_zoo(
    names: tuple[str, ...],
    input_size: int,
    sessions: int,
    runtime: str,
    serials: tuple[str, ...],
    records: str | None,
    budget: float | None,
    jobs: int,
    seed: int,
    as_json: bool,
    **settings: Any,
) -> None:
    """Time known networks, with random weights: MobileNets, MnasNets, FBNets, ShuffleNetV2, ProxylessNAS.

    They are timed as parts of a backbone are, and their samples lie in the same records; no table takes them in.
    """
    from bpnas.profiler.zoo import ZooPart, zoo_network, zoo_networks

    networks = [zoo_network(name) for name in dict.fromkeys(names)] or zoo_networks()
    parts = [ZooPart(network, input_size) for network in networks]
    _time_others({runtime: parts}, sessions, serials, records, budget, jobs, seed, as_json, settings)


def _time_others(
    groups: Mapping[str, Sequence[OtherPart]],
    sessions: int,
    serials: tuple[str, ...],
    records: str | None,
    budget: float | None,
    jobs: int,
    seed: int,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Time models that are no part of a backbone, by runtime, one runtime after the other."""
    from bpnas.android_bench.device import open_device
    from bpnas.profiler.campaign import refuse_unequal, run_campaign
    from bpnas.profiler.graph import EXPORT_VERSION
    from bpnas.profiler.other_models import timings
    from bpnas.profiler.records import Plan, Records, Setup

    options, run_settings = _split(settings)
    serials = _serials(serials)
    end = None if budget is None else time.monotonic() + budget * 60
    setups: dict[Setup, Sequence[OtherPart]] = {}
    results: list[CampaignResult] = []
    for runtime, parts in groups.items():
        with ExitStack() as stack:
            devices = {serial: stack.enter_context(open_device(serial, runtime, options)) for serial in serials}
            info = devices[serials[0]].info
            setup = Setup(info, run_settings, EXPORT_VERSION)
            refuse_unequal(devices, setup)
            path = Path(records or f"{info.name}.sqlite")
            store, show = stack.enter_context(Records.write(path)), stack.enter_context(_display(info.label))
            result = run_campaign(
                list(devices.values()),
                store,
                Plan(setup, (), None, sessions),
                others=parts,
                serials=serials,
                seed=seed,
                budget_seconds=None if end is None else max(0.0, end - time.monotonic()),
                jobs=jobs,
                on_progress=show,
            )
            setups[setup] = parts
            results.append(result)
    with Records.read(path) as store:
        timed = timings(store, setups)
    failures = [failure for result in results for failure in result.failures]
    summary = {
        "records": str(path),
        "device": info.name,
        "mock": info.mock,
        "total": sum(result.total for result in results),
        "done": sum(result.done for result in results),
        "measured": sum(result.measured for result in results),
        "models": [_timing_fields(timing, info) for timing in timed],
        "failures": [{"key": f.key, "session": f.session, "kind": f.kind, "message": f.message} for f in failures],
        "lost": [sentence for result in results for sentence in result.lost],
    }
    print_result(summary, as_json, _timing_table(path, timed, info))
    _fail_for(failures)


def _timing_fields(timing: Timing, info: DeviceInfo) -> dict[str, Any]:
    return {
        "name": timing.name,
        "key": timing.key,
        "latency_ms": timing.latency_ms,
        "spread": timing.spread,
        "sessions": len(timing.session_ms),
        "session_ms": list(timing.session_ms),
        "macs": timing.size.macs,
        "parameters": timing.size.parameters,
        "device": info.name,
        "runtime": timing.runtime,
        "source": "mock" if info.mock else "measured",
    }


def _timing_table(path: Path, timed: Sequence[Timing], info: DeviceInfo) -> str:
    device = f"{info.name} (MOCK)" if info.mock else info.name
    rows = [("model", "ms", "spread", "sessions", "MACs", "parameters", "runtime", "device")]
    for timing in timed:
        cells = (
            "-" if timing.latency_ms is None else f"{timing.latency_ms:.3f}",
            "-" if timing.spread is None else f"{timing.spread:.1%}",
            str(len(timing.session_ms)),
            "-" if timing.size.macs is None else f"{timing.size.macs / 1e6:.1f} M",
            "-" if timing.size.parameters is None else f"{timing.size.parameters / 1e6:.2f} M",
        )
        rows.append((timing.name, *cells, timing.runtime, device))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers, runtime, on in rows:
        middle = (text.rjust(width) for text, width in zip(numbers, widths[1:-2], strict=True))
        lines.append("  ".join((name.ljust(widths[0]), *middle, runtime.ljust(widths[-2]), on)))
    what = f"on {info.model}" + (": computed, not measured" if info.mock else "")
    return "\n".join([*lines, f"{path}: median of the sessions' medians {what}; spread: slowest less fastest session"])


_zoo = Command(
    "zoo",
    callback=_time_zoo,
    help=_time_zoo.__doc__,
    short_help="Time known networks.",
    params=[
        *(parameter for parameter in main.params if parameter.name not in _ABOUT_BACKBONES),
        Option(
            ["--networks", "names"],
            many=True,
            section="What to measure",
            help="These ones only, as in 'mobilenetv2 fbnet-a'.  [default: all]",
        ),
        Option(
            ["--input-size"],
            type=click.IntRange(32, 4096),
            default=224,
            show_default=True,
            section="What to measure",
            help="Image size.",
        ),
        Option(
            ["--sessions"],
            type=click.IntRange(1, 1000),
            default=_SESSIONS_OF_MODELS,
            show_default=True,
            section="What to measure",
            help="Fresh sessions of each network.",
        ),
    ],
)

for _command in (devices, doctor, bundle, operators, _zoo):
    main.add_command(_command)


def _serials(serials: tuple[str, ...]) -> tuple[str, ...]:
    if not serials:
        from bpnas.android_bench.attached import choose_serial

        return (choose_serial(),)
    twice = [serial for serial in serials if serials.count(serial) > 1]
    if twice:
        raise UsageError(f"--serial {twice[0]} is given twice: name every device once")
    return serials


def _summary(path: Path, label: str, result: CampaignResult) -> str:
    lines = [f"{path}: {result.done} of {result.total} sessions measured on {label}, {result.measured} of them now"]
    lines.extend(_quality(result))
    if result.is_complete:
        lines.append(f"Next: build-table {path}")
    else:
        lines.append(f"{result.total - result.done} are left: call the same command again to go on")
    lines.extend(f"Lost on the way: {sentence}" for sentence in result.lost)
    return "\n".join(lines)


def _quality(result: CampaignResult) -> Iterator[str]:
    """What there is to say of how well the parts are known."""
    found = result.assessment
    if found.short:
        worst = [_not_known(one, found.precision) for one in found.short[:_WORST]]
        names = ", ".join(
            " ".join([one["key"], "+-?" if one["half_width"] is None else f"+-{one['half_width']:.1%}", *one["flags"]])
            for one in worst
        )
        more = ", ..." if len(found.short) > len(worst) else ""
        remedy = "the same command measures these once more"
        if all(one.measured >= found.max_sessions for one in found.short):
            remedy = f"each has {found.max_sessions} sessions, and --max-sessions allows more"
        yield f"{len(found.short)} parts are not known to within {100 * found.precision:g}%: {names}{more}; {remedy}"
    if found.doubts:
        yield "Flags: " + ", ".join(f"{flag} {count}" for flag, count in found.doubts.items())
    if "clock" in found.doubts:
        yield "The clock is too coarse for the fastest parts: take longer samples, with --sample-ms and other --records"
    if found.largest_correction:
        yield f"Drift of the device was corrected, by {found.largest_correction:.1%} at most"


def _not_known(one: Estimate, precision: float) -> dict[str, Any]:
    return {
        "key": one.key,
        "half_width": None if one.half_width is None else round(one.half_width, 4),
        "sessions": one.measured,
        "flags": list(one.doubts(precision)),
    }


@contextmanager
def campaign_display(label: str) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal, a line now and then elsewhere; both on standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_display(label)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as ProgressBar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
    )
    with ProgressBar(*columns, console=console) as bar:
        task, warned = bar.add_task(label, total=None, state=""), 0

        def show(now: Progress) -> None:
            nonlocal warned
            for sentence in now.lost[warned:]:
                bar.console.print(_warning(sentence), markup=False, highlight=False)
            warned = len(now.lost)
            bar.update(task, total=now.total, completed=now.done, state=_state(now))

        yield show


def _plain_display(label: str) -> Callable[[Progress], None]:
    last, warned = -_PLAIN_LINE_SECONDS, 0

    def show(now: Progress) -> None:
        nonlocal last, warned
        for sentence in now.lost[warned:]:
            click.echo(_warning(sentence), err=True)
        warned = len(now.lost)
        if time.monotonic() - last >= _PLAIN_LINE_SECONDS or now.done + now.failures == now.total:
            last = time.monotonic()
            click.echo(f"{label}: {now.done} of {now.total}, {_state(now)}", err=True)

    return show


def _warning(sentence: str) -> str:
    return f"Warning: a device is lost, its work goes to the others: {sentence}"


def _state(now: Progress) -> str:
    left = now.remaining_seconds
    parts = [
        f"{now.per_second:.2g} models/s",
        "remaining time unknown" if left is None else f"{_duration(left)} left",
        f"{now.failures} failed",
        *(f"{name} {value}" for name, value in now.conditions.items() if name.rpartition(" ")[2] not in _NOT_SHOWN),
    ]
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
