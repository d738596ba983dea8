"""Models that are no part of a backbone, at the command line: `profile-device --models` and `profile-device zoo`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpnas.base.command import Command, Option, print_result
from bpnas.base.errors import UsageError

if TYPE_CHECKING:
    from bpnas.android_bench.device import DeviceInfo
    from bpnas.profiler.campaign.other_models import OtherPart, Timing

ABOUT_BACKBONES = {"backbone", "input_sizes", "classes", "paths", "networks", "context_"}
"""Options of `profile-device` that make no sense for other models."""

_what = partial(Option, section="What to measure")


def time_files(options: Iterable[click.Parameter], given: set[str], **parameters: Any) -> None:
    """Time files.

    Args:
        options: of `profile-device`.
        given: names of those on the command line.
        parameters: their values.

    Raises:
        UsageError: one of the files cannot be timed, or an option makes no sense for them.
    """
    from bpnas.profiler.campaign.other_models import file_parts

    for option in options:
        if option.name in given & ABOUT_BACKBONES:
            raise UsageError(f"{option.opts[0]}: is about backbones; leave it out, or --models")
    groups = file_parts(parameters["models"], parameters["runtime"] if "runtime" in given else None)
    _time_others(groups, parameters)


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
            *(option for option in options if option.name not in ABOUT_BACKBONES | {"models"}),
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


def _time_others(groups: Mapping[str, Sequence[OtherPart]], parameters: Mapping[str, Any]) -> None:
    from bpnas.profiler.commands.campaign_options import CampaignOptions, fail_for, failure_fields
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
        "failures": failure_fields(timed.failures),
        "lost": [sentence for result in timed.campaigns for sentence in result.lost],
    }
    print_result(summary, parameters["as_json"], _timing_table(timed.records, timed.timings, info))
    fail_for(timed.failures)


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
        "flags": list(found.flags) if found else [],
        "macs": timing.size.macs,
        "parameters": timing.size.parameters,
        "device": info.name,
        "runtime": timing.runtime,
        "source": "mock" if info.mock else "measured",
    }


def _timing_table(path: Path, timed: Sequence[Timing], info: DeviceInfo) -> str:
    device = f"{info.name} (MOCK)" if info.mock else info.name
    rows = [("model", "ms", "+-", "sessions", "MACs", "parameters", "runtime", "device", "flags")]
    for timing in timed:
        found = timing.estimate
        cells = (
            "-" if found is None or found.latency_ms is None else f"{found.latency_ms:.3f}",
            "-" if found is None or found.half_width is None else f"{found.half_width:.1%}",
            str(found.measured if found else 0),
            "-" if timing.size.macs is None else f"{timing.size.macs / 1e6:.1f} M",
            "-" if timing.size.parameters is None else f"{timing.size.parameters / 1e6:.2f} M",
        )
        rows.append((timing.name, *cells, timing.runtime, device, " ".join(found.flags if found else ())))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = [
            text.rjust(width) if 0 < n < 6 else text.ljust(width)
            for n, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    what = f"on {info.model}" + (": computed, not measured" if info.mock else "")
    return "\n".join([*lines, f"{path}: median of the sessions' medians {what}, and half its 95 % confidence interval"])
