"""What the commands of all transfer tasks share: options, the directory of a run, a line about the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import click

from bpnas.base.errors import UsageError
from bpnas.base.plain_numbers import read_number
from bpnas.base.plain_text import shown
from bpnas.search.commands.options import json_option
from bpnas.search.transfer.backbones import BackboneChoice
from bpnas.search.transfer.cost import cost_text
from bpnas.search.transfer.paper_figures import paper_line

Callback = Callable[..., Any]

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


_RENAMED = {"rate": "learning_rate", "pyramid_channels": "fpn_channels"}


def backbone_options(command: Callback) -> Callback:
    """The options that make up a `backbone`, which `command` takes in their place."""

    @click.option(
        "--model",
        default="bpnas",
        show_default=True,
        help="'bpnas'; the paper's baselines 'mobilenetv2' and 'mobilenetv2-1.2'; or a model of timm.",
    )
    @click.option("--network", type=_FILE, help="network.json of a search, for --model bpnas.")
    @click.option(
        "--weights",
        type=_FILE,
        help="Trained weights, .safetensors or .pth.  [default: those next to network.json; random ones for others]",
    )
    @click.option(
        "--from-scratch", is_flag=True, help="Start from random weights, not from --weights or the network's own."
    )
    @wraps(command)
    def with_choice(model: str, network: Path | None, weights: Path | None, from_scratch: bool, **options: Any) -> None:
        command(backbone=BackboneChoice(model, network, weights, not from_scratch), **options)

    return with_choice


def preset_option(presets: Iterable[str], others: str = "") -> Callable[[Callback], Callback]:
    """Which recipe; `others` says what those are for that only some tasks have."""
    text = f"'tiny' (a CPU, small images){others} or 'paper' (exactly the paper's recipe, on GPUs)."
    return click.option("--preset", type=click.Choice([*presets]), default="tiny", show_default=True, help=text)


def recipe_options(command: Callback) -> Callback:
    """What changes the recipe in all tasks; `command` takes the values that were given as `values`, with its own ones.

    Its own options of the recipe go below these.
    """

    @click.option(
        "--epochs", type=int, help="Length; overrides the preset, as all below. 0 evaluates the network as it is."
    )
    @click.option("--iterations", type=int, help="Length in iterations, in place of --epochs.")
    @click.option("--batch", type=int, help="Images of an iteration, over all processes of torchrun.")
    @click.option("--rate", type=float, help="Highest learning rate, for the whole batch.")
    @click.option("--schedule", type=click.Choice(["steps", "cosine", "constant"]), help="How the rate goes.")
    @click.option(
        "--milestones",
        metavar="N,N,...",
        help="When the rate falls to a tenth, in epochs or iterations as the length.  [default: the preset's shares]",
    )
    @click.option("--warmup-iterations", type=int, metavar="N", help="Let the rate rise for N iterations first.")
    @click.option("--warmup-epochs", type=float, metavar="N", help="The same in epochs.")
    @click.option("--momentum", type=float, help="Momentum of SGD.")
    @click.option("--weight-decay", type=float, help="Weight decay.")
    @click.option(
        "--sync-bn/--no-sync-bn",
        default=None,
        help="Batch normalisation over the images of all processes, or of each alone.",
    )
    @wraps(command)
    def with_values(**options: Any) -> None:
        milestones = options.pop("milestones")
        values = {name: options.pop(name) for name in _RECIPE}
        values["milestones"] = None if milestones is None else _numbers(milestones)
        command(recipe={name: value for name, value in values.items() if value is not None}, **options)

    return with_values


_RECIPE = (
    "epochs",
    "iterations",
    "batch",
    "rate",
    "schedule",
    "warmup_iterations",
    "warmup_epochs",
    "momentum",
    "weight_decay",
    "sync_bn",
)


def settings_values(recipe: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the recipe that were given, by the names of its fields."""
    given = {**recipe, **{name: value for name, value in own.items() if value is not None}}
    return {_RENAMED.get(name, name): value for name, value in given.items()}


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(read_number(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"--milestones {shown(text)}: write numbers with commas between, as in 60000,80000") from None


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
    weights = "trained weights" if result["weights"] else "random weights"
    return f"Network: {result['network'] or result['model']}, from {weights}{about}"


def closing_lines(result: Mapping[str, Any]) -> list[str]:
    """What it cost, and what the paper reports."""
    return [*([cost_text(result["cost"])] if "cost" in result else []), paper_line(result["task"])]
