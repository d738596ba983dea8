"""The page of the paper's flow: its small commands run as they stand, one after the other."""

import json
import re
import shlex

import pytest

pytest.importorskip("torch")

from tests.root import ROOT


@pytest.mark.slow
def test_the_small_flow_of_the_page_ends_on_the_device(cli, shared_data, tmp_path, monkeypatch):
    part = (
        (ROOT / "docs/paper.md")
        .read_text(encoding="utf-8")
        .partition("\n## At a small scale\n")[2]
        .partition("\n## ")[0]
    )
    backbone, commands = re.findall(r"```(?:toml)?\n(.*?)```", part, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(backbone)
    (tmp_path / "data").symlink_to(shared_data)
    for line in commands.splitlines():
        done = cli(*shlex.split(line))
        assert done.exit_code == 0, (line, done.output)
    network = json.loads((tmp_path / "runs/small-retrained/network.json").read_text())
    assert network["mock"] is True and network["within_limit"] is True and network["measured"][0]["mock"] is True
    assert network["backbone"]["classes"] == 20 and network["head_interpolated_from"] == [10, 100]
    searched = json.loads((tmp_path / "runs/small/network.json").read_text())
    assert (searched["backbone"]["classes"], searched["deploy_classes"]) == (10, 20)
    assert searched["deployed_latency_ms"] == network["predicted_latency_ms"] <= searched["limit_ms"]
    config = json.loads((tmp_path / "runs/small/config.json").read_text())
    assert config["preset"]["proposals"]["strategy"] == "paper" and config["target_ms"] == 2.5
    for run, stages in (("small", ["proposals", "connections", "retraining"]), ("small-retrained", ["retraining"])):
        cost = json.loads((tmp_path / f"runs/{run}/cost.json").read_text())
        assert [stage["stage"] for stage in cost["stages"]] == stages
