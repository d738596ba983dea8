"""The training of detectors, with a small stand-in for torchvision's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F

from bpnas.base.errors import UsageError
from bpnas.search.errors import DivergedError
from bpnas.search.training import resumable
from bpnas.search.training.threads import set_threads, threads_kept
from bpnas.search.transfer.detection.coco import CocoImage, CocoSet, coco_files
from bpnas.search.transfer.detection.run import run_detection
from bpnas.search.transfer.detection.settings import DetectionSettings
from bpnas.search.transfer.detection.train import train_detector
from tests.coco_factory import coco_data
from tests.training_helpers import KilledError
from tests.transfer_images import faces, small_network

SETTINGS = DetectionSettings.load("tiny").override({"epochs": 2, "batch": 2})


class Stand(nn.Module):
    """Called as torchvision's detectors are in training, it draws by chance as they do."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.wrong = 1.0

    def forward(self, images: list[Any], targets: list[dict[str, Any]]) -> dict[str, Any]:
        classes, boxes = [], []
        for image, target in zip(images, targets, strict=True):
            seen = self.head(self.norm(self.conv(image[None])).relu().mean((2, 3)))
            labels = target["labels"].long() % 4
            classes.append(F.cross_entropy(seen.expand(len(labels), 4), labels))
            boxes.append(torch.rand(()) * (seen.mean() - target["boxes"].float().mean() / 100) ** 2)
        return {"loss_classifier": torch.stack(classes).mean(), "loss_box": self.wrong * torch.stack(boxes).mean()}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[CocoImage, ...]:
    data = coco_data(tmp_path_factory.mktemp("coco") / "data", train=7, val=1)
    return tuple(CocoSet.load(*coco_files(str(data), None, None, "train")).images_with_boxes())


def train(images: tuple[CocoImage, ...], **options: Any) -> tuple[dict[str, Any], list[Any]]:
    model, reports = Stand(), []
    with threads_kept():
        set_threads(1)
        train_detector(model, images, SETTINGS, seed=5, on_epoch=reports.append, **options)
    return model.state_dict(), reports


@pytest.mark.parametrize("saved", [1, 3, 4, 6])
def test_a_training_killed_after_any_step_ends_as_an_undisturbed_one(
    saved: int, images: tuple[CocoImage, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, whole = train(images)
    original, done = resumable.save_checkpoint, 0

    def save(path: Path, state: dict[str, Any]) -> None:
        nonlocal done
        # As it was written before all trainings had one loop.
        original(path, {name: value for name, value in state.items() if name != "phase"})
        done += 1
        if done == saved:
            raise KilledError

    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(resumable, "save_checkpoint", save)
    with pytest.raises(KilledError):
        train(images, checkpoint=tmp_path / "c.pt")
    monkeypatch.undo()
    state, rest = train(images, checkpoint=tmp_path / "c.pt")
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert rest == whole[-len(rest) :] and len(rest) == (2 if saved < 4 else 1)


def test_an_epoch_tells_how_it_goes(images: tuple[CocoImage, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "PROGRESS_SECONDS", 0.0)
    told: list[tuple[float, str]] = []
    _, reports = train(images, on_step=lambda *so_far: told.append(so_far))
    assert len(told) == 6  # three of the four steps of each epoch, whose end has a report
    done = [int(text.split()[0]) for _, text in told]
    assert [share for share, _ in told] == pytest.approx([images / 7 for images in done])
    assert done[0] < done[1] < done[2] < 7 and " of 7 images, loss " in told[2][1]
    assert float(told[2][1].split()[-1]) == pytest.approx(reports[0].loss, rel=0.5)


def test_the_loss_that_is_not_finite_is_named_before_its_step_is_taken(images: tuple[CocoImage, ...]) -> None:
    model = Stand()
    before = model.conv.weight.clone()
    model.wrong = torch.inf
    with pytest.raises(DivergedError, match=r"in epoch 1, step 1: the loss loss_box is not finite, .* rate of "):
        train_detector(model, images, SETTINGS, seed=5)
    assert torch.equal(model.conv.weight, before)


def test_several_processes_of_torchrun_are_refused(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    files, out = (tmp_path / "images", tmp_path / "annotations.json"), tmp_path / "run"
    with pytest.raises(UsageError, match=r"a detector can be trained by one process only: .* without torchrun"):
        run_detection(files, files, SETTINGS, out=out)
    data, network = faces(tmp_path / "faces", train=2, each=2, probes=1, distractors=1), small_network(tmp_path)
    done = cli("run-search", "transfer", "face", "--data", data, "--network", network, "--out", out)
    assert done.exit_code == 2 and "an embedding can be trained by one process only" in done.stderr
    assert not out.exists()
