"""Finished runs side by side."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bpnas.search.sealed import sealed_json


def write(folder: Path, **changes: Any) -> Path:
    values = {
        "task": "reid",
        "model": "mobilenetv2",
        "network": None,
        "weights": None,
        "mock": None,
        "predicted_latency_ms": None,
        "data": "persons",
        "settings": {"train": {"epochs": 90, "batch": 32}, "loss": "identity"},
        "seed": 0,
        "rank_1": 0.5,
        "mean_average_precision": 0.25,
        "cost": {"hours": 2.0, "gpu_hours": 4.0},
        **changes,
    }
    folder.mkdir()
    (folder / "result.json").write_bytes(sealed_json(values))
    return folder


def test_seeds_of_a_network_are_put_together_next_to_the_paper(cli: Any, tmp_path: Path) -> None:
    searched = {"model": "bpnas", "network": "n/network.json", "mock": True, "predicted_latency_ms": 52.0}
    runs = [
        write(tmp_path / "a"),
        write(tmp_path / "b", seed=1, rank_1=0.7),
        write(tmp_path / "c", weights="w.pth", **searched),
        write(tmp_path / "d", seed=3, cost=None),
    ]
    done = cli("run-search", "transfer", "compare", *runs[:3], "--json")
    assert done.exit_code == 0, done.stderr
    first, second = json.loads(done.stdout)["networks"]
    assert (first["network"], first["seeds"], first["hours"]) == ("mobilenetv2, random weights", [0, 1], 4.0)
    assert first["figures"]["Rank-1"] == {"mean": pytest.approx(0.6), "std": pytest.approx(0.02**0.5)}
    assert second["figures"]["mAP"] == {"mean": 0.25, "std": None}
    text = cli("run-search", "transfer", "compare", *runs).stdout
    assert "mobilenetv2, random weights, 3 seeds" in text
    assert "n/network.json, trained weights, 52 ms by table (mock: computed, not measured), 1 seed\n" in text
    assert "BPN-A:             Rank-1 67.2%, mAP 45.4%" in text
    assert text.count("cost:") == 1  # of one, an earlier bpnas has not noted it


def test_other_tasks_have_other_figures(cli: Any, tmp_path: Path) -> None:
    metrics = {"AP": 0.1, "AP50": 0.2, "AP75": None}
    run = write(tmp_path / "a", task="detection", recipe={"batch": 32}, metrics=metrics, seed=-1)
    text = cli("run-search", "transfer", "compare", run).stdout
    assert "AP:                10.0%" in text and "AP75:              unknown" in text and "AP 34.3%" in text
    run = write(tmp_path / "b", task="face", rank_1=[{"distractors": 10, "rate": 0.5}])
    text = cli("run-search", "transfer", "compare", run / "result.json").stdout
    assert "Rank-1 of 10:      50.0%" in text and "Rank-1 92.4%" in text


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"task": "face", "rank_1": []}, 2, "is of face and .* of reid: compare runs of one task"),
        ({"settings": {"train": {"epochs": 90, "batch": 64}, "loss": "identity"}}, 2, "differ in train.batch"),
        ({"data": "others"}, 2, "differ in data"),
        ({}, 2, "another run of mobilenetv2, random weights has the seed 0, too"),
        ({"task": "song"}, 1, "'task' must be one of detection, face, reid"),
        ({"rank_1": 2.0}, 1, "'rank_1' must be a number from 0 to 1"),
        ({"rank_1": "high"}, 1, "'rank_1' must be a number"),
        ({"settings": None}, 1, "'settings' must be an object"),
        ({"cost": {"hours": -1}}, 1, "'cost.hours' must be a number from 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    changes: dict[str, Any], code: int, message: str, cli: Any, tmp_path: Path
) -> None:
    runs = write(tmp_path / "a"), write(tmp_path / "b", **changes)
    done = cli("run-search", "transfer", "compare", *runs)
    assert (done.exit_code, done.stderr.count("\n")) == (code, 1), done.stderr
    assert re.search(message, done.stderr), done.stderr


def test_a_run_that_is_not_finished_is_named(cli: Any, tmp_path: Path) -> None:
    done = cli("run-search", "transfer", "compare", tmp_path / "none")
    assert done.exit_code == 1 and "none: there is no such file" in done.stderr
    done = cli("run-search", "transfer", "compare", tmp_path)
    assert done.exit_code == 1 and "result.json: there is no such file" in done.stderr
