import json
from pathlib import Path

import pandas as pd
import pytest

from bpnas.profiler import Records
from bpnas.tables import LatencyTable
from tests.records_factory import backbone, make_plan, measurement, tasks, write_records

PLAN = make_plan()
ENTRIES = len(tasks(PLAN))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test runs in an empty directory."""
    monkeypatch.chdir(tmp_path)


def files_here() -> set[str]:
    return {path.name for path in Path().iterdir() if path.suffix != ".lock"}


def error_line(done) -> str:
    """The sentence of a command that failed: all that it printed."""
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


# Bare


def test_the_records_of_this_directory_become_a_table_named_after_their_device(cli):
    write_records(Path("whatever.sqlite"), PLAN)
    done = cli("build-table")
    assert done.exit_code == 0, done.stderr
    assert files_here() == {"whatever.sqlite", "bench.parquet"}
    assert len(LatencyTable.load("bench.parquet")) == ENTRIES
    assert done.stderr == ""
    assert f"bench.parquet: {ENTRIES} entries of Test Bench 1, tflite 2" in done.stdout
    assert "Backbone tiny at input size 16; 3 of 272 paths at every site" in done.stdout
    assert "run-search --table bench.parquet" in done.stdout


def test_several_records_of_one_device_are_joined(cli):
    write_records(Path("a.sqlite"), PLAN)
    write_records(Path("b.sqlite"), make_plan(backbone(32)))
    done = cli("build-table")
    assert done.exit_code == 0, done.stderr
    assert LatencyTable.load("bench.parquet").input_sizes == (16, 32)
    assert "input size 16, 32" in done.stdout


def test_other_files_of_this_directory_are_left_out(cli):
    write_records(Path("r.sqlite"), PLAN)
    Path("notes.sqlite").write_text("not a database")
    Path("sub").mkdir()
    write_records(Path("sub/other.sqlite"), make_plan(name="other"))
    assert cli("build-table").exit_code == 0


def test_records_of_two_devices_are_refused_and_no_table_is_written(cli):
    write_records(Path("a.sqlite"), PLAN)
    write_records(Path("b.sqlite"), make_plan(name="other", model="Test Bench 2"))
    done = cli("build-table")
    assert done.exit_code == 1
    assert "a.sqlite, b.sqlite" in error_line(done)
    assert "model: Test Bench 1 | Test Bench 2" in done.stderr
    assert files_here() == {"a.sqlite", "b.sqlite"}
    assert cli("build-table", "b.sqlite").exit_code == 0  # one of them can be named
    assert LatencyTable.load("other.parquet").meta.device.model == "Test Bench 2"


def test_no_records_here(cli):
    done = cli("build-table")
    assert done.exit_code == 2
    assert "no records in this directory" in error_line(done)
    assert "profile-device" in done.stderr


# Options


def test_out_names_the_table(cli):
    write_records(Path("r.sqlite"), PLAN)
    Path("sub").mkdir()
    assert cli("build-table", "r.sqlite", "--out", "sub/t.parquet").exit_code == 0
    assert len(LatencyTable.load("sub/t.parquet")) == ENTRIES


def test_out_in_a_missing_folder(cli):
    write_records(Path("r.sqlite"), PLAN)
    done = cli("build-table", "--out", "none/t.parquet")
    assert done.exit_code == 2
    assert "does not exist" in error_line(done)
    assert files_here() == {"r.sqlite"}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--format", "csv"], "bench.csv"),
        (["--out", "t.csv"], "t.csv"),
        (["--out", "t.txt", "--format", "csv"], "t.txt"),
    ],
)
def test_as_csv(cli, options, name):
    write_records(Path("r.sqlite"), PLAN)
    done = cli("build-table", *options)
    assert done.exit_code == 0, done.stderr
    assert files_here() == {"r.sqlite", name}
    assert len(pd.read_csv(name)) == ENTRIES
    assert "run-search" not in done.stdout  # which reads Parquet alone


@pytest.mark.parametrize("options", [["--format", "parquet", "--out", "t.csv"], ["--out", "t.table"]])
def test_as_parquet_whatever_the_name(cli, options):
    write_records(Path("r.sqlite"), PLAN)
    assert cli("build-table", *options).exit_code == 0
    assert len(LatencyTable.load(options[-1])) == ENTRIES


def test_json(cli):
    write_records(Path("r.sqlite"), make_plan(backbone(), backbone(32), mock=True))
    done = cli("build-table", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {
        "table": "bench.parquet",
        "entries": 2 * ENTRIES,
        "missing": [],
        "device": "bench",
        "mock": True,
        "runtime": "tflite",
        "input_sizes": [16, 32],
        "paths": 3,
        "statistic": "median",
        "doubtful": 2 * ENTRIES,
        "flags": {"unknown": 2 * ENTRIES},
        "largest_drift_correction": 0.0,
        "models": {"default": "sum", "reason": "no whole networks were measured", "records": []},
    }


def test_a_computed_device_is_marked(cli):
    write_records(Path("r.sqlite"), make_plan(mock=True))
    assert "MOCK" in cli("build-table").stdout


def test_what_is_missing_is_said_and_allowed_on_demand(cli):
    hole = tasks(PLAN)[-1][0]
    write_records(Path("r.sqlite"), PLAN, lambda key, s: None if key == hole else measurement(key, s))
    done = cli("build-table")
    assert done.exit_code == 1
    assert f"1 of {ENTRIES} entries missing: {hole};" in error_line(done)
    assert files_here() == {"r.sqlite"}
    done = cli("build-table", "--allow-missing")
    assert done.exit_code == 0
    assert f"1 planned entry is missing: {hole}" in done.stdout
    assert json.loads(cli("build-table", "--allow-missing", "--json").stdout)["missing"] == [hole]


def test_one_of_several_runtimes_and_backbones_is_chosen(cli):
    write_records(Path("r.sqlite"), PLAN)
    write_records(Path("r.sqlite"), make_plan(runtime="onnxruntime"))
    write_records(Path("r.sqlite"), make_plan(backbone(32, name="other")))
    assert "--runtime" in error_line(cli("build-table"))
    assert "--backbone" in error_line(cli("build-table", "--runtime", "tflite"))
    done = cli("build-table", "--runtime", "tflite", "--backbone", "other", "--paths", "K1G1", "--json")
    result = json.loads(done.stdout)
    assert (result["runtime"], result["input_sizes"], result["paths"]) == ("tflite", [32], 1)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (["none.sqlite"], 1, "none.sqlite: no such records file"),
        (["r.sqlite", "--runtime", "none"], 1, "no campaign with runtime none"),
        (["r.sqlite", "--backbone", "none"], 1, "no campaign with backbone none"),
        (["r.sqlite", "--paths", "K9*"], 2, "matches none of the 272 paths"),
        (["text.sqlite"], 1, "text.sqlite: is a text file, and no bpnas records"),
        (["empty.sqlite"], 1, "empty.sqlite: no campaign in these records"),
    ],
)
def test_bad_input(cli, arguments, exit_code, sentence):
    write_records(Path("r.sqlite"), PLAN)
    Path("text.sqlite").write_text("key,latency\n" * 200)
    Records.write("empty.sqlite").close()
    before = files_here()
    done = cli("build-table", *arguments)
    assert done.exit_code == exit_code
    assert sentence in error_line(done)
    assert files_here() == before


def test_a_table_that_cannot_be_replaced_stays(cli, monkeypatch):
    """No space: the old table is still there, whole."""
    from bpnas.base import files

    write_records(Path("r.sqlite"), PLAN)
    assert cli("build-table").exit_code == 0
    before = Path("bench.parquet").read_bytes()
    write_records(Path("r.sqlite"), make_plan(sessions=2), order=[(key, 1) for key, _ in tasks(PLAN)])

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    done = cli("build-table")
    assert done.exit_code == 1
    assert "bench.parquet: no space left on the disk" in error_line(done)
    assert Path("bench.parquet").read_bytes() == before
    assert files_here() == {"r.sqlite", "bench.parquet"}


def test_doubts_and_drift_are_counted(cli):
    from tests.simulated_device import SENTINEL, SimulatedDevice

    device = SimulatedDevice(
        slowdown=lambda now: 1 + now / 1000, noisier=lambda key, s: 8.0 if "K3E2G1" in key else 1.0
    )
    plan, number = make_plan(sessions=3), 0
    with Records.write("r.sqlite") as records:
        records.add_plan(plan)
        for task in tasks(plan):
            for one in ((SENTINEL, number), task):
                records.add(plan.setup, {}, device.measure(*one))
            number += 1
    done = cli("build-table")
    assert done.exit_code == 0, done.stderr
    assert "2 entries are doubtful: noisy 2\n" in done.stdout
    assert "Drift of the device was corrected, by 5." in done.stdout or "by 6." in done.stdout
    result = json.loads(cli("build-table", "--json").stdout)
    assert (result["doubtful"], result["flags"]) == (2, {"noisy": 2})
    assert 0.04 < result["largest_drift_correction"] < 0.08


def test_a_table_that_no_search_takes_does_not_send_people_to_one(cli):
    """A campaign that has just begun: some parts of some sites, and none of them everywhere."""
    some = {key for key, _ in tasks(PLAN)[:2]}
    write_records(Path("begun.sqlite"), PLAN, lambda key, session: measurement(key, session) if key in some else None)
    done = cli("build-table", "begun.sqlite", "--allow-missing")
    assert done.exit_code == 0, done.stderr
    assert "Next: run-search" not in done.stdout and "finish the campaign with the same profile-device" in done.stdout
