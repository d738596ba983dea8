"""Train a network's embeddings from image files.

`bpnas.search.train` is of no use here: it trains classifiers on square images that are all in memory. Face sets have
millions of images; and embeddings want losses with weights of their own, PK batches, and Adam.

Of several processes each takes its share of every batch through the network. Its outputs are gathered, so that all
compute the loss of the whole batch, which compares all images of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bpnas.base.randomness import derived_seed
from bpnas.search.data.batches import pick_device
from bpnas.search.errors import DataError
from bpnas.search.training.distributed import (
    add_gradients,
    gathered,
    my_share,
    share_buffers,
    sync_batch_norms,
    world_size,
)
from bpnas.search.training.malloc import keep_freed_memory
from bpnas.search.training.resumable import Kept, Phase, Place, Steps, run_epochs
from bpnas.search.training.train import EpochReport
from bpnas.search.transfer.cost import Stopwatch
from bpnas.search.transfer.embedding.augment import augmented
from bpnas.search.transfer.embedding.layout import IdentityImages
from bpnas.search.transfer.embedding.model import Embedder
from bpnas.search.transfer.embedding.sampling import pk_batches, shuffled_batches
from bpnas.search.transfer.embedding.settings import EmbeddingSettings
from bpnas.search.transfer.images import decoded_batches
from bpnas.search.transfer.recipe import Course


def epoch_batches(labels: Sequence[int], settings: EmbeddingSettings, seed: int, epoch: int) -> list[list[int]]:
    """Indices of the images of every batch of an epoch; they depend on the arguments and the number of processes."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "epoch", epoch))
    each = settings.images_per_identity
    if each is None:
        return shuffled_batches(len(labels), settings.batch, generator, world_size())
    return pk_batches(labels, settings.batch // each, each, generator)


def embedding_course(labels: Sequence[int], settings: EmbeddingSettings, seed: int) -> Course:
    """How long a training is, and its learning rates.

    Raises:
        DataError: there are too few images for a single batch.
    """
    first = epoch_batches(labels, settings, seed, 0)
    if not first or min(map(len, first)) < world_size():
        raise DataError(f"{len(labels)} images make no batch that {world_size()} processes can share")
    if settings.images_per_identity is None:
        return Course(settings, len(first))
    return Course(settings, lambda epoch: len(epoch_batches(labels, settings, seed, epoch)))


def train_embedder(
    model: Embedder,
    objective: nn.Module,
    images: IdentityImages,
    settings: EmbeddingSettings,
    *,
    seed: int,
    of: Mapping[str, Any],
    checkpoint: Path,
    stopwatch: Stopwatch | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    on_step: Callable[[float, str], None] = lambda share, text: None,
) -> None:
    """Train `model` and `objective` in place, on a GPU if there is one.

    Every step draws its random numbers from `seed` and its own number alone, so that a training resumed from
    `checkpoint` ends where an undisturbed one does, to the last bit on a CPU with as many threads. Where torchrun
    started several processes, each calls this with the same arguments; together they do what one process does, up to
    rounding.

    Args:
        objective: (what enters the neck, what leaves it, labels) -> loss; see `objectives`.
        images: to learn from.
        of: plain values that say which training this is.
        stopwatch: of the run, which goes on where an earlier call was stopped.
        checkpoint, on_epoch, on_step: see `run_epochs`.

    Raises:
        DataError: an image cannot be read, or there are too few for a batch.
        DivergedError, RunError, SpaceError: see `run_epochs`.
    """
    training = _Training(model, objective, images, settings, seed, of, stopwatch or Stopwatch())
    every_epoch = settings.epochs is not None  # an epoch may be one iteration of many
    run_epochs(training, checkpoint, every_epoch=every_epoch, on_epoch=on_epoch, on_step=on_step)
    share_buffers(model)


class _Training:
    """A model, its objective and optimiser."""

    def __init__(
        self,
        model: Embedder,
        objective: nn.Module,
        images: IdentityImages,
        settings: EmbeddingSettings,
        seed: int,
        of: Mapping[str, Any],
        stopwatch: Stopwatch,
    ) -> None:
        keep_freed_memory()
        self._device = pick_device()
        if world_size() > 1 and settings.sync_bn:
            sync_batch_norms(model.features)  # the neck sees the whole batch as it is
        model.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model, self._objective = model, objective.to(self._device)
        trained = nn.ModuleList([model, objective])
        self._parameters = [p for p in trained.parameters() if p.requires_grad]
        self._optimizer = _optimizer(self._parameters, settings)
        self._paths, self._labels, self._settings, self._seed = images.paths, images.labels, settings, seed
        self._loss = torch.zeros((), device=self._device)
        self._batches: list[list[int]] = []
        self._course, self._stopwatch = embedding_course(self._labels, settings, seed), stopwatch
        self.place = Place()
        self.of: Mapping[str, Any] = of
        states: dict[str, Kept] = {"trained": trained, "optimizer": self._optimizer}
        self.kept: Mapping[str, Kept] = {**states, "loss": self._loss, "spent": stopwatch.spent}

    @property
    def epochs(self) -> int:
        epoch = self.place.epoch
        return epoch if self._course.ends_before(epoch) else epoch + 1

    def phases(self) -> list[Phase]:
        epoch = self.place.epoch
        batches = epoch_batches(self._labels, self._settings, self._seed, epoch)
        self._batches = batches[: self._course.steps(epoch)]
        return [Phase(len(self._batches), self._run, self._rate)]

    def _run(self) -> Steps:
        settings, place, left = self._settings, self.place, self._batches[self.place.step :]
        self._model.train()
        mine = [batch[my_share(len(batch))] for batch in left]
        images = decoded_batches(self._paths, mine, settings.height, settings.width)
        for batch, raw in zip(left, images, strict=True):
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate(place.step)
            self._loss += self._take_step(batch, raw) * len(batch)
            self._stopwatch.lap()
            yield self._loss

    def _take_step(self, batch: list[int], raw: Tensor) -> Tensor:
        """Follow the gradient of the loss of the whole batch, of which `raw` are this process's images."""
        place, count = self.place, len(batch)
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "step", place.epoch, place.step))
        images = self._model.normalized(raw.to(self._device))
        images = augmented(images, self._settings, generator, (count, my_share(count)))
        wanted = torch.tensor([self._labels[index] for index in batch], device=self._device)
        self._optimizer.zero_grad(set_to_none=True)
        plain = gathered(self._model.plain(images.contiguous(memory_format=torch.channels_last)), count)
        loss: Tensor = self._objective(plain, self._model.neck(plain), wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        add_gradients(self._parameters)
        # What is behind the gathering has the gradient of the whole batch in every process.
        for part in (self._model.neck, self._objective) if world_size() > 1 else ():
            for parameter in part.parameters():
                if parameter.grad is not None:
                    parameter.grad /= world_size()
        self._optimizer.step()
        return loss.detach()

    def _rate(self, step: int) -> float:
        return self._course.rate(self.place.epoch, step)

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
