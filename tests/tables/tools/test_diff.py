import json
from dataclasses import replace

import numpy as np
import pytest

from bpnas.profiler.campaign.estimate import estimate
from bpnas.profiler.campaign.session import Session
from bpnas.tables import TableError, diff_tables
from bpnas.tables.table_meta import ImportedFrom
from tests.records_factory import QUICK, backbone, make_plan
from tests.table_factory import BOTH, KEYS, PLAN, damage, only, slower, write

OTHER = make_plan(backbone(), paths="K1G1,K[35]E[246]G[12]", os="none 2")


@pytest.fixture
def a(tmp_path):
    return write(tmp_path / "a.parquet")


@pytest.fixture
def b(tmp_path):
    return tmp_path / "b.parquet"


def group(diff, name):
    (found,) = (g for g in diff.groups if g.name == name)
    return found


def test_a_table_against_itself_has_ratio_one_and_no_change(a):
    diff = diff_tables(a, a)
    assert {entry.key for entry in diff.entries} == set(KEYS)
    assert {(e.ratio, e.q, e.verdict) for e in diff.entries} == {(1.0, 1.0, "within noise")}
    assert (diff.spearman, diff.kendall) == (pytest.approx(1), pytest.approx(1))
    assert diff.different == diff.forced == diff.only_a == diff.only_b == ()
    assert [g.name for g in diff.groups] == ["all", "head", "join", "path", "stem", "kernel 1", "kernel 3", "kernel 5"]
    assert {(g.median, g.p10, g.p90, g.slower, g.faster, g.undecided) for g in diff.groups} == {(1, 1, 1, 0, 0, 0)}
    assert sum(g.entries for g in diff.groups[1:5]) == group(diff, "all").entries == len(KEYS)


@pytest.mark.parametrize(("factor", "verdict"), [(1.3, "slower"), (0.7, "faster")])
def test_a_known_factor_on_one_kind_is_found_there_and_nowhere_else(a, b, factor, verdict):
    write(b, OTHER, slower(factor, lambda row: row["kind"] == "join"))
    diff = diff_tables(a, b)
    assert {e.key for e in diff.entries if e.verdict == verdict} == {"join@8x16", "join@16x8"}
    assert {e.verdict for e in diff.entries} == {verdict, "within noise"}
    assert [e.kind for e in diff.entries[:2]] == ["join", "join"]  # they stand first
    assert group(diff, "join").median == pytest.approx(factor)
    assert group(diff, "path").median == 1.0
    assert getattr(group(diff, "all"), verdict) == 2
    assert diff.different == ("os: none 1 | none 2",)


def test_a_factor_on_one_kernel_shows_in_its_row(a, b):
    write(b, OTHER, slower(2.0, lambda row: row.get("kernel") == 5))
    diff = diff_tables(a, b)
    assert [round(group(diff, f"kernel {k}").median, 9) for k in (1, 3, 5)] == [1, 1, 2]
    assert group(diff, "kernel 5").slower == group(diff, "kernel 5").entries


def test_the_spread_of_ratios_is_that_of_numpy(a, b):
    factors = dict(zip(KEYS, np.linspace(0.5, 2, len(KEYS)), strict=True))
    write(b, OTHER, lambda row: slower(factors[row["key"]])(row))
    found = group(diff_tables(a, b), "all")
    assert (found.p10, found.median, found.p90) == pytest.approx(
        tuple(np.percentile(list(factors.values()), (10, 50, 90)))
    )


def test_intervals_that_meet_are_noise(a, b):
    write(b, OTHER, slower(1.015))
    assert {e.verdict for e in diff_tables(a, b).entries} == {"within noise"}


def test_many_entries_ask_for_more_than_intervals_that_just_do_not_meet(a, b):
    """One of many entries, 2.9 standard errors off (p = 0.044): alone it counts, among many others it does not."""

    def change(row):
        return slower(1.033)(row) if row["kind"] == "stem" else row

    assert [
        e.verdict
        for e in diff_tables(write(a, PLAN, only_stem), write(b, OTHER, lambda r: only_stem(change(r)))).entries
    ] == ["slower"]
    diff = diff_tables(write(a, PLAN), write(b, OTHER, change))
    (stem,) = (e for e in diff.entries if e.kind == "stem")
    assert stem.q > 0.05
    assert stem.verdict == "within noise"


