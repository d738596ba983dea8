"""The table of the computed Galaxy S9 that comes with bpnas."""

import json
from collections import Counter
from importlib import resources
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bpnas.profiler import Backbone, Block
from bpnas.profiler.models.graph import EXPORT_VERSION
from bpnas.profiler.paths import HEAD_CLASSES, all_paths, enumerate_parts, head_parts
from bpnas.tables import LatencyTable
from bpnas.tables.additivity.model_record import TableModels
from bpnas.tables.shipped import beside_table

BACKBONES = tuple(Backbone.load("mobilenetv2", size) for size in (32, 224))


@pytest.fixture(scope="module")
def table():
    return LatencyTable.mock_s9()


def test_it_says_that_it_was_computed(table):
    assert table.meta.mock
    assert table.meta.device.model == "Samsung Galaxy S9"
    assert table.meta.device.platform == "sdm845"
    assert set(table.to_pandas()["source"]) == {"mock"}


def test_it_predicts_by_the_papers_sum_for_it_holds_no_networks(table):
    assert table.additivity == "sum" and table.meta.models == TableModels()
    assert table.networks(32) == table.networks(224) == ()


def test_it_is_of_the_models_that_bpnas_writes_now(table):
    assert table.meta.export_version == EXPORT_VERSION


def test_it_holds_every_part_of_the_default_backbone_at_both_sizes(table):
    heads = [head for backbone in BACKBONES for head in head_parts(backbone, HEAD_CLASSES)]
    parts = dict.fromkeys([*enumerate_parts(BACKBONES), *heads])
    assert Counter(part.kind for part in parts)["path"] == 6528
    assert len(table) == len(parts)
    assert all(table.entry(part) > 0 for part in parts)
    assert table.meta.backbones == BACKBONES
    assert table.input_sizes == (32, 224)
    assert table.meta.missing == ()
    assert table.meta.paths == tuple(map(str, all_paths()))


@pytest.mark.parametrize("size", [32, 224])
def test_it_gives_every_network_a_latency(table, size):
    latencies = table.path_latencies(size)
    assert latencies.shape == (272, 22)
    block = Block.parse("K1G1+K3E6G1")
    paths = list(map(str, table.paths(size)))
    expected = table.fixed(size) + sum(latencies[paths.index(name)].sum() for name in ("K1G1", "K3E6G1"))
    assert table.network([block] * 22, size) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_make_it_again_bit_for_bit(cli, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    done = cli("profile-device", "--serial", "mock:s9", "--sessions", "1")
    assert done.exit_code == 0, done.stderr
    done = cli("build-table")
    assert done.exit_code == 0, done.stderr
    with resources.as_file(resources.files("bpnas.tables") / "mock_s9.parquet") as shipped:
        shipped_bytes, written_by = shipped.read_bytes(), pq.read_metadata(shipped).created_by
    made, there = LatencyTable.load("s9.parquet"), LatencyTable.mock_s9()
    assert made.meta == there.meta
    assert made.to_pandas().equals(there.to_pandas())
    # Another version of Arrow writes the same numbers as other bytes.
    if written_by == f"parquet-cpp-arrow version {pa.__version__}":
        assert Path("s9.parquet").read_bytes() == shipped_bytes


def test_it_is_there_under_its_name_also_where_no_checkout_is(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = json.loads(cli("build-table", "show", "mock:s9", "--json").stdout)
    assert found["metadata"]["device"]["mock"] and found["entries"] == len(LatencyTable.mock_s9())
    assert cli("build-table", "doctor", "mock:s9").exit_code == 0
    assert cli("build-table", "diff", "mock:s9", "mock:s9").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_it_is_called_by_its_name_wherever_it_is_shown(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, beginning in (
        (("show", "mock:s9"), "mock:s9:\n"),
        (("doctor", "mock:s9"), "mock:s9:\n"),
        (("diff", "mock:s9", "mock:s9"), "BOTH ARE MOCK: nothing here was measured by bpnas\nA: mock:s9, Samsung"),
    ):
        assert cli("build-table", *words).stdout.startswith(beginning)
    assert json.loads(cli("build-table", "show", "mock:s9", "--json").stdout)["table"] == "mock:s9"
    wrong = cli("build-table", "show", "mock:s9", "--kind", "paht")
    assert wrong.exit_code == 2 and wrong.stderr.startswith("Error: mock:s9: no entries of kind")
    assert cli("build-table", "merge", "mock:s9", "--out", "m.parquet").exit_code == 0
    assert LatencyTable.load("mock:s9").sha256 == LatencyTable.load("m.parquet").sha256
    # Only that name is one: any other is a file's.
    other = cli("build-table", "show", "mock:s8")
    assert other.exit_code == 1 and "mock:s8: the table cannot be read" in other.stderr


def test_what_belongs_to_it_is_put_here(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("torch")
    words = ("--networks", "2", "--sessions", "1", "--input-size", "32")
    assert cli("build-table", "validate", "mock:s9", *words).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"mock_s9.validation.json", "mock_s9.validation.sqlite"}
    assert beside_table("mock:s9").name == "mock_s9"  # as runs and studies of it are called
    assert beside_table("folder/t.parquet") == Path("folder/t")


def test_run_search_takes_it_by_name_and_names_it_where_there_is_no_table(cli, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    none = cli("run-search", "--plan")
    assert none.exit_code == 2 and "--table mock:s9" in none.stderr
    plan = cli("run-search", "--plan", "--table", "mock:s9", "--constraints", "15", "--json")
    assert plan.exit_code == 0 and json.loads(plan.stdout)["mock"]
