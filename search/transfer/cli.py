"""The group `run-search transfer`."""

from __future__ import annotations

import click

from bpnas.android_bench.command import Group


@click.group(cls=Group)
def transfer() -> None:
    """Train a searched network, or one of timm's, for another task."""
