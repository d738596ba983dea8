"""The commands `run-search export` and `run-search measure`: the network of a run, put to work."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpnas.android_bench.device import RUNTIMES
from bpnas.base.command import Command, echo, print_result
from bpnas.base.plurals import counted
from bpnas.profiler.cli import main as profile_device
from bpnas.profiler.commands.models import ABOUT_BACKBONES, ABOUT_FILES
from bpnas.search.commands.display import display
from bpnas.search.commands.options import json_option, own_data_option, wait_passively
from bpnas.search.data.evaluation_images import on_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bpnas.search.networks.export import Int8Result
    from bpnas.search.networks.measure import Measured
    from bpnas.search.networks.network_file import NetworkFile

_run_argument = click.argument("run", type=click.Path(path_type=Path))


@click.command(cls=Command, short_help="Write a network's model files, also in int8.")
@_run_argument
@click.option("--int8", is_flag=True, help="Also network.int8.onnx and network.int8.tflite.")
@click.option(
    "--calibration-images",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Training images that the ranges of the feature maps come from.",
)
@click.option("--test-images", type=click.IntRange(1), help="That the loss of accuracy is measured on.  [default: all]")
@own_data_option
@json_option
def export(
    run: Path, int8: bool, calibration_images: int, test_images: int | None, data: str | None, as_json: bool
) -> None:
    """Write the model files of RUN, a run directory or its network.json, from its weights.

    network.onnx and network.tflite are in float32, as a search leaves them. With --int8 there are two more, by
    post-training quantisation, and network.json says what they cost in accuracy.
    """
    wait_passively()
    from bpnas.search.networks.export import export_int8, write_models
    from bpnas.search.networks.measure import drop_outdated
    from bpnas.search.networks.network_file import NetworkFile, load_network, network_values, note_files

    network = NetworkFile.load(run)
    result = None
    if int8:
        with display(network.mock) as progress:
            result = export_int8(
                network, data=data, calibration_images=calibration_images, test_images=test_images, progress=progress
            )
    else:
        models = write_models(network.path, load_network(network.path), network.backbone.input_size)
        with network_values(network.path) as values:
            note_files(values, {f"{network.path.stem}{suffix}": content for suffix, content in models.items()})
            drop_outdated(network, values)
    if network.above_limit is not None:
        echo(network.above_limit, err=True)
    lines = [f"Files: {network.path.with_suffix('.onnx')} and {network.path.with_suffix('.tflite').name}"]
    if result is not None:
        lines.append(int8_text(result))
    print_result(
        {"network": str(network.path), "int8": None if result is None else asdict(result)}, as_json, "\n".join(lines)
    )


def int8_text(result: Int8Result) -> str:
    """What int8 cost, for people."""
    images = result.accuracy_on
    where = f"on {counted(result.test_images, 'test image')}" if images is None else on_images(images)
    lines = [
        f"{name}: accuracy {loss.int8_accuracy * 100:.2f}%, in float32 {loss.float32_accuracy * 100:.2f}%, a loss of "
        f"{loss.loss_points:.2f} points {where}"
        for name, loss in result.files.items()
    ]
    return "\n".join([*lines, f"Warning: {result.left_out}"] if result.left_out else lines)


@click.command(cls=Command, short_help="Time a network on a device.")
@_run_argument
@click.option(
    "--runtime", type=click.Choice(RUNTIMES), help="Only the files that it runs.  [default: all that are there]"
)
def measure(run: Path, runtime: str | None, as_json: bool, **parameters: Any) -> None:
    """Time the exported files of RUN, a run directory or its network.json, and note it next to the prediction.

    It is done as the table's paths were timed, unless options say otherwise. Of a computed table, the default device
    is that computed one, for which files in int8 are left out. A call resumes where the last one ended.
    """
    from bpnas.profiler.commands.campaign_options import CampaignOptions, fail_for, failure_fields
    from bpnas.profiler.commands.time_models import time_models
    from bpnas.search.networks.measure import exported_parts, note_measured, table_setup, unlike
    from bpnas.search.networks.network_file import NetworkFile, check_weights, limit_facts

    network = NetworkFile.load(run)
    check_weights(network.path)
    table = table_setup(network.values, network.path)
    if table is not None:
        for name, value in asdict(table.settings).items():
            if parameters[name] is None:
                parameters[name] = value
        if table.device.mock and not parameters["serials"]:
            parameters["serials"] = (f"mock:{table.device.name}",)
    parameters["jobs"] = 1
    parameters["records"] = parameters["records"] or str(network.path.with_name("measured.sqlite"))
    # Computed devices know what float32 costs, and nothing else.
    computed = any(serial.startswith("mock:") for serial in parameters["serials"])
    parts = exported_parts(network, runtime, int8=not computed)
    timed = time_models(parts, CampaignOptions.of(parameters))
    found, warnings = note_measured(network, timed), unlike(table, timed)
    predicted, limit = network.predicted_latency_ms, network.target_ms
    summary = {
        "network": str(network.path),
        "classes": network.backbone.classes,
        "predicted_latency_ms": predicted,
        "head_interpolated_from": network.values.get("head_interpolated_from", []),
        **network.deployed_facts,
        **limit_facts(network.limited_ms, limit),
        "measured": [asdict(each) for each in found],
        "warnings": warnings,
        "records": str(timed.records),
        "failures": failure_fields(timed.failures),
    }
    if network.above_limit is not None:
        echo(network.above_limit, err=True)
    print_result(summary, as_json, _measured_text(network, found, warnings))
    fail_for(timed.failures)


def _measured_text(network: NetworkFile, found: Sequence[Measured], warnings: Sequence[str]) -> str:
    lines, predicted, limit = [], network.predicted_latency_ms, network.target_ms
    floats = {each.runtime: each.latency_ms for each in found if ".int8." not in each.file}
    for each in found:
        line = f"{each.file}: {each.latency_ms:.4g} ms on {each.model}"
        line += " (MOCK: computed, not measured)" if each.mock else ""
        if each.low_ms is not None and each.high_ms is not None:
            line += f", 95 % interval {each.low_ms:.4g} to {each.high_ms:.4g}, {counted(each.sessions, 'session')}"
        if each.flags:
            line += f", flags: {' '.join(each.flags)}"
        if ".int8." in each.file:
            beside = floats.get(each.runtime)
            line += "" if beside is None else f"; {beside / each.latency_ms:.2f} times as fast as in float32"
        elif predicted is not None:
            ratio = predicted / each.latency_ms
            line += f"; the table predicts {predicted:.4g} ms, {ratio:.3f} times that ({(ratio - 1) * 100:+.1f}%)"
        if limit is not None and network.deploy_classes is None and each.latency_ms > limit:
            line += f"; above the limit of {limit:.4g} ms"
        lines.append(line)
    if predicted is not None:
        lines.append(f"The prediction is {network.head_note}")
    if network.deployed_note:
        what = "" if limit is None else f"; the limit of {limit:.4g} ms is for that one"
        lines.append(f"By table it takes {network.deployed_note}{what}")
    lines += [f"Warning: {sentence}" for sentence in warnings]
    return "\n".join([*lines, f"All of it: {network.path}"])


# A device is reached, and a model timed on it, as by profile-device.
_LEFT_OUT = ABOUT_BACKBONES | ABOUT_FILES | {"runtime", "jobs"}
measure.params += [option for option in profile_device.params if option.name not in _LEFT_OUT]
