import csv
import itertools
import random
import re
import tempfile
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpnas.base.errors import BpnasError, UsageError
from bpnas.profiler import Block, ComplexPath, Records, RecordsError, SimplePath, Site
from bpnas.profiler.campaign.run import plan_parts
from bpnas.profiler.campaign.sentinel import sentinel_model
from bpnas.profiler.paths import all_paths, select_paths
from bpnas.tables import BuildError, LatencyTable, MissingEntryError, TableError, TableMeta, build_table, table_meta
from bpnas.tables.schema import COLUMNS, read_table, write_table
from tests.records_factory import PATHS, QUICK, backbone, failure, make_plan, measurement, tasks, write_records

PAGE = 4096  # of SQLite's files
PLAN = make_plan()
BOTH = make_plan(backbone(), backbone(32))
KEYS = sorted(key for key, _ in tasks(PLAN))
FIRST, SECOND = backbone().sites[0], backbone().sites[2]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "r.sqlite"


def load(built, folder: Path) -> LatencyTable:
    path = folder / "t.parquet"
    write_table(path, built.table, built.meta)
    return LatencyTable.load(path)


def content(built) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        write_table(path, built.table, built.meta)
        return path.read_bytes()


def rows(built) -> dict[str, dict]:
    return {row["key"]: row for row in built.table.to_pylist()}


