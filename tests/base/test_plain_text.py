"""What a terminal would obey is shown as text, whoever said it: a file's name, a model, a device, a table."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from bpnas.base.command import Command, fail, print_result
from bpnas.base.errors import BpnasError, UsageError
from bpnas.base.plain_text import as_text
from tests.model_graphs import convolution, write_graph

Cli = Callable[..., Result]
EVIL = "\x1b]0;pwned\x07\x1b[31m\x9b2J\r\x08\u202e"
SHOWN = r"\x1b]0;pwned\x07\x1b[31m\x9b2J\r\x08\u202e"


def assert_harmless(done: Result) -> None:
    for text in (done.stdout, done.stderr):
        assert all(c.isprintable() or c in "\n\t" for c in text), ascii(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("März 日本 \N{PILE OF POO}", "März 日本 \N{PILE OF POO}"),
        (EVIL, SHOWN),
        ("\x00\x7f\x85\u2028\ue000", r"\x00\x7f\x85\u2028\ue000"),
        (os.fsdecode(b"M\xe4rz"), r"M\udce4rz"),
    ],
)
def test_text(text: str, shown: str) -> None:
    assert as_text(text) == shown
    assert as_text(shown) == shown
    shown.encode()


def test_results_and_errors_of_commands_are_text() -> None:
    def body(how: str) -> None:
        if how == "result":
            print_result({"name": EVIL}, as_json=False, text=f"name {EVIL}")
        elif how == "json":
            print_result({"name": EVIL}, as_json=True, text="")
        elif how == "fail":
            fail(f"name {EVIL}", 1)
        elif how == "click":
            raise click.UsageError(f"name {EVIL}")
        elif how == "raise":
            raise UsageError(f"name {EVIL}")

    command = click.command(cls=Command)(click.argument("how")(body))
    for how in ("result", "json", "fail", "click", "raise"):
        done = CliRunner().invoke(command, [how])
        assert_harmless(done)
        assert (SHOWN in done.output) == (how != "json")


def test_an_error_is_text_for_whoever_catches_it() -> None:
    assert str(BpnasError(f"{EVIL}: no such file")) == f"{SHOWN}: no such file"


COMMANDS = [
    ("profile-device", EVIL),
    ("profile-device", f"--{EVIL}"),
    ("profile-device", "--serial", EVIL),
    ("profile-device", "--serial", "mock:s9", "--runtime", EVIL),
    ("profile-device", "--serial", "mock:s9", "--paths", EVIL),
    ("profile-device", "--serial", "mock:s9", "--backbone", EVIL),
    ("profile-device", "--serial", "mock:s9", "--models", f"{EVIL}.tflite"),
    ("profile-device", "--serial", "mock:s9", "--models", f"missing{EVIL}.onnx"),
    ("profile-device", "operators", f"{EVIL}.tflite", "--serial", EVIL),
    ("build-table", f"{EVIL}.tflite"),
    ("build-table", "show", f"{EVIL}.tflite"),
    ("build-table", "import", f"{EVIL}.tflite", "--reader", EVIL),
    ("run-search", "--table", f"{EVIL}.tflite"),
    ("run-search", "retrain", EVIL),
    ("run-search", "export", EVIL),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: ascii(" ".join(words[:3])))
def test_what_a_command_is_given_is_repeated_as_text(
    command: tuple[str, ...], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command[0] == "run-search":
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    Path(f"{EVIL}.tflite").write_bytes(b"no model")
    done = cli(*command)
    assert done.exit_code in (1, 2), done.output
    assert_harmless(done)


def test_also_on_a_terminal_with_its_bar(tmp_path: Path) -> None:
    name = "\x1b]0;pwned\x07.tflite"
    (tmp_path / name).write_bytes(write_graph(convolution(), "tflite"))
    command = Path(sys.executable).with_name("profile-device")
    ours, theirs = pty.openpty()
    shown = b""
    try:
        with subprocess.Popen(
            [command, "--serial", "mock:s9", "--models", name], stdout=theirs, stderr=theirs, cwd=tmp_path
        ) as run:
            os.close(theirs)
            while piece := _read(ours):
                shown += piece
        assert run.returncode == 0
    finally:
        os.close(ours)
    assert b"\x1b]0;pwned" not in shown
    assert rb"\x1b]0;pwned\x07" in shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # the other side is closed: Linux says EIO then
        return b""