def of_sessions(count, noise, factor=1.0, seed=0):
    """Each entry as the median of some sessions with an interval as `build-table` gives it."""
    rng = np.random.default_rng(seed)

    def change(row):
        truth = row["latency_ms"] * factor
        ms = truth * rng.normal(1, noise, count)
        sessions = [Session("key", n, "", 0.0, float(each), 50, 0.01, False) for n, each in enumerate(ms)]
        found = estimate(sessions).parts["key"]
        low_and_high = {"low_ms": found.low_ms, "high_ms": found.high_ms}
        return {**row, "latency_ms": found.latency_ms, **low_and_high, "sessions": count}

    return change


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_two_campaigns_of_one_device_hardly_differ_and_two_devices_do(a, b, count):
    plans = [make_plan(backbone(), paths="K[1357]E*G1", os=f"none {n}") for n in (1, 2)]
    write(a, plans[0], of_sessions(count, 0.01, seed=1))
    write(b, plans[1], of_sessions(count, 0.01, seed=2))
    entries = diff_tables(a, b).entries
    assert len(entries) > 100
    assert sum(entry.verdict != "within noise" for entry in entries) <= 0.01 * len(entries)
    write(b, plans[1], of_sessions(count, 0.01, 1.5, seed=3))
    found = [entry.verdict for entry in diff_tables(a, b).entries]
    assert found.count("slower") > 0.9 * len(found)
    assert found.count("faster") == 0


def only_stem(row):
    return row if row["kind"] == "stem" else None


def test_without_intervals_nothing_is_decided(cli, a, b):
    write(b, OTHER, lambda row: {**slower(2)(row), "low_ms": None, "high_ms": None})
    diff = diff_tables(a, b)
    assert {(e.q, e.verdict) for e in diff.entries} == {(None, "undecided")}
    assert group(diff, "all").undecided == len(KEYS)
    assert "No entry has a confidence interval in both tables" in cli("build-table", "diff", a, b).stdout


def test_entries_without_intervals_do_not_weigh_on_the_others(a, b):
    write(b, OTHER, lambda row: slower(2)(row) if row["kind"] == "stem" else {**row, "low_ms": None, "high_ms": None})
    (stem,) = (e for e in diff_tables(a, b).entries if e.verdict != "undecided")
    assert stem.kind == "stem" and stem.verdict == "slower"


def test_intervals_of_no_width(a, b):
    def exact(row):
        return {**row, "low_ms": row["latency_ms"], "high_ms": row["latency_ms"]}

    write(a, PLAN, exact)
    assert {(e.q, e.verdict) for e in diff_tables(a, a).entries} == {(1.0, "within noise")}
    write(b, OTHER, lambda row: exact(slower(1.001)(row)))
    assert {(e.q, e.verdict) for e in diff_tables(a, b).entries} == {(0.0, "slower")}


def test_reversed_ranks_and_too_few_of_them(a, b):
    times = dict(zip(KEYS, np.linspace(1, 2, len(KEYS)), strict=True))
    write(a, PLAN, lambda row: {**row, "latency_ms": times[row["key"]]})
    write(b, OTHER, lambda row: {**row, "latency_ms": 1 / times[row["key"]]})
    diff = diff_tables(a, b)
    assert (diff.spearman, diff.kendall) == (pytest.approx(-1), pytest.approx(-1))
    write(b, OTHER, only(KEYS[:2]))
    assert diff_tables(a, b).spearman is None
    write(b, OTHER, lambda row: {**row, "latency_ms": 1.0})
    assert diff_tables(a, b).kendall is None


