"""The group `run-search transfer`."""

from __future__ import annotations

import click

from bpnas.base.command import Group
from bpnas.search.commands.transfer_detection import detection
from bpnas.search.commands.transfer_embedding import face, reid


@click.group(cls=Group)
def transfer() -> None:
    """Train a searched network, or one of timm's, for another task."""


transfer.add_command(detection)
transfer.add_command(face)
transfer.add_command(reid)
