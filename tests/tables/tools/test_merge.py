import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpnas.profiler.campaign.run import plan_parts
from bpnas.tables import LatencyTable, TableError, build_table, merge_tables
from bpnas.tables.schema import read_table, write_table
from bpnas.tables.table_meta import ImportedFrom
from tests.known_truth import Truth, known_plan, known_records
from tests.records_factory import QUICK, backbone, make_plan
from tests.table_factory import BOTH, KEYS, PLAN, damage, only, slower, write

ALL = tuple(sorted(part.key for part in plan_parts(BOTH)))


def merged(*files: Path) -> bytes:
    """The bytes of the union."""
    union = merge_tables(files)
    out = files[0].with_name("union.parquet")
    write_table(out, union.table, union.meta)
    return out.read_bytes()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(*files: Path) -> str:
    with pytest.raises(TableError) as caught:
        merge_tables(files)
    assert "\n" not in str(caught.value)
    for file in files:
        assert str(file) in str(caught.value)
    return str(caught.value)


@settings(max_examples=8)
@given(
    pieces=st.lists(st.integers(0, 2), min_size=len(ALL), max_size=len(ALL)).filter(lambda found: len(set(found)) == 3),
    order=st.permutations(range(3)),
)
def test_parts_of_a_table_give_it_back_in_any_order_and_grouping(pieces, order):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = write(folder / "whole.parquet", BOTH).read_bytes()
        parts = [
            write(folder / f"{n}.parquet", BOTH, only(k for k, p in zip(ALL, pieces, strict=True) if p == n), ALL)
            for n in range(3)
        ]
        # What a part lacks is missing in it, and in the union no more.
        for n, part in enumerate(parts):
            table, meta, _ = read_table(part)
            keys = set(table["key"].to_pylist())
            write_table(part, table, replace(meta, missing=tuple(key for key in meta.missing if key not in keys)))
            assert len(keys) == pieces.count(n)
        assert merged(*(parts[n] for n in order)) == whole
        pair = folder / "pair.parquet"
        pair.write_bytes(merged(*parts[:2]))
        assert merged(pair, parts[2]) == whole
        pair.write_bytes(merged(*parts[1:]))
        assert merged(parts[0], pair) == whole
        assert merged(*parts, *parts[::-1]) == whole


def test_a_table_with_itself_is_itself(folder):
    file = write(folder / "t.parquet", missing=["K7G8@8-8s1x16"])
    copy = folder / "copy.parquet"
    copy.write_bytes(file.read_bytes())
    assert merged(file) == merged(file, file) == merged(file, copy) == file.read_bytes()


def test_input_sizes_join(cli, folder):
    small = write(folder / "16.parquet", make_plan(backbone(16), paths="K1G1,K3E2G1"))
    large = write(folder / "32.parquet", make_plan(backbone(32, classes=100), paths="K1G1,K5E2G1"))
    done = cli("build-table", "merge", small, large, "--out", "both.parquet")
    assert done.exit_code == 0 and done.stderr == ""
    assert "both.parquet: 16 entries of Test Bench 1, tflite 2" in done.stdout
    assert "Backbone tiny at input size 16, 32; 1 of 272 paths at every site" in done.stdout
    both = LatencyTable.load("both.parquet")
    assert both.input_sizes == (16, 32)
    assert both.meta.paths == ("K1G1",)
    assert both.fixed(16) == LatencyTable.load(small).fixed()
    assert both.path_latencies(32).tolist() == LatencyTable.load(large).path_latencies().tolist()


def test_what_is_missing_shrinks_and_the_rest_is_said(cli, folder):
    one = write(folder / "1.parquet", PLAN, only(KEYS[3:]), KEYS[:3])
    two = write(folder / "2.parquet", PLAN, only(KEYS[1:5]), [KEYS[0], *KEYS[5:]])
    done = cli("build-table", "merge", one, two, "--out", "c.parquet")
    assert f"1 planned entry is missing: {KEYS[0]}" in done.stdout
    assert LatencyTable.load("c.parquet").meta.missing == (KEYS[0],)
    result = json.loads(cli("build-table", "merge", one, two, "--out", "c.parquet", "--json").stdout)
    assert result["missing"] == [KEYS[0]] and result["entries"] == len(KEYS) - 1


DIFFERENT = {
    "model": (make_plan(model="Test Bench 2"), "model: Test Bench 1 | Test Bench 2"),
    "mock": (make_plan(mock=True), "mock: False | True"),
    "os": (make_plan(os="none 2"), "os: none 1 | none 2"),
    "runtime": (make_plan(runtime="onnxruntime"), "runtime: tflite | onnxruntime"),
    "binary": (make_plan(runtime_sha256="ef" * 32), "runtime_sha256: "),
    "cores": (make_plan(affinity="f0"), "affinity:  | f0"),
    "settings": (make_plan(settings=replace(QUICK, threads=4)), "threads: 1 | 4"),
    "export": (make_plan(export_version=2), "export_version: 1 | 2"),
    "backbone": (make_plan(backbone(32, name="other")), "name: tiny | other"),
    "shuffle": (make_plan(backbone(32, shuffle=True)), "channel_shuffle: False | True"),
    "stem": (make_plan(replace(backbone(), stem_stride=2)), "stem_stride: 1 | 2"),
}


