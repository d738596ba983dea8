"""The command `profile-device`."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bpnas.android_bench.cli import bundle, devices, doctor, operators
from bpnas.base.command import Group, Option, print_result
from bpnas.base.errors import UsageError
from bpnas.base.plain_numbers import read_number
from bpnas.profiler.commands.models import time_files, zoo_command

_DEFAULT_SIZES = (32, 224)
_LEAST, _MOST = 0.001, 0.5  # precision that can be asked for


def _share(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """A share as people write it: `2%` or `0.02`."""
    if text is None:
        return None
    try:
        share = read_number(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = float("nan")
    if not _LEAST <= share <= _MOST:
        problem = f"{text!r} is no precision from {_LEAST:.1%} to {_MOST:.0%}; write for example 2% or 0.02"
        raise click.BadParameter(problem, context, parameter)
    return share


def _finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """A number that can be counted to: click also takes `nan`, which is in every range."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number of minutes; leave it out for no limit", context, parameter)
    return value


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
@click.option(
    "--budget", type=click.FloatRange(min=0, min_open=True), callback=_finite, help="Stop after this many minutes."
)
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that write models.")
@click.option("--seed", type=int, default=0, show_default=True, help="Order of measuring.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@_what("--backbone", default="mobilenetv2", show_default=True, help="A shipped backbone, or a .toml file.")
@_what("--input-size", "input_sizes", type=int, multiple=True, help="Image size; repeatable.  [default: 32, 224]")
@_what(
    "--classes",
    type=int,
    help="Outputs of the head; it is timed with 10, 100 and 1000, too.  [default: 10 up to size 64, else 1000]",
)
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
@_how(
    "--max-sessions", type=click.IntRange(1, 1000), help="Most per part.  [default: 10, or --sessions if that is more]"
)
@_what("--context", "context_", is_flag=True, help="Each path between two neighbours, too: about twice the time.")
@_what(
    "--models",
    many=True,
    type=click.Path(path_type=Path),
    help="Time these .onnx and .tflite files instead.",
)
@_what(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="NAME=N,N,...",
    help="Sizes of an input that --models leave open, as in 'x=1,3,224,224'; repeatable.",
)
@_what(
    "--input-value",
    "input_values",
    multiple=True,
    metavar="NAME=N,...",
    help="What an input of --models is filled with, as in 'rate=16000'; repeatable.  [default: what its type asks for]",
)
@_how("--warmup-runs", type=int, help="Minimum of runs before anything counts.  [default: 10]")
@_how("--warmup-seconds", type=float, help="Minimum seconds of warm-up.  [default: 0.5]")
@_how("--runs", type=int, help="Minimum of samples.  [default: 50]")
@_how("--seconds", type=float, help="Minimum seconds of sampling.  [default: 1.0]")
@_how("--sample-ms", type=float, help="A faster model is run several times within a sample.  [default: 1.0]")
@_how("--threads", type=int, help="Threads of the runtime.  [default: 1]")
@_how("--timeout", "timeout_seconds", type=float, help="Seconds until a model is given up.  [default: 300]")
@_how(
    "--max-memory",
    "max_memory_gb",
    type=float,
    metavar="GB",
    help="A model that asks for more is refused; 0: no limit.  [default: 4, or half the device's memory]",
)
@_phone("--bundle", type=_folder, help="Made by 'profile-device bundle'.  [default: the newest one that fits]")
@_phone("--runner", type=_file, help="Your own build of the runner, or TensorFlow's benchmark_model.")
@_phone("--runtime-library", type=_file, help="The runtime that --runner loads.  [default: it is linked in]")
@_phone("--affinity", help="Cores, as a mask like 'f0', or 'none'.  [default: the big ones]")
@_phone(
    "--max-temperature",
    "max_temperature_c",
    type=float,
    help="No model starts above this many degrees Celsius; 0: no limit.  [default: 45]",
)
@_phone(
    "--sentinel-limit",
    type=float,
    help="A phone slower than this many times its own beginning is cooled down first; 0: never.  [default: 1.1]",
)
@_phone(
    "--reconnect",
    "reconnect_seconds",
    type=float,
    help="Seconds to wait for a lost phone.  [default: 300]",
)
@_phone("--keep-governor", is_flag=True, help="Leave the frequency governor alone also where root could set it.")
@_phone("--directory", help="Folder on the phone to work in.  [default: /data/local/tmp/bpnas]")
@click.pass_context
def main(context: click.Context, /, **parameters: Any) -> None:
    """Time every path of a backbone on a device, and keep every sample.

    A call resumes where the last one on the same records file ended. Once all is measured, it measures what is not
    known well enough once more. The commands at the end are about phones.
    """
    if context.invoked_subcommand is not None:
        return
    if parameters["models"]:
        given = {name for name in parameters if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
        time_files(context.command.params, given, **parameters)
        return
    for option, value in (("--input-shape", parameters["input_shapes"]), ("--input-value", parameters["input_values"])):
        if value:
            raise UsageError(f"{option}: is about inputs of --models; name the files, or leave it out")
    from bpnas.profiler.backbone import Backbone
    from bpnas.profiler.campaign.records import Plan
    from bpnas.profiler.campaign.run import plan_parts
    from bpnas.profiler.commands.campaign_display import campaign_text, quality_fields
    from bpnas.profiler.commands.campaign_options import CampaignOptions, fail_for, failure_fields
    from bpnas.profiler.paths import HEAD_CLASSES

    sizes = dict.fromkeys(parameters["input_sizes"] or _DEFAULT_SIZES)
    backbones = tuple(Backbone.load(parameters["backbone"], size, parameters["classes"]) for size in sizes)
    options = CampaignOptions.of(parameters)
    with options.team(parameters["runtime"]) as team:
        plan = Plan(
            team.setup,
            backbones,
            parameters["paths"],
            options.sessions,
            parameters["networks"],
            context=parameters["context_"],
            heads=HEAD_CLASSES,
            precision=options.precision,
        )
        plan_parts(plan)  # a wrong filter is an error before any file is made
        path, info = options.path(team), team.setup.device
        result = options.run(team, plan)
    summary = {
        "records": str(path),
        "device": info.name,
        "mock": info.mock,
        "runtime": info.runtime,
        "fingerprint": info.fingerprint,
        "total": result.total,
        "done": result.done,
        "measured": result.measured,
        "failures": failure_fields(result.failures),
        "lost": list(result.lost),
        "seconds": round(result.elapsed_seconds, 3),
        **quality_fields(result.assessment),
    }
    print_result(summary, parameters["as_json"], campaign_text(path, team.label, result))
    fail_for(result.failures)


for _command in (devices, doctor, bundle, operators, zoo_command(main.params)):
    main.add_command(_command)
