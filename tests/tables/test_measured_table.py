"""What the measuring protocol makes of records in a table: drift, intervals, quarantine and doubts."""

import random
import statistics
from dataclasses import replace

import pytest

from bpnas.profiler import Records
from bpnas.tables import BuildError, build_table
from bpnas.tables.schema import read_table, write_table
from bpnas.tables.tools.doctor import diagnose_table
from tests.records_factory import TOOLS, make_plan, measurement, tasks, write_records
from tests.simulated_device import SENTINEL, SimulatedDevice, truth_ms

PHONE = {"os": "Android 10 (QP1A.190711.020)"}
PLAN = make_plan(sessions=3, **PHONE)
KEYS = sorted({key for key, _ in tasks(PLAN)})


@pytest.fixture
def file(tmp_path):
    return tmp_path / "r.sqlite"


def write(path, measured, plan=PLAN):
    with Records.write(path) as records:
        records.add_plan(plan)
        for one in measured:
            records.add(plan.setup, TOOLS, one)
    return path


def rows(*files, **options):
    return {row["key"]: row for row in build_table(files, **options).table.to_pylist()}


def with_sentinels(device, sentinels_ms):
    """A sentinel of a given latency before every model, and after the last one."""
    measured = []
    for number, (task, ms) in enumerate(zip([*tasks(PLAN), None], sentinels_ms, strict=True)):
        samples = (round(ms * 1e6),) * 25
        measured.append(replace(device.measure(SENTINEL, number), samples_ns=samples))
        if task:
            measured.append(device.measure(*task))
    return measured


def test_a_calm_device_gives_intervals_around_the_estimates_and_no_doubts(file):
    built = build_table([write(file, SimulatedDevice().campaign(KEYS, 3))])
    assert built.largest_correction == 0.0
    for row in built.table.to_pylist():
        assert row["low_ms"] <= row["latency_ms"] <= row["high_ms"]
        assert row["low_ms"] == pytest.approx(truth_ms(row["key"]), rel=0.02)
        assert row["high_ms"] == pytest.approx(truth_ms(row["key"]), rel=0.02)
        assert (row["sessions"], row["quarantined"], row["flags"]) == (3, 0, "")


def test_the_sentinel_is_no_entry(file):
    assert set(rows(write(file, SimulatedDevice().campaign(KEYS, 3)))) == set(KEYS)


def test_drift_is_taken_out_with_all_sentinels_of_the_records(file, tmp_path):
    device = SimulatedDevice(slowdown=lambda now: 1 + now / 2000)
    ratios = [1 + n / 500 for n in range(len(tasks(PLAN)) + 1)]  # a sentinel and a model each take 2 s
    measured = with_sentinels(device, ratios)
    plain = [one for one in measured if one.key != SENTINEL]
    before, after = rows(write(tmp_path / "plain.sqlite", plain)), rows(write(file, measured))

    def spread(table):
        return statistics.pstdev(table[key]["latency_ms"] / truth_ms(key) for key in KEYS)

    def width(table):
        return statistics.fmean(table[key]["high_ms"] - table[key]["low_ms"] for key in KEYS)

    assert width(after) < 0.4 * width(before)
    assert spread(after) < spread(before)
    built = build_table([file], paths="K1G1")  # also where hardly any row is wanted
    assert built.largest_correction == pytest.approx(0.03, abs=0.01)
    few = {row["key"]: row for row in built.table.to_pylist()}
    assert set(few) < set(KEYS)
    assert all(row["latency_ms"] == after[key]["latency_ms"] for key, row in few.items())


def test_quarantined_sessions_enter_no_number(file, tmp_path):
    sentinels = [1.0] * (len(tasks(PLAN)) + 1)
    sentinels[7] = 1.3
    measured = with_sentinels(SimulatedDevice(), sentinels)
    spoilt = {(key, session) for key, session in tasks(PLAN)[6:8]}
    slow = [
        replace(m, samples_ns=tuple(9 * ns for ns in m.samples_ns)) if (m.key, m.session) in spoilt else m
        for m in measured
    ]
    table = rows(write(file, slow))
    clean = rows(
        write(tmp_path / "clean.sqlite", [m for m in measured if (m.key, m.session) not in spoilt]), allow_missing=True
    )
    for key, _ in spoilt:
        assert (table[key]["quarantined"], table[key]["sessions"], table[key]["samples"]) == (1, 2, 50)
        assert table[key]["flags"] == "throttled"
        for column in ("latency_ms", "low_ms", "high_ms", "mad_ms", "p10_ms", "p90_ms"):
            assert table[key][column] == clean[key][column]
    assert {key for key in KEYS if table[key]["quarantined"]} == {key for key, _ in spoilt}


def test_a_part_without_a_usable_session_is_missing_and_says_why(file):
    plan = make_plan(**PHONE)
    order = tasks(plan)
    device = SimulatedDevice()
    measured = [device.measure(SENTINEL, 0)]
    for number, task in enumerate(order):
        measured.append(device.measure(*task))
        one = device.measure(SENTINEL, number + 1)
        slow = number in (3, 4)
        measured.append(replace(one, samples_ns=tuple(round(ns * (1 + slow)) for ns in one.samples_ns)))
    write(file, measured, plan)
    throttled = sorted(key for key, _ in order[3:6])
    with pytest.raises(BuildError) as caught:
        build_table([file])
    assert f"3 of {len(order)} entries missing: {', '.join(throttled)}" in str(caught.value)
    assert f"the device was throttled whenever it measured {', '.join(throttled)}" in str(caught.value)
    built = build_table([file], allow_missing=True)
    assert built.meta.missing == tuple(throttled)
    assert built.table.num_rows == len(order) - 3


