"""Trainings by several processes, as torchrun starts them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bpnas.search.errors import DataError
from bpnas.search.presets import TrainSettings
from bpnas.search.training.threads import set_threads, threads_kept
from bpnas.search.training.train import accuracy, train
from tests.programs import run_together
from tests.root import FIND_TESTS
from tests.training_helpers import flat_model, model, small

# 70 images: of the last batch, 6 images, one process gets as many as the other; of every part of a batch, too.
SETTINGS = TrainSettings(epochs=2, batch=16, learning_rate=0.05, weight_decay=5e-4, label_smoothing=0.1, ema_decay=0.5)

PROGRAM = f"""{FIND_TESTS}
import warnings
from pathlib import Path

warnings.simplefilter("error")
from tests.search.training.test_train_together import run
from bpnas.search.training.distributed import process_group

with process_group():
    run(Path(sys.argv[1]), *map(int, sys.argv[2:]))
"""


def run(directory: Path, epochs: int, accumulate: int = 1, flat: int = 0) -> None:
    """Train with a checkpoint after every step, and write what came out; stopped before epoch number `epochs` is saved.

    Args:
        flat: take a model without batch normalisation.
    """
    set_threads(1)
    directory.mkdir(exist_ok=True)
    module, dataset, losses = flat_model() if flat else model(), small(), []

    def ended(done, curve):
        curve.append((done, accuracy(module, dataset, dataset.test, together=True)))
        return done == epochs

    curve = train(
        module,
        dataset,
        dataset.train,
        replace(SETTINGS, accumulate=accumulate),
        seed=3,
        checkpoint=directory / "training.pt",
        checkpoint_seconds=0,
        on_epoch=lambda report: losses.append((report.epoch, report.loss)),
        ended=ended,
    )
    if losses:  # of the first process only
        state = {"weights": module.state_dict(), "losses": losses, "curve": curve}
        torch.save(state, directory / f"{epochs}.pt")


def train_together(directory: Path, processes: int, *arguments: int) -> dict:
    directory.mkdir(exist_ok=True)
    (directory / f"{arguments[0]}.pt").unlink(missing_ok=True)
    program = directory / "program.py"
    program.write_text(PROGRAM)
    run_together(processes, program, directory, *arguments)
    return result(directory, arguments[0])


def result(directory: Path, epochs: int) -> dict:
    return torch.load(directory / f"{epochs}.pt", weights_only=True)


def check_close(found: dict, expected: dict) -> None:
    assert [epoch for epoch, _ in found["losses"]] == [epoch for epoch, _ in expected["losses"]]
    for (_, loss), (_, other) in zip(found["losses"], expected["losses"], strict=True):
        assert loss == pytest.approx(other, rel=1e-4)
    for name, value in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, rtol=1e-3, atol=1e-4, msg=name)


@threads_kept()
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    run(tmp_path / "alone", 2)
    alone, together = result(tmp_path / "alone", 2), train_together(tmp_path / "together", 2, 2)
    check_close(together, alone)
    assert [epochs for epochs, _ in together["curve"]] == [1, 2]
    assert together["curve"][-1][1] == pytest.approx(alone["curve"][-1][1], abs=0.03)


@pytest.mark.slow
@threads_kept()
def test_a_training_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """The first call ends with a checkpoint of step 4 of 5 of the first epoch."""
    run(tmp_path / "alone", 2)
    alone = result(tmp_path / "alone", 2)
    train_together(tmp_path / "fewer", 2, 1)
    run(tmp_path / "fewer", 2)
    check_close(result(tmp_path / "fewer", 2), alone)
    run(tmp_path / "more", 1)
    check_close(train_together(tmp_path / "more", 3, 2), alone)


@pytest.mark.slow
@threads_kept()
def test_two_processes_that_take_batches_in_parts_follow_the_gradient_of_the_whole(tmp_path: Path) -> None:
    run(tmp_path / "alone", 2, 1, 1)
    check_close(train_together(tmp_path / "together", 2, 2, 3, 1), result(tmp_path / "alone", 2))


def test_more_processes_than_images_in_a_batch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from bpnas.search.training import train as train_module

    monkeypatch.setattr(train_module, "world_size", lambda: 17)
    with pytest.raises(DataError, match="a batch of 16 images is too small for 17 processes"):
        train(model(), small(), small().train, SETTINGS, seed=0)
