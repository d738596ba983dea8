import csv
import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from bpnas.tables import LatencyTable
from bpnas.tables.schema import COLUMNS
from bpnas.tables.table_meta import ImportedFrom
from tests.records_factory import backbone, make_plan
from tests.table_factory import BOTH, KEYS, PLAN, damage, slower, write


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def table(here):
    return write(here / "t.parquet")


def rows(cli, *arguments):
    done = cli("build-table", "show", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["rows"]


def keys(cli, *arguments):
    return [row["key"] for row in rows(cli, *arguments)]


def test_the_header_says_what_the_table_is(cli, table):
    done = cli("build-table", "show", table)
    assert done.exit_code == 0 and done.stderr == ""
    for text in (
        "bench: Test Bench 1, sdm845, none 1, arm64",
        "tflite, tflite 2, SHA-256 abababababab…",
        "1 thread, warm-up 1 run and 0 s, 3 samples and 0 s; export version 1",
        "tiny at input size 16 (10 classes)",
        f"{len(KEYS)} (head 1, join 2, path {len(KEYS) - 4}, stem 1); 13 of 272 paths at every site",
        "missing   none",
        "doubtful  none",
        LatencyTable.load(table).sha256,
    ):
        assert text in done.stdout
    assert "MOCK" not in done.stdout and "IMPORTED" not in done.stdout


@pytest.mark.parametrize("encoding", ["latin-1", "iso8859-9"])
def test_a_terminal_without_unicode_shows_what_it_can(table, encoding):
    command = Path(sys.executable).with_name("build-table")
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([command, "show", table], capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "SHA-256 abababababab" in done.stdout.decode(encoding)


def test_what_was_not_measured_is_said_in_capitals(cli, here):
    mock = write(here / "m.parquet", make_plan(mock=True))
    source = ImportedFrom("their-reader", "theirs.yaml", "12" * 32, "their_ms")
    imported = write(here / "i.parquet", make_plan(), imported=source)
    assert "MOCK: COMPUTED, NOT MEASURED" in cli("build-table", "show", mock).stdout
    shown = cli("build-table", "show", imported).stdout
    assert "IMPORTED, NOT MEASURED HERE" in shown
    assert "theirs.yaml (SHA-256 121212121212…), column their_ms, read by their-reader" in shown
    assert "settings  unknown" in shown


def test_missing_and_doubtful_entries_are_counted(cli, here):
    def doubt(row):
        return (
            {**row, "flags": "noisy"} if row["kind"] == "stem" else {**row, "quarantined": int(row["kind"] == "head")}
        )

    path = write(here / "t.parquet", PLAN, doubt, missing=["K7G8@8-8s1x16"])
    shown = cli("build-table", "show", path).stdout
    assert "missing   1: K7G8@8-8s1x16" in shown
    assert "doubtful  2" in shown


def test_the_first_rows_by_key_and_how_many_more(cli, table):
    lines = cli("build-table", "show", table).stdout.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("key "))
    assert lines[start].split() == ["key", "latency_ms", "low_ms", "high_ms", "mad_ms", "sessions", "flags"]
    assert [line.split()[0] for line in lines[start + 1 : -1]] == list(KEYS[:20])
    first = LatencyTable.load(table).to_pandas().iloc[0]
    assert lines[start + 1].split()[1:4] == [f"{first[name]:.4f}" for name in ("latency_ms", "low_ms", "high_ms")]
    assert lines[-1] == f"{len(KEYS) - 20} more; --limit 0 shows all"
    everything = cli("build-table", "show", table, "--limit", 0).stdout
    assert "more;" not in everything and all(key in everything for key in KEYS)


def test_rows_are_chosen_by_kind_path_and_site(cli, here):
    table = write(here / "t.parquet", BOTH)
    assert keys(cli, table, "--kind", "stem") == ["stem@3-8s1x16", "stem@3-8s1x32"]
    assert keys(cli, table, "--path", "K1G1,K3E2G1", "--site", "8-16s2x*") == [
        "K1G1@8-16s2x16",
        "K1G1@8-16s2x32",
        "K3E2G1@8-16s2x16",
        "K3E2G1@8-16s2x32",
    ]
    assert keys(cli, table, "--site", "8-8s1x16", "--path", "K1G1") == ["K1G1@8-8s1x16"]
    assert keys(cli, table, "--path", "K7G8") == []
    assert "No entry matches" in cli("build-table", "show", table, "--path", "K7G8").stdout


def test_rows_are_sorted_by_any_column_either_way_and_what_is_absent_comes_last(cli, table):
    times = [row["latency_ms"] for row in rows(cli, table, "--sort", "latency_ms")]
    assert times == sorted(times) and len(times) == len(KEYS)
    assert [row["latency_ms"] for row in rows(cli, table, "--sort", "-latency_ms", "--limit", 3)] == times[:-4:-1]
    for sort in ("expansion", "-expansion"):
        values = [row["expansion"] for row in rows(cli, table, "--sort", sort)]
        assert values[0] == (6 if sort.startswith("-") else 2) and values[-1] is None


def test_csv_is_every_row_with_every_digit(cli, table):
    done = cli("build-table", "show", table, "--csv")
    lines = list(csv.DictReader(StringIO(done.stdout)))
    assert list(lines[0]) == list(COLUMNS) and [line["key"] for line in lines] == list(KEYS)
    expected = LatencyTable.load(table).to_pandas().set_index("key")["latency_ms"]
    assert all(float(line["latency_ms"]) == expected[line["key"]] for line in lines)
    assert len(cli("build-table", "show", table, "--csv", "--limit", 2).stdout.splitlines()) == 3


def test_json_holds_the_metadata_and_null_for_what_is_absent(cli, table):
    result = json.loads(cli("build-table", "show", table, "--kind", "stem", "--json").stdout)
    assert result["entries"] == len(KEYS) and result["kinds"]["join"] == 2
    assert result["metadata"]["device"]["model"] == "Test Bench 1"
    assert result["metadata"]["settings"]["threads"] == 1
    (row,) = result["rows"]
    assert set(row) == set(COLUMNS) and row["path"] is None and row["c_out"] == 8


def test_a_narrow_terminal_shortens_names_and_keeps_numbers(cli, here, monkeypatch):
    networks = make_plan(backbone(), paths="K1G1,K3E2G1,K3E2G2", networks=2)
    path = write(here / "t.parquet", networks)
    full = [line.split() for line in cli("build-table", "show", path, "--kind", "network").stdout.splitlines()[-3:]]
    monkeypatch.setattr("bpnas.tables.commands.tools.terminal_width", lambda: 75)
    lines = cli("build-table", "show", path, "--kind", "network").stdout.splitlines()[-3:]
    assert max(map(len, lines)) <= 75 and any("…" in line for line in lines)
    for line, whole in zip(lines, full, strict=True):
        name, *numbers = line.split()
        assert numbers == whole[1:]
        assert name == whole[0] or (name.endswith("…") and whole[0].startswith(name[:-1]))


def test_what_does_not_fit_at_all_is_cut(cli, here, monkeypatch):
    path = write(here / "t.parquet", PLAN, lambda row: {**row, "flags": "a flag that goes on and on " * 5})
    assert "on and on a flag" in cli("build-table", "show", path).stdout
    monkeypatch.setattr("bpnas.tables.commands.tools.terminal_width", lambda: 70)
    lines = cli("build-table", "show", path).stdout.splitlines()
    cut = lines[lines.index("") + 1 :]
    assert max(map(len, cut)) == 70 and cut[1].endswith("…")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (["t.parquet", "--kind", "paht"], 2, "no entries of kind 'paht'; there are head, join, path, stem"),
        (["t.parquet", "--path", "K9*"], 2, "matches none of the 272 paths"),
        (["t.parquet", "--site", "9-*"], 2, "no site matches '9-*'; there are 8-16s2x16, 8-8s1x16"),
        (["t.parquet", "--sort", "latency"], 2, "no column is called 'latency'; there are key, kind"),
        (["none.parquet"], 1, "none.parquet: the table cannot be read"),
        (["d.parquet"], 1, "d.parquet: damaged or edited"),
    ],
)
def test_bad_input(cli, here, arguments, exit_code, sentence):
    write(here / "t.parquet")
    damage(write(here / "d.parquet", PLAN, slower(2)))
    done = cli("build-table", "show", *arguments)
    assert done.exit_code == exit_code and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and sentence in line
