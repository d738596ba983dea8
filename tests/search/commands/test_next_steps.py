"""Every journey of a search goes on: what a command prints as the next one works as typed, to a retrained network."""

import json
import re
import shlex
import shutil
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from bpnas.profiler import Block
from bpnas.search import Preset
from bpnas.tables import LatencyTable
from tests.records_factory import backbone, make_plan
from tests.root import ROOT
from tests.table_factory import write

TABLE = ["--table", "table.parquet"]
STAGE1 = "--population 2 --sample 1 --cycles 3 --proposal-epochs 1 --proposal-images 40".split()
STAGE2 = "--connection-epochs 2 --connection-images 40 --retrain-epochs 2 --retrain-images 40".split()
ALL = [*TABLE, *STAGE1, *STAGE2]
TARGET = ["--target", "1.5"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a small table of the computed device."""
    shutil.copy(ROOT / "tests/earlier/table.parquet", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def done(cli):
    def call(*words):
        result = cli("run-search", *words)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    return call


def commands(text):
    """The commands in a text, as words."""
    return [shlex.split(found) for found in re.findall(r"run-search (.+)$", text, re.MULTILINE)]


def test_a_search_by_its_stages_is_led_to_the_device(here, cli, done):
    (second,) = commands(done(*ALL, "--stage", "proposals", "--seed", "3"))
    assert second[-2:] == ["--stage", "connections"] and second[:2] == TABLE
    text = done(*second)
    assert "years" not in text and "recipe" not in text
    measure, study, *paper = commands(text)
    assert measure == ["measure", "runs/table-seed3"] and not paper  # the table has one size
    assert cli("run-search", *measure).exit_code == 0
    assert "searched" in done(*study, *STAGE2, "--seeds", "1", "--retrain", "0")


def test_the_papers_flow_is_printed_where_the_table_has_both_sizes(here):
    from bpnas.search.commands.search_text import following_lines
    from bpnas.search.run import SearchResult

    result = SearchResult(here / "out", True, "s9", "tflite", (), SimpleNamespace(deploy_classes=None), (), "sum")
    lines = following_lines("my table.parquet", result, [], [], (32, 224))
    flow = "\n".join(lines)
    assert "--table 'my table.parquet' --preset paper --data cifar10:CIFAR10 --connections-data imagenet100:" in flow
    assert "--deploy-classes 1000 --target 55" in flow and "retrain runs/paper --data imagenet:IMAGENET" in flow
    assert Preset.load("paper").proposals.strategy == "paper"


@pytest.mark.parametrize("options", [["--strategy", "random"], ["--coding", "gray"], ["--strategy", "paper"]])
def test_both_ablations_of_stage_1_end_in_a_network(options, here, done):
    found = json.loads(done(*ALL, *options, "--json"))
    assert found["network"]["within_limit"] is True and (here / "runs/table-seed0/network.onnx").exists()
    stored = json.loads((here / "runs/table-seed0/config.json").read_text())["preset"]["proposals"]
    assert stored["strategy" if options[0] == "--strategy" else "coding"] == options[1]


def test_the_papers_random_search_has_100_blocks(here, cli, monkeypatch):
    kept = []
    monkeypatch.setattr("bpnas.search.run.carry_out", lambda plan, *rest: kept.append(plan) or exit(0))
    cli("run-search", *TABLE, "--preset", "paper", "--strategy", "random")
    cli("run-search", *TABLE, "--preset", "paper", "--strategy", "random", "--cycles", "7")
    cli("run-search", *TABLE, "--preset", "tiny", "--strategy", "random")
    assert [plan.request.preset.proposals.cycles for plan in kept] == [100, 7, 5]


@pytest.mark.parametrize("name", ["random-stage1", "gray-code"])
def test_winners_of_the_studies_of_stage_1_go_on_to_networks(name, here, done):
    text = done("study", name, *TABLE, *STAGE1, "--seeds", "2", "--retrain", "0", "--data", "digits")
    following = commands(text)
    arms = {"random-stage1": 2, "gray-code": 4}[name]
    assert len(following) == arms and len(list((here / f"runs/table-{name}/proposals").iterdir())) == 2 * arms
    assert json.loads(done(*following[-1], *STAGE2, "--json"))["network"]["within_limit"] is True


@pytest.fixture
def fbnet(here):
    """Options that name a table with FBNet's candidates, and a target by it."""
    table = write(here / "fbnet.parquet", make_plan(backbone(8), paths="K3G1,K[35]E[136]G1,K[35]E1G2", mock=True))
    unit_ms = LatencyTable.load(table).network([Block.parse("K3E6G1")] * len(backbone(8).sites))
    return [*STAGE1, *STAGE2, "--table", "fbnet.parquet", "--input-size", "8", "--target", f"{unit_ms:.4f}"]


@pytest.mark.slow
def test_the_ablations_are_one_command_beside_the_papers_figures(fbnet, here, done):
    words = ["study", "ablations", *fbnet, "--seeds", "2"]
    text = done(*words)
    for arm in ("full", "rand-stage-1", "rand-stage-2", "bcs-a", "gray"):
        assert re.search(rf"^  {arm} +\d+\.\d +[\d.]+ +(74.0|69.2|72.5|73.0) +(52.2|60.7|66.7|55.1|56.3)$", text, re.M)
    assert ", mock: computed, not measured; the paper's" in text and "Galaxy S9" in text
    summary = json.loads((here / "runs/fbnet-ablations/summary.json").read_text())
    assert [figure["arm"] for figure in summary["paper"]] == ["full", "rand-stage-1", "rand-stage-2", "bcs-a", "gray"]
    assert all(row["latency_ms"] <= summary["target_ms"] and row["accuracy"] is not None for row in summary["rows"])
    assert len(summary["rows"]) == 10
    for kind, field, value in (
        ("random", "strategy", "random"),
        ("gray", "coding", "gray"),
        ("full", "coding", "binary"),
    ):
        config = json.loads((here / f"runs/fbnet-ablations/stage1/{kind}-seed1/config.json").read_text())
        assert config["preset"]["proposals"][field] == value and config["seed"] == 1
    assert done(*words) == text


def test_arms_of_the_ablations(fbnet, here, cli, done):
    text = done("study", "ablations", *fbnet, "--seeds", "1", "--retrain", "0", "--arms", "bcs-a,rand-stage-1")
    assert "full" not in text and not (here / "runs/fbnet-ablations/stage1/full-seed0").exists()
    wrong = cli("run-search", "study", "ablations", *ALL, "--arms", "bcs-b", "--out", "x")
    assert wrong.exit_code == 2 and "no arm 'bcs-b'" in wrong.stderr
    lacks = cli("run-search", "study", "ablations", *ALL, *TARGET, "--out", "y")
    assert lacks.exit_code == 1 and "K3E1G2" in lacks.stderr and not (here / "y").exists()
    done(*ALL, "--stage", "proposals")
    taken = cli("run-search", "study", "ablations", *ALL, *TARGET, "--out", "runs/table-seed0")
    assert taken.exit_code == 1 and "another study or a search" in taken.stderr


def test_lambda_stands_beside_the_papers_and_0_is_told_as_it_is(here, done):
    text = done("study", "lambda", *TABLE, *TARGET, *STAGE2, "--proposals", "K3G1,K3E1G1", "--seeds", "1")
    for value, accuracy, ms in (("0", "63.6", "26"), ("0.01", "74.0", "52.2"), ("1", "52.4", "16.7")):
        assert re.search(rf"^  lambda {re.escape(value)} +\d+\.\d +[\d.]+ +{accuracy} +{ms}$", text, re.M)
    assert "In the paper lambda 0 collapses like 0.5 and 1 do (26.0 ms for T = 55)" in text
