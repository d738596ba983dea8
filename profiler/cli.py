"""The command `profile-device`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpnas.android_bench.command import Command, fail, print_result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bpnas.profiler.campaign import CampaignResult, Progress

_DEFAULT_SIZES = (32, 224)
_PLAIN_LINE_SECONDS = 30.0


@click.command(cls=Command)
@click.option("--serial", default="local", show_default=True, help="'local' (this machine) or 'mock:s9' (computed).")
@click.option("--runtime", default="tflite", show_default=True, help="'tflite' or 'onnxruntime'.")
@click.option("--backbone", default="mobilenetv2", show_default=True, help="A shipped backbone, or a .toml file.")
@click.option(
    "--input-size", "input_sizes", type=int, multiple=True, help="Image size; repeatable.  [default: 32, 224]"
)
@click.option("--classes", type=int, help="Outputs of the head.  [default: 10 up to size 64, else 1000]")
@click.option("--paths", help="Only paths that match, as in 'K3G1,K[35]E6G*'.  [default: all 272]")
@click.option("--records", type=click.Path(dir_okay=False), help="Records file.  [default: DEVICE.sqlite]")
@click.option(
    "--sessions", type=click.IntRange(1, 1000), default=1, show_default=True, help="Fresh sessions of each part."
)
@click.option("--warmup-runs", type=int, help="At least so many runs before anything counts.  [default: 10]")
@click.option("--warmup-seconds", type=float, help="And at least so long.  [default: 0.5]")
@click.option("--runs", type=int, help="At least so many samples.  [default: 50]")
@click.option("--seconds", type=float, help="And for at least so long.  [default: 1.0]")
@click.option("--threads", type=int, help="Of the runtime.  [default: 1]")
@click.option("--timeout", "timeout_seconds", type=float, help="Seconds until a model is given up.  [default: 300]")
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), help="Stop after so many minutes.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that write models.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of measuring.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    serial: str,
    runtime: str,
    backbone: str,
    input_sizes: tuple[int, ...],
    classes: int | None,
    paths: str | None,
    records: str | None,
    sessions: int,
    budget: float | None,
    jobs: int,
    seed: int,
    as_json: bool,
    **settings: Any,
) -> None:
    """Time every path of a backbone on a device, and keep every sample.

    A call goes on where the last one on the same records file ended; nothing is measured twice.
    """
    from bpnas.android_bench.device import open_device
    from bpnas.android_bench.runner import RunSettings
    from bpnas.profiler.backbone import Backbone
    from bpnas.profiler.campaign import plan_parts, run_campaign
    from bpnas.profiler.graph import EXPORT_VERSION
    from bpnas.profiler.records import Plan, Records, Setup

    run_settings = RunSettings(**{name: value for name, value in settings.items() if value is not None})
    sizes = dict.fromkeys(input_sizes or _DEFAULT_SIZES)
    backbones = tuple(Backbone.load(backbone, size, classes) for size in sizes)
    with open_device(serial, runtime) as device:
        plan = Plan(Setup(device.info, run_settings, EXPORT_VERSION), backbones, paths, sessions)
        plan_parts(plan)  # a wrong filter is an error before any file is made
        path = Path(records or f"{device.info.name}.sqlite")
        with Records.write(path) as store, _display(device.info.label) as show:
            store.refuse_other_setups(plan.setup)
            budget_seconds = None if budget is None else budget * 60
            result = run_campaign(
                device, store, plan, seed=seed, budget_seconds=budget_seconds, jobs=jobs, on_progress=show
            )
    summary = {
        "records": str(path),
        "device": device.info.name,
        "mock": device.info.mock,
        "runtime": runtime,
        "fingerprint": device.info.fingerprint,
        "total": result.total,
        "done": result.done,
        "measured": result.measured,
        "failures": [
            {"key": f.key, "session": f.session, "kind": f.kind, "message": f.message} for f in result.failures
        ],
        "seconds": round(result.elapsed_seconds, 3),
    }
    print_result(summary, as_json, _summary(path, device.info.label, result))
    if result.failures:
        first = result.failures[0]
        fail(
            f"{len(result.failures)} models failed, the first one, {first.key}, with {first.kind}: {first.message}; "
            "all are noted in the records, call the same command again to try them again",
            1,
        )


def _summary(path: Path, label: str, result: CampaignResult) -> str:
    lines = [f"{path}: {result.done} of {result.total} sessions measured on {label}, {result.measured} of them now"]
    if result.is_complete:
        lines.append(f"Next: build-table {path}")
    else:
        lines.append(f"{result.total - result.done} are left: call the same command again to go on")
    return "\n".join(lines)


@contextmanager
def _display(label: str) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal, a line now and then elsewhere; both on standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_display(label)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=None, state="")
        yield lambda now: bar.update(task, total=now.total, completed=now.done, state=_state(now))


def _plain_display(label: str) -> Callable[[Progress], None]:
    last = [-_PLAIN_LINE_SECONDS]

    def show(now: Progress) -> None:
        if time.monotonic() - last[0] >= _PLAIN_LINE_SECONDS or now.done + now.failures == now.total:
            last[0] = time.monotonic()
            click.echo(f"{label}: {now.done} of {now.total}, {_state(now)}", err=True)

    return show


def _state(now: Progress) -> str:
    left = now.remaining_seconds
    parts = [
        f"{now.per_second:.2g} models/s",
        "remaining time unknown" if left is None else f"{_duration(left)} left",
        f"{now.failures} failed",
        *(f"{name} {value}" for name, value in now.conditions.items()),
    ]
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
