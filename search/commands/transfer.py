"""The group `run-search transfer`."""

from __future__ import annotations

import click

from bpnas.base.command import Group
from bpnas.search.commands.transfer_compare import compare
from bpnas.search.commands.transfer_detection import detection
from bpnas.search.commands.transfer_embedding import face, reid


@click.group(cls=Group)
def transfer() -> None:
    """Train a searched network, MobileNetV2 or a model of timm for another task."""


transfer.add_command(compare)
transfer.add_command(detection)
transfer.add_command(face)
transfer.add_command(reid)
