"""A search, and what goes on with its network, on a disk that takes no more and under small limits."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from click.testing import Result

from tests.finished_search import finish_search, search_words, write_search_table
from tests.small_limits import limited

MICRO = search_words(retrain_epochs=1)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_search_table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish_search(table, tmp_path_factory.mktemp("run") / "run", MICRO)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    """What commands read: all files but locks and curves for TensorBoard, which are drawn from the others."""
    files = (path for path in folder.rglob("*") if path.is_file() and "tensorboard" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != ".lock"}


def assert_said(done: Result, *words: str) -> None:
    said = done.stderr.splitlines()[-1]
    assert done.exit_code == 1 and said.startswith("Error: "), done.output
    assert all(word in said for word in words), said
    assert "Traceback" not in done.output and ".tmp" not in done.output


# What is written first under such a limit, and what was there before.
STAGES = {
    1000: "config.json",
    2700: "trials.jsonl",
    10_000: "checkpoints/connections.pt",
}


@pytest.mark.parametrize("limit", STAGES)
def test_a_search_that_finds_no_room_goes_on_later(
    limit: int, table: Path, finished: Path, tmp_path: Path, cli: Callable[..., Result]
) -> None:
    out = tmp_path / "run"
    command = ("run-search", "--table", table, "--out", out, *MICRO)
    with limited("FSIZE", limit):
        assert_said(cli(*command), str(out / STAGES[limit]), "would be larger", "ulimit -f unlimited")
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]
    assert cli(*command).exit_code == 0
    for name in ("proposals.json", "connections.json"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), "as if nothing had been"


COMMANDS = {
    "export": "run-search export RUN",
    "export --int8": "run-search export RUN --int8 --calibration-images 4 --test-images 10",
    "retrain": "run-search retrain RUN --out OUT --retrain-epochs 1 --retrain-images 40",
    "measure": "run-search measure RUN --serial mock:s9 --runs 3 --seconds 0 --warmup-seconds 0",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_goes_on_with_a_network(name: str, run: Path, tmp_path: Path, cli: Callable[..., Result]) -> None:
    words = COMMANDS[name].replace("RUN", str(run)).replace("OUT", str(tmp_path / "out")).split()
    before = contents(run)
    with limited("FSIZE", 2500):
        assert_said(cli(*words), str(tmp_path), "would be larger", "ulimit -f unlimited")
    assert {file: content for file, content in contents(run).items() if file in before} == before
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    assert cli(*words).exit_code == 0


@pytest.mark.parametrize("name", ["export", "export --int8"])
def test_a_disk_that_fills_up(
    name: str, run: Path, tmp_path: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = contents(run)
    monkeypatch.setattr("os.fsync", full)
    assert_said(cli(*COMMANDS[name].replace("RUN", str(run)).split()), str(run), "no space left", "free some")
    assert contents(run) == before


PLACES = (
    "run-search --table TABLE --input-size 8",
    "run-search retrain RUN",
    "run-search study strategies --table TABLE --input-size 8 --data digits",
)


@pytest.mark.parametrize("words", PLACES)
def test_places_that_cannot_be_written(
    words: str, run: Path, table: Path, tmp_path: Path, cli: Callable[..., Result]
) -> None:
    (tmp_path / "file").write_bytes(b"of before")
    command = words.replace("RUN", str(run)).replace("TABLE", str(table)).split()
    for out, code, said in (
        (tmp_path / "file", 2, "is a file"),
        (tmp_path / "file" / "x", 1, "a part of this path is a file"),
        (Path("/proc/x"), 1, "/proc/x"),
    ):
        done = cli(*command, "--out", out)
        assert done.exit_code == code and said in done.stderr.splitlines()[-1] and "Traceback" not in done.output, (
            done.output
        )
    assert (tmp_path / "file").read_bytes() == b"of before"
