"""A table answers for any number of classes: between measured heads it interpolates, and says so."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bpnas.profiler import Block
from bpnas.profiler.paths import HEAD_CLASSES, HeadPart, head_part
from bpnas.tables import LatencyTable, TableError, build_table
from bpnas.tables.heads import HeadLatency, interpolated
from bpnas.tables.table_meta import ImportedFrom
from tests.records_factory import backbone, make_plan, measurement, write_records
from tests.root import ROOT
from tests.table_factory import write

HEAD = HeadPart(320, 1280, 37, 7)


def head(classes: int) -> HeadPart:
    return replace(HEAD, classes=classes)


@pytest.mark.parametrize(
    ("classes", "measured", "expected"),
    [
        (40, {10: 1.0, 100: 4.0, 1000: 8.5}, HeadLatency(40, 2.0, (10, 100))),
        (550, {10: 1.0, 100: 4.0, 1000: 8.5}, HeadLatency(550, 6.25, (100, 1000))),
        (2000, {10: 1.0, 100: 4.0, 1000: 8.5}, HeadLatency(2000, 13.5, (100, 1000))),
        (2, {10: 1.0, 100: 4.0}, HeadLatency(2, 1.0, (10,))),
        (2000, {100: 4.0, 1000: 3.9}, HeadLatency(2000, 3.9, (100, 1000))),  # noise must not go on
        (40, {10: 1.0}, None),
        (40, {}, None),
    ],
)
def test_between_two_heads_it_is_linear_in_the_classes(classes, measured, expected):
    found = interpolated(head(classes), measured)
    if expected is None:
        assert found is None
    else:
        assert (found.classes, found.measured_classes) == (expected.classes, expected.measured_classes)
        assert found.latency_ms == pytest.approx(expected.latency_ms)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    plan = make_plan(backbone(16), backbone(32), heads=HEAD_CLASSES)
    cli_table = build_table([write_records(folder / "r.sqlite", plan)])
    return LatencyTable(cli_table.table, cli_table.meta)


def test_networks_hold_the_head_that_was_asked_for(table):
    blocks = [Block(table.paths(16)[0])] * len(backbone(16).sites)
    whole = {classes: table.network(blocks, 16, classes) for classes in (10, 40, 100, 1000)}
    heads = {classes: table.head(16, classes) for classes in whole}
    assert not heads[10].note and not heads[1000].facts
    assert heads[40].note == "with a head of 40 classes that is interpolated from 10 and 100"
    assert heads[40].facts == {"head_interpolated_from": [10, 100]}
    for classes, one in heads.items():
        assert whole[classes] - whole[10] == pytest.approx(one.latency_ms - heads[10].latency_ms)
        assert table.fixed(16, classes) - table.fixed(16, 10) == pytest.approx(whole[classes] - whole[10])
    assert table.backbone(16, 40) == replace(backbone(16), classes=40)
    assert head_part(table.backbone(16, 40)) not in table  # it is not an entry, and does not become one
    with pytest.raises(TableError, match="no entry"):
        table.entry(head_part(table.backbone(16, 40)))


@pytest.mark.parametrize("additivity", ["sum", "sum+joins"])
def test_all_that_a_search_asks_takes_any_number_of_classes(table, additivity):
    chosen = table.with_additivity(additivity)
    for ask in (chosen.paths, chosen.path_latencies, chosen.join_latencies, chosen.once_latencies):
        assert np.array_equal(ask(16, 40), ask(16, 10))
    low, high = sorted([chosen.fixed(16, 10), chosen.fixed(16, 100)])
    assert low < chosen.fixed(16, 40) < high


def test_which_input_size_is_meant_must_be_said(table):
    with pytest.raises(TableError, match="say which one is meant"):
        table.backbone(classes=40)
    with pytest.raises(TableError, match="profile-device --input-size 64"):
        table.backbone(64, 40)


def test_it_is_shown(table, cli, tmp_path):
    plan = make_plan(backbone(16), heads=HEAD_CLASSES)
    made = cli("build-table", write_records(tmp_path / "r.sqlite", plan), "--out", tmp_path / "t.parquet")
    assert made.exit_code == 0, made.stderr
    shown = cli("build-table", "show", tmp_path / "t.parquet").stdout
    assert "heads     10, 100, 1,000 classes at 16; others are interpolated" in shown
    values = json.loads(cli("build-table", "show", tmp_path / "t.parquet", "--json").stdout)
    assert values["head_classes"] == {"16": [10, 100, 1000]}


def test_a_head_that_is_planned_and_not_measured_is_missing(tmp_path):
    lost = head_part(replace(backbone(16), classes=1000)).key
    plan = make_plan(backbone(16), heads=HEAD_CLASSES)
    records = write_records(
        tmp_path / "r.sqlite", plan, lambda key, session: None if key == lost else measurement(key, session)
    )
    built = build_table([records], allow_missing=True)
    assert built.meta.missing == (lost,)
    assert LatencyTable(built.table, built.meta).head(16, 1000).measured_classes == (10, 100)


@pytest.fixture
def one_head(tmp_path, monkeypatch):
    """A folder with a table of an earlier bpnas, which has one head, and its records under their usual name."""
    for name, here in (("table.parquet", "table.parquet"), ("records.sqlite", "s9.sqlite"), ("small.toml",) * 2):
        shutil.copy(ROOT / "tests/earlier" / name, tmp_path / here)
    monkeypatch.chdir(tmp_path)


MEASURE = "profile-device --serial mock:s9 --backbone small.toml --input-size 32 --classes 10 --paths K1G1 --sessions 1"


def test_a_table_with_one_head_says_what_adds_more_and_that_works_as_typed(one_head, cli):
    with pytest.raises(TableError, match="no second head at 32 from which one of 55") as caught:
        LatencyTable.load("table.parquet").backbone(classes=55)
    measure, build = re.findall(r"(profile-device --.*?) and .*? with (build-table \S+)", str(caught.value))[0]
    assert measure == f"{MEASURE} --records s9.sqlite" and build == "build-table s9.sqlite"
    assert (
        f"-> time more heads, and nothing else, with {measure}" in cli("build-table", "doctor", "table.parquet").stdout
    )
    pytest.importorskip("torch")
    done = cli(*shlex.split(measure), "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["measured"] == 2, done.stderr
    assert cli(*shlex.split(build)).exit_code == 0
    assert LatencyTable.load("s9.parquet").head(classes=55).measured_classes == (10, 100)
    assert "one head" not in cli("build-table", "doctor", "s9.parquet").stdout


def test_every_command_that_needs_another_head_says_so(one_head, cli, tmp_path):
    pytest.importorskip("torch")
    from tests.image_folders import write_imagenet

    write_imagenet(tmp_path / "images", classes=3, train=4)
    table, other = ("--table", "table.parquet"), ("--data", "imagenet:images", "--input-size", "32")
    shutil.copytree(ROOT / "tests/earlier/finished", "finished")
    for words in (
        (*table, *other),
        (*table, *other, "--plan"),
        (*table, "--deploy-classes", "3", "--plan"),
        ("study", "strategies", *table, *other, "--constraints", "2"),
        ("study", "random-stage2", *table, *other, "--proposals", "K1G1", "--target", "2"),
        ("retrain", "finished", "--data", "imagenet:images", *table),
    ):
        done = cli("run-search", *words)
        assert done.exit_code == 1 and f"with {MEASURE} --records s9.sqlite" in done.stderr, (words, done.stderr)
        assert done.stderr.count("Error: ") == 1


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"name": "local"}, ["--serial local", "--backbone tiny.toml", "--sessions 1", "--records local.sqlite"]),
        ({"os": "Android 9", "affinity": "f0"}, ["profile-device --affinity f0 --warmup-runs 1", "bench.sqlite"]),
        (
            {"runtime": "onnxruntime", "sessions": 4},
            ["--runtime onnxruntime --warmup-runs 1 --warmup-seconds 0 --runs 3"],
        ),
    ],
)
def test_the_command_is_for_that_device_and_those_settings(plan, words, tmp_path):
    file = write_records(tmp_path / "r.sqlite", make_plan(backbone(16), **plan))
    built = build_table([file])
    with pytest.raises(TableError) as caught:
        LatencyTable(built.table, built.meta).head(16, 100)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "--serial" in str(caught.value) or plan.get("name") != "local"


def test_an_imported_table_has_no_records(tmp_path):
    file = write(tmp_path / "t.parquet", imported=ImportedFrom("their-reader", "theirs.yaml", "12" * 32))
    with pytest.raises(TableError, match="its source has no other, so take images of 10 classes") as caught:
        LatencyTable.load(file).backbone(16, 7)
    assert "--records" not in str(caught.value)


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Tables of one device: an old one with one head at each size, one with all heads, one with another alone."""
    monkeypatch.chdir(tmp_path)
    large = replace(backbone(32), classes=1000)
    for name, sizes, heads in (
        ("old", (backbone(16), large), ()),
        ("new", (backbone(16), large), HEAD_CLASSES),
        ("odd", (replace(backbone(16), classes=37),), ()),
    ):
        write(tmp_path / f"{name}.parquet", make_plan(*sizes, heads=heads))
    return ("old.parquet", "new.parquet", "odd.parquet")