@pytest.mark.parametrize(("plan", "named"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_what_must_not_meet_is_refused_with_the_field_named(folder, plan, named):
    one, two = write(folder / "1.parquet", make_plan()), write(folder / "2.parquet", plan)
    field, *values = named.replace(" | ", ": ").split(": ")
    for message in (refusal(one, two), refusal(two, one)):
        assert f"{field}: " in message
        assert all(value in message for value in values)


def test_medians_and_low_percentiles_do_not_meet(folder):
    one, two = write(folder / "1.parquet", PLAN, only(KEYS[:5])), write(folder / "2.parquet", PLAN, statistic="p10")
    assert "statistic: median | p10" in refusal(one, two)
    assert (
        merge_tables([two, write(folder / "3.parquet", PLAN, only(KEYS[:5]), statistic="p10")]).meta.statistic == "p10"
    )


DEVICE = st.fixed_dictionaries(
    {},
    optional={
        name: st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1, max_size=5)
        for name in ("name", "model", "platform", "os", "abi", "runtime_version", "runtime_sha256", "affinity")
    },
)


@settings(max_examples=15)
@given(one=DEVICE, other=DEVICE)
def test_two_devices_never_merge(one, other):
    plans = [make_plan(backbone(size), **device) for size, device in ((16, one), (32, other))]
    with tempfile.TemporaryDirectory() as name:
        files = [write(Path(name) / f"{n}.parquet", plan) for n, plan in enumerate(plans)]
        if plans[0].setup.device == plans[1].setup.device:
            merge_tables(files)
        else:
            refusal(*files)


def test_imported_tables_merge_with_their_own_alone(folder):
    source = ImportedFrom("r", "f.yaml", "12" * 32)
    one = write(folder / "1.parquet", PLAN, only(KEYS[:5]), imported=source)
    two = write(folder / "2.parquet", PLAN, only(KEYS[5:]), imported=source)
    assert merge_tables([one, two]).meta.imported == source
    other = write(folder / "3.parquet", imported=replace(source, sha256="34" * 32))
    assert "sha256: " in refusal(one, other)
    assert "warmup_runs: " in refusal(one, write(folder / "4.parquet"))


def test_an_entry_with_two_values_is_refused_and_nothing_is_averaged(cli, folder):
    one = write(folder / "1.parquet", PLAN)
    two = write(folder / "2.parquet", PLAN, slower(1.0000001, lambda row: row["kind"] == "join"))
    message = refusal(one, two)
    assert "entries with different numbers in both: 2 (join@16x8, join@8x16)" in message
    assert "build-table diff" in message
    done = cli("build-table", "merge", one, two, "--out", "c.parquet")
    assert done.exit_code == 1 and done.stdout == "" and not Path("c.parquet").exists()
    # Any column counts.
    write(two, PLAN, lambda row: {**row, "samples": 7} if row["kind"] == "stem" else row)
    assert "in both: 1 (stem@" in refusal(one, two)


def test_models_are_fitted_again_to_the_networks_of_all_tables(folder):
    truth = Truth(path=1.1, join=0.6, constant_ms=0.05)

    def table(name: str, *sizes: int) -> Path:
        built = build_table([known_records(folder / f"{name}.sqlite", truth, known_plan(*sizes, networks=16))])
        write_table(folder / f"{name}.parquet", built.table, built.meta)
        return folder / f"{name}.parquet"

    small, large, both = table("small", 16), table("large", 32), table("both", 16, 32)
    assert read_table(small)[1].models.default == "corrected"
    assert {record.input_size for record in read_table(small)[1].models.records} == {16}
    assert merge_tables([small, large]).meta.models == read_table(both)[1].models
    assert merged(large, small) == both.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (["t.parquet", "none.parquet", "--out", "c.parquet"], 1, "none.parquet: the table cannot be read"),
        (["t.parquet", "d.parquet", "--out", "c.parquet"], 1, "d.parquet: damaged or edited"),
        (["t.parquet", "--out", "none/c.parquet"], 2, "does not exist; create it first"),
    ],
)
def test_bad_input(cli, folder, arguments, exit_code, sentence):
    write(folder / "t.parquet")
    damage(write(folder / "d.parquet", PLAN, slower(2)))
    done = cli("build-table", "merge", *arguments)
    assert done.exit_code == exit_code and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert sentence in line
    assert not Path("c.parquet").exists()


def test_usage(cli, folder):
    assert cli("build-table", "merge", "--out", "c.parquet").exit_code == 2
    assert cli("build-table", "merge", write(folder / "t.parquet")).exit_code == 2


def test_the_out_file_may_be_one_of_the_tables(cli, folder):
    one, two = write(folder / "1.parquet", PLAN, only(KEYS[:5])), write(folder / "2.parquet", PLAN, only(KEYS[5:]))
    assert cli("build-table", "merge", one, two, "--out", one).exit_code == 0
    assert len(LatencyTable.load(one)) == len(KEYS)
