"""What all tests share."""

import os
import random
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import settings

# Times vary on shared machines, so no example has a deadline; in CI a run repeats the last one's examples exactly.
settings.register_profile("bpnas", deadline=None)
settings.register_profile("bpnas-ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("bpnas-ci" if os.environ.get("CI") else "bpnas")


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The global generators, where something still draws from them; numpy's and torch's only if they are loaded."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets (`cifar10`, ...): BPNAS_TEST_DATA, or `shared/data` beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BPNAS_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no test data: {folder} is no folder (BPNAS_TEST_DATA names another)")
    return folder


@pytest.fixture
def cli() -> Callable[..., Result]:
    """Call a console command in this process: `cli("build-table", "r.sqlite")` gives `.exit_code, .stdout, .stderr`.

    Anything that the command does not turn into an exit code itself is raised.
    """

    def call(command: str, *args: str | Path) -> Result:
        (script,) = entry_points(group="console_scripts", name=command)
        return CliRunner().invoke(script.load(), [str(arg) for arg in args], catch_exceptions=False)

    return call
