"""The cost of each stage, summed over all calls of a run."""

import json

import pytest

from bpnas.search import RunError
from bpnas.search.run_directory import RunDirectory
from bpnas.search.spent import PAPER_GPU_HOURS, cost_lines, note_time, spent, write_cost


def test_times_of_all_calls_and_networks_are_summed(tmp_path):
    directory = RunDirectory(tmp_path)
    assert spent(directory) == () and write_cost(directory) == ()
    assert not (tmp_path / "cost.json").exists()
    for _ in range(2):
        note_time(directory, "proposals", 10, 1800.0, 1, block="K3G1", workers=4)
    note_time(directory, "connections", 10, 3600.0, 8)
    note_time(directory, "retraining", 10, 360.0, 0)
    note_time(directory.below("networks/2ms"), "retraining", 10, 720.0, 0)
    found = {each.stage: (each.hours, each.gpu_hours) for each in write_cost(directory)}
    assert found == {"proposals": (1.0, 1.0), "connections": (1.0, 8.0), "retraining": (pytest.approx(0.3), 0.0)}
    stored = json.loads((tmp_path / "cost.json").read_text())
    assert stored["paper_gpu_hours"] == PAPER_GPU_HOURS == {"proposals": 3600.0, "connections": 288.0}
    assert [stage["stage"] for stage in stored["stages"]] == ["proposals", "connections", "retraining"]
    note_time(directory, "retraining", 10, 360.0, 2)
    assert write_cost(directory)[-1].gpu_hours == pytest.approx(0.2)


def test_an_earlier_run_did_not_note_its_gpus(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.append("timings.jsonl", {"stage": "proposals", "images": 3, "seconds": 36.0, "workers": 1})
    note_time(directory, "proposals", 10, 36.0, 1)
    (cost,) = spent(directory)
    assert (cost.hours, cost.gpu_hours) == (pytest.approx(0.02), None)
    text = cost_lines([cost])
    assert text[1].split() == ["proposals", "0.0200", "-", "3,600"]
    assert text[2].split() == ["connections", "-", "-", "288"] and text[3].split() == [
        "retraining",
        "-",
        "-",
        "included",
    ]


@pytest.mark.parametrize(
    "line", [{"stage": "lunch", "seconds": 1.0}, {"stage": "proposals", "seconds": -1.0}, {"stage": "proposals"}]
)
def test_a_damaged_line_is_named(line, tmp_path):
    directory = RunDirectory(tmp_path)
    directory.append("timings.jsonl", line)
    with pytest.raises(RunError, match="line 1 is no timing"):
        spent(directory)
