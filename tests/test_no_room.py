"""A full disk, small limits and places that cannot be written: one sentence, and everything is as it was before."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from bpnas.base.errors import SpaceError
from bpnas.profiler import Records
from tests.programs import script
from tests.records_factory import TOOLS, backbone, make_plan, measurement, write_records
from tests.small_limits import limited

pytest.importorskip("pyarrow")

from tests.table_factory import write

QUICK = "--serial mock:s9 --runs 3 --seconds 0 --warmup-seconds 0 --sessions 1".split()
CAMPAIGN = (*QUICK, "--backbone", "fbnet", "--input-size", "32", "--paths", "K3E6G1")
NO_FILES = {errno.ENOSPC: "no space left on the disk; free some", errno.EROFS: "see who may read and write it"}


def contents(folder: Path) -> Mapping[str, bytes]:
    """All files but locks, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_said(done: Result, *words: str, exit_code: int = 1) -> None:
    """One sentence at the end, with these words."""
    said = done.stderr.splitlines()[-1]
    assert done.exit_code == exit_code and said.startswith("Error: "), done.output
    assert all(word in said for word in words), said
    assert "Traceback" not in done.output and ".tmp" not in done.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With records, tables of two files that can be merged, and what else commands read."""
    plan = make_plan(backbone())
    write_records(tmp_path / "r.sqlite", plan)
    write(tmp_path / "a.parquet", plan)
    write(tmp_path / "b.parquet", make_plan(backbone(32)))
    (tmp_path / "out").write_bytes(b"of before")
    return tmp_path


WRITE = {
    "build-table": ("build-table r.sqlite --out out", "out"),
    "csv": ("build-table r.sqlite --format csv --out out", "out"),
    "merge": ("build-table merge a.parquet b.parquet --out out", "out"),
    "profile-device": (" ".join(("profile-device", *CAMPAIGN, "--records new.sqlite")), "new.sqlite"),
}


@pytest.mark.parametrize("name", WRITE)
def test_a_limit_of_the_size_of_files(
    name: str,
    folder: Path,
    cli: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(folder)
    words, file = WRITE[name]
    before = contents(folder)
    if name == "profile-device":
        request.getfixturevalue("real_models")
    with limited("FSIZE", 600):
        done = cli(*words.split())
    assert_said(done, f"Error: {file}: would be larger than this process may write (600 bytes)", "ulimit -f unlimited")
    assert contents(folder) == before
    assert cli(*words.split()).exit_code == 0, "and then it works"


@pytest.mark.parametrize("code", NO_FILES)
@pytest.mark.parametrize("name", [name for name in WRITE if name != "profile-device"])
def test_a_disk_that_takes_no_more(
    name: str, code: int, folder: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    words, file = WRITE[name]
    before = contents(folder)

    def fails(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code), ".out.x.tmp" if code == errno.EROFS else None)

    monkeypatch.setattr("tempfile.mkstemp" if code == errno.EROFS else "os.fsync", fails)
    assert_said(cli(*words.split()), f"Error: {file}: ", NO_FILES[code])
    assert contents(folder) == before


def test_a_campaign_keeps_what_it_has(
    tmp_path: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, real_models: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("profile-device", *CAMPAIGN, "--records", "r.sqlite")
    assert cli(*command).exit_code == 0
    with Records.read("r.sqlite") as records:
        first = list(records.measurements())
    more = [*command]
    more[more.index("--sessions") + 1] = "3"
    with limited("FSIZE", (tmp_path / "r.sqlite").stat().st_size + 20_000):
        assert_said(cli(*more), "r.sqlite", "would be larger", "ulimit -f unlimited")
    with Records.read("r.sqlite") as records:
        assert all(one in list(records.measurements()) for one in first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.sqlite", "r.sqlite.lock"]
    assert cli(*more).exit_code == 0


def test_records_that_grow_beyond_the_limit(tmp_path: Path) -> None:
    path, plan = tmp_path / "r.sqlite", make_plan(backbone())
    write_records(path, plan, order=[])
    kept: list[int] = []

    def fill(records: Records) -> None:
        for session in range(1000):
            records.add(plan.setup, TOOLS, measurement("a", session))
            kept.append(session)

    full = pytest.raises(SpaceError, match=r"r\.sqlite: would be larger than .*ulimit -f")
    with limited("FSIZE", path.stat().st_size + 30_000), Records.write(path) as records, full:
        fill(records)
    with Records.read(path) as records:
        assert kept == [one.session for _, one in records.measurements()] != []
    with Records.write(path) as records:
        records.add(plan.setup, TOOLS, measurement("a", 1000))


def test_models_that_find_no_room(
    tmp_path: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, real_models: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "bpnas.profiler.campaign.model_files.export_part", lambda part, runtime: part.key.encode() * 20_000
    )
    with limited("FSIZE", 150_000):
        assert_said(cli("profile-device", *CAMPAIGN, "--records", "r.sqlite"), ".tflite: would be larger", "ulimit -f")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.sqlite", "r.sqlite.lock"], "and no models"


def alone(limit: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Python as a process of its own, with a limit that the shell's `ulimit` takes."""
    command = ["sh", "-c", f'ulimit {limit} && exec "$@"', "sh", sys.executable, "-P", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_python_keeps_no_half_of_a_module(tmp_path: Path) -> None:
    """Under a small limit it writes the beginning of its caches, and dies of them ever after."""
    program = "import sys, bpnas.base.command; sys.exit(not sys.dont_write_bytecode)"
    assert alone("-f 2000", "-c", program).returncode == 0


def test_few_open_files(folder: Path) -> None:
    for limit in (16, 32):
        done = alone(f"-n {limit}", script("build-table"), folder / "r.sqlite", "--out", folder / "t.parquet")
        assert done.returncode == 0, done.stderr
    before = contents(folder)
    done = alone("-n 10", script("build-table"), folder / "r.sqlite", "--out", folder / "out")
    assert done.returncode == 1
    said = "Error: this process may open 10 files at once, and at least 16 are needed; allow more, as with ulimit -n"
    assert done.stderr == f"{said} 1024, and call the same command again\n"
    assert contents(folder) == before


def test_files_that_run_out_on_the_way(
    folder: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/somewhere/within/a/library.py")

    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.mkstemp", fails)
    assert_said(cli(*WRITE["build-table"][0].split()), "files would be open at once", "ulimit -n 1024")


def test_no_folder_for_temporary_files(
    tmp_path: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    write(tmp_path / "a.parquet", make_plan(backbone()))
    monkeypatch.setattr("tempfile.mkstemp", fails)
    done = cli("build-table", "merge", tmp_path / "a.parquet", "--out", tmp_path / "b.parquet")
    assert_said(done, "temporary files", "TMPDIR")


# What a place is, whether the command can be done, and what is said.
PLACES = {
    "build-table r.sqlite --out folder": (2, "'--out': File 'folder' is a directory"),
    "build-table merge a.parquet b.parquet --out folder": (2, "'--out': File 'folder' is a directory"),
    "build-table r.sqlite --out r.sqlite/t.parquet": (2, "r.sqlite is a file, and no folder; name another place"),
    "build-table merge a.parquet b.parquet --out out/x": (2, "out is a file, and no folder; name another place"),
    "build-table r.sqlite --out none/t.parquet": (2, "none does not exist; create it first"),
    "build-table r.sqlite --out /proc/t.parquet": (1, "/proc/t.parquet: "),
    "profile-device --serial mock:s9 --records folder": (2, "'--records': File 'folder' is a directory"),
    "profile-device --serial mock:s9 --records out/r.sqlite": (1, "out is a file, and no folder; name another place"),
    "profile-device --serial mock:s9 --records none/r.sqlite": (1, "none does not exist; create it first"),
    "profile-device --serial mock:s9 --records /proc/r.sqlite": (1, "/proc/r.sqlite: cannot be written"),
    "profile-device bundle --arch host --out out": (2, "'--out': Directory 'out' is a file"),
    "profile-device bundle --arch host --out out/x": (1, "out/x: a part of this path is a file, and no folder"),
}


@pytest.mark.parametrize("words", PLACES)
def test_places_that_cannot_be_written(
    words: str, folder: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "folder").mkdir()
    before = contents(folder)
    code, said = PLACES[words]
    assert_said(cli(*words.split()), said, exit_code=code)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["../out", "/tmp/out", ".hidden", "a\x1bb", "x" * 250])
def test_records_of_others_do_not_say_where_a_table_goes(
    name: str, folder: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "work").mkdir()
    monkeypatch.chdir(folder / "work")
    write_records(folder / "theirs.sqlite", make_plan(backbone(), name=name))
    before = contents(folder)
    assert_said(cli("build-table", folder / "theirs.sqlite"), "no name for a file; name one with --out", exit_code=2)
    assert contents(folder) == before
    assert cli("build-table", folder / "theirs.sqlite", "--out", "t.parquet").exit_code == 0


@pytest.mark.parametrize("words", ["show t.parquet", "show t.parquet --json", "--help", "diff --help"])
def test_standard_output_without_room_or_closed(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t.parquet", make_plan(backbone()))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    command = [sys.executable, "-P", str(script("build-table")), *words.split()]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: standard output: no space left on the disk; free some and call the same command again\n"
    )
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
