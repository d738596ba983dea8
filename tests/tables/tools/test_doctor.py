import json
from importlib import resources
from pathlib import Path

import pytest

from bpnas.tables import diagnose_table
from bpnas.tables.schema import arrow_table, read_table
from bpnas.tables.table_meta import ImportedFrom
from tests.records_factory import backbone, make_plan
from tests.table_factory import BOTH, KEYS, damage, seal, slower, write

GOOD = make_plan(backbone(), backbone(32), paths="K1G1,K[35]E[246]G[12]", heads=(100,))
ENTRY = "K3E4G1@8-16s2x16"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "t.parquet"


def level(path: Path, text: str) -> str:
    """The level of the one finding that says so; `none` if none does."""
    found = [finding for finding in diagnose_table(path) if text in finding.what]
    assert len(found) < 2, found
    return found[0].level if found else "none"


def levels(path: Path) -> set[str]:
    return {finding.level for finding in diagnose_table(path)}


def one(**values):
    return lambda row: {**row, **values} if row["key"] == ENTRY else row


def test_a_good_table_is_good(cli, file):
    write(file, GOOD)
    assert levels(file) == {"ok"}
    done = cli("build-table", "doctor", file)
    assert done.exit_code == 0 and done.stderr == ""
    assert all(line.startswith("ok ") for line in done.stdout.splitlines()[1:])
    assert "13 of 272 paths at all 3 sites" in done.stdout
    assert "measured on Test Bench 1, tflite 2" in done.stdout


def test_the_shipped_table_has_no_error_and_says_mock(cli):
    with resources.as_file(resources.files("bpnas.tables") / "mock_s9.parquet") as shipped:
        done = cli("build-table", "doctor", shipped)
        assert level(shipped, "half the expansion") == "none"
    assert done.exit_code == 0
    assert "MOCK: every number was computed" in done.stdout
    assert "ERROR" not in done.stdout


def test_an_imported_table_says_so(file):
    write(file, imported=ImportedFrom("their-reader", "theirs.yaml", "12" * 32))
    assert level(file, "imported from theirs.yaml by reader their-reader, not measured here") == "warning"
    assert level(file, "measured on") == "none"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"latency_ms": 0.0}, "latency_ms must be a number above 0 and at most 1e+09, not 0.0"),
        ({"latency_ms": -1.0}, "not -1.0"),
        ({"latency_ms": float("nan")}, "not nan"),
        ({"latency_ms": None}, "not null"),
        ({"latency_ms": float("inf")}, "not inf"),
        ({"latency_ms": 9e-7}, "faster than a nanosecond"),
        ({"low_ms": 9.0}, "low_ms must be at most high_ms, not 9.0"),
        ({"p10_ms": 9.0}, "p10_ms must be at most p90_ms, not 9.0"),
    ],
)
def test_numbers_that_cannot_be_true_are_errors(cli, file, values, text):
    write(file, change=one(**values))
    found = [f for f in diagnose_table(file) if f.level == "error"]
    (finding,) = found
    assert text in finding.what and ENTRY in finding.what and finding.remedy
    assert level(file, "no impossible number") == "none"
    done = cli("build-table", "doctor", file)
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [f"Error: {file}: 1 thing to mend before this table can be relied on"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"low_ms": 0.5, "high_ms": 0.9}, "a latency outside its own confidence interval: 1 entry"),
        ({"p10_ms": 2.0, "p90_ms": 2.1}, "a latency below the 10th percentile of its samples: 1 entry"),
        ({"p10_ms": 0.1, "p90_ms": 0.2}, "a latency above the 90th percentile of its samples: 1 entry"),
        ({"sessions": 1}, "of one session alone, so that nobody knows how far sessions differ: 1 entry"),
        ({"sessions": None}, "of an unknown number of sessions: 1 entry"),
        ({"low_ms": None, "high_ms": None}, "without a confidence interval: 1 entry"),
        ({"latency_ms": 1.0, "low_ms": 0.9, "high_ms": 1.02}, "known to no better than 5%"),
        ({"flags": "noisy"}, f"flagged 'noisy': 1 entry ({ENTRY})"),
    ],
)
def test_doubts_are_warnings(cli, file, values, text):
    write(file, change=one(**values))
    assert level(file, text) == "warning"
    assert "error" not in levels(file)
    assert cli("build-table", "doctor", file).exit_code == 0


def test_an_interval_just_narrow_enough_is_fine(file):
    write(file, GOOD, one(latency_ms=1.5, low_ms=1.44, high_ms=1.57))
    assert levels(file) == {"ok"}


