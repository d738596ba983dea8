"""Train a network's embeddings from image files.

`bpnas.search.train` is of no use here: it trains classifiers by SGD, on square images that are all in memory. Face sets
have millions of images; and embeddings want losses with weights of their own, PK batches, and Adam.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from bpnas.search.allocator import keep_freed_memory
from bpnas.search.batches import pick_device
from bpnas.search.chance import derived_seed
from bpnas.search.checkpoint import load_checkpoint, save_checkpoint
from bpnas.search.errors import SearchError
from bpnas.search.train import EpochReport
from bpnas.search.transfer.augment import augmented
from bpnas.search.transfer.embedding import Embedder
from bpnas.search.transfer.images import decoded_batches
from bpnas.search.transfer.sampling import pk_batches, shuffled_batches
from bpnas.search.transfer.settings import EmbeddingSettings


def train_embedder(
    model: Embedder,
    objective: nn.Module,
    paths: Sequence[Path],
    labels: Sequence[int],
    settings: EmbeddingSettings,
    *,
    seed: int,
    checkpoint: Path,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> None:
    """Train `model` and `objective` in place, on a GPU if there is one.

    Every epoch draws its chance from `seed` and its number alone, so that a training that goes on from `checkpoint`
    ends where an undisturbed one does, to the last bit on a CPU with as many threads.

    Args:
        objective: (what enters the neck, what leaves it, labels) -> loss; see `bpnas.search.transfer.objectives`.
        paths: of the images.
        labels: the identity of each, from 0.
        checkpoint: gone on from if it is there; written after each epoch.
        on_epoch: called after each epoch, before its checkpoint is written.

    Raises:
        DataError: an image cannot be read.
        RunError: the checkpoint is damaged.
        SearchError: the loss is no number any more.
        SpaceError: no space for the checkpoint; the previous one is kept.
    """
    keep_freed_memory()
    device = pick_device()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective.to(device)
    trained = nn.ModuleList([model, objective])
    optimizer = _optimizer([p for p in trained.parameters() if p.requires_grad], settings)
    first = 0
    if (state := load_checkpoint(checkpoint)) is not None:
        trained.load_state_dict(state["trained"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"] + 1
    for epoch in range(first, settings.epochs):
        start = perf_counter()
        loss, images = _run_epoch(model, objective, optimizer, paths, labels, settings, seed, epoch)
        if not math.isfinite(loss):
            raise SearchError(
                f"the loss is {loss} in epoch {epoch + 1}: the training fails; start another with a lower "
                "--learning-rate and another --out"
            )
        on_epoch(EpochReport(epoch, loss, images, perf_counter() - start))
        save_checkpoint(
            checkpoint, {"trained": trained.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        )


def _run_epoch(
    model: Embedder,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    paths: Sequence[Path],
    labels: Sequence[int],
    settings: EmbeddingSettings,
    seed: int,
    epoch: int,
) -> tuple[float, int]:
    """The mean loss of the epoch's images, and how many they were."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(derived_seed(seed, "epoch", epoch))
    batches = _batches(labels, settings, generator)
    total, images_done = torch.zeros((), device=device), 0
    model.train()
    decoded = decoded_batches(paths, batches, settings.height, settings.width)
    for step, (batch, raw) in enumerate(zip(batches, decoded, strict=True), start=epoch * len(batches)):
        for group in optimizer.param_groups:
            # Of the step's end: a warm-up would else begin with a step of rate 0.
            group["lr"] = settings.rate((step + 1) / (settings.epochs * len(batches)))
        images = augmented(model.normalized(raw.to(device)), settings, generator)
        wanted = torch.tensor([labels[index] for index in batch], device=device)
        optimizer.zero_grad(set_to_none=True)
        loss = objective(*model(images.contiguous(memory_format=torch.channels_last)), wanted)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(batch)  # read once per epoch: reading waits for the step
        images_done += len(batch)
    return float(total) / images_done, images_done


def _batches(labels: Sequence[int], settings: EmbeddingSettings, generator: torch.Generator) -> list[list[int]]:
    each = settings.images_per_identity
    if each is None:
        return shuffled_batches(len(labels), settings.batch, generator)
    return pk_batches(labels, settings.batch // each, each, generator)


def _optimizer(parameters: list[nn.Parameter], settings: EmbeddingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters, settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
