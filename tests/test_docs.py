"""README and docs: the options that they name are there."""

import ast
import re
import tomllib

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


ROOMS = ("android_bench", "bpnas", "profiler", "search", "tables")
MODULES = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]


def _texts_people_see(source: str) -> set[str]:
    """All strings of a module but its docstrings, and those that describe a name."""
    tree = ast.parse(source)
    described = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {node.value for node in constants if id(node) not in described}


def test_no_message_sends_people_to_pages_that_only_a_checkout_has():
    found = {(path.name, text) for path in MODULES for text in _texts_people_see(path.read_text()) if "docs/" in text}
    assert len(MODULES) > 100 and not found


def test_every_extra_that_a_message_names_is_there():
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = [
        path.read_text()
        for room in ("android_bench", "profiler", "search", "tables")
        for path in (ROOT / room).rglob("*.py")
    ]
    named = set(re.findall(r"pip install 'bpnas\[(\w+)\]'", "\n".join(sources)))
    assert named and named <= set(optional)
