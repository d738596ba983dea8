"""The one loop of all trainings: it resumes from a checkpoint, saves, tells, and stops at what is not finite.

A training has what is its own: batches, losses, optimiser, learning rate and state. Where torchrun started several
processes, all run the loop together: the first one writes and tells, and all begin at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from bpnas.search.data.batches import pick_device
from bpnas.search.errors import RunError
from bpnas.search.training.checkpoint import load_checkpoint, save_checkpoint
from bpnas.search.training.distributed import from_main, is_main, rank
from bpnas.search.training.divergence import FiniteWatch

CHECKPOINT_SECONDS = 60.0
PROGRESS_SECONDS = 5.0

Report = TypeVar("Report")
ReportOut = TypeVar("ReportOut", covariant=True)
Steps = Generator[Tensor, None, None]
_PLAIN = (Tensor, list, dict)
Kept = nn.Module | Optimizer | Tensor | list[Any] | dict[str, Any]


@dataclass(slots=True)
class Place:
    """How far a training is: `step` steps into `phase` of `epoch`, all from 0."""

    epoch: int = 0
    phase: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True)
class Phase:
    """The steps of one kind in an epoch.

    Attributes:
        steps: how many there are.
        run: takes those that are left, from the place of the training on. After each it yields the sum of the losses
            of the phase so far, on the device: reading it would wait for the step.
        rate: the learning rate of a step, counted from 0.
        name: as in `step 3 of NAME`; empty where an epoch has only one kind of steps.
    """

    steps: int
    run: Callable[[], Steps]
    rate: Callable[[int], float]
    name: str = ""


class ResumableTraining(Protocol[ReportOut]):
    """What one training has of its own.

    Attributes:
        epochs: how many there are in all, as far as that is known at the place.
        place: moved by the loop only.
        of: plain values that say which training this is.
        kept: all that a later process needs besides the place, by the names in the checkpoint. Models stay finite.
    """

    place: Place
    of: Mapping[str, Any]
    kept: Mapping[str, Kept]

    @property
    def epochs(self) -> int: ...

    def phases(self) -> Sequence[Phase]:
        """Begin the epoch of the place, or resume it, and say what it consists of."""

    def so_far(self) -> tuple[float, str]:
        """Which share of the epoch is done, 0..1, and how it goes."""

    def end_epoch(self, since: Place, seconds: float) -> ReportOut:
        """What this epoch did, of which the steps since that place were taken here; the losses then sum up from 0."""


def run_epochs(
    training: ResumableTraining[Report],
    checkpoint: Path | None,
    *,
    checkpoint_seconds: float | None = None,
    every_epoch: bool = True,
    on_epoch: Callable[[Report], None],
    on_step: Callable[[float, str], None],
    ended: Callable[[], bool] = lambda: False,
) -> None:
    """Train to the end of the last epoch, from `checkpoint` if it is there and of this training.

    Args:
        checkpoint: written after a step when that was last done `checkpoint_seconds` ago, by default
            `CHECKPOINT_SECONDS`, and at the end of an epoch. Not removed at the end.
        every_epoch: write it at the end of each epoch; else there, too, only when it is time.
        on_epoch: called by the first process at the end of each epoch, before the checkpoint is written: a kill in
            between repeats the end of the epoch, and with it the report.
        on_step: called by the first process within an epoch, at most every `PROGRESS_SECONDS`, with the share of the
            epoch that is done and a line about it.
        ended: called by all processes after `on_epoch`; whether to end here.

    Raises:
        DivergedError: a loss or a weight is not finite; said at the latest at the end of the phase, before anything is
            reported or written.
        RunError: the checkpoint is damaged, or not every process sees it.
        SpaceError: no space for the checkpoint; the previous one is kept.
    """
    place, kept = training.place, training.kept
    watch = FiniteWatch(pick_device(), *(part for part in kept.values() if isinstance(part, nn.Module)))
    if checkpoint is not None:
        _resume(training, checkpoint)
    interval = CHECKPOINT_SECONDS if checkpoint_seconds is None else checkpoint_seconds
    saved = shown = monotonic()

    def save(now: bool) -> None:
        nonlocal saved
        if checkpoint is not None and is_main() and (now or monotonic() - saved >= interval):
            states = {name: part if isinstance(part, _PLAIN) else part.state_dict() for name, part in kept.items()}
            at = {"epoch": place.epoch - 1, "phase": place.phase, "step": place.step}  # the last whole epoch
            save_checkpoint(checkpoint, {"of": dict(training.of), **states, **at})
            saved = monotonic()

    def after_step() -> None:
        nonlocal shown
        saves = checkpoint is not None and monotonic() - saved >= interval
        shows = monotonic() - shown >= PROGRESS_SECONDS
        if is_main() and (saves or shows) and watch.passes():
            save(now=saves)
            if shows:
                shown = monotonic()
                on_step(*training.so_far())

    while place.epoch < training.epochs:
        since, start = replace(place), perf_counter()
        for phase in training.phases()[place.phase :]:
            watch.begin(place.epoch, place.step, phase.rate, phase.name)
            with closing(phase.run()) as steps:
                for losses in steps:
                    watch.see(losses)
                    place.step += 1
                    if place.step < phase.steps or phase.name:  # the end of an unnamed phase is that of its epoch
                        after_step()
            watch.check()
            place.phase, place.step = place.phase + 1, 0
        report = training.end_epoch(since, perf_counter() - start)
        place.epoch, place.phase = place.epoch + 1, 0
        if is_main():
            on_epoch(report)
        if ended():
            break
        save(now=every_epoch)


def _resume(training: ResumableTraining[Any], checkpoint: Path) -> None:
    state, place = load_checkpoint(checkpoint), training.place
    # The state of another training, left behind by an earlier call, is as good as none.
    if state is not None and state.get("of") == training.of:
        for name, part in training.kept.items():
            if name in state or not isinstance(part, dict):  # of an earlier bpnas, without what is told beside
                _restore(part, state[name])
        # Trainings of one phase did not always note it.
        place.epoch, place.phase, place.step = state["epoch"] + 1, state.get("phase", 0), state["step"]
    if from_main(astuple(place)) != astuple(place):
        raise RunError(f"{checkpoint}: process {rank()} sees another one than the first; all need the same disk")


def _restore(part: Kept, state: Any) -> None:
    if isinstance(part, Tensor):
        part.copy_(state)
    elif isinstance(part, list):
        part[:] = state
    elif isinstance(part, dict):
        part |= state
    else:
        part.load_state_dict(state)
