"""Several processes of torchrun train what one process trains."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from tests.patience import PATIENCE
from tests.programs import run_together
from tests.root import FIND_TESTS
from tests.search_helpers import torchrun

# A process that is to die does so in the third epoch, without a word to the others.
PROGRAM = f"""{FIND_TESTS}
import os
import signal

import torch

import bpnas.search.connections.connect
from bpnas.search import Preset, run_search

from tests.search_helpers import FormulaTable


def die_in_the_third_epoch(settings, progress, learning_rate=bpnas.search.connections.connect.learning_rate):
    if progress > 0.7:
        os.kill(os.getpid(), signal.SIGKILL)
    return learning_rate(settings, progress)


if os.environ["RANK"] == sys.argv[2]:
    bpnas.search.connections.connect.learning_rate = die_in_the_third_epoch
changes = {{
    "connections.train.train_images": 60,
    "connections.train.epochs": 3,
    # Small enough that what sums round differently is not blown up.
    "connections.train.learning_rate": 2e-3,
    "connections.alpha_learning_rate": 0.02,
    "connections.k_best": 3,
    "retraining.epochs": 2,
    "retraining.train_images": 40,
    "test_images": 50,
}}
run_search(
    FormulaTable.tiny(),
    out=sys.argv[1],
    preset=Preset.load("tiny").override(changes),
    proposals=("K3G1", "K1G1+K3E2G2", "K5E1G1"),
    stage="connections",
    targets_ms=(0.1, 0.2),
    seed=1,
)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "search.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture(scope="module")
def alone(program, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    run_together(1, program, out, "")
    return out


def lines(out):
    return [json.loads(line) for line in (out / "connections.jsonl").read_text().splitlines()]


def assert_as_one(out, alone):
    for one, other in zip(lines(alone), lines(out), strict=True):
        for name in ("weight_loss", "alpha_loss", "expected_latency_ms", "entropy"):
            # There is no alpha loss in the warm-up.
            assert (other[name] or 0.0) == pytest.approx(one[name] or 0.0, rel=1e-4), name
        for row, same in zip(one["alphas"], other["alphas"], strict=True):
            assert same == pytest.approx(row, abs=1e-3)
    chosen = [json.loads((path / "connections.json").read_text())["chosen"]["blocks"] for path in (alone, out)]
    assert chosen[0] == chosen[1]
    files = [
        sorted(str(f.relative_to(path)) for f in path.rglob("*") if "tfevents" not in f.name) for path in (alone, out)
    ]
    assert files[0] == files[1]
    assert len(list(out.rglob("*tfevents*"))) == 3  # of the supernet and of two networks
    network = json.loads((out / "network.json").read_text())
    assert network["predicted_latency_ms"] <= network["target_ms"] == 0.2


@pytest.mark.slow
def test_two_processes_are_as_one(program, alone, tmp_path):
    run_together(2, program, tmp_path, "")
    assert_as_one(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("dies", ["0", "1"])
def test_where_one_dies_the_others_end_and_another_number_of_them_goes_on(dies, program, alone, tmp_path):
    launch = torchrun(program, tmp_path, dies, processes=2)
    output, _ = launch.communicate(timeout=PATIENCE)
    assert launch.returncode != 0
    ends = "another process of this training has ended", "SIGTERM"  # itself, or torchrun is faster
    assert any(end in output for end in ends), output
    assert len(lines(tmp_path)) == 2 and not (tmp_path / "network.json").exists()
    run_together(1, program, tmp_path, "")
    assert_as_one(tmp_path, alone)
