"""What all tests share."""

import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import settings

from tests.root import ROOT

# Times vary on shared machines, so no example has a deadline; in CI a run repeats the last one's examples exactly.
settings.register_profile("bpnas", deadline=None)
settings.register_profile("bpnas-ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("bpnas-ci" if os.environ.get("CI") else "bpnas")


# Two processes of tests share the cores, and trainings as small as theirs take a multiple of the time with more threads
# than one, most of it in waiting for each other. It counts for torch, and for all that tests start; a test of threads
# sets their number itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# A run in the background of a script, or under nohup, inherits signals that are ignored; tests send them, and what
# tests start must end by them.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


# The tests' phones have users of their own, who must be able to read what is made for them.
os.umask(0o022)


pytest_plugins = ["tests.phone.fixtures"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: begun last, they would keep one process at work alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The global generators, where something still draws from them; numpy's and torch's only if they are loaded."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def deaf_port() -> Iterator[int]:
    """A port of the loopback interface that is taken, so that nobody can listen there, and where nobody does."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture(autouse=True)
def no_real_phone(deaf_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test finds the phones that are attached to this machine, nor the keys that they trust."""
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(deaf_port))
    monkeypatch.setenv("ANDROID_USER_HOME", str(tmp_path_factory.getbasetemp() / "android"))
    monkeypatch.setenv("BPNAS_HOLD_SPACE", f"-test-{os.getpid()}")  # two processes of tests do not hold up each other
    for name in ("ADB_SERVER_SOCKET", "ADB_VENDOR_KEYS", "ANDROID_ADB_SERVER_ADDRESS", "ANDROID_SERIAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("bpnas.android_bench.adb.usb._find", lambda: iter(()))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets (`cifar10`, ...): BPNAS_TEST_DATA, or `shared/data` beside the repository."""
    beside = ROOT.parent / "shared" / "data"
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


@pytest.fixture
def real_models() -> Any:
    """Model files are written in earnest; gives torch, which that takes."""
    return pytest.importorskip("torch")


@pytest.fixture
def fake_models(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model files that need no torch, for devices that do not look into them; a test that asks for `real_models` gets
    those."""
    if "real_models" not in request.fixturenames:
        monkeypatch.setattr("bpnas.profiler.campaign.model_files.export_part", lambda part, runtime: part.key.encode())
