"""A table answers for any number of classes: between measured heads it interpolates, and says so."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bpnas.profiler import Block
from bpnas.profiler.paths import HEAD_CLASSES, HeadPart, head_part
from bpnas.tables import LatencyTable, TableError, build_table
from bpnas.tables.heads import HeadLatency, interpolated
from tests.records_factory import backbone, make_plan, measurement, write_records

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
