"""Options that the commands with embeddings share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bpnas.search.commands.options import json_option
from bpnas.search.commands.transfer_options import backbone_options
from bpnas.search.transfer.backbones import BackboneChoice

F = TypeVar("F", bound=Callable[..., Any])


def embedding_options(command: F) -> F:
    """Where from, by which recipe, where to."""
    for option in (
        json_option,
        click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn."),
        click.option(
            "--out",
            type=click.Path(file_okay=False, path_type=Path),
            help="Directory of the run.  [default: runs/TASK-MODEL-seedN]",
        ),
        click.option("--learning-rate", type=float, help="The highest one."),
        click.option("--batch", type=int, help="Images a step."),
        click.option("--epochs", type=int, help="Overrides the preset, as all below; 0 judges an untrained network."),
        click.option(
            "--preset",
            type=click.Choice(["tiny", "paper"]),
            default="tiny",
            show_default=True,
            help="'tiny' (a CPU, small images) or 'paper'.",
        ),
        backbone_options,
        click.option(
            "--data",
            type=click.Path(file_okay=False, path_type=Path),
            required=True,
            help="Folder of the images; docs/transfer.md shows its layout.",
        ),
    ):
        command = option(command)
    return command


def backbone_choice(
    model: str, network: Path | None, weights: Path | None, from_scratch: bool
) -> tuple[BackboneChoice, bool]:
    """The network that the options name, and whether its latency is a mock's.

    Raises:
        RunError: the file of the network is missing or damaged.
    """
    from bpnas.search.networks.network_file import NetworkFile

    mock = network is not None and NetworkFile.load(network).mock
    return BackboneChoice(model, network, weights, not from_scratch), mock


def where(out: Path | None, task: str, model: str, seed: int) -> Path:
    """The directory of the run."""
    return out or Path("runs") / f"{task}-{model}-seed{seed}"


def summary(result: dict[str, Any], out: Path, lines: list[str]) -> str:
    """What people read at the end, with the task's own lines in the middle."""
    latency, mock = result["predicted_latency_ms"], " (mock: computed, not measured)" if result["mock"] else ""
    about = "" if latency is None else f", {latency:.4g} ms by table at {result['input_size']} pixels{mock}"
    trained = result["training"]
    return "\n".join(
        [
            f"Network: {result['network'] or result['model']}{about}",
            (
                f"Trained on {trained['images']} images of {trained['identities']} identities, "
                f"{result['settings']['train']['epochs']} epochs"
            ),
            *lines,
            f"Files: {out}/result.json, embedder.safetensors",
        ]
    )
