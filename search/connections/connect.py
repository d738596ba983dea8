"""Train the supernet: weights and architecture parameters in turn. BP-NAS, block connection search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from bpnas.base.randomness import derived_seed
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block
from bpnas.search.connections.derive import log_softmax
from bpnas.search.connections.latency_loss import LatencyLoss, SupernetLatency
from bpnas.search.connections.latency_loss import candidate_latencies as candidate_latencies
from bpnas.search.connections.super_block import Candidates
from bpnas.search.connections.supernet import Supernet
from bpnas.search.data.batches import batch_count, batches, on_device, pick_device
from bpnas.search.data.dataset import Dataset
from bpnas.search.errors import DataError
from bpnas.search.presets import ConnectionSettings
from bpnas.search.training.distributed import mean_over_ranks, rank, sync_batch_norms, world_size
from bpnas.search.training.malloc import keep_freed_memory
from bpnas.search.training.resumable import Kept, Phase, Place, Steps, run_epochs
from bpnas.search.training.seeded import seeded
from bpnas.search.training.train import learning_rate, make_sgd

Floats = npt.NDArray[np.float64]

_WEIGHTS, _ALPHAS = 0, 1
_PHASES = ("weights", "alphas")


@dataclass(frozen=True, slots=True)
class ConnectionEpoch:
    """What one epoch of the connection search did.

    Attributes:
        epoch: from 0.
        tau: temperature.
        weight_loss: mean cross-entropy of the weight steps.
        alpha_loss: mean of cross-entropy * L_lat of the alpha steps; None in the warm-up.
        latency_ms: expected latency at the alphas reached, without noise and at temperature 1 (Eq. 8).
        images, seconds: trained, and how long that took; after a resumption in the middle, since then.
        argmax_latency_ms: of the network that the alphas reached name, the most probable candidate at every site.
        entropies: per site, of P at these alphas, likewise without noise, in nats; the log of the number of candidates
            at the start, 0 when a site is decided.
        alphas: per site, those reached, (candidates,).
    """

    epoch: int
    tau: float
    weight_loss: float
    alpha_loss: float | None
    latency_ms: float
    images: int
    seconds: float
    argmax_latency_ms: float
    entropies: tuple[float, ...]
    alphas: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Connections:
    """What the connection search learned.

    Attributes:
        candidates: per site, blocks and None for Skip.
        log_probabilities: per site, log softmax of alpha, shape (candidates,).
    """

    candidates: tuple[Candidates, ...]
    log_probabilities: tuple[Floats, ...]


def new_supernet(backbone: Backbone, proposals: Sequence[Block], settings: ConnectionSettings, seed: int) -> Supernet:
    """The supernet that `settings` describe, its weights drawn from `seed`."""
    keeps_little = settings.checkpoint_activations
    return seeded(seed, lambda: Supernet(backbone, proposals, checkpoint_activations=keeps_little))


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
    on_step: Callable[[float, str], None] = lambda share, text: None,
) -> Connections:
    """Train weights and alphas of `supernet`.

    The training images are parted once: the first share trains weights, in the warm-up epochs too, the rest alphas, so
    that an alpha never sees an image that weights were fitted to. Weights follow the cross-entropy, alphas the
    cross-entropy times L_lat (Eq. 4); for weights L_lat would be a mere factor on the learning rate [ours].

    Every step draws its random numbers from `seed` and its own number alone, so that a search resumed from `checkpoint`
    ends where an undisturbed one does, to the last bit on a CPU with as many threads. Where torchrun started several
    processes, each calls this with the same arguments and takes its share of every batch; together they do what one
    process does, up to rounding. The first one reports and writes. A search may be resumed with another number of them.

    Args:
        latencies_ms: see `candidate_latencies`.
        target_ms: T of Eq. 5.
        fixed_ms: stem and head.
        checkpoint, on_epoch, on_step: see `run_epochs`.

    Raises:
        DataError: there are too few images.
        DivergedError, RunError, SpaceError: see `run_epochs`; an alpha counts as a weight.
    """
    latency_loss = LatencyLoss(target_ms, settings.lambda_below, SupernetLatency(latencies_ms, fixed_ms))
    search = _Search(supernet, dataset, latencies_ms, latency_loss, settings, seed)
    run_epochs(search, checkpoint, on_epoch=on_epoch, on_step=on_step)
    rows = tuple(log_softmax(alpha.detach().cpu().tolist()) for alpha in supernet.alphas)
    return Connections(supernet.candidates, rows)


class _Search:
    """A supernet and its two optimisers, which take turns."""

    def __init__(
        self,
        supernet: Supernet,
        dataset: Dataset,
        latencies_ms: Sequence[Floats],
        latency_loss: LatencyLoss,
        settings: ConnectionSettings,
        seed: int,
    ) -> None:
        keep_freed_memory()
        self._device = pick_device()
        if self._device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all batches but the last have one shape
        pool = dataset.train.first(settings.train.train_images)
        self._splits = on_device(pool, self._device).parted(settings.weight_share)
        self._steps = [batch_count(len(split), settings.train.batch, world_size()) for split in self._splits]
        if not all(self._steps):
            raise DataError(f"{dataset.source}: {len(pool)} training images are too few for the connection search")
        if world_size() > 1:
            sync_batch_norms(supernet)
        supernet.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._supernet, self._dataset, self._settings, self._seed = supernet, dataset, settings, seed
        self._latencies, self._latency_loss = latencies_ms, latency_loss
        self._weights = make_sgd(supernet.weights, settings.train)
        self._alphas = torch.optim.Adam(
            supernet.alphas, settings.alpha_learning_rate, weight_decay=settings.alpha_weight_decay
        )
        self._forwards = [self._compiled(self._parallel()), self._compiled(supernet)]
        self._losses = torch.zeros(2, dtype=torch.float64, device=self._device)
        self.epochs, self.place = settings.train.epochs, Place()
        self.of: Mapping[str, Any] = {
            "seed": seed,
            "images": len(pool),
            "source": dataset.source,
            "shapes": [list(parameter.shape) for parameter in supernet.parameters()],
            "target_ms": latency_loss.target_ms,
            **asdict(settings),
        }
        optimizers = {"weights": self._weights, "alphas": self._alphas}
        self.kept: Mapping[str, Kept] = {"supernet": supernet, **optimizers, "losses": self._losses}

    def phases(self) -> list[Phase]:
        """Weights, and behind the warm-up alphas."""
        warmup = self.place.epoch < self._settings.warmup_epochs
        names = _PHASES[: _ALPHAS if warmup else None]
        return [Phase(steps, self._run, self._rate, name) for steps, name in zip(self._steps, names, strict=False)]

    def so_far(self) -> tuple[float, str]:
        place, phases = self.place, self.phases()
        loss = float(self._losses[place.phase]) / place.step
        text = f"step {place.step:,} of {phases[place.phase].steps:,} of {phases[place.phase].name}, loss {loss:.3f}"
        done = sum(phase.steps for phase in phases[: place.phase]) + place.step
        return done / sum(phase.steps for phase in phases), text

    def _rate(self, step: int) -> float:
        """The learning rate of a step of this phase."""
        if self.place.phase == _ALPHAS:
            return self._settings.alpha_learning_rate
        steps, settings = self._steps[_WEIGHTS], self._settings.train
        return learning_rate(settings, (self.place.epoch * steps + step) / (settings.epochs * steps))

    def _run(self) -> Steps:
        settings, place, phase = self._settings.train, self.place, self.place.phase
        split, order, share = self._splits[phase], self._generator(), (rank(), world_size())
        take, frozen = (self._weight_step, []) if phase == _WEIGHTS else (self._alpha_step, self._supernet.weights)
        self._supernet.train()
        with _without_gradient(frozen):
            for images, labels in batches(self._dataset, split, settings.batch, order, self._device, place.step, share):
                # Of the whole batch: the mean over processes of what is computed here is the mean over its images.
                count = min(settings.batch, len(split) - place.step * settings.batch)
                self._losses[phase] += take(images, labels, world_size() / count).detach()
                yield self._losses[phase]

    def _images(self, phase: int, steps: int) -> int:
        """In that many first batches of a phase."""
        return min(steps * self._settings.train.batch, len(self._splits[phase]))

    def _weight_step(self, images: Tensor, labels: Tensor, scale: float) -> Tensor:
        for group in self._weights.param_groups:
            group["lr"] = self._rate(self.place.step)
        self._weights.zero_grad(set_to_none=True)
        with torch.no_grad():  # alphas learn nothing here
            gates, _ = self._draw()
        loss = self._cross_entropy(images, labels, gates) * scale
        loss.backward()  # type: ignore[no-untyped-call]
        self._weights.step()
        return loss

    def _alpha_step(self, images: Tensor, labels: Tensor, scale: float) -> Tensor:
        self._alphas.zero_grad(set_to_none=True)
        gates, probabilities = self._draw()
        if self._settings.noise_free_latency:
            probabilities = [alpha.softmax(dim=0) for alpha in self._supernet.alphas]
        loss = self._cross_entropy(images, labels, gates) * scale * self._latency_loss(probabilities)
        loss.backward()  # type: ignore[no-untyped-call]
        if world_size() > 1:
            alphas = self._supernet.alphas
            gradients = mean_over_ranks(torch.cat([alpha.grad for alpha in alphas if alpha.grad is not None]))
            for alpha, gradient in zip(alphas, torch.split(gradients, list(map(len, alphas))), strict=True):
                alpha.grad = gradient
        self._alphas.step()
        return loss

    def _draw(self) -> tuple[list[Tensor], list[Tensor]]:
        """What weighs the candidates' outputs, and the P that it was made of, the same on all processes."""
        tau, generator = self._settings.tau(self.place.epoch), self._generator(self.place.step)
        if self._settings.sampled_paths is not None:
            return self._supernet.draw_sampled(tau, generator, self._settings.sampled_paths)
        probabilities = self._supernet.draw(tau, generator)
        return probabilities, probabilities

    def _generator(self, *step: int) -> torch.Generator:
        seed = derived_seed(self._seed, "connections", self.place.epoch, _PHASES[self.place.phase], *step)
        return torch.Generator().manual_seed(seed)

    def _cross_entropy(self, images: Tensor, labels: Tensor, gates: list[Tensor]) -> Tensor:
        bfloat16 = self._settings.train.precision == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bfloat16):
            return F.cross_entropy(self._forwards[self.place.phase](images, gates), labels, reduction="sum")

    def _parallel(self) -> nn.Module:
        """For weights; the few alphas are averaged by hand, since they have no gradient in every step."""
        if world_size() == 1:
            return self._supernet
        with _without_gradient(self._supernet.alphas):
            return DistributedDataParallel(
                self._supernet,
                # Running statistics are the same everywhere, being of the whole batch.
                broadcast_buffers=False,
                # Candidates that are not sampled, or whose P has become 0 in float32 at a low temperature.
                find_unused_parameters=True,
            )

    def _compiled(self, module: nn.Module) -> Callable[..., Tensor]:
        return torch.compile(module, dynamic=False) if self._settings.train.compile else module

    def end_epoch(self, since: Place, seconds: float) -> ConnectionEpoch:
        epoch, phases = self.place.epoch, self.phases()
        images = sum(self._images(number, phases[number].steps) for number in range(since.phase, len(phases)))
        weight_loss, alpha_loss = mean_over_ranks(self._losses).tolist()
        self._losses.zero_()
        alphas = [alpha.detach().cpu().double() for alpha in self._supernet.alphas]
        probabilities = [alpha.softmax(dim=0) for alpha in alphas]
        assert self._latency_loss.latency is not None
        return ConnectionEpoch(
            epoch=epoch,
            tau=self._settings.tau(epoch),
            weight_loss=weight_loss / self._steps[_WEIGHTS],
            alpha_loss=None if len(phases) == 1 else alpha_loss / self._steps[_ALPHAS],
            latency_ms=float(self._latency_loss.latency(probabilities)),
            images=images - self._images(since.phase, since.step),
            seconds=seconds,
            argmax_latency_ms=self._latency_loss.latency.fixed_ms
            + sum(float(row[int(p.argmax())]) for row, p in zip(self._latencies, probabilities, strict=True)),
            entropies=tuple(float(torch.special.entr(p).sum()) for p in probabilities),
            alphas=tuple(tuple(alpha.tolist()) for alpha in alphas),
        )


@contextmanager
def _without_gradient(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Compute no gradients of these within."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
