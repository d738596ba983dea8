"""Train a detector; a training that is interrupted resumes where it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from bpnas.base.randomness import derived_seed
from bpnas.search.data.batches import pick_device
from bpnas.search.errors import DataError
from bpnas.search.training.distributed import (
    add_gradients,
    my_share,
    share_buffers,
    sum_over_ranks,
    sync_batch_norms,
    world_size,
)
from bpnas.search.training.divergence import diverged_at
from bpnas.search.training.resumable import Kept, Phase, Place, Steps, run_epochs
from bpnas.search.training.seeded import seeded
from bpnas.search.transfer.cost import Stopwatch
from bpnas.search.transfer.detection.coco import CocoImage
from bpnas.search.transfer.detection.images import Targets, epoch_order, example, read_image
from bpnas.search.transfer.detection.settings import DetectionSettings
from bpnas.search.transfer.images import loaded_batches
from bpnas.search.transfer.recipe import Course

EpochOrder = tuple[list[list[int]], list[bool]]


@dataclass(frozen=True, slots=True)
class DetectionEpoch:
    """What one epoch did.

    Attributes:
        epoch: from 0.
        losses: mean over its steps, by the names that torchvision gives them.
    """

    epoch: int
    losses: dict[str, float]

    @property
    def loss(self) -> float:
        """Their sum, which is what is minimised."""
        return sum(self.losses.values())


class Losing(Protocol):
    """What is trained: a module with the losses of `bpnas.search.transfer.detection.model.Detector`."""

    def losses(
        self, images: list[Tensor], targets: list[Targets], seeds: Sequence[int]
    ) -> dict[str, tuple[Tensor, int]]:
        """Mean loss and number of samples, by name."""


def epoch_batches(images: Sequence[CocoImage], settings: DetectionSettings, seed: int, epoch: int) -> EpochOrder:
    """Numbers of the images of every batch of an epoch, and whether each image is mirrored in it."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "epoch", epoch))
    order = epoch_order(images, settings.batch, generator, world_size())
    return order, (torch.rand(len(images), generator=generator) < 0.5).tolist()


def detection_course(images: Sequence[CocoImage], settings: DetectionSettings, seed: int) -> Course:
    """How long a training is, and its learning rates.

    Raises:
        DataError: there are fewer images than processes.
    """
    steps = len(epoch_batches(images, settings, seed, 0)[0])
    if not steps:
        raise DataError(f"{len(images)} images with boxes make no batch that {world_size()} processes can share")
    return Course(settings, steps)


def train_detector(
    model: nn.Module,
    images: Sequence[CocoImage],
    settings: DetectionSettings,
    *,
    seed: int,
    checkpoint: Path | None = None,
    stopwatch: Stopwatch | None = None,
    on_epoch: Callable[[DetectionEpoch], None] = lambda report: None,
    on_step: Callable[[float, str], None] = lambda share, text: None,
) -> None:
    """Train `model` in place.

    Order and mirroring of an epoch, and the samples that a step takes its losses on, are drawn from `seed` and their
    numbers alone, so that a training resumed from `checkpoint` ends where an undisturbed one does, to the last bit
    on a CPU with as many threads. Where torchrun started several processes, each calls this with the same arguments
    and takes its share of every batch; together they do what one process does, up to rounding and to the padding of
    images, which are as large as the largest of their process.

    Args:
        model: see `build_detector`.
        images: with at least one box each.
        stopwatch: of the run, which goes on where an earlier call was stopped.
        checkpoint, on_epoch, on_step: see `run_epochs`.

    Raises:
        DataError: an image is damaged, or there are fewer than processes.
        DivergedError, RunError, SpaceError: see `run_epochs`; a loss is looked at before its step is taken.
    """
    training = _Training(model, images, settings, seed, stopwatch or Stopwatch())
    every_epoch = settings.epochs is not None  # an epoch may be one iteration of many
    run_epochs(training, checkpoint, every_epoch=every_epoch, on_epoch=on_epoch, on_step=on_step)
    share_buffers(model)


