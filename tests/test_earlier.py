"""Files of bpnas as it was before its wings were built (commit 6d0defe) are read, and what was half done is resumed.

tests/earlier has them: records, a table, a finished search, one killed in each stage, and a killed study of each kind,
all of the mock. They were made by these commands, with a table of four paths.
"""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from bpnas.tables import LatencyTable, TableError
from tests.root import ROOT

PROFILE = "--serial mock:s9 --input-size 32 --sessions 1 --paths K1G1,K3G1,K1E1G1,K3E1G1".split()
MICRO = (
    "--population 2 --sample 1 --cycles 3 --proposal-epochs 1 --proposal-images 40 --connection-epochs {} "
    "--connection-images 40 --retrain-epochs 2 --retrain-images 40"
)
STRATEGIES = (
    "--constraints 1.4,1.58 --seeds 2 --population 2 --sample 1 --cycles 3 --proposal-epochs 1 --proposal-images 40 "
    "--retrain 1 --arms default,random"
)
STAGE2 = (
    "--proposals K3G1+K3E1G1,K1E1G1+K3E1G1 --target 1.3948 --seeds 1 --connection-epochs 2 --connection-images 40 "
    "--retrain-epochs 2 --retrain-images 40"
)

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="it trains")


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """The files, as they may be changed."""
    monkeypatch.chdir(shutil.copytree(ROOT / "tests/earlier", tmp_path / "earlier"))
    return Path()


def resumed(cli, *words):
    done = cli(*words)
    assert done.exit_code == 0, done.stderr
    return done


def test_records_are_complete_and_make_the_same_table(earlier, cli):
    resumed(cli, "build-table", "records.sqlite", "--out", "again.parquet")
    tables = [LatencyTable.load(name) for name in ("table.parquet", "again.parquet")]
    assert tables[0].meta == tables[1].meta
    assert tables[0].to_pandas().equals(tables[1].to_pandas())


@needs_torch
def test_the_same_campaign_only_adds_the_heads_that_it_did_not_time_yet(earlier, cli):
    done = resumed(cli, "profile-device", *PROFILE, "--backbone", "small.toml", "--records", "records.sqlite", "--json")
    assert json.loads(done.stdout)["measured"] == 2
    resumed(cli, "build-table", "records.sqlite", "--out", "again.parquet")
    before, after = LatencyTable.load("table.parquet"), LatencyTable.load("again.parquet")
    old, new = before.to_pandas().set_index("key"), after.to_pandas().set_index("key")
    assert set(new.index) - set(old.index) == {key for key in new.index if key.startswith("head@")} - set(old.index)
    assert new.loc[old.index].equals(old) and len(new) == len(old) + 2
    assert after.head(classes=55).measured_classes == (10, 100) and after.meta.missing == ()
    with pytest.raises(TableError, match="no second head"):
        before.head(before.input_sizes[0], 55)


@needs_torch
def test_a_finished_search_stays_as_it_is(earlier, cli):
    before = {path: path.read_bytes() for path in earlier.glob("finished/[a-z]*.*")}
    options = MICRO.format(2).split()
    done = resumed(cli, "run-search", "--table", "table.parquet", *options, "--out", "finished", "--json")
    network = json.loads(before[Path("finished/network.json")])
    assert json.loads(done.stdout)["network"]["accuracy"] == network["accuracy"]
    assert before == {path: path.read_bytes() for path in earlier.glob("finished/[a-z]*.*")}
    resumed(cli, "run-search", "export", "finished")


@needs_torch
@pytest.mark.parametrize(("name", "kept"), [("in_stage_1", ["trials.jsonl"]), ("in_stage_2", ["connections.jsonl"])])
def test_a_killed_search_is_resumed(name, kept, earlier, cli):
    kept = ["evaluations.jsonl", *kept]
    before = {file: (earlier / name / file).read_bytes() for file in kept}
    resumed(cli, "run-search", "--table", "table.parquet", *MICRO.format(3).split(), "--out", name)
    for file, content in before.items():
        assert (earlier / name / file).read_bytes().startswith(content)
    assert (earlier / name / "network.json").exists()


@needs_torch
@pytest.mark.parametrize(
    ("name", "words", "file"),
    [
        ("proposals_study", ["strategies", *STRATEGIES.split()], "evaluations.jsonl"),
        ("connections_study", ["random-stage2", *STAGE2.split()], "searches.jsonl"),
    ],
)
def test_a_killed_study_is_resumed(name, words, file, earlier, cli):
    before = (earlier / name / file).read_bytes()
    resumed(cli, "run-search", "study", *words, "--table", "table.parquet", "--out", name)
    assert (earlier / name / file).read_bytes().startswith(before)
    assert (earlier / name / "summary.json").exists()
