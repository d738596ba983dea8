"""A signal that asks a command to end is heard whenever it comes, and leaves nothing half done."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from bpnas.base.command import Command, Group, echo
from tests.patience import PATIENCE

SENTENCE = "Error: interrupted; what was done is kept, call the same command again to resume"


def run(body: Callable[[], object]) -> Result:
    """A command that does `body`."""
    return CliRunner().invoke(click.command(cls=Command)(body), [])


def ask_to_end(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def wait() -> None:
    time.sleep(60)
    pytest.fail("the signal was lost")


def assert_ended(done: Result, number: int = signal.SIGTERM) -> None:
    assert (done.exit_code, done.stderr.splitlines()) == (128 + number, [SENTENCE])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_in_a_destructor_ends_the_command_after_it(number: int) -> None:
    finished = []

    class Resource:
        def __del__(self) -> None:
            ask_to_end(number)
            finished.append(self)

    def body() -> None:
        Resource()
        wait()

    assert_ended(run(body), number)
    assert len(finished) == 1


def test_a_signal_in_a_callback_that_swallows_it_is_not_lost_and_makes_no_noise(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Resource:
        pass

    def body() -> None:
        resource = Resource()
        called = weakref.ref(resource, lambda reference: ask_to_end())
        del resource
        wait()
        assert called

    assert_ended(run(body))
    assert capfd.readouterr().err == ""


SIGNAL = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"


@pytest.mark.parametrize(
    "module",
    [SIGNAL, f"try:\n    {SIGNAL}\nexcept BaseException as error:\n    raise ImportError from error"],
    ids=["plain", "that turns every error into its own"],
)
def test_a_signal_in_an_import_ends_the_command_after_it(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bpnas_test_half.py").write_text(f"{module}\nwhole = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = []

    def body() -> None:
        loaded.append(importlib.import_module("bpnas_test_half"))
        wait()

    try:
        assert_ended(run(body))
    finally:
        sys.modules.pop("bpnas_test_half", None)
    assert loaded and loaded[0].whole


def test_a_signal_whose_exception_is_swallowed_comes_again() -> None:
    swallowed = []

    def body() -> None:
        for _ in range(3):
            try:
                ask_to_end() if not swallowed else wait()
            except BaseException as error:
                swallowed.append(type(error).__name__)
        wait()

    assert_ended(run(body))
    assert len(swallowed) == 3


def test_a_signal_that_somebody_makes_another_error_of_is_still_an_interruption() -> None:
    def body() -> None:
        try:
            ask_to_end()
        except BaseException:
            raise ValueError("cannot load") from None

    assert_ended(run(body))


def test_a_signal_at_the_very_end_is_heard() -> None:
    class Resource:
        def __del__(self) -> None:
            ask_to_end()

    def body() -> None:
        Resource()

    assert_ended(run(body))


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_cuts_the_cleaning_up_short(second: int) -> None:
    cleaned = []

    def body() -> None:
        try:
            ask_to_end()
            wait()
        finally:
            ask_to_end(second)
            time.sleep(0.3)  # long enough for a signal that would be sent again
            cleaned.append(True)

    assert_ended(run(body))
    assert cleaned == [True]


def test_a_command_within_a_group_says_it_once() -> None:
    group = Group("group")
    group.add_command(click.command("inner", cls=Command)(lambda: (ask_to_end(), wait())))
    assert_ended(CliRunner().invoke(group, ["inner"]))


def test_a_forked_process_ends_at_once_and_cleans_up_nothing(tmp_path: Path) -> None:
    def body() -> None:
        try:
            child = os.fork()
            if not child:
                ask_to_end()
                time.sleep(60)
            echo(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
        finally:
            with (tmp_path / "cleaned").open("a") as file:
                file.write("x")

    done = run(body)
    assert (done.exit_code, done.output.split()) == (0, [str(-signal.SIGTERM)])
    assert (tmp_path / "cleaned").read_text() == "x"


def test_handlers_are_as_before_afterwards() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers], sys.unraisablehook
    assert_ended(run(lambda: (ask_to_end(), wait())))
    assert ([signal.getsignal(number) for number in numbers], sys.unraisablehook) == before


@pytest.mark.parametrize("seconds", [0.2, 0.5, 0.9, 1.4, 2.0])
def test_a_command_that_has_just_started_ends_by_the_signal(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is at by then on this machine: loading Python, torch, or timing."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    command = shutil.which("profile-device", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert command is not None
    process = subprocess.Popen(
        [command, "--serial", "mock:s9", "--input-size", "32"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM), errors  # before, and once it has begun
    assert "Traceback" not in errors and "ignored" not in errors