class _Training:
    """A detector, its optimiser, and the sums of its losses by their names."""

    def __init__(
        self,
        model: nn.Module,
        images: Sequence[CocoImage],
        settings: DetectionSettings,
        seed: int,
        stopwatch: Stopwatch,
    ) -> None:
        self._device = pick_device()
        if world_size() > 1 and settings.sync_bn and not settings.frozen_norms:
            sync_batch_norms(model)
        self._model, self._images, self._settings, self._seed = model.to(self._device).train(), images, settings, seed
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.SGD(
            self._parameters,
            settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self._sums: dict[str, float] = {}
        self._order: list[list[int]] = []
        self._mirrored: list[bool] = []
        self._course, self._stopwatch = detection_course(images, settings, seed), stopwatch
        self.place = Place()
        identity = {"seed": seed, "images": len(images), "shapes": [list(p.shape) for p in model.parameters()]}
        self.of: Mapping[str, Any] = {**identity, **asdict(settings)}
        states: dict[str, Kept] = {"model": model, "optimizer": self._optimizer}
        self.kept: Mapping[str, Kept] = {**states, "sums": self._sums, "spent": stopwatch.spent}

    @property
    def epochs(self) -> int:
        epoch = self.place.epoch
        return epoch if self._course.ends_before(epoch) else epoch + 1

    def phases(self) -> list[Phase]:
        epoch = self.place.epoch
        order, self._mirrored = epoch_batches(self._images, self._settings, self._seed, epoch)
        self._order = order[: self._course.steps(epoch)]
        return [Phase(len(self._order), self._run, self._rate)]

    def _rate(self, step: int) -> float:
        return self._course.rate(self.place.epoch, step)

    def _run(self) -> Steps:
        left = [numbers[my_share(len(numbers))] for numbers in self._order[self.place.step :]]
        batches = [[self._images[number] for number in numbers] for numbers in left]
        for numbers, pixels in zip(left, loaded_batches(batches, read_image), strict=True):
            examples = [
                example(image, self._images[number], self._mirrored[number], self._device)
                for image, number in zip(pixels, numbers, strict=True)
            ]
            for name, value in self._take_step(numbers, examples).items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._stopwatch.lap()
            yield torch.tensor(sum(self._sums.values()), dtype=torch.float64, device=self._device)

    def _take_step(self, numbers: list[int], examples: list[tuple[Tensor, Targets]]) -> dict[str, float]:
        """Follow the gradient of the sum of the losses of the whole batch, which are read before and returned."""
        epoch, step = self.place.epoch, self.place.step
        seeds = [derived_seed(self._seed, "image", epoch, number) for number in numbers]
        model: Any = self._model

        def forward() -> dict[str, tuple[Tensor, int]]:
            return cast("Losing", model).losses([image for image, _ in examples], [seen for _, seen in examples], seeds)

        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(step)
        self._optimizer.zero_grad(set_to_none=True)
        found = seeded(derived_seed(self._seed, "step", epoch, step), forward)
        losses = torch.stack([loss for loss, _ in found.values()])
        counts = torch.tensor([count for _, count in found.values()], dtype=losses.dtype, device=losses.device)
        shares = counts / sum_over_ranks(counts).clamp_min(1)  # each loss is a mean over samples of all processes
        values = dict(zip(found, sum_over_ranks((losses * shares).detach()).tolist(), strict=True))
        if (bad := next((name for name, value in values.items() if not math.isfinite(value)), None)) is not None:
            raise diverged_at(epoch, f"step {step + 1}", f"the loss {bad} is not finite", self._rate(step))
        (losses * shares).sum().backward()  # type: ignore[no-untyped-call]
        add_gradients(self._parameters)
        self._optimizer.step()
        return values

    def so_far(self) -> tuple[float, str]:
        done, loss = sum(map(len, self._order[: self.place.step])), sum(self._sums.values()) / self.place.step
        images = sum(map(len, self._order))
        return done / images, f"{done:,} of {images:,} images, loss {loss:.3f}"

    def end_epoch(self, since: Place, seconds: float) -> DetectionEpoch:
        losses = {name: value / len(self._order) for name, value in self._sums.items()}
        self._sums.clear()
        return DetectionEpoch(self.place.epoch, losses)
