"""What the commands of all transfer tasks share: options, the directory of a run, a line about the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import click

from bpnas.search.commands.options import json_option
from bpnas.search.transfer.backbones import BackboneChoice

Callback = Callable[..., Any]

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


def backbone_options(command: Callback) -> Callback:
    """The options that make up a `backbone`, which `command` takes in their place."""

    @click.option("--model", default="bpnas", show_default=True, help="'bpnas' or a model of timm, as mobilenetv2_100.")
    @click.option("--network", type=_FILE, help="network.json of a search, for --model bpnas.")
    @click.option(
        "--weights",
        type=_FILE,
        help="Trained weights, safetensors or a torch file.  [default: those next to network.json; none for timm]",
    )
    @click.option(
        "--from-scratch", is_flag=True, help="Start from random weights, not from --weights or the network's own."
    )
    @wraps(command)
    def with_choice(model: str, network: Path | None, weights: Path | None, from_scratch: bool, **options: Any) -> None:
        command(backbone=BackboneChoice(model, network, weights, not from_scratch), **options)

    return with_choice


def preset_option(paper: str = "'paper'") -> Callable[[Callback], Callback]:
    """Which recipe; `paper` says what the larger one is for."""
    text = f"'tiny' (a CPU, small images) or {paper}."
    return click.option("--preset", type=click.Choice(["tiny", "paper"]), default="tiny", show_default=True, help=text)


def run_options(task: str) -> Callable[[Callback], Callback]:
    """Where the run is, its seed, and how its result is printed."""
    folder, text = (
        click.Path(file_okay=False, path_type=Path),
        f"Directory of the run.  [default: runs/{task}-MODEL-seedN]",
    )
    out = click.option("--out", type=folder, help=text)
    seed = click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
    return lambda command: out(seed(json_option(command)))


def run_path(out: Path | None, task: str, backbone: BackboneChoice, seed: int) -> Path:
    """The directory of the run."""
    return out or Path("runs") / f"{task}-{backbone.model}-seed{seed}"


def network_line(result: Mapping[str, Any]) -> str:
    """The network of a result.json and its latency, for people."""
    latency, mock = result["predicted_latency_ms"], " (mock: computed, not measured)" if result["mock"] else ""
    about = "" if latency is None else f", {latency:.4g} ms by table at {result['input_size']} pixels{mock}"
    return f"Network: {result['network'] or result['model']}{about}"