def test_sessions_that_differ_are_flagged_against_the_precision_that_was_asked_for(tmp_path):
    def make(key, session):
        return measurement(key, session, samples_ns=(1_000_000 + 30_000 * session,), repeats=1)

    flags = {}
    for precision in (None, 0.02, 0.04):
        file = write_records(tmp_path / f"{precision}.sqlite", make_plan(sessions=3, precision=precision), make)
        flags[precision] = {row["flags"] for row in rows(file).values()}
    assert flags == {None: {""}, 0.02: {"imprecise"}, 0.04: {""}}


def test_the_sharper_one_of_two_precisions_counts(file):
    def make(key, session):
        return measurement(key, session, samples_ns=(1_000_000 + 30_000 * session,), repeats=1)

    write_records(file, make_plan(sessions=3, precision=0.04), make)
    write_records(file, make_plan(sessions=2, precision=0.02), order=[])
    assert {row["flags"] for row in rows(file).values()} == {"imprecise"}


def test_sentinels_of_one_file_check_the_sessions_of_another_and_copies_change_nothing(tmp_path):
    sentinels = [1.0] * (len(tasks(PLAN)) + 1)
    sentinels[7] = 1.3
    measured = with_sentinels(SimulatedDevice(), sentinels)
    whole = write(tmp_path / "whole.sqlite", measured)
    parts = write(tmp_path / "parts.sqlite", [one for one in measured if one.key != SENTINEL])
    watch = write(tmp_path / "watch.sqlite", [one for one in measured if one.key == SENTINEL])
    expected = rows(whole)
    assert sum(row["quarantined"] for row in expected.values()) == 2
    for files in ((parts, watch), (watch, parts), (whole, parts), (watch, whole, whole)):
        assert rows(*files) == expected


def test_a_noisy_session_gives_way_to_a_calm_one(file):
    def noisier(key, session):
        return 10.0 if session == 1 else 1.0

    device = SimulatedDevice(noisier=noisier)
    measured = [device.measure(key, session) for key in KEYS for session in range(3)]
    measured.append(device.measure(KEYS[0], 3))
    table = rows(write(file, measured))
    assert (table[KEYS[0]]["sessions"], table[KEYS[0]]["quarantined"], table[KEYS[0]]["flags"]) == (3, 1, "")
    assert (table[KEYS[1]]["sessions"], table[KEYS[1]]["quarantined"]) == (3, 0)
    assert "noisy" in table[KEYS[1]]["flags"].split()


def test_another_setup_in_the_same_file_checks_nothing(file, tmp_path):
    measured = with_sentinels(SimulatedDevice(), [1.0] * (len(tasks(PLAN)) + 1))
    expected = rows(write(tmp_path / "alone.sqlite", measured))
    slow = [1.0] * (len(tasks(PLAN)) + 1)
    slow[3:9] = [1.5] * 6
    write(file, measured)
    write(file, with_sentinels(SimulatedDevice(), slow), make_plan(sessions=3, runtime="onnxruntime", **PHONE))
    assert rows(file, runtime="tflite") == expected
    assert sum(row["quarantined"] for row in rows(file, runtime="onnxruntime").values()) > 5
    with pytest.raises(BuildError, match="must not meet in one table"):
        build_table([file])


def test_what_is_no_phone_is_never_throttled(file):
    plan = make_plan(sessions=3)
    slow = [1.0] * (len(tasks(PLAN)) + 1)
    slow[3:9] = [1.5] * 6
    table = rows(write(file, with_sentinels(SimulatedDevice(), slow), plan))
    assert sum(row["quarantined"] for row in table.values()) == 0


def test_beside_a_busy_neighbour_the_10th_percentile_is_what_the_device_takes_alone(file):
    """A core at two speeds, next to another machine: each session has its own share of quick samples."""
    rng = random.Random(4)

    def measured(key, session):
        share = rng.uniform(0.2, 0.9)
        samples = [truth_ms(key) * 1e6 * rng.gauss(1, 0.004) * (1 if rng.random() < share else 1.5) for _ in range(40)]
        return measurement(key, session, samples_ns=tuple(map(round, samples)), repeats=1)

    write(file, [measured(*task) for task in tasks(PLAN)])

    def errors(**options):
        return [row["latency_ms"] / truth_ms(key) - 1 for key, row in rows(file, **options).items()]

    assert max(errors()) > 0.3
    assert max(map(abs, errors(statistic="p10"))) < 0.02
    built = build_table([file], statistic="p10")
    assert built.meta.statistic == "p10" and build_table([file]).meta.statistic == "median"
    write_table(file.with_suffix(".parquet"), built.table, built.meta)
    assert read_table(file.with_suffix(".parquet"))[1].statistic == "p10"
    findings = diagnose_table(file.with_suffix(".parquet"))
    assert not any("below the 10th percentile" in finding.what for finding in findings)
