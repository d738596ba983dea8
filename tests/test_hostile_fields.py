"""Every field of every JSON text that bpnas reads, with every hostile value: one sentence, and nothing wrong taken."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from bpnas.android_bench.runner.bundle import Bundle
from bpnas.android_bench.runner.lines import parse_line
from bpnas.base.errors import BpnasError
from bpnas.profiler import Backbone, Records
from bpnas.tables import LatencyTable
from tests.garbage import collected
from tests.hostile_json import HOSTILE, PLAIN, every_field, fits, with_text, without
from tests.records_factory import backbone, failure, make_plan, write_records
from tests.table_factory import seal, write

LONGEST = 900


def cases(values: Any) -> Iterator[tuple[str, str, Any, str]]:
    """The name of a field, of what is done to it, what was there, and the text of the whole."""
    for place, value in every_field(values):
        name = next(str(part) for part in reversed(place) if isinstance(part, str))
        for hostile, text in HOSTILE.items():
            yield name, hostile, value, with_text(values, place, text)
        if isinstance(place[-1], str):
            yield name, "missing", value, without(values, place)
            last = place[-1]
            twice = with_text(values, place, f'{json.dumps(value)}, "{last}": {json.dumps(value)}')
            yield name, "given twice", value, twice
    for hostile, text in HOSTILE.items():
        yield "", hostile, values, text


def wrong(
    read: Callable[[], Any],
    file: Path,
    case: tuple[str, str, Any, str],
    may: tuple[str, ...] = (),
    words: Mapping[str, str] = {},
) -> list[str]:
    """What is not as it must be: one sentence that names file and field, unless the value is of the right kind.

    Args:
        may: names of fields, with a blank and what may be done to them, that may be taken.
        words: which stand for the name of a field where there is one.
    """
    name, hostile, value, _ = case
    what = f"{name} {hostile}: "
    try:
        read()
    except BpnasError as error:
        said = str(error)
        if len(said) > LONGEST or len(said.splitlines()) > 1 or "Error:" in said or "__init__" in said:
            return [what + f"no clear sentence: {said[:LONGEST]}"]
        names = (name, name.replace("_", "."), name.removesuffix("s"), words.get(name, name))
        if str(file) not in said or not (hostile in ("deep", "very deep", "twice") or any(n in said for n in names)):
            return [what + f"not named: {said}"]
        return []
    except Exception as error:
        return [what + f"{type(error).__name__}: {error}"[:LONGEST]]
    return [] if fits(hostile, value) or f"{name} {hostile}" in may else [what + "taken"]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = make_plan(backbone(), sessions=2, networks=2, heads=(5, 10), affinity="f0")
    return write_records(tmp_path_factory.mktemp("planned") / "good.sqlite", plan, order=[])


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = make_plan()
    path = write_records(tmp_path_factory.mktemp("records") / "good.sqlite", plan, order=[("K1G1@8-8s1x16", 0)])
    with Records.write(path) as opened:
        opened.add(plan.setup, {}, failure("K7G1@8-8s1x16"))
    return path


@contextmanager
def changing(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program writes to the file, in a hurry."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = OFF")
        yield connection


def rewritten(path: Path, table: str, digest: str, text: str) -> None:
    """One row of a table of texts, with the right digest there and wherever it is named."""
    new = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    with changing(path) as connection:
        connection.execute(f"UPDATE {table} SET digest = ?, value = ? WHERE digest = ?", (new, text, digest))
        for plan, value in connection.execute("SELECT digest, value FROM plan").fetchall():
            if digest in value:
                value = value.replace(digest, new)
                named = hashlib.sha256(value.encode()).hexdigest()
                connection.execute("UPDATE plan SET digest = ?, value = ? WHERE digest = ?", (named, value, plan))


def everything(path: Path) -> None:
    with Records.read(path) as records:
        records.plans()
        list(records.measurements())
        list(records.failures())


@pytest.mark.parametrize("table", ["plan", "device", "settings"])
def test_fields_of_plans_devices_and_settings(table: str, planned: Path, tmp_path: Path) -> None:
    copy = tmp_path / "r.sqlite"
    with sqlite3.connect(planned) as connection:
        ((digest, value),) = connection.execute(f"SELECT digest, value FROM {table}").fetchall()
    connection.close()
    found = []
    for case in cases(json.loads(value)):
        shutil.copy(planned, copy)
        rewritten(copy, table, digest, case[3])
        found += wrong(lambda: everything(copy), copy, case, MAY)
    assert not found, "\n".join(found)


MAY = (
    "paths null",
    "heads list",
    "backbones list",  # the models of people have none
    *(f"temperature_c {what}" for what in ("fraction", "negative", "text", "missing")),
    *(f"screen {what}" for what in ("fraction", "negative", "missing")),
    *(f"{name} missing" for name in ("before", "after")),
    *(f"{name} object" for name in ("before", "after", "conditions")),
    *(f"{name} missing" for name in ("networks", "context", "test_seed", "heads", "affinity", "channel_shuffle")),
    *(f"{name} fraction" for name in ("warmup_seconds", "seconds", "sample_ms", "timeout_seconds")),
)
"""What may be so: fields that are left out where they say nothing, numbers that may be fractions, and conditions, of
which each device has others."""


def rehashed(path: Path, table: str, column: str, value: object) -> None:
    """Another value in one column of the first row, with the right hash of the row."""
    with changing(path) as connection:
        cursor = connection.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid LIMIT 1")
        names = [each[0] for each in cursor.description]
        row = {**dict(zip(names, cursor.fetchone(), strict=True)), column: value}
        number = row.pop("rowid")
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, number))
        names.remove("rowid")
        stored = connection.execute(f"SELECT * FROM {table} WHERE rowid = ?", (number,)).fetchone()
        row = dict(zip(names, stored, strict=True))
        del row["row_sha256"]
        digest = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()
        connection.execute(f"UPDATE {table} SET row_sha256 = ? WHERE rowid = ?", (digest, number))


@pytest.mark.parametrize("column", ["conditions", "samples_ns"])
def test_json_in_rows(column: str, records: Path, tmp_path: Path) -> None:
    copy = tmp_path / "r.sqlite"
    with sqlite3.connect(records) as connection:
        ((value,),) = connection.execute(f"SELECT {column} FROM measurement ORDER BY rowid LIMIT 1").fetchall()
    connection.close()
    stored = json.loads(value) if column == "conditions" else {"samples_ns": json.loads(value)}
    found = []
    for name, hostile, was, text in cases(stored):
        text = text if column == "conditions" else text.removeprefix('{"samples_ns": ').removesuffix("}")
        shutil.copy(records, copy)
        rehashed(copy, "measurement", column, text)
        case = (name or column, hostile, was, text)
        found += wrong(lambda: everything(copy), copy, case, MAY)
    assert not found, "\n".join(found)


COLUMNS = {
    "measurement": ("key", "session", "sha256", "started_at", "repeats", "warmup_runs", "warmup_ns", "load_ns"),
    "failure": ("key", "session", "sha256", "started_at", "kind", "message"),
}


@pytest.mark.parametrize(("table", "column"), [(table, column) for table in COLUMNS for column in COLUMNS[table]])
def test_columns_of_rows(table: str, column: str, records: Path, tmp_path: Path) -> None:
    """SQLite keeps a text in a column of numbers, and bytes anywhere."""
    copy = tmp_path / "r.sqlite"
    is_text = column in ("key", "sha256", "kind", "message")
    values: dict[str, object] = (
        {"bytes": b"x", "large": "1" * 30} if is_text else {"text": "x", "bytes": b"1", "inf": 9e999}
    )
    if column not in ("started_at", *COLUMNS["failure"]) or column == "session":
        values |= {"negative": -1, "fraction": 0.5}
    if column == "repeats":
        values |= {"zero": 0}
    for hostile, value in values.items():
        if is_text and hostile == "large" and column != "kind":
            continue
        shutil.copy(records, copy)
        rehash = rehashed if not isinstance(value, bytes) else set_bytes
        rehash(copy, table, column, value)
        with pytest.raises(BpnasError, match=str(copy)) as raised:
            everything(copy)
        assert len(str(raised.value)) < LONGEST


def set_bytes(path: Path, table: str, column: str, value: object) -> None:
    with changing(path) as connection:
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = 1", (value,))


def test_fields_of_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "bpnas-runner").write_bytes(b"program")
    (tmp_path / "lib.so").write_bytes(b"library")
    files = {
        path.name: {"mode": 0o755, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": 7}
        for path in tmp_path.iterdir()
    }
    values = {
        "arch": "arm64",
        "files": files,
        "launcher": ["ld.so"],
        "runner": "bpnas-runner",
        "runner_version": "1",
        "runtimes": {"tflite": {"library": "lib.so", "version": "2"}},
        "sha256": "",
    }
    manifest = tmp_path / "manifest.json"

    def sealed(text: str) -> str:
        """With the right hash, as far as there is one."""
        try:
            stored = json.loads(text)
            described = {name: value for name, value in stored.items() if name != "sha256"}
        except (ValueError, RecursionError, AttributeError):
            return text
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        return text.replace('"sha256": ""', f'"sha256": "{digest}"')

    manifest.write_text(sealed(json.dumps(values)))
    assert Bundle.load(tmp_path).arch == "arm64"
    may = ("launcher list", "launcher surrogate", "runtimes object", "tflite missing")
    found = []
    for name, hostile, was, text in cases(values):
        manifest.write_text(sealed(text))
        found += wrong(lambda: Bundle.load(tmp_path), tmp_path, (name, hostile, was, text), may, {"sha256": "SHA-256"})
    assert not found, "\n".join(found)


def test_metadata_of_a_table(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path = write(tmp_path / "t.parquet")
    values = json.loads(pq.read_metadata(path).metadata[b"bpnas.meta"])
    table = pq.read_table(path)
    found = []
    for case in random.Random(0).sample(list(cases(values)), 150):
        seal(path, table, case[3])
        words = {"name": "device", "schema_version": "schema version"}
        found += wrong(lambda: LatencyTable.load(path), path, case, (*MAY, "paths list"), words)
    assert not found, "\n".join(found)


BACKBONE = """
name = "mine"
channel_shuffle = false
stages = [{ channels = 16, blocks = 1, stride = 1 }]
stem = { channels = 32, stride = 2 }
head = { channels = 1280, classes = 1000 }
"""
TOML = {
    **PLAIN,
    "table": "{}",
    "inf": "-inf",
    "nan": "nan",
    "date": "2001-01-01",
    "very deep": "[" * 200_000,
    "twice": "{ a = 1, a = 2 }",
    "nothing": "",
}


def test_fields_of_a_backbone(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(BACKBONE)
    Backbone.load(path)
    found = []
    for match in re.finditer(r'(\w+) = ("mine"|false|\d+|\[.*\]|\{.*?\})', BACKBONE):
        for hostile, text in TOML.items():
            path.write_text(BACKBONE[: match.start(2)] + text + BACKBONE[match.end(2) :])
            no_toml = hostile in ("very large", "deep", "very deep", "nothing", "twice")
            name = "" if no_toml else match[1]
            may = ("name text", "channel_shuffle true")
            found += wrong(lambda: Backbone.load(path), path, (name, hostile, None, ""), may)
    assert not found, "\n".join(found)


def test_answers_of_a_runner() -> None:
    """A line that is none is noise, and never an error of Python's or a wrong answer."""
    answers = [
        {"hello": 1, "version": "tflite 2", "runner": "2", "affinity": "f0", "watch_text": True, "feeds": True},
        {"begin": 1},
        {"cooling": 1},
        {
            "profile": 1,
            "operators": [{"name": "a", "type": "b", "ns": 1.5, "p10_ns": 1.0}],
            "inference_ns": 5,
            "runs": 2,
        },
        {"model": 1, "id": "k", "refused": "why"},
        {"model": 1, "id": "k", "timeout": 1},
        {
            "model": 1,
            "id": "k",
            "samples_ns": [5, 6],
            "repeats": 1,
            "warmup_runs": 1,
            "warmup_ns": 1,
            "load_ns": 1,
            "before": {"temperature_c": 30.5, "governor": "performance"},
            "after": {"temperature_c": 30.5},
        },
    ]
    for values in answers:
        assert parse_line(line(json.dumps(values))) is not None
        for name, hostile, was, text in cases(values):
            told = parse_line(line(text))
            assert told is None or name == "id" or len(repr(told)) < 2000, (name, hostile)
            if hostile in ("large", "very large", "infinite", "Infinity", "NaN", "deep", "very deep", "given twice"):
                assert told is None, (name, hostile)
            if isinstance(was, int | float) and not isinstance(was, bool) and name not in ("hello", "timeout"):
                allowed = {"fraction", "missing"} | ({"negative", "text"} if name == "temperature_c" else {"null"})
                assert told is None or hostile in allowed, (name, hostile, told)


