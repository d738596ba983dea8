"""Train one model on images in memory, and measure its accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpnas.search.allocator import keep_freed_memory
from bpnas.search.batches import batch_count, batches, on_device, pick_device
from bpnas.search.chance import derived_seed
from bpnas.search.checkpoint import load_checkpoint, save_checkpoint
from bpnas.search.data import Dataset, Split
from bpnas.search.errors import DataError
from bpnas.search.presets import TrainSettings

EVALUATION_BATCH = 256
CHECKPOINT_SECONDS = 60.0

Curve = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What one epoch did.

    Attributes:
        epoch: from 0.
        loss: mean cross-entropy of the training images.
        images, seconds: trained in this epoch, and how long that took; after a resumption in its middle, since then.
    """

    epoch: int
    loss: float
    images: int
    seconds: float


def learning_rate(settings: TrainSettings, progress: float) -> float:
    """The rate after a share `progress` (0..1) of all steps."""
    if settings.schedule == "constant":
        return settings.learning_rate
    span = settings.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + span * (1 + math.cos(math.pi * progress)) / 2


def make_sgd(model_parameters: list[nn.Parameter], settings: TrainSettings) -> torch.optim.SGD:
    """The optimiser that `settings` describe, for parameters that are on their device."""
    return torch.optim.SGD(
        model_parameters,
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov and settings.momentum > 0,
        fused=True,
    )


def train(
    model: nn.Module,
    dataset: Dataset,
    split: Split,
    settings: TrainSettings,
    *,
    seed: int,
    checkpoint: Path | None = None,
    checkpoint_seconds: float | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    ended: Callable[[int, Curve], bool] = lambda epochs, curve: False,
) -> Curve:
    """Train `model` in place on `split`.

    Every epoch draws its chance from `seed` and its number alone, so that a training that goes on from `checkpoint`
    ends where an undisturbed one does, to the last bit on a CPU with as many threads.

    Args:
        model: (N, 3, S, S) -> (N, classes).
        split: the images, best on the device already (see `on_device`).
        checkpoint: gone on from if it is there and of this training; written after an epoch or a step when that was
            last done `checkpoint_seconds` ago, by default `CHECKPOINT_SECONDS`. Not removed at the end.
        ended: called with the number of epochs done and a list that it may append to, and that is kept in the
            checkpoint; whether to end here.

    Returns:
        The list of `ended`.

    Raises:
        DataError: there are fewer than two images.
        RunError: the checkpoint is damaged.
        SpaceError: no space for the checkpoint; the previous one is kept.
    """
    if len(split) < 2:
        raise DataError(f"{dataset.source}: training needs at least two images")
    training = _Training(model, dataset, on_device(split, pick_device()), settings, seed)
    if checkpoint is not None:
        training.restore(load_checkpoint(checkpoint))
    interval, saved = CHECKPOINT_SECONDS if checkpoint_seconds is None else checkpoint_seconds, monotonic()

    def save() -> None:
        nonlocal saved
        if checkpoint is not None and monotonic() - saved >= interval:
            save_checkpoint(checkpoint, training.state())
            saved = monotonic()

    while training.epoch < settings.epochs:
        on_epoch(training.run_epoch(save))
        if ended(training.epoch, training.curve):
            break
        save()
    return training.curve


class _Training:
    """A model, its optimiser, and how far both are: `step` steps into `epoch`, both from 0."""

    def __init__(self, model: nn.Module, dataset: Dataset, split: Split, settings: TrainSettings, seed: int) -> None:
        keep_freed_memory()
        self._device = pick_device()
        if self._device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all batches but the last have one shape
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True  # the same numbers, and half the feature maps
        model.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model, self._dataset, self._split, self._settings, self._seed = model, dataset, split, settings, seed
        self._forward: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False) if settings.compile else model
        self._optimizer = make_sgd(list(model.parameters()), settings)
        self._loss = torch.zeros((), device=self._device)
        self.epoch, self.step = 0, 0
        self.curve: Curve = []

    def run_epoch(self, after_step: Callable[[], None]) -> EpochReport:
        """Train to the end of the epoch."""
        start, first, settings = perf_counter(), self.step, self._settings
        steps = batch_count(len(self._split), settings.batch)
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "epoch", self.epoch))
        self._model.train()
        for images, labels in batches(self._dataset, self._split, settings.batch, generator, self._device, first):
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate(settings, (self.epoch * steps + self.step) / (settings.epochs * steps))
            self._optimizer.zero_grad(set_to_none=True)
            with _precision(settings, self._device):
                loss = F.cross_entropy(self._forward(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            # A sum on the device: reading it here would wait for the step.
            self._loss += loss.detach() * len(labels)
            self.step += 1
            if self.step < steps:
                after_step()
        count = min(steps * settings.batch, len(self._split))
        mean = float(self._loss) / max(count, 1)
        done = count - min(first * settings.batch, count)
        self._loss.zero_()
        self.epoch, self.step = self.epoch + 1, 0
        return EpochReport(self.epoch - 1, mean, done, perf_counter() - start)

    def state(self) -> dict[str, Any]:
        """All that a later process needs, as tensors and plain values."""
        return {
            "of": self._identity(),
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "epoch": self.epoch - 1,  # the last whole one, as in the checkpoints of the connection search
            "step": self.step,
            "loss": self._loss,
            "curve": self.curve,
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from `state`; a state of another training, left behind by whatever, is as good as none."""
        if state is None or state.get("of") != self._identity():
            return
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._loss.copy_(state["loss"])
        self.epoch, self.step = state["epoch"] + 1, state["step"]
        self.curve = [(epochs, accuracy) for epochs, accuracy in state["curve"]]

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "images": len(self._split),
            "source": self._dataset.source,
            "shapes": [list(parameter.shape) for parameter in self._model.parameters()],
            **asdict(self._settings),
        }


def _precision(settings: TrainSettings, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")


@torch.no_grad()
def accuracy(model: nn.Module, dataset: Dataset, split: Split) -> float:
    """Share of the images of `split` that `model` puts into the right class, 0..1, in float32."""
    model.eval()
    device = next(model.parameters()).device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, len(split), EVALUATION_BATCH):
        images = split.images[start : start + EVALUATION_BATCH].to(device)
        labels = split.labels[start : start + EVALUATION_BATCH].to(device)
        correct += (model(dataset.normalized(images)).argmax(dim=1) == labels).sum()
    return int(correct) / len(split)
