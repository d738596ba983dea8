"""A batch of fewer images than torchrun started processes is refused before anything is trained."""

import json

import pytest

torch = pytest.importorskip("torch")

from bpnas.profiler import Block
from bpnas.search.networks.network_file import block_texts
from tests.programs import run_together
from tests.root import FIND_TESTS
from tests.search_helpers import tiny_backbone

PROGRAM = f"""{FIND_TESTS}
import json

from bpnas.base.errors import BpnasError
from bpnas.search import Preset, run_search
from bpnas.search.networks.retrain import retrain
from bpnas.search.training.distributed import process_group, rank
from tests.search_helpers import FormulaTable

out, command, cases = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def call(out, changes):
    preset = Preset.load("tiny").override(changes | {{"test_images": 50}})
    if command == "retrain":
        return retrain(sys.argv[4], out=out, data="digits", preset=preset)
    return run_search(FormulaTable.tiny(), out=out, preset=preset, proposals=["K1G1", "K3G1"], stage="connections")


with process_group():
    for number, changes in enumerate(cases):
        try:
            call(f"{{out}}/{{number}}", changes)
        except BpnasError as error:
            print(f"{{type(error).__name__}}: {{error}}" if rank() == 1 else "")
"""


@pytest.fixture
def answers(tmp_path):
    def run(command, *cases, network="", processes=3):
        program = tmp_path / "program.py"
        program.write_text(PROGRAM)
        outputs = run_together(processes, program, tmp_path / "out", command, json.dumps(cases), network)
        return outputs[1].splitlines()

    return run


def test_a_search_says_at_once_which_batch_is_too_small(answers, tmp_path):
    assert answers("search", {"connections.train.batch": 2}, {"retraining.batch": 2}) == [
        f"UsageError: --{name}-batch 2: torchrun started 3 processes, and each needs an image of every batch; "
        "give 3 or more, or start fewer processes"
        for name in ("connection", "retrain")
    ]
    assert not list((tmp_path / "out").rglob("*.jsonl")), "nothing was trained"


@pytest.mark.slow
def test_three_images_are_enough_for_three_processes(answers, tmp_path):
    smallest = {"retraining.batch": 3, "connections.train.batch": 3, "connections.train.epochs": 2}
    smallest |= {"connections.train.train_images": 24, "retraining.epochs": 1, "retraining.train_images": 10}
    assert answers("search", smallest) == []
    assert json.loads((tmp_path / "out/0/network.json").read_text())["accuracy"] >= 0.0


def test_so_does_a_retraining(answers, tmp_path):
    network = tmp_path / "network.json"
    values = {
        "mock": True,
        "device": "a formula",
        "runtime": "onnxruntime",
        "table_sha256": "0" * 64,
        "backbone": tiny_backbone().to_dict(),
        "blocks": block_texts([Block.parse("K3G1"), None, Block.parse("K3E2G1"), None]),
        "predicted_latency_ms": 0.25,
        "additivity": "sum",
        "target_ms": 0.3,
        "accuracy": 0.5,
        "data": "digits",
        "classes": list("abcdefghij"),
        "input": {"mean": [0.5] * 3, "std": [0.2] * 3},
    }
    network.write_text(json.dumps(values))
    (said,) = answers("retrain", {"retraining.batch": 2}, network=network)
    assert said.startswith("UsageError: --retrain-batch 2: torchrun started 3 processes")
    assert not (tmp_path / "out/0").exists()


def test_so_are_fewer_images_than_processes_before_the_supernet_is_trained(answers, tmp_path):
    brief = {"connections.train.train_images": 60, "retraining.train_images": 10, "connections.train.epochs": 2}
    (said,) = answers("search", brief, processes=11)
    assert "10 training images are too few for 11 processes" in said and "--retrain-images" in said
    assert not list((tmp_path / "out/0").rglob("connections.jsonl"))
