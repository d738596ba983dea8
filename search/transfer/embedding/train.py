"""Train a network's embeddings from image files.

`bpnas.search.train` is of no use here: it trains classifiers by SGD, on square images that are all in memory. Face sets
have millions of images; and embeddings want losses with weights of their own, PK batches, and Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch
from torch import nn

from bpnas.base.randomness import derived_seed
from bpnas.search.data.batches import pick_device
from bpnas.search.training.checkpoint import load_checkpoint, save_checkpoint
from bpnas.search.training.divergence import FiniteWatch
from bpnas.search.training.malloc import keep_freed_memory
from bpnas.search.training.train import CHECKPOINT_SECONDS, PROGRESS_SECONDS, EpochReport
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
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    on_step: Callable[[float, str], None] = lambda share, text: None,
) -> None:
    """Train `model` and `objective` in place, on a GPU if there is one.

    Every step draws its chance from `seed` and its number alone, so that a training that goes on from `checkpoint` ends
    where an undisturbed one does, to the last bit on a CPU with as many threads.

    Args:
        objective: (what enters the neck, what leaves it, labels) -> loss; see `objectives`.
        paths: of the images.
        labels: the identity of each, from 0.
        of: plain values that say which training this is.
        checkpoint: gone on from if it is there and of this training; written after each epoch, and after a step when
            that was last done `checkpoint_seconds` ago.
        on_epoch: called after each epoch, before its checkpoint is written.
        on_step: called within an epoch, every few seconds, with the share of it that is done and a line about it.

    Raises:
        DataError: an image cannot be read.
        RunError: the checkpoint is damaged.
        DivergedError: a loss or a weight is not finite; said at the latest at the end of the epoch, before anything is
            written.
        SpaceError: no space for the checkpoint; the previous one is kept.
    """
    training = _Training(model, objective, paths, labels, settings, seed)
    state = load_checkpoint(checkpoint)
    if state is not None and state["of"] == of:  # another one's was left behind in its first epoch
        training.restore(state)
    saved = shown = monotonic()

    def after_step() -> None:
        nonlocal saved, shown
        saves, shows = monotonic() - saved >= checkpoint_seconds, monotonic() - shown >= PROGRESS_SECONDS
        if saves or shows:
            training.check()
        if saves:
            save_checkpoint(checkpoint, {"of": dict(of), **training.state()})
            saved = monotonic()
        if shows:
            shown = monotonic()
            on_step(*training.so_far())

    while training.epoch < settings.epochs:
        report = training.run_epoch(after_step)
        on_epoch(report)
        save_checkpoint(checkpoint, {"of": dict(of), **training.state()})
        saved = monotonic()


class _Training:
    """A model, its objective and optimiser, and how far they are: `step` steps into `epoch`, both from 0."""

    def __init__(
        self,
        model: Embedder,
        objective: nn.Module,
        paths: Sequence[Path],
        labels: Sequence[int],
        settings: EmbeddingSettings,
        seed: int,
    ) -> None:
        keep_freed_memory()
        self._device = pick_device()
        model.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model, self._objective = model, objective.to(self._device)
        self._trained = nn.ModuleList([model, objective])
        self._optimizer = _optimizer([p for p in self._trained.parameters() if p.requires_grad], settings)
        self._paths, self._labels, self._settings, self._seed = paths, labels, settings, seed
        self._loss = torch.zeros((), device=self._device)
        self._watch, self._steps = FiniteWatch(self._device, self._trained), 0
        self._images = self._of = 0
        self.epoch = self.step = 0

    def run_epoch(self, after_step: Callable[[], None]) -> EpochReport:
        """Train to the end of the epoch."""
        start, before, settings = perf_counter(), self._images, self._settings
        batches = self._batches()
        self._of, self._steps = sum(map(len, batches)), len(batches)
        self._watch.begin(self.step)
        self._model.train()
        left = batches[self.step :]
        for batch, raw in zip(left, decoded_batches(self._paths, left, settings.height, settings.width), strict=True):
            generator = torch.Generator().manual_seed(derived_seed(self._seed, "step", self.epoch, self.step))
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate(self.step)
            self.step += 1
            images = augmented(self._model.normalized(raw.to(self._device)), settings, generator)
            wanted = torch.tensor([self._labels[index] for index in batch], device=self._device)
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._objective(*self._model(images.contiguous(memory_format=torch.channels_last)), wanted)
            loss.backward()
            self._optimizer.step()
            # A sum on the device: reading it here would wait for the step.
            self._loss += loss.detach() * len(batch)
            self._watch.see(self._loss)
            self._images += len(batch)
            if self.step < len(batches):
                after_step()
        self.check()
        report = EpochReport(self.epoch, float(self._loss) / self._of, self._images - before, perf_counter() - start)
        self._loss.zero_()
        self._images = self.step = 0
        self.epoch += 1
        return report

    def check(self) -> None:
        """See `FiniteWatch.check`."""
        self._watch.check(self.epoch, self.step, self._rate)

    def _rate(self, step: int) -> float:
        """The learning rate of a step of this epoch: that of its end, or a warm-up would begin with a rate of 0."""
        return self._settings.rate((self.epoch + (step + 1) / self._steps) / self._settings.epochs)

    def so_far(self) -> tuple[float, str]:
        """Which share of the epoch is done, and how it goes."""
        loss = float(self._loss) / self._images
        return self._images / self._of, f"{self._images:,} of {self._of:,} images, loss {loss:.3f}"

    def state(self) -> dict[str, Any]:
        """All that a later process needs, as tensors and plain values."""
        return {
            "trained": self._trained.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "epoch": self.epoch - 1,  # the last whole one, as in all checkpoints
            "step": self.step,
            "images": self._images,
            "loss": self._loss,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._trained.load_state_dict(state["trained"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._loss.copy_(state["loss"])
        self.epoch, self.step, self._images = state["epoch"] + 1, state["step"], state["images"]

    def _batches(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "epoch", self.epoch))
        each = self._settings.images_per_identity
        if each is None:
            return shuffled_batches(len(self._labels), self._settings.batch, generator)
        return pk_batches(self._labels, self._settings.batch // each, each, generator)


def _optimizer(parameters: list[nn.Parameter], settings: EmbeddingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters, settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
