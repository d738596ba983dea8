"""Train the supernet: weights and architecture parameters in turn. BP-NAS, block connection search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, perf_counter
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
from bpnas.search.errors import DataError, RunError
from bpnas.search.presets import ConnectionSettings
from bpnas.search.training.checkpoint import load_checkpoint, save_checkpoint
from bpnas.search.training.distributed import from_main, is_main, mean_over_ranks, rank, sync_batch_norms, world_size
from bpnas.search.training.divergence import FiniteWatch
from bpnas.search.training.malloc import keep_freed_memory
from bpnas.search.training.seeded import seeded
from bpnas.search.training.train import CHECKPOINT_SECONDS, PROGRESS_SECONDS, learning_rate, make_sgd

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
    checkpoint_seconds: float | None = None,
    on_epoch: Callable[[ConnectionEpoch], None] = lambda report: None,
    on_step: Callable[[float, str], None] = lambda share, text: None,
) -> Connections:
    """Train weights and alphas of `supernet`.

    The training images are parted once: the first share trains weights, in the warm-up epochs too, the rest alphas, so
    that an alpha never sees an image that weights were fitted to. Weights follow the cross-entropy, alphas the
    cross-entropy times L_lat (Eq. 4); for weights L_lat would be a mere factor on the learning rate [ours].

    Every step draws its chance from `seed` and its number alone, so that a search that goes on from `checkpoint` ends
    where an undisturbed one does, to the last bit on a CPU with as many threads. Where torchrun started several
    processes, each calls this with the same arguments and takes its share of every batch; together they do what one
    process does, up to rounding. The first one reports and writes. A search may go on with another number of them.

    Args:
        latencies_ms: see `candidate_latencies`.
        target_ms: T of Eq. 5.
        fixed_ms: stem and head.
        checkpoint: gone on from if it is there and of this search; written after every epoch, and after a step when
            that was last done `checkpoint_seconds` ago, by default `train.CHECKPOINT_SECONDS`.
        on_epoch: called after every epoch, by the first process.
        on_step: as of `train`.

    Raises:
        DataError: there are too few images.
        DivergedError: a loss, a weight or an alpha is not finite; said at the latest at the end of the phase, before
            anything is written.
        RunError: the checkpoint is damaged, or not every process sees it.
        SpaceError: no space for the checkpoint; the previous one is kept.
    """
    latency_loss = LatencyLoss(target_ms, settings.lambda_below, SupernetLatency(latencies_ms, fixed_ms))
    search = _Search(supernet, dataset, latencies_ms, latency_loss, settings, seed)
    if checkpoint is not None:
        search.restore(load_checkpoint(checkpoint))
        if from_main(search.place) != search.place:
            raise RunError(f"{checkpoint}: process {rank()} sees another one than the first; all need the same disk")
    interval = CHECKPOINT_SECONDS if checkpoint_seconds is None else checkpoint_seconds
    saved = shown = monotonic()

    def save(now: bool = False) -> None:
        nonlocal saved
        if checkpoint is not None and is_main() and (now or monotonic() - saved >= interval):
            save_checkpoint(checkpoint, search.state())
            saved = monotonic()

    def after_step() -> None:
        nonlocal shown
        saves = checkpoint is not None and monotonic() - saved >= interval
        shows = monotonic() - shown >= PROGRESS_SECONDS
        if not (is_main() and (saves or shows) and search.passes()):
            return
        save()
        if shows:
            shown = monotonic()
            on_step(*search.so_far())

    while search.epoch < settings.train.epochs:
        report = search.run_epoch(after_step)
        # Before the checkpoint: a kill in between repeats the end of the epoch, and with it the report.
        if is_main():
            on_epoch(report)
        save(now=True)
    rows = tuple(log_softmax(alpha.detach().cpu().tolist()) for alpha in supernet.alphas)
    return Connections(supernet.candidates, rows)


class _Search:
    """A supernet, its two optimisers, and how far they are: `step` steps into `phase` of `epoch`, all from 0."""

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
        self._pool = dataset.train.first(settings.train.train_images)
        self._splits = on_device(self._pool, self._device).parted(settings.weight_share)
        self._steps = [batch_count(len(split), settings.train.batch, world_size()) for split in self._splits]
        if not all(self._steps):
            raise DataError(
                f"{dataset.source}: {len(self._pool)} training images are too few for the connection search"
            )
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
        self._watch = FiniteWatch(self._device, supernet)
        self.epoch, self.phase, self.step = 0, _WEIGHTS, 0

    def run_epoch(self, after_step: Callable[[], None]) -> ConnectionEpoch:
        """Train to the end of the epoch."""
        start, images = perf_counter(), 0
        if self.phase == _WEIGHTS:
            images += self._run_phase(after_step)
            self.phase, self.step = _ALPHAS, 0
        if self.epoch >= self._settings.warmup_epochs:
            with _without_gradient(self._supernet.weights):
                images += self._run_phase(after_step)
        report = self._report(images, perf_counter() - start)
        self._losses.zero_()
        self.epoch, self.phase, self.step = self.epoch + 1, _WEIGHTS, 0
        return report

    def so_far(self) -> tuple[float, str]:
        """Which share of the epoch is done, and how it goes."""
        steps = self._steps[: 1 if self.epoch < self._settings.warmup_epochs else 2]
        loss = float(self._losses[self.phase]) / self.step
        text = f"step {self.step:,} of {steps[self.phase]:,} of {_PHASES[self.phase]}, loss {loss:.3f}"
        return (sum(steps[: self.phase]) + self.step) / sum(steps), text

    def passes(self) -> bool:
        """Whether the state in the middle of a phase is worth to be kept; see `FiniteWatch.passes`."""
        return self._watch.passes(self.epoch, self.step, self._rate, _PHASES[self.phase])

    def _rate(self, step: int) -> float:
        """The learning rate of a step of this phase."""
        if self.phase == _ALPHAS:
            return self._settings.alpha_learning_rate
        steps, settings = self._steps[_WEIGHTS], self._settings.train
        return learning_rate(settings, (self.epoch * steps + step) / (settings.epochs * steps))

    def _run_phase(self, after_step: Callable[[], None]) -> int:
        """Train to the end of the phase, and say with how many images."""
        settings, split, first = self._settings.train, self._splits[self.phase], self.step
        order, share = self._generator(), (rank(), world_size())
        self._supernet.train()
        self._watch.begin(first)
        for images, labels in batches(self._dataset, split, settings.batch, order, self._device, first, share):
            # Of the whole batch: the mean over processes of what is computed here is the mean over its images.
            count = min(settings.batch, len(split) - self.step * settings.batch)
            take = self._weight_step if self.phase == _WEIGHTS else self._alpha_step
            loss = take(images, labels, world_size() / count)
            self._losses[self.phase] += loss.detach()
            self._watch.see(self._losses[self.phase])
            self.step += 1
            after_step()
        self._watch.check(self.epoch, self.step, self._rate, _PHASES[self.phase])
        total = min(self._steps[self.phase] * settings.batch, len(split))
        return total - min(first * settings.batch, total)

    def _weight_step(self, images: Tensor, labels: Tensor, scale: float) -> Tensor:
        for group in self._weights.param_groups:
            group["lr"] = self._rate(self.step)
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
        tau, generator = self._settings.tau(self.epoch), self._generator(self.step)
        if self._settings.sampled_paths is not None:
            return self._supernet.draw_sampled(tau, generator, self._settings.sampled_paths)
        probabilities = self._supernet.draw(tau, generator)
        return probabilities, probabilities

    def _generator(self, *step: int) -> torch.Generator:
        seed = derived_seed(self._seed, "connections", self.epoch, _PHASES[self.phase], *step)
        return torch.Generator().manual_seed(seed)

    def _cross_entropy(self, images: Tensor, labels: Tensor, gates: list[Tensor]) -> Tensor:
        bfloat16 = self._settings.train.precision == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bfloat16):
            return F.cross_entropy(self._forwards[self.phase](images, gates), labels, reduction="sum")

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

    def _report(self, images: int, seconds: float) -> ConnectionEpoch:
        warmup = self.epoch < self._settings.warmup_epochs
        weight_loss, alpha_loss = mean_over_ranks(self._losses).tolist()
        alphas = [alpha.detach().cpu().double() for alpha in self._supernet.alphas]
        probabilities = [alpha.softmax(dim=0) for alpha in alphas]
        assert self._latency_loss.latency is not None
        return ConnectionEpoch(
            epoch=self.epoch,
            tau=self._settings.tau(self.epoch),
            weight_loss=weight_loss / self._steps[_WEIGHTS],
            alpha_loss=None if warmup else alpha_loss / self._steps[_ALPHAS],
            latency_ms=float(self._latency_loss.latency(probabilities)),
            images=images,
            seconds=seconds,
            argmax_latency_ms=self._latency_loss.latency.fixed_ms
            + sum(float(row[int(p.argmax())]) for row, p in zip(self._latencies, probabilities, strict=True)),
            entropies=tuple(float(torch.special.entr(p).sum()) for p in probabilities),
            alphas=tuple(tuple(alpha.tolist()) for alpha in alphas),
        )

    @property
    def place(self) -> list[int]:
        """How far the search is."""
        return [self.epoch, self.phase, self.step]

    def state(self) -> dict[str, Any]:
        """All that a later process needs, as tensors and plain values."""
        return {
            "of": self._identity(),
            "supernet": self._supernet.state_dict(),
            "weights": self._weights.state_dict(),
            "alphas": self._alphas.state_dict(),
            "epoch": self.epoch - 1,  # the last whole one
            "phase": self.phase,
            "step": self.step,
            "losses": self._losses,
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from `state`; a state of another search, left behind by whatever, is as good as none."""
        if state is None or state.get("of") != self._identity():
            return
        self._supernet.load_state_dict(state["supernet"])
        self._weights.load_state_dict(state["weights"])
        self._alphas.load_state_dict(state["alphas"])
        self._losses.copy_(state["losses"])
        self.epoch, self.phase, self.step = state["epoch"] + 1, state["phase"], state["step"]

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "images": len(self._pool),
            "source": self._dataset.source,
            "shapes": [list(parameter.shape) for parameter in self._supernet.parameters()],
            "target_ms": self._latency_loss.target_ms,
            **asdict(self._settings),
        }


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