def test_what_only_one_has_is_named(cli, a, b):
    write(b, BOTH, lambda row: None if row["key"] == KEYS[0] else row)
    diff = diff_tables(a, b)
    assert diff.only_a == (KEYS[0],)
    assert set(diff.only_b) and all(key.endswith("x32") or "@" in key for key in diff.only_b)
    assert len(diff.entries) == len(KEYS) - 1
    assert f"1 only in A ({KEYS[0]})" in cli("build-table", "diff", a, b).stdout


def test_the_text_says_what_it_assumes_and_names_the_largest_changes(cli, a, b):
    write(b, OTHER, slower(1.3, lambda row: row["kind"] == "join"))
    done = cli("build-table", "diff", a, b, "--limit", 3)
    assert done.exit_code == 0 and done.stderr == ""
    assert "os: none 1 | none 2" in done.stdout
    assert f"adjusted for {len(KEYS)} entries" in done.stdout and "normally distributed" in done.stdout
    lines = done.stdout.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("key"))
    assert [line.split()[0] for line in lines[start + 1 : start + 3]] == ["join@16x8", "join@8x16"]
    assert lines[-1] == f"{len(KEYS) - 3} more; --limit 0 shows all"
    assert lines[start + 1].split()[3:] == ["1.300", lines[start + 1].split()[4], "slower"]


def test_json(cli, a, b):
    write(b, OTHER, slower(1.3, lambda row: row["kind"] == "join"))
    result = json.loads(cli("build-table", "diff", a, b, "--json").stdout)
    assert len(result["entries"]) == len(KEYS)
    assert result["entries"][0]["verdict"] == "slower" and result["entries"][0]["key"].startswith("join@")
    assert result["origin"] == ["measured", "measured"]
    assert result["groups"][0]["slower"] == 2
    assert len(json.loads(cli("build-table", "diff", a, b, "--json", "--limit", 1).stdout)["entries"]) == 1


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (make_plan(export_version=2), "export_version: 1 | 2"),
        (make_plan(settings=replace(QUICK, threads=4)), "threads: 1 | 4"),
        (make_plan(settings=replace(QUICK, seconds=0.5)), "seconds: 0.0 | 0.5"),
    ],
)
def test_different_runs_are_compared_only_by_force_which_is_said(cli, a, b, other, named):
    write(b, other)
    with pytest.raises(TableError, match="--force"):
        diff_tables(a, b)
    done = cli("build-table", "diff", a, b)
    assert done.exit_code == 1 and done.stdout == "" and named in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = cli("build-table", "diff", a, b, "--force")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"FORCED: compared although {named}")
    assert json.loads(cli("build-table", "diff", a, b, "--force", "--json").stdout)["forced"] == [named]


def test_what_was_not_measured_is_said_in_capitals(cli, a, b):
    write(b, make_plan(backbone(), mock=True))
    assert cli("build-table", "diff", a, b).stdout.startswith("MEASURED AGAINST MOCK")
    assert cli("build-table", "diff", b, a).stdout.startswith("MOCK AGAINST MEASURED")
    assert cli("build-table", "diff", b, b).stdout.startswith("BOTH ARE MOCK")
    write(b, imported=ImportedFrom("r", "f.yaml", "12" * 32))
    assert cli("build-table", "diff", a, b).exit_code == 1  # nobody knows its settings
    assert "MEASURED AGAINST IMPORTED" in cli("build-table", "diff", a, b, "--force").stdout


def test_what_cannot_be_compared_is_refused(cli, a, b):
    write(b, make_plan(backbone(64)))
    done = cli("build-table", "diff", a, b)
    assert done.exit_code == 1 and "no entry in common" in done.stderr
    for latency_ms in (0.0, -1.0, float("nan"), float("inf"), None):
        change = {"latency_ms": latency_ms}
        write(b, OTHER, lambda row, change=change: {**row, **change} if row["kind"] == "stem" else row)
        done = cli("build-table", "diff", a, b)
        assert done.exit_code == 1 and "b.parquet: entry 'stem@3-8s1x16': latency_ms must be" in done.stderr
    damage(b)
    for tables in ([a, b], [b, a], [a, b.with_name("none.parquet")]):
        done = cli("build-table", "diff", *tables)
        assert done.exit_code == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
