"""Train a detector; a training that is interrupted resumes where it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bpnas.base.randomness import derived_seed
from bpnas.search.data.batches import pick_device
from bpnas.search.training.divergence import diverged_at
from bpnas.search.training.resumable import Kept, Phase, Place, Steps, run_epochs
from bpnas.search.training.seeded import seeded
from bpnas.search.transfer.detection.coco import CocoImage
from bpnas.search.transfer.detection.images import Targets, epoch_order, example, read_image
from bpnas.search.transfer.detection.settings import DetectionSettings
from bpnas.search.transfer.images import loaded_batches


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


def train_detector(
    model: nn.Module,
    images: Sequence[CocoImage],
    settings: DetectionSettings,
    *,
    seed: int,
    checkpoint: Path | None = None,
    on_epoch: Callable[[DetectionEpoch], None] = lambda report: None,
    on_step: Callable[[float, str], None] = lambda share, text: None,
) -> None:
    """Train `model` in place.

    Order and mirroring of an epoch, and the samples that a step takes its losses on, are drawn from `seed` and their
    numbers alone, so that a training resumed from `checkpoint` ends where an undisturbed one does, to the last bit
    on a CPU with as many threads.

    Args:
        model: see `build_detector`.
        images: with at least one box each.
        checkpoint, on_epoch, on_step: see `run_epochs`.

    Raises:
        DataError: an image is damaged.
        DivergedError, RunError, SpaceError: see `run_epochs`; a loss is looked at before its step is taken.
    """
    run_epochs(_Training(model, images, settings, seed), checkpoint, on_epoch=on_epoch, on_step=on_step)


class _Training:
    """A detector, its optimiser, and the sums of its losses by their names."""

    def __init__(self, model: nn.Module, images: Sequence[CocoImage], settings: DetectionSettings, seed: int) -> None:
        self._device = pick_device()
        self._model, self._images, self._settings, self._seed = model.to(self._device).train(), images, settings, seed
        self._optimizer = torch.optim.SGD(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self._sums: dict[str, float] = {}
        self._order: list[list[int]] = []
        self._mirrored: list[bool] = []
        self.epochs, self.place = settings.epochs, Place()
        identity = {"seed": seed, "images": len(images), "shapes": [list(p.shape) for p in model.parameters()]}
        self.of: Mapping[str, Any] = {**identity, **asdict(settings)}
        self.kept: Mapping[str, Kept] = {"model": model, "optimizer": self._optimizer, "sums": self._sums}

    def phases(self) -> list[Phase]:
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "epoch", self.place.epoch))
        self._order = epoch_order(self._images, self._settings.batch, generator)
        self._mirrored = (torch.rand(len(self._images), generator=generator) < 0.5).tolist()
        return [Phase(len(self._order), self._run, self._rate)]

    def _rate(self, step: int) -> float:
        steps = len(self._order)
        return self._settings.rate(self.place.epoch * steps + step, steps)

    def _run(self) -> Steps:
        left = self._order[self.place.step :]
        batches = [[self._images[number] for number in numbers] for numbers in left]
        for numbers, pixels in zip(left, loaded_batches(batches, read_image), strict=True):
            examples = [
                example(image, self._images[number], self._mirrored[number], self._device)
                for image, number in zip(pixels, numbers, strict=True)
            ]
            for name, value in self._take_step(examples).items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            yield torch.tensor(sum(self._sums.values()), dtype=torch.float64, device=self._device)

    def _take_step(self, examples: list[tuple[Tensor, Targets]]) -> dict[str, float]:
        """Follow the gradient of the sum of the losses, which are read before and returned."""
        epoch, step = self.place.epoch, self.place.step

        def forward() -> dict[str, Tensor]:
            losses: dict[str, Tensor] = self._model([image for image, _ in examples], [shown for _, shown in examples])
            return losses

        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(step)
        self._optimizer.zero_grad(set_to_none=True)
        losses = seeded(derived_seed(self._seed, "step", epoch, step), forward)
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if (bad := next((name for name, value in values.items() if not math.isfinite(value)), None)) is not None:
            raise diverged_at(epoch, f"step {step + 1}", f"the loss {bad} is not finite", self._rate(step))
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return values

    def so_far(self) -> tuple[float, str]:
        done, loss = sum(map(len, self._order[: self.place.step])), sum(self._sums.values()) / self.place.step
        return done / len(self._images), f"{done:,} of {len(self._images):,} images, loss {loss:.3f}"

    def end_epoch(self, since: Place, seconds: float) -> DetectionEpoch:
        losses = {name: value / len(self._order) for name, value in self._sums.items()}
        self._sums.clear()
        return DetectionEpoch(self.place.epoch, losses)
