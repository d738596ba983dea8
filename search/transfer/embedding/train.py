"""Train a network's embeddings from image files.

`bpnas.search.train` is of no use here: it trains classifiers by SGD, on square images that are all in memory. Face sets
have millions of images; and embeddings want losses with weights of their own, PK batches, and Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bpnas.base.randomness import derived_seed
from bpnas.search.data.batches import pick_device
from bpnas.search.training.malloc import keep_freed_memory
from bpnas.search.training.resumable import Kept, Phase, Place, Steps, run_epochs
from bpnas.search.training.train import EpochReport
from bpnas.search.transfer.embedding.augment import augmented
from bpnas.search.transfer.embedding.model import Embedder
from bpnas.search.transfer.embedding.sampling import pk_batches, shuffled_batches
from bpnas.search.transfer.embedding.settings import EmbeddingSettings
from bpnas.search.transfer.images import decoded_batches


def train_embedder(
    model: Embedder,
    objective: nn.Module,
    paths: Sequence[Path],
    labels: Sequence[int],
    settings: EmbeddingSettings,
    *,
    seed: int,
    of: Mapping[str, Any],
    checkpoint: Path,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    on_step: Callable[[float, str], None] = lambda share, text: None,
) -> None:
    """Train `model` and `objective` in place, on a GPU if there is one.

    Every step draws its random numbers from `seed` and its own number alone, so that a training resumed from
    `checkpoint` ends where an undisturbed one does, to the last bit on a CPU with as many threads.

    Args:
        objective: (what enters the neck, what leaves it, labels) -> loss; see `objectives`.
        paths: of the images.
        labels: the identity of each, from 0.
        of: plain values that say which training this is.
        checkpoint, on_epoch, on_step: see `run_epochs`.

    Raises:
        DataError: an image cannot be read.
        DivergedError, RunError, SpaceError: see `run_epochs`.
    """
    training = _Training(model, objective, paths, labels, settings, seed, of)
    run_epochs(training, checkpoint, on_epoch=on_epoch, on_step=on_step)


class _Training:
    """A model, its objective and optimiser."""

    def __init__(
        self,
        model: Embedder,
        objective: nn.Module,
        paths: Sequence[Path],
        labels: Sequence[int],
        settings: EmbeddingSettings,
        seed: int,
        of: Mapping[str, Any],
    ) -> None:
        keep_freed_memory()
        self._device = pick_device()
        model.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model, self._objective = model, objective.to(self._device)
        trained = nn.ModuleList([model, objective])
        self._optimizer = _optimizer([p for p in trained.parameters() if p.requires_grad], settings)
        self._paths, self._labels, self._settings, self._seed = paths, labels, settings, seed
        self._loss = torch.zeros((), device=self._device)
        self._batches: list[list[int]] = []
        self.epochs, self.place = settings.epochs, Place()
        self.of: Mapping[str, Any] = of
        self.kept: Mapping[str, Kept] = {"trained": trained, "optimizer": self._optimizer, "loss": self._loss}

    def phases(self) -> list[Phase]:
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "epoch", self.place.epoch))
        batch, each = self._settings.batch, self._settings.images_per_identity
        if each is None:
            self._batches = shuffled_batches(len(self._labels), batch, generator)
        else:
            self._batches = pk_batches(self._labels, batch // each, each, generator)
        return [Phase(len(self._batches), self._run, self._rate)]

    def _run(self) -> Steps:
        settings, place, left = self._settings, self.place, self._batches[self.place.step :]
        self._model.train()
        for batch, raw in zip(left, decoded_batches(self._paths, left, settings.height, settings.width), strict=True):
            generator = torch.Generator().manual_seed(derived_seed(self._seed, "step", place.epoch, place.step))
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate(place.step)
            images = augmented(self._model.normalized(raw.to(self._device)), settings, generator)
            wanted = torch.tensor([self._labels[index] for index in batch], device=self._device)
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._objective(*self._model(images.contiguous(memory_format=torch.channels_last)), wanted)
            loss.backward()
            self._optimizer.step()
            self._loss += loss.detach() * len(batch)
            yield self._loss

    def _rate(self, step: int) -> float:
        """That of the end of the step, or a warm-up would begin with a rate of 0."""
        return self._settings.rate((self.place.epoch + (step + 1) / len(self._batches)) / self._settings.epochs)

    def _images(self, steps: int | None = None) -> int:
        """In that many first batches of the epoch, or in all."""
        return sum(map(len, self._batches[:steps]))

    def so_far(self) -> tuple[float, str]:
        done, all_images = self._images(self.place.step), self._images()
        return done / all_images, f"{done:,} of {all_images:,} images, loss {float(self._loss) / done:.3f}"

    def end_epoch(self, since: Place, seconds: float) -> EpochReport:
        mean = float(self._loss) / self._images()
        self._loss.zero_()
        return EpochReport(self.place.epoch, mean, self._images() - self._images(since.step), seconds)


def _optimizer(parameters: list[nn.Parameter], settings: EmbeddingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters, settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
