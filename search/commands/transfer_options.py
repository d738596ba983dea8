"""Options that the transfer tasks share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def backbone_options(command: F) -> F:
    """`model`, `network`, `weights` and `from_scratch`: what `load_features` asks for."""
    for option in (
        click.option(
            "--from-scratch", is_flag=True, help="Start from random weights, not from --weights or the network's own."
        ),
        click.option(
            "--weights",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Trained weights, safetensors or a torch file.  [default: those beside network.json; none for timm]",
        ),
        click.option(
            "--network",
            type=click.Path(dir_okay=False, path_type=Path),
            help="network.json of a search, for --model bpnas.",
        ),
        click.option(
            "--model", default="bpnas", show_default=True, help="'bpnas' or a model of timm, as mobilenetv2_100."
        ),
    ):
        command = option(command)
    return command
