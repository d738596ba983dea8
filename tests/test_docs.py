"""README and docs: the options that they name are there."""

import re

import click
import pytest

from bpnas.profiler.cli import main as profile_device
from bpnas.search.cli import main as run_search
from bpnas.tables.cli import main as build_table
from tests.root import ROOT

OF_OTHER_PROGRAMS = ("native", "contributing")
PAGES = [ROOT / "README.md", *(page for page in sorted(ROOT.glob("docs/*.md")) if page.stem not in OF_OTHER_PROGRAMS)]
OTHERS = {"--logdir", "--nnodes", "--nproc-per-node", "--rdzv-endpoint"}  # of TensorBoard and torchrun


def options_of(command: click.Command) -> set[str]:
    found = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found |= options_of(command.get_command(context, name))
    return found


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Of the commands, the programs of `benchmarks/`, and others."""
    found = options_of(profile_device) | options_of(build_table) | options_of(run_search)
    for program in ROOT.glob("benchmarks/*.py"):
        found |= set(re.findall(r'"(--[a-z][a-z0-9-]+)"', program.read_text(encoding="utf-8")))
    return found | OTHERS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_options_are_there(page, known):
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", page.read_text(encoding="utf-8")))
    assert named - known == set()
