"""Train one model on images in memory, and measure its accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpnas.search.chance import derived_seed
from bpnas.search.checkpoint import load_checkpoint, save_checkpoint
from bpnas.search.data import Dataset, Split, augmented
from bpnas.search.errors import DataError
from bpnas.search.presets import TrainSettings

EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What one epoch did.

    Attributes:
        epoch: from 0.
        loss: mean cross-entropy of the training images.
        images, seconds: trained in this epoch, and how long that took.
    """

    epoch: int
    loss: float
    images: int
    seconds: float


def pick_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learning_rate(settings: TrainSettings, progress: float) -> float:
    """The rate after a share `progress` (0..1) of all steps."""
    if settings.schedule == "constant":
        return settings.learning_rate
    span = settings.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + span * (1 + math.cos(math.pi * progress)) / 2


def make_sgd(model_parameters: list[nn.Parameter], settings: TrainSettings) -> torch.optim.SGD:
    """The optimiser that `settings` describe."""
    return torch.optim.SGD(
        model_parameters,
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov and settings.momentum > 0,
    )


def batch_count(images: int, batch: int) -> int:
    """How many batches `batches` makes of so many images."""
    return images // batch + (1 if images % batch > 1 else 0)


def batches(
    dataset: Dataset, split: Split, batch: int, generator: torch.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented, normalised batches of one epoch in random order: (N, 3, S, S) float32 and (N,) int64.

    A last batch of a single image is left out: batch normalisation has no variance to offer there.
    """
    order = torch.randperm(len(split), generator=generator)
    for number in range(batch_count(len(split), batch)):
        index = order[number * batch : (number + 1) * batch]
        images = augmented(split.images[index], dataset.flip, generator).to(device)
        yield dataset.normalized(images), split.labels[index].to(device)


def train(
    model: nn.Module,
    dataset: Dataset,
    split: Split,
    settings: TrainSettings,
    *,
    seed: int,
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> None:
    """Train `model` in place on `split`.

    Every epoch draws its chance from `seed` and its number alone, so that a training that goes on from `checkpoint`
    ends where an undisturbed one does.

    Args:
        model: (N, 3, S, S) -> (N, classes).
        checkpoint: written after every epoch, and gone on from if it exists.

    Raises:
        DataError: there are fewer than two images.
        RunError: the checkpoint is damaged.
        SpaceError: no space for the checkpoint; the previous one is kept.
    """
    if len(split) < 2:
        raise DataError(f"{dataset.source}: training needs at least two images")
    device = pick_device()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_sgd(list(model.parameters()), settings)
    done = 0
    if checkpoint is not None and (state := load_checkpoint(checkpoint)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["epoch"] + 1
    steps = batch_count(len(split), settings.batch)
    for epoch in range(done, settings.epochs):
        model.train()
        generator = torch.Generator().manual_seed(derived_seed(seed, "epoch", epoch))
        start, total, count = perf_counter(), torch.zeros((), device=device), 0
        for step, (images, labels) in enumerate(batches(dataset, split, settings.batch, generator, device)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, (epoch * steps + step) / (settings.epochs * steps))
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach() * len(labels)
            count += len(labels)
        on_epoch(EpochReport(epoch, float(total) / max(count, 1), count, perf_counter() - start))
        if checkpoint is not None:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            save_checkpoint(checkpoint, state)


@torch.no_grad()
def accuracy(model: nn.Module, dataset: Dataset, split: Split) -> float:
    """Share of the images of `split` that `model` puts into the right class, 0..1."""
    model.eval()
    device = next(model.parameters()).device
    correct = 0
    for start in range(0, len(split), EVALUATION_BATCH):
        images = dataset.normalized(split.images[start : start + EVALUATION_BATCH].to(device))
        labels = split.labels[start : start + EVALUATION_BATCH].to(device)
        correct += int((model(images).argmax(dim=1) == labels).sum())
    return correct / len(split)
