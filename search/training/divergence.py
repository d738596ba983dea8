"""Whether a training still computes with finite numbers: the one check of all trainings.

Losses are looked at on the device, step by step. What was seen is read where the training waits for the device anyway:
at the end of an epoch or phase, before a checkpoint is written and when progress is shown. The step of the first loss
that is not finite is known all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bpnas.search.errors import DivergedError
from bpnas.search.training.distributed import world_size

if TYPE_CHECKING:
    from bpnas.search.run_directory import RunDirectory


class FiniteWatch:
    """Watches the losses and the weights of one training.

    Args:
        device: where the losses are.
        models: whose parameters and buffers, as running statistics, must stay finite.
    """

    def __init__(self, device: torch.device, *models: nn.Module) -> None:
        self._models = models
        self._good = torch.zeros((), dtype=torch.int64, device=device)

    def begin(self, epoch: int, step: int, rate: Callable[[int], float], phase: str = "") -> None:
        """Steps of an epoch or a phase begin, or are resumed after `step` of them; `rate` is that of a step, from 0."""
        self._good.fill_(step)
        self._epoch, self._step, self._rate, self._of_phase = epoch, step, rate, f" of {phase}" if phase else ""

    def see(self, total: Tensor) -> None:
        """One more step is done, and the losses of its epoch sum up to `total`; nothing waits for the device.

        A sum that is not finite stays so: the steps in which it is finite are those before the first bad loss.
        """
        self._good += total.isfinite()
        self._step += 1

    def check(self) -> None:
        """All processes of torchrun call this together, and all raise or none.

        Raises:
            DivergedError: a loss of this epoch, or now a weight, is not finite.
        """
        state = torch.stack([self._good, self._weights().to(torch.int64)])
        if world_size() > 1:
            dist.all_reduce(state, dist.ReduceOp.MIN)
        self._check(*state.tolist())

    def passes(self) -> bool:
        """As `check`, within an epoch and where only one process asks: whether the state is worth to be kept.

        Among several processes it answers no, and the end of the epoch tells them all; a single one ends here.

        Raises:
            DivergedError: as `check`.
        """
        try:
            self._check(int(self._good), int(self._weights()))
        except DivergedError:
            if world_size() == 1:
                raise
            return False
        return True

    def _weights(self) -> Tensor:
        """Whether they are finite, as a number on the device."""
        values = [value for model in self._models for value in model.state_dict().values() if value.is_floating_point()]
        return torch.stack([value.isfinite().all().to(self._good.device) for value in values]).all()

    def _check(self, good: int, weights: int) -> None:
        if good < self._step:
            step = f"step {good + 1}{self._of_phase}"
            raise diverged_at(self._epoch, step, "the loss is not finite", self._rate(good))
        if not weights:
            step, rate = f"step {self._step}{self._of_phase}", self._rate(max(self._step - 1, 0))
            raise diverged_at(self._epoch, step, "a weight is not finite after it", rate)


def diverged_at(epoch: int, step: str, what: str, rate: float) -> DivergedError:
    """The error of a training that diverged in `epoch`, from 0; `step` names the step, `rate` is its learning rate."""
    return DivergedError(f"in epoch {epoch + 1}, {step}: {what}, at a learning rate of {rate:.3g}", epoch=epoch)


def is_finite(state: Mapping[str, Any]) -> bool:
    """Whether all weights and losses of a training state are: its tensors and numbers, and those of its dictionaries.

    What is deeper belongs to optimisers.
    """
    return all(map(_is_finite, _values(state)))


def _values(state: Mapping[str, Any]) -> Iterator[Any]:
    for value in state.values():
        yield from value.values() if isinstance(value, dict) else [value]


def _is_finite(value: object) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    return not isinstance(value, float) or math.isfinite(value)


def first_bad(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that is not finite; None if all are."""
    return next((name for name, tensor in tensors if not _is_finite(tensor)), None)


@contextmanager
def stage_in(directory: RunDirectory, stage: str, *, lines: str, checkpoint: Path, retry: str) -> Iterator[None]:
    """Around a training whose records are in a run directory: what a diverged one has left is put out of the way.

    So nobody resumes from it, and the same command may begin the stage again, with another learning rate, too.

    Args:
        stage: for the message.
        lines: the .jsonl file of its epochs.
        checkpoint: of its state.
        retry: what is kept and what the user may do, as the end of the message.

    Raises:
        DivergedError: the one raised within, which now says all that.
    """
    try:
        yield
    except DivergedError as error:
        directory.put_aside(lines, checkpoint)
        raise error.of(stage, retry) from None