def test_tables_with_different_heads_are_joined_and_keep_all_of_them(tables, cli):
    done = cli("build-table", "merge", *tables, "--out", "all.parquet")
    assert done.exit_code == 0, done.stderr
    assert "Heads of 10, 37, 100, 1,000 classes at 16; 10, 100, 1,000 classes at 32\n" in done.stdout
    joined, new = LatencyTable.load("all.parquet"), LatencyTable.load("new.parquet")
    for classes in (10, 100, 1000, 55):
        assert joined.head(16, classes).latency_ms == new.head(16, classes).latency_ms or classes == 55
    assert joined.head(16, 37).measured_classes == () and joined.head(16, 55).measured_classes == (37, 100)
    answer = json.loads(cli("build-table", "merge", *tables[::-1], "--out", "b.parquet", "--json").stdout)
    assert answer["head_classes"] == {"16": [10, 37, 100, 1000], "32": [10, 100, 1000]}
    assert Path("all.parquet").read_bytes() == Path("b.parquet").read_bytes()
    # Two old ones with one head each are together as good as a new one.
    assert cli("build-table", "merge", "old.parquet", "odd.parquet", "--out", "c.parquet").exit_code == 0
    assert LatencyTable.load("c.parquet").head(16, 20).measured_classes == (10, 37)


def test_heads_that_only_one_table_has_are_named(tables, cli):
    done = cli("build-table", "diff", "old.parquet", "new.parquet")
    assert done.exit_code == 0 and "Heads only in A" not in done.stdout
    assert "Heads only in B: 100, 1,000 classes at 16; 10, 100 classes at 32\n" in done.stdout
    found = json.loads(cli("build-table", "diff", "new.parquet", "odd.parquet", "--json").stdout)
    assert found["heads_only_a"] == {"16": [10, 100, 1000], "32": [10, 100, 1000]}
    assert found["heads_only_b"] == {"16": [37]}
    assert "Heads" not in cli("build-table", "diff", "old.parquet", "old.parquet").stdout
    refused = cli("build-table", "merge", "old.parquet", write_other("other.parquet"), "--out", "d.parquet")
    assert refused.exit_code == 1 and "entries with different numbers in both" in refused.stderr


def write_other(name):
    """A table of the same device whose entries were measured again."""
    return write(Path(name), make_plan(backbone(16), heads=(55,)), lambda row: row | {"latency_ms": 1.01})
