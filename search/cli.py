"""The command `run-search`, and those below it."""

from __future__ import annotations

import click

from bpnas.base.command import DefaultGroup
from bpnas.search.commands.export import export, measure
from bpnas.search.commands.retrain import retrain
from bpnas.search.commands.search import search
from bpnas.search.commands.study import study
from bpnas.search.commands.study_connections import CONNECTION_STUDIES
from bpnas.search.commands.study_proposals import PROPOSAL_STUDIES
from bpnas.search.commands.transfer import transfer


@click.group(cls=DefaultGroup)
def main() -> None:
    """Search networks (see `search`), and study the ways to search them."""


for command in (search, retrain, study, transfer, export, measure):
    main.add_command(command)
for command in (*PROPOSAL_STUDIES, *CONNECTION_STUDIES):
    study.add_command(command)


if __name__ == "__main__":
    main()
