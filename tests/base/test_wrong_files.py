"""A file given in place of another one: it is told what it is, is left as it was, and is never called damaged."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from bpnas.profiler import Records, RecordsError
from tests.model_graphs import convolution, one_of_each, write_graph
from tests.records_factory import TOOLS, failure, make_plan, measurement, read_everything, write_records
from tests.table_factory import write

Cli = Callable[..., Result]
PLAN = make_plan()


def _other_sqlite(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE measurement (key TEXT)")
    connection.commit()
    connection.close()


def _wal(path: Path) -> None:
    with Records.write("live.sqlite") as records:
        records.add_plan(PLAN)
        path.write_bytes(Path("live.sqlite-wal").read_bytes())


MAKE: dict[str, tuple[Callable[[Path], object], str]] = {
    "t.parquet": (write, "is a latency table, and no {}; see it with build-table show t.parquet"),
    "r.sqlite": (
        lambda path: write_records(path, PLAN),
        "is records of measurements, and no {}; make a table of them with build-table r.sqlite",
    ),
    "m.tflite": (
        lambda path: path.write_bytes(write_graph(convolution(), "tflite")),
        "is a TFLite model, and no {}; time it with profile-device --models m.tflite",
    ),
    "m.onnx": (
        lambda path: path.write_bytes(write_graph(one_of_each(), "onnxruntime")),
        "is an ONNX model, and no {}; time it with profile-device --models m.onnx",
    ),
    "other.sqlite": (_other_sqlite, "is an SQLite file of another program, and no {}; check the name"),
    "r.sqlite-wal": (_wal, "is a part of an SQLite file, and no {}; name the file that it is of"),
    "cut.sqlite": (
        lambda path: path.write_bytes(b"SQLite format 3\0"),
        "is the beginning of an SQLite file, the rest of which is missing, and no {}; restore a copy",
    ),
    "cut.parquet": (lambda path: path.write_bytes(write(path).read_bytes()[:5000]), ""),
    "w.pt": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)), "is a zip archive"),
    "text.txt": (lambda path: path.write_text("März\n" * 1000), "is a text file, and no {}; check the name"),
    "f.csv": (
        lambda path: path.write_text("layer,h_in\n"),
        "is a text file, and no {}; a table that others published is read by build-table import f.csv",
    ),
    "lfs.onnx": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
        "is a Git LFS pointer in place of the file, and no {}; get the file with git lfs pull",
    ),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 40), "is a file of an unknown kind"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(done: Result, name: str) -> str:
    """The sentence with which a command refuses a file."""
    assert done.exit_code in (1, 2), done.stdout
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
    assert line.startswith(f"Error: {name}: ") and "Traceback" not in done.stderr
    assert not any(word in line for word in ("delete", "remove", "are damaged")), line
    return line.removeprefix(f"Error: {name}: ")


@pytest.mark.parametrize("name", [*MAKE, "empty"])
def test_what_is_given_for_records(cli: Cli, here: Path, name: str) -> None:
    if name == "r.sqlite":
        pytest.skip("those are records")
    make, sentence = MAKE.get(name, (Path.touch, "is an empty file, and no {}; check the name"))
    make(here / name)
    if name == "cut.parquet":
        sentence = "is a Parquet file whose end is missing, and no {}; restore a copy, or make it again"
    content, files = (here / name).read_bytes(), sorted(here.iterdir())
    commands = [("build-table", name)]
    if name != "empty":  # which is what `mktemp` makes for records
        commands.append(("profile-device", "--serial", "mock:s9", "--paths", "K1G1", "--records", name))
    for command in commands:
        assert refusal(cli(*command), name).startswith(sentence.format("bpnas records")), command
    assert (here / name).read_bytes() == content
    assert sorted(here.iterdir()) == files  # nor a lock next to it


@pytest.mark.parametrize("name", [*MAKE, "empty"])
@pytest.mark.parametrize("command", ["build-table show", "run-search --table", "build-table import --device d"])
def test_what_is_given_for_a_table(cli: Cli, here: Path, name: str, command: str) -> None:
    if "run-search" in command:
        pytest.importorskip("torch")
    if name.endswith(".parquet") and "import" not in command:
        pytest.skip("that is a table, or was one")
    make, sentence = MAKE.get(name, (Path.touch, "is an empty file, and no {}; check the name"))
    make(here / name)
    content, files = (here / name).read_bytes(), sorted(here.iterdir())
    said = refusal(cli(*command.split(), name), name)
    if "import" in command and name in ("text.txt", "f.csv"):
        sentence = "no reader can read it; name one with --reader"
    assert said.startswith(sentence.format("published table" if "import" in command else "bpnas table"))
    assert (here / name).read_bytes() == content and sorted(here.iterdir()) == files


def test_a_folder_and_a_pipe(here: Path) -> None:
    os.mkfifo("pipe")
    for name, kind in ((".", "a folder"), ("pipe", "a device or a pipe")):
        for opener in (Records.read, Records.write):
            with pytest.raises(RecordsError, match=f"is {kind}, and no bpnas records"):
                opener(name)


def test_a_file_that_is_new_and_empty_becomes_records(here: Path) -> None:
    Path("r.sqlite").touch()
    write_records(Path("r.sqlite"), PLAN)
    assert read_everything(Path("r.sqlite"))[0] == [PLAN]


# Names that are no UTF-8

NAME = os.fsdecode(b"M\xe4rz\x1b[31m.onnx")
unix = pytest.mark.skipif(sys.platform == "darwin", reason="takes no such names")


@unix
@pytest.mark.parametrize("serial", ["mock:s9", "local"])
def test_a_model_whose_name_is_no_utf8(cli: Cli, here: Path, serial: str) -> None:
    if serial == "local":
        pytest.importorskip("onnxruntime")
    Path(NAME).write_bytes(write_graph(convolution(seed=1), "onnxruntime"))
    other = os.fsdecode(b"M\xe5rz\x1b[31m.onnx")
    Path(other).write_bytes(write_graph(convolution(seed=2), "onnxruntime"))
    quick = "--sessions 1 --warmup-runs 1 --warmup-seconds 0 --runs 3 --seconds 0 --records r.sqlite".split()
    for times in range(2):
        done = cli("profile-device", "--serial", serial, *quick, "--models", NAME, other)
        assert done.exit_code == 0, done.stderr
        assert r"M\udce4rz\x1b[31m.onnx" in done.stdout and r"M\udce5rz" in done.stdout
        assert all(c.isprintable() or c in "\n\t" for c in done.stdout + done.stderr)
        keys = [m.key for _, m in read_everything(Path("r.sqlite"))[1]]
        assert len(set(keys)) == len(keys) == 2, times  # the second time both are there already
        assert all(key.encode() for key in keys)


@unix
def test_records_and_tables_whose_names_are_no_utf8(cli: Cli, here: Path) -> None:
    name = os.fsdecode(b"M\xe4rz.sqlite")
    write_records(Path(name), PLAN)
    assert cli("build-table", name, "--out", "t.parquet").exit_code == 0
    csv = Path(os.fsdecode(b"M\xe4rz.csv"))
    csv.write_text("layer,h_in,c_in,c_out,stride,op,pixel3_ms\n0,16,8,16,2,k3_e6,1.25\n")
    assert cli("build-table", "import", str(csv), "--device", "d").exit_code == 0
    assert r"M\udce4rz.csv" in cli("build-table", "show", "d.parquet").stdout
    assert refusal(cli("build-table", "show", name), r"M\udce4rz.sqlite").startswith("is records")


@unix
def test_a_failure_that_names_such_a_file_is_kept(here: Path) -> None:
    with Records.write("r.sqlite") as records:
        records.add(PLAN.setup, TOOLS, failure("a", message=f"{NAME}: refused"))
    ((_, kept),) = read_everything(Path("r.sqlite"))[2]
    assert kept.message == "M\\udce4rz\x1b[31m.onnx: refused"


# What is no damage


def read_all(opener: Callable[[str], Records]) -> None:
    with opener("r.sqlite") as records:
        list(records.measurements())
        list(records.plans())


def refusals() -> list[str]:
    """Why reading and writing are refused."""
    sentences = []
    for opener in (Records.read, Records.write):
        with pytest.raises(RecordsError) as caught:
            read_all(opener)
        sentences.append(str(caught.value))
    assert not any("damaged" in sentence or "delete" in sentence for sentence in sentences)
    return sentences


@pytest.fixture
def file(here: Path) -> Path:
    return write_records(Path("r.sqlite"), PLAN)


class Fault(sqlite3.OperationalError):
    """What SQLite raises, with the code that it raises it with."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.sqlite_errorcode = code


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ("disk I/O error", sqlite3.SQLITE_IOERR_READ, "the disk could not be read or written (disk I/O error)"),
        ("unable to open database file", sqlite3.SQLITE_CANTOPEN, "cannot be opened or written"),
        ("attempt to write a readonly database", sqlite3.SQLITE_READONLY_DIRECTORY, "cannot be opened or written"),
        ("access permission denied", sqlite3.SQLITE_PERM, "cannot be opened or written"),
        ("database table is locked", sqlite3.SQLITE_LOCKED, "another program is using it"),
        ("locking protocol", sqlite3.SQLITE_PROTOCOL, "cannot be opened or written"),
        ("interrupted", sqlite3.SQLITE_INTERRUPT, "cannot be opened or written"),
    ],
)
def test_a_fault_of_the_system_is_no_damage(
    file: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int, sentence: str
) -> None:
    def connect(*args: object, **options: object) -> sqlite3.Connection:
        raise Fault(text, code)

    monkeypatch.setattr(sqlite3, "connect", connect)
    assert all(sentence in said for said in refusals())


