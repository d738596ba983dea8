"""The group `run-search transfer`."""

from __future__ import annotations

import click

from bpnas.android_bench.command import Group
from bpnas.search.transfer.detection_cli import detection
from bpnas.search.transfer.face_cli import face
from bpnas.search.transfer.reid_cli import reid


@click.group(cls=Group)
def transfer() -> None:
    """Train a searched network, or one of timm's, for another task."""


transfer.add_command(detection)
transfer.add_command(face)
transfer.add_command(reid)