def refusal(*files, **options) -> str:
    with pytest.raises(BuildError) as caught:
        build_table(files, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Numbers


def test_a_row_holds_the_medians_by_hand(file):
    samples = (4_000_000, 2_000_000, 3_000_000, 9_000_000)
    write_records(file, PLAN, lambda key, session: measurement(key, samples_ns=samples, repeats=2))
    row = rows(build_table([file]))["K3E2G1@8-16s2x16"]
    assert row == {
        "key": "K3E2G1@8-16s2x16",
        "kind": "path",
        "path": "K3E2G1",
        "kernel": 3,
        "groups": 1,
        "expansion": 2,
        "c_in": 8,
        "c_out": 16,
        "stride": 2,
        "input_size": 16,
        "latency_ms": 1.75,  # of 1, 1.5, 2, 4.5
        "low_ms": None,
        "high_ms": None,
        "mad_ms": pytest.approx(0.5),  # of 0.75, 0.25, 0.25, 2.75
        "p10_ms": pytest.approx(1.15),
        "p90_ms": pytest.approx(3.75),
        "sessions": 1,
        "samples": 4,
        "quarantined": 0,
        "flags": "unknown",
        "device": "bench",
        "runtime": "tflite",
        "source": "measured",
    }


def test_rows_are_sorted_and_one_for_each_part_with_its_geometry(file):
    table = build_table([write_records(file, PLAN)]).table
    assert table["key"].to_pylist() == KEYS
    assert table.schema.names == list(COLUMNS)
    by_kind = {row["kind"]: row for row in table.to_pylist()}
    geometry = ("path", "kernel", "groups", "expansion", "c_in", "c_out", "stride", "input_size")
    assert [by_kind["stem"][name] for name in geometry] == [None] * 4 + [3, 8, 1, 16]
    assert [by_kind["head"][name] for name in geometry] == [None] * 4 + [16, 16, None, 8]
    assert {tuple(row[name] for name in geometry) for row in table.to_pylist() if row["kind"] == "join"} == {
        (*[None] * 4, 8, 8, None, 16),
        (*[None] * 4, 16, 16, None, 8),
    }
    simple = next(row for row in table.to_pylist() if row["path"] == "K1G1")
    assert simple["expansion"] is None


def test_the_estimate_is_the_median_of_the_sessions_medians_not_of_all_samples(file):
    samples = {0: (10,) * 9, 1: (20,), 2: (40, 50, 60)}  # medians 10, 20, 50; median of all samples 10
    plan = make_plan(sessions=3)
    write_records(
        file,
        plan,
        lambda key, session: measurement(
            key, session, samples_ns=tuple(10**6 * s for s in samples[session]), repeats=1
        ),
    )
    row = rows(build_table([file]))[KEYS[0]]
    assert row["latency_ms"] == 20.0
    assert (row["sessions"], row["samples"]) == (3, 13)
    assert row["p10_ms"] == pytest.approx(10.0)


def test_repeats_of_each_session_count_for_itself(file):
    plan = make_plan(sessions=2)
    write_records(
        file,
        plan,
        lambda key, session: measurement(key, session, samples_ns=(8 * 10**6,), repeats=(1, 4)[session]),
    )
    assert rows(build_table([file]))[KEYS[0]]["latency_ms"] == 5.0


def test_failures_are_no_numbers(file):
    write_records(file, PLAN)
    before = content(build_table([file]))
    write_records(file, PLAN, failure)
    assert content(build_table([file])) == before


# Several files


def test_files_are_joined(tmp_path):
    plans = [make_plan(backbone(size)) for size in (16, 32)]
    one, two = (write_records(tmp_path / f"{n}.sqlite", plan) for n, plan in enumerate(plans))
    built = build_table([one, two])
    assert set(rows(built)) == {key for plan in plans for key, _ in tasks(plan)}
    assert {b.input_size for b in built.meta.backbones} == {16, 32}
    whole = write_records(tmp_path / "whole.sqlite", plans[0])
    write_records(whole, plans[1])
    assert content(built) == content(build_table([whole]))


def test_the_order_of_files_and_filters_changes_no_byte(tmp_path):
    files = [
        write_records(tmp_path / f"{n}.sqlite", make_plan(paths=paths))
        for n, paths in enumerate(["K7G2", "K1G1", "K3E9G1,K1G4"])
    ]
    joined = build_table(files)
    assert content(joined) == content(build_table(files[::-1]))
    assert joined.meta.paths == tuple(str(path) for path in all_paths() if str(path) in joined.meta.paths)
    assert set(joined.meta.paths) == {"K7G2", "K1G1", "K3E9G1", "K1G4"}


def test_a_copied_file_is_not_counted_twice(tmp_path):
    one = write_records(tmp_path / "one.sqlite", PLAN)
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(one.read_bytes())
    assert content(build_table([one, copy])) == content(build_table([one]))
    assert content(build_table([one, one])) == content(build_table([one]))


def test_two_files_with_the_same_parts_are_two_sessions(tmp_path):
    def make(started_at, ns):
        return lambda key, session: measurement(key, started_at=started_at, samples_ns=(ns,), repeats=1)

    files = [write_records(tmp_path / f"{ms}.sqlite", PLAN, make(ms, round(ms * 10**6))) for ms in (1.0, 4.0)]
    row = rows(build_table(files))[KEYS[0]]
    assert (row["latency_ms"], row["sessions"]) == (2.5, 2)


def test_a_session_in_one_file_fills_the_hole_in_another(tmp_path):
    hole = KEYS[3]
    one = write_records(tmp_path / "1.sqlite", PLAN, lambda key, s: None if key == hole else measurement(key, s))
    two = write_records(tmp_path / "2.sqlite", PLAN, order=[(hole, 0)])
    assert set(rows(build_table([one, two]))) == set(KEYS)


ORDERED = tasks(make_plan(sessions=3))


@settings(max_examples=25)
@given(order=st.permutations(ORDERED), cut=st.integers(0, len(ORDERED)), swap=st.booleans())
def test_the_order_of_measuring_changes_no_byte(order, cut, swap):
    """Whatever came first, and in whichever of two files."""
    plan = make_plan(sessions=3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = content(build_table([write_records(folder / "r.sqlite", plan)]))
        files = [
            write_records(folder / f"{n}.sqlite", plan, order=part) for n, part in enumerate((order[:cut], order[cut:]))
        ]
        assert content(build_table(files[::-1] if swap else files)) == reference


# What must not meet in one table


MIXTURES = {
    "model": (make_plan(model="Test Bench 2"), "model: Test Bench 1 | Test Bench 2"),
    "platform": (make_plan(platform="exynos9810"), "platform: sdm845 | exynos9810"),
    "os": (make_plan(os="none 2"), "os: none 1 | none 2"),
    "abi": (make_plan(abi="x86"), "abi: arm64 | x86"),
    "mock": (make_plan(mock=True), "mock: False | True"),
    "runtime": (make_plan(runtime="onnxruntime"), "runtime: tflite | onnxruntime"),
    "runtime version": (make_plan(runtime_version="tflite 3"), "runtime_version: tflite 2 | tflite 3"),
    "runtime binary": (make_plan(runtime_sha256="ef" * 32), "runtime_sha256: "),
    "threads": (make_plan(settings=replace(QUICK, threads=4)), "threads: 1 | 4"),
    "runs": (make_plan(settings=replace(QUICK, runs=4)), "runs: 3 | 4"),
    "export": (make_plan(export_version=2), "export_version: 1 | 2"),
}


@pytest.mark.parametrize("together", [True, False], ids=["one file", "two files"])
@pytest.mark.parametrize(("other", "named"), MIXTURES.values(), ids=MIXTURES.keys())
def test_mixed_records_are_refused_with_the_field_named(tmp_path, other, named, together):
    one = write_records(tmp_path / "1.sqlite", PLAN)
    two = write_records(one if together else tmp_path / "2.sqlite", other)
    message = refusal(*dict.fromkeys([one, two]))
    start, *values = re.split(r" \| |: ", named)
    assert f"{start}: " in message
    for value in values:
        assert value in message
    assert str(one) in message and str(two) in message
    assert "must not meet in one table" in message


def test_one_of_two_runtimes_can_be_chosen(file):
    write_records(file, PLAN)
    write_records(
        file, make_plan(runtime="onnxruntime"), lambda key, s: measurement(key, s, samples_ns=(7,), repeats=7)
    )
    assert "--runtime" in refusal(file)
    assert set(build_table([file], runtime="onnxruntime").table["latency_ms"].to_pylist()) == {1e-6}
    assert build_table([file], runtime="tflite").meta.runtime == "tflite"
    assert "runtime none" in refusal(file, runtime="none")


def test_one_of_two_backbones_can_be_chosen(file):
    write_records(file, PLAN)
    write_records(file, make_plan(backbone(32, name="other", shuffle=True)))
    message = refusal(file)
    assert "other, tiny" in message and "--backbone" in message
    assert build_table([file], backbone="other").meta.backbones == (backbone(32, name="other", shuffle=True),)
    assert "backbone none" in refusal(file, backbone="none")


def test_two_backbones_of_one_name_are_refused(file):
    write_records(file, PLAN)
    write_records(file, make_plan(backbone(32, shuffle=True)))
    assert "they share a name" in refusal(file)


def test_two_stems_at_one_input_size_are_refused(file):
    write_records(file, make_plan(backbone()))
    with Records.write(file) as records:
        records.add_plan(make_plan(replace(backbone(), stem_stride=2)))
    assert "several backbones" in refusal(file)


def test_another_number_of_classes_is_the_same_backbone(file):
    write_records(file, make_plan(backbone(), backbone(classes=100)))
    built = build_table([file])
    assert {"head@16-16-10x8", "head@16-16-100x8"} <= set(rows(built))
    assert [b.classes for b in built.meta.backbones] == [10, 100]


def test_damaged_records_give_no_table(file):
    write_records(file, PLAN)
    damaged = bytearray(file.read_bytes())
    damaged[damaged.index(b'{"after"') + 3] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(RecordsError, match="damaged"):
        build_table([file])


def test_empty_records_give_no_table(file):
    write_records(file, PLAN, order=[])
    assert f"{len(KEYS)} of {len(KEYS)} entries missing" in refusal(file)
    assert "nothing is measured" in refusal(file, allow_missing=True)


# What is missing


def holes(file, missing, plan=PLAN):
    return write_records(file, plan, lambda key, s: None if (key, s) in missing else measurement(key, s))


@pytest.mark.parametrize("count", [1, 5, 6])
def test_missing_entries_are_counted_and_the_first_ones_named(file, count):
    message = refusal(holes(file, {(key, 0) for key in KEYS[2 : 2 + count]}))
    assert f"{count} of {len(KEYS)} entries missing" in message
    for key in KEYS[2 : 2 + min(count, 5)]:
        assert key in message
    assert (", ...;" in message) == (count > 5)
    assert "profile-device" in message and "--allow-missing" in message


def test_a_session_too_few_is_refused_too_but_is_not_missing(file):
    records = holes(file, {(KEYS[1], 2)}, make_plan(sessions=3))
    assert f"1 of {len(KEYS)} with fewer sessions than planned: {KEYS[1]}; finish the campaign" in refusal(records)
    built = build_table([records], allow_missing=True)
    assert built.meta.missing == () and built.table.num_rows == len(KEYS)


def test_what_is_missing_and_what_has_just_begun_are_counted_apart(file):
    begun = {(key, session) for key in KEYS for session in range(3)} - {(KEYS[0], 0), (KEYS[1], 0)}
    message = refusal(records := holes(file, begun, make_plan(sessions=3)))
    assert f"{len(KEYS) - 2} of {len(KEYS)} entries missing: " in message
    assert f"2 of {len(KEYS)} with fewer sessions than planned: {KEYS[0]}, {KEYS[1]}" in message
    built = build_table([records], allow_missing=True)
    assert set(built.meta.missing) == set(KEYS[2:]) and built.table.num_rows == 2


def test_records_of_several_campaigns_name_the_command_for_each(tmp_path):
    one = write_records(tmp_path / "my phone.sqlite", PLAN)
    other = write_records(tmp_path / "b.sqlite", make_plan(name="other", model="Test Bench 2"))
    copy = write_records(tmp_path / "c.sqlite", PLAN)
    for files in ([one, other, copy], [other, one, copy]):
        with pytest.raises(BuildError) as caught:
            build_table(files)
        assert f"build-table '{one}' {copy}" in str(caught.value) and f"build-table {other}" in str(caught.value)
    onnxruntime = write_records(tmp_path / "d.sqlite", make_plan(runtime="onnxruntime"))
    with pytest.raises(BuildError, match="choose --runtime tflite or --runtime onnxruntime"):
        build_table([one, onnxruntime])


def test_a_part_that_only_failed_is_missing(file):
    write_records(file, PLAN, lambda key, s: (failure if key == KEYS[0] else measurement)(key, s))
    assert KEYS[0] in refusal(file)


def test_holes_are_allowed_on_demand_and_named_in_the_metadata(file, tmp_path):
    missing = ("K3E2G1@8-16s2x16", "stem@3-8s1x16")
    table = load(build_table([holes(file, {(key, 0) for key in missing})], allow_missing=True), tmp_path)
    assert table.meta.missing == missing
    assert len(table) == len(KEYS) - 2
    assert table.meta.paths == ("K1G1", "K3E2G2")
    assert table.paths() == select_paths("K1G1,K3E2G2")
    with pytest.raises(MissingEntryError):
        table.path(ComplexPath(3, 1, 2), SECOND)
    assert table.path(ComplexPath(3, 1, 2), FIRST) > 0
    with pytest.raises(MissingEntryError):
        table.fixed()


def test_a_table_of_some_of_the_paths(file):
    write_records(file, PLAN)
    built = build_table([file], paths="K3E2G*")
    assert built.meta.paths == ("K3E2G1", "K3E2G2")
    assert set(rows(built)) == {key for key in KEYS if not key.startswith("K1G1")}
    # What is missing of the others does not matter then.
    other = holes(file.with_name("h.sqlite"), {(key, 0) for key in KEYS if key.startswith("K1G1")})
    assert content(build_table([other], paths="K3E2G*")) == content(built)
    with pytest.raises(UsageError, match="K9"):
        build_table([file], paths="K9*")


def test_a_filter_of_paths_that_nobody_planned_is_refused(file):
    write_records(file, PLAN)
    with pytest.raises(BuildError, match=r"K5G1.*was planned"):
        build_table([file], paths="K5G1")


# Lookup


@pytest.fixture
def table(tmp_path):
    """Two input sizes; every entry is a power of two of its own, so that a sum tells what is in it."""
    return load(build_table([write_records(tmp_path / "r.sqlite", BOTH, power_of_two)]), tmp_path)


POWERS = {key: 2.0 ** (number - 20) for number, (key, _) in enumerate(tasks(BOTH))}


def power_of_two(key, session):
    # Samples are whole nanoseconds, and 10^6 * 2^-20 is none; 2^20 repeats of 2^n / 2^20 ms are.
    return measurement(key, session, samples_ns=(int(POWERS[key] * 2**20) * 10**6,), repeats=2**20)


def test_every_entry_is_found_by_its_part(table):
    assert len(table) == len(POWERS)
    assert {part.key: table.entry(part) for part in plan_parts(BOTH)} == POWERS


def test_path_block_and_network_are_sums(table):
    k1, k3 = SimplePath(1, 1), ComplexPath(3, 2, 2)
    assert table.path(k1, FIRST) == POWERS["K1G1@8-8s1x16"]
    assert table.path(k3, SECOND) == POWERS["K3E2G2@8-16s2x16"]
    block = Block.parse("K1G1+K3E2G2+K3E2G1")
    assert table.block(block, SECOND) == sum(POWERS[f"{p}@8-16s2x16"] for p in ("K1G1", "K3E2G1", "K3E2G2"))
    twice = Block(None, (k3, k3))
    assert table.block(twice, FIRST) == 2 * POWERS["K3E2G2@8-8s1x16"]
    fixed = POWERS["stem@3-8s1x16"] + POWERS["head@16-16-10x8"]
    assert table.fixed(16) == fixed
    blocks = [Block(k1), twice, block]
    assert table.network(blocks, 16) == fixed + table.block(Block(k1), FIRST) + table.block(twice, FIRST) + table.block(
        block, SECOND
    )
    at_32 = table.network(blocks, 32) - POWERS["stem@3-8s1x32"] - POWERS["head@16-16-10x16"]
    assert at_32 == sum(table.block(b, site) for b, site in zip(blocks, backbone(32).sites, strict=True))


def test_skip_costs_nothing_and_is_only_where_the_shape_stays(table):
    block = Block(SimplePath(1, 1))
    both = table.network([block, block, block], 16)
    assert both - table.network([None, block, block], 16) == table.block(block, FIRST)
    assert table.network([None, None, block], 16) == table.fixed(16) + table.block(block, SECOND)
    with pytest.raises(TableError, match="site 2 changes the shape"):
        table.network([block, block, None], 16)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_network_needs_a_block_for_every_site(table, count):
    with pytest.raises(TableError, match=f"3 sites, but {count} blocks"):
        table.network([Block(SimplePath(1, 1))] * count, 16)


def test_a_missing_entry_raises_and_says_which(table):
    with pytest.raises(MissingEntryError) as caught:
        table.path(SimplePath(7, 8), FIRST)
    assert "'K7G8@8-8s1x16'" in str(caught.value)
    assert str(caught.value).startswith("the table has no entry")  # no repr with quotes, which KeyError would give
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, TableError)
    with pytest.raises(MissingEntryError, match="K1G1@8-8s1x17"):
        table.path(SimplePath(1, 1), Site(8, 8, 1, 17))
    with pytest.raises(MissingEntryError, match="K7G8"):
        table.network([Block(SimplePath(7, 8))] * 3, 16)


def test_several_input_sizes_have_to_be_told_apart(table):
    assert table.input_sizes == (16, 32)
    assert table.backbone(32) == backbone(32)
    for ask in (table.backbone, table.fixed, table.paths, table.path_latencies):
        with pytest.raises(TableError, match="say which"):
            ask()
    with pytest.raises(TableError, match=r"16 with 10 classes, 32 with 10 classes.*profile-device --input-size 64"):
        table.backbone(64)
    with pytest.raises(TableError, match="no second head at 16 from which one of 7 classes could be interpolated"):
        table.fixed(16, 7)


def test_one_input_size_need_not_be_named(file, tmp_path):
    table = load(build_table([write_records(file, PLAN)]), tmp_path)
    assert table.backbone() == backbone()
    assert table.fixed() == table.fixed(16) == table.fixed(16, 10)


def test_several_classes_have_to_be_told_apart(file, tmp_path):
    table = load(build_table([write_records(file, make_plan(backbone(), backbone(classes=100)))]), tmp_path)
    assert table.input_sizes == (16,)
    with pytest.raises(TableError, match="say which"):
        table.fixed(16)
    blocks = [Block(SimplePath(1, 1))] * 3
    difference = table.network(blocks, 16, 100) - table.network(blocks, 16, 10)
    heads = {b.classes: table.fixed(classes=b.classes) for b in table.meta.backbones}
    assert difference == pytest.approx(heads[100] - heads[10])
    assert heads[100] != heads[10]


def test_path_latencies_are_paths_by_sites(table):
    latencies = table.path_latencies(32)
    assert latencies.shape == (3, 3)
    assert latencies.dtype == np.float64
    expected = [[table.path(path, site) for site in backbone(32).sites] for path in table.paths(32)]
    assert latencies.tolist() == expected
    assert table.paths(32) == select_paths(PATHS)


def test_paths_are_those_at_every_site_of_the_size(tmp_path):
    one = write_records(tmp_path / "1.sqlite", make_plan(backbone(16), paths="K1G1,K3G1"))
    two = write_records(tmp_path / "2.sqlite", make_plan(backbone(32), paths="K3G1,K5G1"))
    table = load(build_table([one, two]), tmp_path)
    assert table.paths(16) == select_paths("K1G1,K3G1")
    assert table.paths(32) == select_paths("K3G1,K5G1")
    assert table.meta.paths == ("K3G1",)


def test_shuffled_paths_have_entries_of_their_own(file, tmp_path):
    plan = make_plan(backbone(shuffle=True))
    table = load(build_table([write_records(file, plan)]), tmp_path)
    assert {"K3E2G2S@8-8s1x16", "K3E2G1@8-8s1x16"} <= set(table.to_pandas()["key"])
    row = table.to_pandas().set_index("key").loc["K3E2G2S@8-8s1x16"]
    assert table.path(ComplexPath(3, 2, 2), FIRST) == row["latency_ms"]


# Files


def test_what_is_written_is_what_is_read(file, tmp_path):
    built = build_table([write_records(file, BOTH)])
    path = tmp_path / "t.parquet"
    write_table(path, built.table, built.meta)
    table, meta, digest = read_table(path)
    assert table.equals(built.table)
    assert meta == built.meta
    assert LatencyTable.load(path).sha256 == LatencyTable.load(str(path)).sha256 == digest
    assert TableMeta.from_json(meta.to_json(), path) == meta
    assert [entry.name for entry in tmp_path.iterdir() if "parquet" in entry.name] == ["t.parquet"]


@pytest.mark.parametrize("mock", [True, False])
def test_a_computed_table_says_so_everywhere(file, tmp_path, mock):
    table = load(build_table([write_records(file, make_plan(mock=mock))]), tmp_path)
    assert table.meta.mock is mock
    assert set(table.to_pandas()["source"]) == {"mock" if mock else "measured"}
    assert pq.read_metadata(tmp_path / "t.parquet").metadata[b"bpnas.meta"].count(b'"mock": true') == 2 * mock


def test_any_parquet_reader_reads_it(file, tmp_path):
    load(build_table([write_records(file, PLAN)]), tmp_path)
    assert pq.read_table(tmp_path / "t.parquet").column_names == list(COLUMNS)
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == len(KEYS)


def test_the_data_frame_keeps_whole_numbers_whole(table):
    frame = table.to_pandas()
    kinds = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    assert {name: kind for name, kind in kinds.items() if kind != "Int32"}.keys() == {
        name for name, kind in COLUMNS.items() if kind != "int32"
    }
    assert {name for name, kind in kinds.items() if kind == "float64"} == {
        name for name in COLUMNS if name.endswith("_ms")
    }
    frame = frame.set_index("key")
    assert frame["latency_ms"].to_dict() == POWERS
    assert frame.loc["stem@3-8s1x16", "kernel"] is pd.NA
    assert frame.loc["K3E2G2@8-8s1x16", "expansion"] == 2


def test_as_csv(cli, file, tmp_path):
    write_records(file, make_plan(mock=True))
    done = cli("build-table", file, "--out", tmp_path / "t.csv")
    assert done.exit_code == 0, done.stderr
    lines = list(csv.DictReader(StringIO((tmp_path / "t.csv").read_text())))
    assert list(lines[0]) == list(COLUMNS)
    assert [line["key"] for line in lines] == KEYS
    assert {line["source"] for line in lines} == {"mock"}
    expected = rows(build_table([file]))
    for line in lines:
        assert float(line["latency_ms"]) == expected[line["key"]]["latency_ms"]  # every digit
        assert line["expansion"] == ("2" if line["path"].startswith("K3E2") else "")


# Damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    built = build_table([write_records(folder / "r.sqlite", BOTH)])
    return content(built)


def assert_refused(path: Path) -> str:
    with pytest.raises(TableError) as caught:
        LatencyTable.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_truncation_is_refused(whole, tmp_path):
    path = tmp_path / "t.parquet"
    lengths = {0, 1, 3, 4, 5, len(whole) - 8, len(whole) - 4, len(whole) - 1, *range(0, len(whole), 97)}
    for length in lengths:
        path.write_bytes(whole[:length])
        assert_refused(path)


def test_every_flipped_bit_is_refused(whole, tmp_path):
    path = tmp_path / "t.parquet"
    rng = random.Random(4)
    flips = {(rng.randrange(len(whole)), rng.randrange(8)) for _ in range(600)}
    # The hash itself and its mark, and both ends of the file.
    mark = whole.index(b"bpnas-table-sha256=")
    flips |= {(position, bit) for position in range(mark, mark + 19 + 64) for bit in range(8)}
    flips |= {(position, bit) for position in (*range(8), *range(len(whole) - 8, len(whole))) for bit in range(8)}
    for position, bit in flips:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        assert_refused(path)
    path.write_bytes(whole)
    LatencyTable.load(path)


@pytest.fixture(scope="module")
def drifting(tmp_path_factory):
    """Records of a device that drifts, and the same file as it was some measurements before, as bytes."""
    path, earlier = tmp_path_factory.mktemp("records") / "r.sqlite", b""
    plan, clock = make_plan(sessions=6), itertools.count(1)
    order = tasks(plan)
    random.Random(1).shuffle(order)
    sentinel, _ = sentinel_model(plan.backbones[0])
    order = [each for number, task in enumerate(order) for each in (task, (sentinel, number))]

    def make(key, session):
        now = next(clock)
        samples = tuple(round(ns * (1 + now / 3000)) for ns in measurement(key, session).samples_ns * 3)
        state = {"serial": "A", "temperature_c": 30.5}
        conditions = {"before": state, "after": state}
        return measurement(key, session, started_at=1.7e9 + now, samples_ns=samples, conditions=conditions)

    for part in (order[:-3], order[-3:]):
        earlier = path.read_bytes() if path.exists() else b""
        write_records(path, plan, make, part)
    return path.read_bytes(), earlier


def outcome(path, content):
    """The table that these bytes give, or None where they are refused."""
    path.write_bytes(content)
    try:
        built = build_table([path], allow_missing=True)
    except BpnasError:
        return None
    return built.table.to_pylist(), built.meta


def test_damaged_records_are_refused_or_give_the_same_table(drifting, tmp_path):
    """The index of the file is not looked at: what it says, and what is wrong with it, must change nothing."""
    content, rng, path = drifting[0], random.Random(7), tmp_path / "r.sqlite"
    expected, refused = outcome(path, content), 0
    assert expected is not None
    pages = len(content) // PAGE
    for number in range(240):
        damaged, place = bytearray(content), rng.randrange(len(content))
        if number % 4 == 0:
            damaged[place] ^= 1 << rng.randrange(8)
        elif number % 4 == 1:  # the head of a page: how many rows it has, and where they are
            damaged[place // PAGE * PAGE + rng.randrange(80)] ^= 1 << rng.randrange(8)
        elif number % 4 == 2:
            damaged[place : place + 16] = rng.randbytes(len(damaged[place : place + 16]))
        else:  # a page in the place of another one
            there, other = (rng.randrange(pages) * PAGE for _ in range(2))
            damaged[there : there + PAGE] = content[other : other + PAGE]
        found = outcome(path, bytes(damaged))
        assert found in (None, expected), f"damage {number}"
        refused += found is None
    assert refused > 100


def test_a_page_as_it_was_before_loses_no_measurements(drifting, tmp_path):
    """A disk that lost a write: every page is whole, but one does not know the last rows."""
    content, earlier = drifting
    expected, outcomes = outcome(tmp_path / "r.sqlite", content), set()
    for start in range(0, min(len(content), len(earlier)), PAGE):
        if content[start : start + PAGE] != earlier[start : start + PAGE]:
            stale = content[:start] + earlier[start : start + PAGE] + content[start + PAGE :]
            found = outcome(tmp_path / "r.sqlite", stale)
            assert found in (None, expected)
            outcomes.add(found is None)
    assert True in outcomes


def test_longer_files_are_refused(whole, tmp_path):
    path = tmp_path / "t.parquet"
    for damaged in (whole + b"\0", whole + whole, whole + b"PAR1"):
        path.write_bytes(damaged)
        assert_refused(path)


def test_another_schema_version_is_refused_with_both_numbers(file, tmp_path, monkeypatch):
    built = build_table([write_records(file, PLAN)])
    path = tmp_path / "t.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(table_meta, "SCHEMA_VERSION", 7)
        write_table(path, built.table, built.meta)
    message = assert_refused(path)
    assert "version 7," in message
    assert f"version {table_meta.SCHEMA_VERSION};" in message
    assert "build-table" in message


def test_what_is_no_table_is_refused(file, tmp_path):
    write_records(file, PLAN)
    text, frame = tmp_path / "t.csv", tmp_path / "f.parquet"
    text.write_text("key,latency_ms\nK1G1@8-8s1x16,1.0\n")
    pd.DataFrame({"key": ["K1G1@8-8s1x16"], "latency_ms": [1.0]}).to_parquet(frame)
    for path in (file, text, frame):
        assert "no bpnas table" in assert_refused(path)
    for path in (tmp_path / "none.parquet", tmp_path):
        assert "cannot be read" in assert_refused(path)


def test_a_table_that_pandas_wrote_again_is_refused(whole, tmp_path):
    """It may have been edited, and a reader cannot know."""
    path = tmp_path / "t.parquet"
    path.write_bytes(whole)
    pd.read_parquet(path).to_parquet(path)
    assert_refused(path)
    path.write_bytes(whole)
    pq.write_table(pq.read_table(path), path)  # keeps the metadata, hash and all
    assert_refused(path)