def test_a_file_that_may_not_be_read_is_no_damage(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Path, "open", deny)
    assert all("cannot be read (Permission denied)" in said for said in refusals())


def test_a_fault_of_the_one_who_writes_is_no_damage(file: Path) -> None:
    with Records.write(file) as records:
        with pytest.raises(TypeError):
            records.add(PLAN.setup, {"bpnas": object()}, measurement("new"))  # type: ignore[dict-item]
        records.add(PLAN.setup, TOOLS, measurement("new"))
    assert "new" in {m.key for _, m in read_everything(file)[1]}


def test_content_of_a_later_version_is_no_damage(file: Path) -> None:
    import hashlib

    value = '{"bpnas_3": true}'
    connection = sqlite3.connect(file)
    connection.execute("INSERT INTO plan VALUES (?, ?)", (hashlib.sha256(value.encode()).hexdigest(), value))
    connection.commit()
    connection.close()
    for said in refusals():
        assert "a plan in it cannot be read" in said and "use the bpnas that wrote the file" in said


def test_real_damage_names_a_way_that_loses_nothing(cli: Cli, file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("UPDATE measurement SET repeats = repeats + 1 WHERE rowid = 3")
    connection.commit()
    connection.close()
    done = cli("build-table", str(file))
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert "r.sqlite: the records are damaged (a measurement row of '" in line
    assert "restore a copy, or name another file with --records, and keep this one" in line and ".recover" in line
    assert "delete" not in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["build-table", "shwo"], "No such command 'shwo'. Did you mean 'show'?"),
        (["build-table", "docter", "s9.parquet"], "No such command 'docter'. Did you mean 'doctor'?"),
        (["run-search", "studdy"], "No such command 'studdy'. Did you mean 'study'?"),
        (["run-search", "s9.parquet"], "No such command 's9.parquet'. There are: "),
        (["profile-device", "zo"], "No such command 'zo'. Did you mean 'zoo'?"),
    ],
    ids=" ".join,
)
def test_a_mistyped_command_is_told_and_what_looks_like_a_file_is_one(
    cli: Cli, words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli(*words)
    assert done.exit_code == 2 and told in done.stderr
    assert "  [OPTIONS]" not in done.stderr  # the hidden command's name is empty, and leaves no gap


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["profile-device", "--serial", "mock:s9", "--records", ""], "--records"),
        (["profile-device", "--serial="], "--serial"),
        (["profile-device", "doctor", "--serial", ""], "--serial"),
        (["build-table", "--out", ""], "--out"),
        (["build-table", ""], "an argument"),
        (["build-table", "show", ""], "an argument"),
        (["run-search", "--table", "", "--plan"], "--table"),
        (["run-search", "--data", ""], "--data"),
        (["run-search", "retrain", "", "--out", "x"], "an argument"),
        (["run-search", "study", "lambda", "--out="], "--out"),
        (["run-search", "transfer", "face", "--data", ""], "--data"),
    ],
    ids=str,
)
def test_an_empty_value_is_named_and_is_never_the_current_folder(
    cli: Cli, words: list[str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script writes it whose variable is not set."""
    monkeypatch.chdir(tmp_path)
    done = cli(*words)
    assert done.exit_code == 2 and f"{place}: the value is empty; give one, or leave it out" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_computed_device_that_there_is_not_is_not_called_well(cli: Cli) -> None:
    done = cli("profile-device", "doctor", "--serial", "mock:nosuch")
    assert done.exit_code == 2 and "no device answers to serial 'mock:nosuch'" in done.stderr
    assert cli("profile-device", "doctor", "--serial", "mock:s9").exit_code == 0
