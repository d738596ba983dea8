"""The training of detectors, with a small stand-in for torchvision's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bpnas.search.errors import DivergedError
from bpnas.search.training import resumable
from bpnas.search.training.threads import set_threads, threads_kept
from bpnas.search.transfer.detection.coco import CocoImage, CocoSet, coco_files
from bpnas.search.transfer.detection.settings import DetectionSettings
from bpnas.search.transfer.detection.train import train_detector
from tests.coco_factory import coco_data
from tests.losing_detector import Stand
from tests.training_helpers import KilledError

SETTINGS = DetectionSettings.load("tiny").override({"epochs": 2, "batch": 2})


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
        original(path, {name: value for name, value in state.items() if name not in ("phase", "spent")})
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
