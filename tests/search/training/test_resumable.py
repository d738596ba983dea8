"""The loop of all trainings: when it saves, tells and ends, and from where it resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bpnas.search.errors import DivergedError, RunError
from bpnas.search.training import resumable
from bpnas.search.training.checkpoint import load_checkpoint, save_checkpoint
from bpnas.search.training.resumable import Phase, Place, run_epochs
from tests.training_helpers import KilledError


class Sums:
    """A training that sums up numbers: three of a first kind and two of a second."""

    def __init__(self, epochs: int = 2, names: tuple[str, ...] = ("first", "second"), factor: float = 1.0) -> None:
        self.epochs, self.place, self.names, self.factor = epochs, Place(), names, factor
        self.weight = torch.nn.Linear(1, 1, bias=False).requires_grad_(False)
        self.weight.weight.zero_()
        self.losses, self.closed = torch.zeros(()), 0
        self.seen: list[int] = []
        self.counts: dict[str, float] = {}
        self.of = {"names": list(names)}
        self.kept = {"model": self.weight, "losses": self.losses, "seen": self.seen, "counts": self.counts}

    def phases(self) -> list[Phase]:
        return [Phase(steps, self.run, lambda step: 0.5, name) for steps, name in zip((3, 2), self.names, strict=False)]

    def run(self) -> resumable.Steps:
        try:
            for step in range(self.place.step, 3 - self.place.phase):
                self.losses += self.factor * (step + 1)
                self.weight.weight *= 1.5
                self.weight.weight += self.place.epoch + self.place.phase + step
                self.seen.append(step)
                self.counts["steps"] = self.counts.get("steps", 0.0) + 1.0
                yield self.losses
        finally:
            self.closed += 1

    def so_far(self) -> tuple[float, str]:
        return 0.5, f"{self.place.epoch} {self.place.phase} {self.place.step}"

    def end_epoch(self, since: Place, seconds: float) -> tuple[int, float, Place]:
        loss = float(self.losses)
        self.losses.zero_()
        return self.place.epoch, loss, since


def ignore(*_: object) -> None:
    pass


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """The places that are written, with the last whole epoch."""
    places = []

    def save(path: Path, state: dict[str, Any]) -> None:
        save_checkpoint(path, state)
        places.append((state["epoch"], state["phase"], state["step"]))

    monkeypatch.setattr(resumable, "save_checkpoint", save)
    return places


def run(training: Sums, checkpoint: Path | None = None, **options: Any) -> list[tuple[int, float, Place]]:
    reports: list[tuple[int, float, Place]] = []
    run_epochs(training, checkpoint, **{"on_epoch": reports.append, "on_step": ignore, **options})
    return reports


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("",), [(-1, 0, 1), (-1, 0, 2), (0, 0, 0), (0, 0, 1), (0, 0, 2), (1, 0, 0)]),
        (("a", "b"), [(-1, 0, 1), (-1, 0, 2), (-1, 0, 3), (-1, 1, 1), (-1, 1, 2), (0, 0, 0), (0, 0, 1)]),
    ],
)
def test_each_step_may_be_saved_but_an_end_of_an_epoch_only_once(
    names: tuple[str, ...], expected: list[Any], saves: list[Any], tmp_path: Path
) -> None:
    run(Sums(names=names), tmp_path / "c.pt", checkpoint_seconds=0)
    assert saves[: len(expected)] == expected


def test_what_is_not_due_is_saved_at_the_end_of_an_epoch_or_not_at_all(saves: list[Any], tmp_path: Path) -> None:
    run(Sums(), tmp_path / "c.pt")
    assert saves == [(0, 0, 0), (1, 0, 0)]
    run(Sums(), tmp_path / "d.pt", every_epoch=False)
    assert len(saves) == 2 and not (tmp_path / "d.pt").exists()


@pytest.mark.parametrize("saved", range(1, 13))
def test_a_training_resumes_at_any_place_even_where_its_phase_was_not_noted(
    saved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, names, done = Sums(), ("first", "second"), 0
    expected = run(whole)

    def save(path: Path, state: dict[str, Any]) -> None:
        nonlocal done
        old = {name: value for name, value in state.items() if name != "phase" or value}
        save_checkpoint(path, old)
        done += 1
        if done == saved:
            raise KilledError

    monkeypatch.setattr(resumable, "save_checkpoint", save)
    with pytest.raises(KilledError):
        run(Sums(names=names), tmp_path / "c.pt", checkpoint_seconds=0)
    state = load_checkpoint(tmp_path / "c.pt")
    assert state is not None
    place = Place(state["epoch"] + 1, state.get("phase", 0), state["step"])
    training = Sums()
    reports = run(training, tmp_path / "c.pt")
    assert training.weight.weight == whole.weight.weight
    assert training.seen == whole.seen == [0, 1, 2, 0, 1] * 2 and training.counts == whole.counts == {"steps": 10.0}
    assert [report[:2] for report in reports] == [report[:2] for report in expected][place.epoch :]
    assert not reports or reports[0][2] == place
    # All is done: nothing is trained again.
    assert run(Sums(), tmp_path / "c.pt") == []


def test_the_state_of_another_training_is_as_good_as_none(tmp_path: Path) -> None:
    run(Sums(names=("other",)), tmp_path / "c.pt")
    assert len(run(Sums(), tmp_path / "c.pt")) == 2


def test_the_report_comes_before_the_checkpoint_and_ended_after_the_report(saves: list[Any], tmp_path: Path) -> None:
    told: list[Any] = []

    def ended() -> bool:
        told.append(("ended", len(saves)))
        return len(told) == 4

    run(Sums(epochs=9), tmp_path / "c.pt", on_epoch=lambda report: told.append((report[0], len(saves))), ended=ended)
    assert told == [(0, 0), ("ended", 0), (1, 1), ("ended", 1)] and saves == [(0, 0, 0)]


def test_progress_is_told_only_when_it_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    run(Sums(epochs=1), on_step=lambda share, text: told.append(text))
    assert told == []
    monkeypatch.setattr(resumable, "PROGRESS_SECONDS", 0.0)
    run(Sums(epochs=1), on_step=lambda share, text: told.append(text))
    assert told == ["0 0 1", "0 0 2", "0 0 3", "0 1 1", "0 1 2"]


def test_the_first_loss_that_is_not_finite_is_named_and_its_phase_is_left(saves: list[Any], tmp_path: Path) -> None:
    training = Sums(factor=1e38)  # of which six are more than float32 holds
    told: list[Any] = []
    with pytest.raises(DivergedError, match=r"in epoch 1, step 3 of first: the loss is not finite, at .* rate of 0\.5"):
        run(training, tmp_path / "c.pt", checkpoint_seconds=0, on_epoch=told.append)
    assert saves == [(-1, 0, 1), (-1, 0, 2)] and told == [] and training.closed == 1


def test_other_processes_write_and_tell_nothing_and_must_see_the_same_checkpoint(
    saves: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "is_main", lambda: False)
    monkeypatch.setattr(resumable, "PROGRESS_SECONDS", 0.0)
    told: list[Any] = []
    options = {"on_epoch": told.append, "on_step": lambda *so_far: told.append(so_far)}
    run(Sums(), tmp_path / "c.pt", checkpoint_seconds=0, **options)
    assert told == saves == []
    monkeypatch.setattr(resumable, "from_main", lambda value: (1, 0, 0))
    with pytest.raises(RunError, match=r"c\.pt: process 0 sees another one than the first"):
        run(Sums(), tmp_path / "c.pt")
