"""The command `run-search retrain`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bpnas.base.command import Command, echo, print_result
from bpnas.search.commands.display import display
from bpnas.search.commands.options import (
    RETRAIN_OVERRIDES,
    additivity_option,
    json_option,
    own_data_option,
    preset_option,
    retrain_options,
    wait_passively,
)
from bpnas.search.data.evaluation_images import on_images


@click.command(cls=Command, short_help="Train a searched network once more, also on other images.")
@click.argument("network", type=click.Path(path_type=Path))
@own_data_option
@preset_option
@retrain_options
@click.option(
    "--table",
    type=click.Path(dir_okay=False),
    help="Latency table: needed where the images have other classes than the search and what it is deployed for.  "
    "[default: as the search predicted]",
)
@additivity_option
@click.option(
    "--allow-above-limit",
    is_flag=True,
    help="Train it also where its latency with such a head is above its limit, or unknown.",
)
@click.option("--out", type=click.Path(file_okay=False), help="Directory.  [default: NETWORK's, with -retrained]")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of weights, order and augmentation.")
@json_option
def retrain(
    network: Path,
    data: str | None,
    preset: str,
    table: str | None,
    additivity: str | None,
    allow_above_limit: bool,
    out: str | None,
    seed: int,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Train NETWORK, a run directory or its network.json, from random weights.

    Called again with the same options, it resumes where it was stopped. On several GPUs or machines:
    torchrun --nproc-per-node 8 -m bpnas.search.cli retrain NETWORK ...
    """
    wait_passively()
    from bpnas.search.networks.network_file import NetworkFile, limit_facts
    from bpnas.search.networks.retrain import retrain as train_again
    from bpnas.search.presets import Preset
    from bpnas.search.spent import cost_lines, cost_values
    from bpnas.search.training.distributed import is_main, process_group
    from bpnas.tables import LatencyTable

    values = {RETRAIN_OVERRIDES[name]: value for name, value in overrides.items() if value is not None}
    chosen = Preset.load(preset).override(values)
    file = NetworkFile.load(network)
    home = file.path.parent.resolve()
    loaded = None if table is None else LatencyTable.load(table, additivity)
    with process_group(), display(file.mock if loaded is None else loaded.meta.mock) as progress:
        speaks = is_main()
        result = train_again(
            file.path,
            out=out or home.with_name(f"{home.name}-retrained"),
            data=data,
            preset=chosen,
            table=loaded,
            allow_above_limit=allow_above_limit,
            seed=seed,
            progress=progress,
        )
    if not speaks:
        return
    mock = " (mock: computed, not measured)" if result.mock else ""
    latency, written = "latency unknown", NetworkFile.load(result.directory)
    if result.predicted_latency_ms is not None:
        latency = f"{result.predicted_latency_ms:.4g} ms by table{mock} {written.head_note}"
    if written.deployed_note:
        latency += f", {written.deployed_note}"
    limit = "" if result.limit_ms is None else f", limit {result.limit_ms:.4g} ms"
    text = (
        f"Accuracy {result.accuracy * 100:.1f}% {on_images(result.accuracy_on)}, {latency}{limit}\n"
        f"Files: {result.directory}/network.json, network.onnx, network.tflite\n"
        + "\n".join(cost_lines(result.cost))
        + f"\nNext: {shlex.join(['run-search', 'measure', str(result.directory)])}"
    )
    facts = {
        "out": str(result.directory),
        "mock": result.mock,
        "accuracy": result.accuracy,
        "accuracy_on": None if result.accuracy_on is None else asdict(result.accuracy_on),
        "classes": written.backbone.classes,
        "predicted_latency_ms": result.predicted_latency_ms,
        **written.deployed_facts,
        **limit_facts(result.limited_ms, result.limit_ms),
        "cost": cost_values(result.cost),
    }
    if result.above_limit is not None:
        echo(result.above_limit, err=True)
    print_result(facts, as_json, text)
