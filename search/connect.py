"""Train the supernet: weights and architecture parameters in turn. BP-NAS, block connection search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from bpnas.search.batches import batch_count, batches, on_device, pick_device
from bpnas.search.chance import derived_seed
from bpnas.search.checkpoint import load_checkpoint, save_checkpoint
from bpnas.search.data import Dataset
from bpnas.search.derive import log_softmax
from bpnas.search.errors import DataError, SearchError
from bpnas.search.latency_loss import LatencyLoss, SupernetLatency
from bpnas.search.latency_loss import candidate_latencies as candidate_latencies
from bpnas.search.presets import ConnectionSettings
from bpnas.search.supernet import Candidates, Supernet
from bpnas.search.train import learning_rate, make_sgd

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ConnectionEpoch:
    """What one epoch of the connection search did.

    Attributes:
        epoch: from 0.
        tau: temperature.
        weight_loss: mean cross-entropy of the weight steps.
        alpha_loss: mean of cross-entropy * L_lat of the alpha steps; None in the warm-up.
        latency_ms: expected latency at the alphas reached, without noise and at temperature 1 (Eq. 8).
        images, seconds: trained, and how long that took.
    """

    epoch: int
    tau: float
    weight_loss: float
    alpha_loss: float | None
    latency_ms: float
    images: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Connections:
    """What the connection search learned.

    Attributes:
        candidates: per site, blocks and None for Skip.
        log_probabilities: per site, log softmax of alpha, shape (candidates,).
    """

    candidates: tuple[Candidates, ...]
    log_probabilities: tuple[Floats, ...]


def connect(
    supernet: Supernet,
    dataset: Dataset,
    latencies_ms: Sequence[Floats],
    settings: ConnectionSettings,
    *,
    target_ms: float,
    fixed_ms: float,
    seed: int,
    checkpoint: Path | None = None,
    on_epoch: Callable[[ConnectionEpoch], None] = lambda report: None,
) -> Connections:
    """Train weights and alphas of `supernet`.

    The training images are parted once: the first share trains weights, in the warm-up epochs too, the rest alphas, so
    that an alpha never sees an image that weights were fitted to. Weights follow the cross-entropy, alphas the
    cross-entropy times L_lat (Eq. 4); for weights L_lat would be a mere factor on the learning rate [ours].

    Args:
        latencies_ms: see `candidate_latencies`.
        target_ms: T of Eq. 5.
        fixed_ms: stem and head.
        checkpoint: written after every epoch, and gone on from if it exists.

    Raises:
        DataError: there are too few images.
        SearchError: the training diverged.
        RunError: the checkpoint is damaged.
    """
    device = pick_device()
    supernet.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    train_settings = settings.train
    pool = dataset.train.first(train_settings.train_images)
    for_weights, for_alphas = on_device(pool, device).parted(settings.weight_share)
    steps = batch_count(len(for_weights), train_settings.batch)
    if not steps or len(for_alphas) < 2:
        raise DataError(f"{dataset.source}: {len(pool)} training images are too few for the connection search")
    expected = SupernetLatency(latencies_ms, fixed_ms)
    latency_loss = LatencyLoss(target_ms, settings.lambda_below)
    weights = make_sgd(supernet.weights, train_settings)
    alphas = torch.optim.Adam(supernet.alphas, settings.alpha_learning_rate, weight_decay=settings.alpha_weight_decay)
    done = 0
    if checkpoint is not None and (state := load_checkpoint(checkpoint)) is not None:
        supernet.load_state_dict(state["supernet"])
        weights.load_state_dict(state["weights"])
        alphas.load_state_dict(state["alphas"])
        done = state["epoch"] + 1
    supernet.train()
    for epoch in range(done, train_settings.epochs):
        start, tau, alpha_loss, alpha_images = perf_counter(), settings.tau(epoch), None, 0
        generator = torch.Generator().manual_seed(derived_seed(seed, "connections", epoch))

        def forward(images: Tensor, tau: float = tau, generator: torch.Generator = generator) -> tuple[Tensor, Tensor]:
            probabilities = supernet.draw(tau, generator)
            return supernet(images, probabilities), expected(probabilities)

        losses = []
        for step, (images, labels) in enumerate(batches(dataset, for_weights, train_settings.batch, generator, device)):
            for group in weights.param_groups:
                group["lr"] = learning_rate(train_settings, (epoch * steps + step) / (train_settings.epochs * steps))
            weights.zero_grad(set_to_none=True)
            loss = F.cross_entropy(forward(images)[0], labels)
            loss.backward()  # type: ignore[no-untyped-call]
            weights.step()
            losses.append(float(loss.detach()))
        if epoch >= settings.warmup_epochs:
            alpha_losses = []
            # Gradients of weights from these passes are dropped by the zero_grad before their next step.
            for images, labels in batches(dataset, for_alphas, train_settings.batch, generator, device):
                alphas.zero_grad(set_to_none=True)
                logits, latency = forward(images)
                loss = F.cross_entropy(logits, labels) * latency_loss(latency)
                loss.backward()  # type: ignore[no-untyped-call]
                alphas.step()
                alpha_losses.append(float(loss.detach()))
                alpha_images += len(labels)
            alpha_loss = sum(alpha_losses) / len(alpha_losses)
        if not all(bool(torch.isfinite(alpha).all()) for alpha in supernet.alphas):
            raise SearchError(f"the connection search diverged in epoch {epoch + 1}: lower its learning rate")
        with torch.no_grad():
            noiseless = [alpha.softmax(dim=0) for alpha in supernet.alphas]
            reached = float(expected(noiseless))
        count = min(steps * train_settings.batch, len(for_weights)) + alpha_images
        mean = sum(losses) / len(losses)
        on_epoch(ConnectionEpoch(epoch, tau, mean, alpha_loss, reached, count, perf_counter() - start))
        # After the report: a kill in between repeats the epoch, and with it the report, to the same end.
        if checkpoint is not None:
            state = {"supernet": supernet.state_dict(), "weights": weights.state_dict(), "alphas": alphas.state_dict()}
            save_checkpoint(checkpoint, {**state, "epoch": epoch})
    rows = tuple(log_softmax(alpha.detach().cpu().tolist()) for alpha in supernet.alphas)
    return Connections(supernet.candidates, rows)