def test_the_widest_interval_is_named_first(file):
    def widen(row):
        share = {"stem": 0.1, "head": 0.3, "join": 0.2}.get(row["kind"], 0.0)
        return {**row, "low_ms": row["latency_ms"] * (1 - share), "high_ms": row["latency_ms"] * (1 + share)}

    write(file, change=widen)
    (finding,) = (f for f in diagnose_table(file) if "no better than" in f.what)
    assert "5%: 4 entries (head@16-16-10x8 +-30%, join@8x16 +-20%, join@16x8 +-20%, stem" in finding.what


def test_many_unused_sessions_are_a_warning_and_few_are_not(file):
    write(file, change=one(quarantined=2))
    assert level(file, f"left out, with a reason: 2 of {3 * len(KEYS) + 2}") == "ok"
    write(file, change=lambda row: {**row, "quarantined": 1})
    assert level(file, f"are not used: {len(KEYS)} of {4 * len(KEYS)}") == "warning"


def test_missing_entries_are_named(file):
    write(file, change=lambda row: None if row["key"] == ENTRY else row, missing=[ENTRY])
    assert level(file, f"1 planned entry is missing: {ENTRY}") == "warning"
    assert level(file, "12 of 272 paths have an entry at every site") == "warning"


def test_an_entry_twice_makes_it_no_table(file):
    write(file)
    table, meta, _ = read_table(file)
    seal(file, arrow_table([*table.to_pylist(), table.to_pylist()[0]]), meta.to_json())
    (finding,) = diagnose_table(file)
    assert finding.level == "error" and "it has an entry twice" in finding.what


def expansions(ratio):
    """Twice the expansion takes `ratio` times as long."""

    def change(row):
        if row.get("expansion") is None:
            return row
        ms = {2: 1.0, 4: ratio, 6: 1.0}[row["expansion"]]
        return {**row, "latency_ms": ms, "low_ms": ms, "high_ms": ms, "p10_ms": ms, "p90_ms": ms}

    return change


def test_twice_the_expansion_in_much_less_time_is_odd(file):
    write(file, change=expansions(0.7))
    (finding,) = (f for f in diagnose_table(file) if "half the expansion" in f.what)
    assert finding.level == "warning" and "half the expansion: 8 entries" in finding.what
    assert "K3E4G1@8-16s2x16 0.7 ms against 1 ms" in finding.what
    write(file, change=expansions(0.9))
    assert level(file, "half the expansion") == "none"


def test_an_odd_expansion_has_no_half(file):
    write(file, make_plan(backbone(), paths="K3E[13]G1"), slower(0.5, lambda row: row.get("expansion") == 3))
    assert level(file, "half the expansion") == "none"


def test_a_site_without_paths_keeps_a_search_from_the_table(cli, file):
    write(file, BOTH, lambda row: None if row["kind"] == "path" and row["key"].endswith("8-16s2x32") else row)
    assert level(file, "at input size 32 with 10 classes: no path has an entry at every site") == "error"
    assert level(file, "at input size 16 with 10 classes: 13 of 272 paths at all 3 sites") == "ok"
    assert "8-16s2x32 (0)" in cli("build-table", "doctor", file).stdout


@pytest.mark.parametrize("key", ["stem@3-8s1x16", "head@16-16-10x8"])
def test_what_every_network_has_must_be_there(file, key):
    write(file, change=lambda row: None if row["key"] == key else row)
    assert level(file, f"no entry {key}, which every network has") == "error"


def test_shuffled_paths_are_found(file):
    write(file, make_plan(backbone(shuffle=True), paths="K3E[24]G2"), expansions(0.5))
    assert level(file, "2 of 272 paths at all 3 sites") == "ok"
    assert level(file, "K3E4G2S@8-16s2x16 0.5 ms") == "warning"


def test_a_damaged_table_is_one_error_with_the_remedy(cli, file):
    damage(write(file))
    (finding,) = diagnose_table(file)
    assert (
        finding.level == "error" and "damaged or edited" in finding.what and "build the table again" in finding.remedy
    )
    done = cli("build-table", "doctor", file, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["errors"] == 1
    assert cli("build-table", "doctor", file.with_name("none.parquet")).exit_code == 1


def test_nothing_is_changed(cli, file):
    write(file, change=slower(2))
    before = file.read_bytes()
    cli("build-table", "doctor", file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_what_holds_for_all_entries_names_none(file):
    write(file, change=lambda row: {**row, "sessions": 1})
    assert level(
        file, f"of one session alone, so that nobody knows how far sessions differ: all {len(KEYS)} entries"
    ) == ("warning")
