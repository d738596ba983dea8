"""Transfer tasks by several processes, as torchrun starts them: together they do what one process does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")

from safetensors.torch import load_file

from bpnas.search.errors import DataError
from bpnas.search.training.threads import set_threads, threads_kept
from bpnas.search.transfer.detection.coco import CocoSet, coco_files
from bpnas.search.transfer.detection.settings import DetectionSettings
from bpnas.search.transfer.detection.train import train_detector
from tests.coco_factory import coco_data
from tests.losing_detector import Stand
from tests.programs import run_together, script
from tests.root import FIND_TESTS
from tests.transfer_images import faces, market, small_network

# Of the last batch, one process has more images than the other.
SETTINGS = DetectionSettings.load("tiny").override({"iterations": 9, "batch": 4, "warmup_iterations": 2})

PROGRAM = f"""{FIND_TESTS}
from pathlib import Path
from tests.search.transfer.test_transfer_together import train_stand
from bpnas.search.training.distributed import process_group

with process_group():
    train_stand(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def train_stand(data: Path, out: Path) -> None:
    set_threads(1)
    model, reports = Stand(), []
    images = CocoSet.load(*coco_files(str(data), None, None, "train")).images_with_boxes()
    train_detector(model, images, SETTINGS, seed=5, checkpoint=out / "c.pt", on_epoch=reports.append)
    if reports:  # of the first process only
        losses = [[report.epoch, *report.losses.values()] for report in reports]
        torch.save({"weights": model.state_dict(), "losses": losses}, out / "end.pt")


@threads_kept()
def test_a_detector_is_trained_by_two_processes_as_by_one(tmp_path: Path) -> None:
    data = coco_data(tmp_path / "coco", train=14, val=1, size=96)
    ends, program = [], tmp_path / "program.py"
    program.write_text(PROGRAM)
    for processes in (1, 2):
        out = tmp_path / str(processes)
        out.mkdir()
        if processes == 1:
            train_stand(data, out)
        else:
            run_together(processes, program, data, out)
        ends.append(torch.load(out / "end.pt", weights_only=True))
    one, two = ends
    assert [row[0] for row in two["losses"]] == [0, 1, 2]  # of 4 iterations, 4 and 1
    torch.testing.assert_close(torch.tensor(two["losses"]), torch.tensor(one["losses"]), rtol=1e-4, atol=1e-5)
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, rtol=1e-3, atol=1e-4, msg=name)


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("face", ["--batch", 32, "--rate", 0.01]),
        ("reid", ["--batch", 32, "--rate", 0.001, "--optimizer", "sgd"]),  # Adam makes rounding larger
        ("reid", ["--preset", "paper", "--batch", 32, "--height", 32, "--width", 16, "--rate", 0.01]),
    ],
    ids=["face", "triplets", "identity"],
)
@threads_kept()
def test_embeddings_are_trained_by_two_processes_as_by_one(
    task: str, options: list[Any], cli: Any, tmp_path: Path
) -> None:
    set_threads(1)
    if task == "face":
        data = faces(tmp_path / "data", train=8, each=9, probes=4, distractors=12)  # 72 images: batches of 32, 32 and 8
    else:
        data = market(tmp_path / "data", train=9, each=8, test=4)
    words = ["--data", data, "--network", small_network(tmp_path), "--iterations", 5, "--warmup-iterations", 0]
    command = ["transfer", task, *words, *options, "--seed", 2, "--out"]
    done = cli("run-search", *map(str, command), tmp_path / "one")
    assert done.exit_code == 0, done.stderr
    said = run_together(2, script("run-search"), *command, tmp_path / "two")
    assert "Files: " in said[0] and said[1] == ""  # the first process speaks
    one, two = (load_file(tmp_path / name / "embedder.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=2e-3, atol=2e-4, msg=name)
    lines = [(tmp_path / name / "epochs.jsonl").read_text().splitlines() for name in ("one", "two")]
    losses = [[json.loads(line)["loss"] for line in each] for each in lines]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert result(tmp_path / "two")["cost"]["processes"] == 2
    assert result(tmp_path / "two")["settings"] == result(tmp_path / "one")["settings"]


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_made(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpnas.search.training.distributed.world_size", lambda: 3)
    data, network = faces(tmp_path / "faces", train=2, each=2, probes=1, distractors=1), small_network(tmp_path)
    words = ["--data", data, "--network", network, "--batch", 32, "--out", tmp_path / "run"]
    done = cli("run-search", "transfer", "face", *words)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert "a batch of 32 images cannot be shared evenly by 3 processes: choose a --batch" in done.stderr
    assert not (tmp_path / "run").exists()


def test_fewer_images_than_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = coco_data(tmp_path / "coco", train=3, val=1)
    images = CocoSet.load(*coco_files(str(data), None, None, "train")).images_with_boxes()
    monkeypatch.setattr("bpnas.search.transfer.detection.train.world_size", lambda: 4)
    monkeypatch.setattr("bpnas.search.transfer.detection.train.sync_batch_norms", lambda model: None)
    with pytest.raises(DataError, match="3 images with boxes make no batch that 4 processes can share"):
        train_detector(Stand(), images, SETTINGS, seed=0)