def line(text: str) -> bytes:
    body = text.removesuffix("}").encode("utf-8", "surrogatepass")
    return body + f',"crc32":"{zlib.crc32(body):08x}"}}'.encode()


def test_annotations_of_images(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    from bpnas.search.transfer.detection.coco import CocoSet

    (tmp_path / "a.png").write_bytes(b"image")
    values = {
        "info": {"year": 2017},
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1.0, 2.0, 30.0, 20.0], "area": 600.0, "iscrowd": 0}
        ],
        "categories": [{"id": 3, "name": "disc"}],
    }
    file = tmp_path / "instances.json"
    may = (
        *("area missing", "area null", "area fraction", "iscrowd missing", "iscrowd null", "iscrowd true"),
        *("bbox negative", "bbox fraction", "id negative", "area negative"),
    )
    words = {
        "id": "annotation",
        "file_name": "image",
        "width": "pixels",
        "height": "pixels",
        "image_id": "image",
        "category_id": "category",
    }
    found = []
    for case in cases(values):
        file.write_text(case[3])
        if case[0] not in ("info", "year"):
            found += wrong(lambda: CocoSet.load(tmp_path, file), file, case, may, words)
    assert not found, "\n".join(found)


def test_commands_say_one_sentence(records: Path, tmp_path: Path, cli: Callable[..., Result]) -> None:
    copy = tmp_path / "r.sqlite"
    for column, value in (
        ("conditions", "[]"),
        ("samples_ns", "[1e999]"),
        ("samples_ns", "[" * 5000),
        ("repeats", "x"),
    ):
        shutil.copy(records, copy)
        rehashed(copy, "measurement", column, value)
        with collected():
            done = cli("build-table", copy, "--allow-missing", "--out", tmp_path / "t.parquet")
        assert done.exit_code == 1 and done.stderr.startswith(f"Error: {copy}: "), done.output
        assert len(done.stderr.splitlines()) == 1 and column in done.stderr and not (tmp_path / "t.parquet").exists()
