"""Models that are no part of a backbone, at the command line: `profile-device --models` and `profile-device zoo`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpnas.android_bench.model_inputs import numbers_text
from bpnas.base.columns import align, terminal_width, wrapped
from bpnas.base.command import Command, Option, echo, fail, print_result
from bpnas.base.errors import UsageError
from bpnas.base.plain_text import storable
from bpnas.base.plurals import counted

if TYPE_CHECKING:
    from bpnas.android_bench.device import DeviceInfo
    from bpnas.profiler.campaign.other_models import FileParts, LeftOut, OtherPart, Timing
    from bpnas.profiler.commands.time_models import TimedModels

ABOUT_BACKBONES = {"backbone", "input_sizes", "classes", "paths", "networks", "context_"}
"""Options of `profile-device` that make no sense for other models."""

ABOUT_FILES = {"models", "input_shapes", "input_values"}
"""Options of `profile-device` that make sense for files alone."""

_MOST_NAMED = 50  # in one line; each has its own before it

_what = partial(Option, section="What to measure")


def time_files(options: Iterable[click.Parameter], given: set[str], **parameters: Any) -> None:
    """Time files; those that cannot be timed are named first, and the others are timed.

    Args:
        options: of `profile-device`.
        given: names of those on the command line.
        parameters: their values.

    Raises:
        UsageError: none of the files can be timed, or an option makes no sense for them.
    """
    from bpnas.android_bench.model_inputs import InputChoices
    from bpnas.profiler.campaign.other_models import file_parts

    for option in options:
        if option.name in given & ABOUT_BACKBONES:
            raise UsageError(f"{option.opts[0]}: is about backbones; leave it out, or --models")
    choices = InputChoices.parse(parameters["input_shapes"], parameters["input_values"])
    found = file_parts(parameters["models"], parameters["runtime"] if "runtime" in given else None, choices)
    if not found.groups and len(found.left_out) == 1:
        raise UsageError(found.left_out[0].reason)
    for each in found.left_out:
        echo(f"Left out: {each.reason}", err=True)
    if not found.groups:
        raise UsageError(f"none of the {counted(len(found.left_out), 'file')} can be timed, for the reasons above")
    for name, sizes in _taken_as_one(found):
        echo(f"{name}: the open batch is taken as 1, {sizes}; --input-shape gives another", err=True)
    _time_others(found.groups, parameters, found.left_out)


def zoo_command(options: Iterable[click.Parameter]) -> Command:
    """The command `zoo`.

    Args:
        options: of `profile-device`; it takes those about the device and about how to measure.
    """
    return Command(
        "zoo",
        callback=_time_zoo,
        help=_time_zoo.__doc__,
        short_help="Time known networks.",
        params=[
            *(option for option in options if option.name not in ABOUT_BACKBONES | ABOUT_FILES),
            _what(
                ["--networks", "names"], many=True, help="These ones only, as in 'mobilenetv2 fbnet-a'.  [default: all]"
            ),
            _what(["--input-size"], type=click.IntRange(32, 4096), default=224, show_default=True, help="Image size."),
        ],
    )


def _time_zoo(names: tuple[str, ...], input_size: int, **parameters: Any) -> None:
    """Time known networks, with random weights: MobileNets, MnasNets, FBNets, ShuffleNetV2, ProxylessNAS.

    They are timed as parts of a backbone are, and their samples are in the same records; no table takes them in.
    """
    from bpnas.profiler.models.zoo import ZooPart, zoo_network, zoo_networks

    networks = [zoo_network(name) for name in dict.fromkeys(names)] or zoo_networks()
    parts = [ZooPart(network, input_size) for network in networks]
    _time_others({parameters["runtime"]: parts}, parameters)


def _time_others(
    groups: Mapping[str, Sequence[OtherPart]], parameters: Mapping[str, Any], left_out: Sequence[LeftOut] = ()
) -> None:
    from bpnas.profiler.commands.campaign_options import CampaignOptions, failure_fields
    from bpnas.profiler.commands.time_models import time_models

    timed = time_models(groups, CampaignOptions.of(parameters))
    info = timed.setup.device
    summary = {
        "records": str(timed.records),
        "device": info.name,
        "mock": info.mock,
        "total": sum(result.total for result in timed.campaigns),
        "done": sum(result.done for result in timed.campaigns),
        "measured": sum(result.measured for result in timed.campaigns),
        "models": [_timing_fields(each, info) for each in timed.timings],
        "left_out": [{"name": each.name, "path": storable(str(each.path)), "reason": each.reason} for each in left_out],
        "failures": failure_fields(timed.failures),
        "lost": [sentence for result in timed.campaigns for sentence in result.lost],
    }
    print_result(summary, parameters["as_json"], _timing_table(timed.records, timed.timings, info))
    _fail_for(timed, left_out)


def _taken_as_one(found: FileParts) -> Iterator[tuple[str, str]]:
    for part in (part for parts in found.groups.values() for part in parts):
        shapes = part.file.shapes
        if part.file.assumed:
            yield part.name, ", ".join(f"{name}={numbers_text(shapes[name])}" for name in part.file.assumed)


def _fail_for(timed: TimedModels, left_out: Sequence[LeftOut]) -> None:
    """End the command with exit code 1 if not all was timed, and say what was not."""
    names = {timing.key: timing.name for timing in timed.timings}
    reasons = {failure.key: f"{failure.kind}: {failure.message}" for failure in timed.failures}
    for key, reason in reasons.items():
        echo(f"Not timed: {names.get(key, key)}: {reason}", err=True)
    if reasons or left_out:
        untimed = [*(each.name for each in left_out), *(names.get(key, key) for key in reasons)]
        total = len(left_out) + len(timed.timings)
        again = "; what failed is noted in the records, and the same command tries it again" if reasons else ""
        more = f" and {len(untimed) - _MOST_NAMED} more" if len(untimed) > _MOST_NAMED else ""
        named = ", ".join(untimed[:_MOST_NAMED])
        fail(f"{len(untimed)} of {counted(total, 'model')} could not be timed: {named}{more}{again}", 1)


def _timing_fields(timing: Timing, info: DeviceInfo) -> dict[str, Any]:
    found = timing.estimate
    return {
        "name": timing.name,
        "key": timing.key,
        "latency_ms": found and found.latency_ms,
        "low_ms": found and found.low_ms,
        "high_ms": found and found.high_ms,
        "sessions": found.measured if found else 0,
        "quarantined": len(found.quarantined) if found else 0,
        "flags": list(timing.flags),
        "macs": timing.size.macs,
        "parameters": timing.size.parameters,
        "device": info.name,
        "runtime": timing.runtime,
        "source": "mock" if info.mock else "measured",
        **_file_fields(timing.part),
    }


def _file_fields(part: OtherPart) -> dict[str, Any]:
    from bpnas.profiler.campaign.other_models import FilePart

    if not isinstance(part, FilePart):
        return {}
    file = part.file
    return {
        "path": storable(str(file.path)),
        "inputs": {
            name: {"type": each.type, "shape": list(shape)}
            for each, (name, shape) in zip(file.inputs, file.shapes.items(), strict=True)
        },
    }


def _milliseconds(latency_ms: float) -> str:
    return f"{latency_ms:.3f}" if latency_ms >= 0.1 else f"{latency_ms:.3g}"


def _amount(count: int | None, digits: int) -> str:
    """In millions; what is less is not rounded to nothing."""
    if count is None or count < 1000:
        return "-" if count is None else str(count)
    return f"{count / 1e3:.1f} k" if count < 100_000 else f"{count / 1e6:.{digits}f} M"


def _timing_table(path: Path, timed: Sequence[Timing], info: DeviceInfo) -> str:
    width = terminal_width()
    rows = [("model", "ms", "+-", "sessions", "MACs", "parameters", "flags")]
    for timing in timed:
        found = timing.estimate
        cells = (
            "-" if found is None or found.latency_ms is None else _milliseconds(found.latency_ms),
            "-" if found is None or found.half_width is None else f"{found.half_width:.1%}",
            str(found.measured if found else 0),
            _amount(timing.size.macs, 1),
            _amount(timing.size.parameters, 2),
        )
        rows.append((timing.name, *cells, " ".join(timing.flags)))
    on = info.model + (" (MOCK: computed, not measured)" if info.mock else "")
    on += f", {' and '.join(sorted({timing.runtime for timing in timed}))}"
    note = f"{path}: median of the sessions' medians on {on}, and half its 95 % confidence interval"
    lines = align(rows, "<>>>>><", width, whole_names=True)
    return "\n".join([*lines, *wrapped([note], width)])
