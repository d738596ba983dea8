"""Train one model, in one process or in several that torchrun started, and measure its accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from bpnas.base.randomness import derived_seed
from bpnas.search.data.batches import AnySplit, batch_count, batches, in_order, on_device, pick_device
from bpnas.search.data.dataset import Dataset
from bpnas.search.errors import DataError, DivergedError, RunError
from bpnas.search.presets import TrainSettings
from bpnas.search.training.checkpoint import load_checkpoint, save_checkpoint
from bpnas.search.training.distributed import from_main, is_main, mean_over_ranks, rank, sync_batch_norms, world_size
from bpnas.search.training.divergence import FiniteWatch
from bpnas.search.training.ema import averaged_copy, exchange
from bpnas.search.training.malloc import keep_freed_memory

EVALUATION_BATCH = 256
CHECKPOINT_SECONDS = 60.0
PROGRESS_SECONDS = 5.0
_WARMUP_START = 0.01

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
    warmup = settings.warmup_epochs / settings.epochs
    if progress < warmup:
        return settings.learning_rate * (_WARMUP_START + (1 - _WARMUP_START) * progress / warmup)
    progress = (progress - warmup) / (1 - warmup)
    if settings.schedule == "constant":
        return settings.learning_rate
    span = settings.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + span * (1 + math.cos(math.pi * progress)) / 2


def make_sgd(model_parameters: list[nn.Parameter], settings: TrainSettings) -> torch.optim.SGD:
    """The optimiser that `settings` describe, for parameters that are on their device."""
    groups: list[dict[str, Any]] = [{"params": model_parameters}]
    if not settings.decay_norms:
        vectors = [parameter for parameter in model_parameters if parameter.ndim <= 1]
        groups = [
            {"params": [parameter for parameter in model_parameters if parameter.ndim > 1]},
            {"params": vectors, "weight_decay": 0.0},
        ]
    optimizer = torch.optim.SGD(
        groups,
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov and settings.momentum > 0,
        fused=True,
    )
    if settings.momentum > 0:
        # As the first step would make them, but torch's fused SGD fails where only some parameters have had a gradient
        # before, as with sampled paths of a supernet.
        for parameter in model_parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def train(
    model: nn.Module,
    dataset: Dataset,
    split: AnySplit,
    settings: TrainSettings,
    *,
    seed: int,
    checkpoint: Path | None = None,
    checkpoint_seconds: float | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    on_step: Callable[[float, str], None] = lambda share, text: None,
    ended: Callable[[int, Curve], bool] = lambda epochs, curve: False,
) -> Curve:
    """Train `model` in place on `split`.

    Every epoch draws its chance from `seed` and its number alone, so that a training that goes on from `checkpoint`
    ends where an undisturbed one does, to the last bit on a CPU with as many threads.

    Where torchrun started several processes, each calls this with the same arguments and takes its share of every
    batch; together they do what one process does, up to rounding. The first one reports and writes. A training may go
    on with another number of processes.

    Args:
        model: (N, 3, S, S) -> (N, classes).
        split: the images, best on the device already (see `on_device`).
        checkpoint: gone on from if it is there and of this training; written after an epoch or a step when that was
            last done `checkpoint_seconds` ago, by default `CHECKPOINT_SECONDS`. Not removed at the end.
        on_epoch: called after every epoch, by the first process.
        on_step: called by the first process within an epoch, at most every `PROGRESS_SECONDS`, with the share of the
            epoch that is done and a line about it.
        ended: called with the number of epochs done and a list that it may append to, and that is kept in the
            checkpoint; whether to end here, the same in all processes. With `settings.ema_decay`, `model` has the
            averaged weights meanwhile, as it has at the end.

    Returns:
        The list of `ended`.

    Raises:
        DataError: there are fewer than two images, or images in a batch than processes.
        DivergedError: a loss or a weight is not finite; said at the latest at the end of the epoch, before `on_epoch`
            and `ended` are called and before anything is written.
        RunError: the checkpoint is damaged, or not every process sees it.
        SpaceError: no space for the checkpoint; the previous one is kept.
    """
    if len(split) < 2:
        raise DataError(f"{dataset.source}: training needs at least two images")
    if min(settings.batch, len(split)) < world_size():
        raise DataError(
            f"{dataset.source}: a batch of {min(settings.batch, len(split))} images is too small for {world_size()} "
            "processes"
        )
    training = _Training(model, dataset, on_device(split, pick_device()), settings, seed)
    if checkpoint is not None:
        training.restore(load_checkpoint(checkpoint))
        if from_main([training.epoch, training.step]) != [training.epoch, training.step]:
            raise RunError(f"{checkpoint}: process {rank()} sees another one than the first; all need the same disk")
    interval = CHECKPOINT_SECONDS if checkpoint_seconds is None else checkpoint_seconds
    saved = shown = monotonic()

    def save() -> None:
        nonlocal saved
        if checkpoint is not None and is_main() and monotonic() - saved >= interval:
            save_checkpoint(checkpoint, training.state())
            saved = monotonic()

    def after_step() -> None:
        nonlocal shown
        saves = checkpoint is not None and monotonic() - saved >= interval
        shows = monotonic() - shown >= PROGRESS_SECONDS
        if not (is_main() and (saves or shows) and training.passes()):
            return
        save()
        if shows:
            shown = monotonic()
            on_step(*training.so_far())

    while training.epoch < settings.epochs:
        report = training.run_epoch(after_step)
        if is_main():
            on_epoch(report)
        training.exchange_average()
        last = ended(training.epoch, training.curve)
        training.exchange_average()
        if last:
            break
        save()
    training.exchange_average()
    return training.curve


class _Training:
    """A model, its optimiser, and how far both are: `step` steps into `epoch`, both from 0."""

    def __init__(self, model: nn.Module, dataset: Dataset, split: AnySplit, settings: TrainSettings, seed: int) -> None:
        keep_freed_memory()
        self._device = pick_device()
        if self._device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all batches but the last have one shape
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True  # the same numbers, and half the feature maps
        if world_size() > 1:
            sync_batch_norms(model)
        model.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model, self._dataset, self._split, self._settings, self._seed = model, dataset, split, settings, seed
        self._average = None if settings.ema_decay is None else averaged_copy(model, settings.ema_decay)
        self._parallel = DistributedDataParallel(model) if world_size() > 1 else None
        network = self._parallel or model
        self._forward: Callable[[Tensor], Tensor] = (
            torch.compile(network, dynamic=False) if settings.compile else network
        )
        self._optimizer = make_sgd(list(model.parameters()), settings)
        self._loss = torch.zeros((), device=self._device)
        self._watch = FiniteWatch(self._device, model, *([] if self._average is None else [self._average]))
        self._steps = batch_count(len(split), settings.batch, world_size())
        self.epoch, self.step = 0, 0
        self.curve: Curve = []

    def run_epoch(self, after_step: Callable[[], None]) -> EpochReport:
        """Train to the end of the epoch."""
        start, first, settings, steps = perf_counter(), self.step, self._settings, self._steps
        self._watch.begin(first)
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "epoch", self.epoch))
        share = (rank(), world_size())
        self._model.train()
        for images, labels in batches(
            self._dataset, self._split, settings.batch, generator, self._device, first, share
        ):
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate(self.step)
            # A sum on the device: reading it here would wait for the step.
            self._loss += self._take_step(images, labels)
            self._watch.see(self._loss)
            self.step += 1
            if self.step < steps:
                after_step()
        self._watch.check(self.epoch, self.step, self._rate)
        count = self._images(steps)
        mean = float(self._loss) / max(count, 1)
        done = count - self._images(first)
        self._loss.zero_()
        self.epoch, self.step = self.epoch + 1, 0
        return EpochReport(self.epoch - 1, mean, done, perf_counter() - start)

    def passes(self) -> bool:
        """Whether the state in the middle of an epoch is worth to be kept; see `FiniteWatch.passes`."""
        return self._watch.passes(self.epoch, self.step, self._rate)

    def _rate(self, step: int) -> float:
        """The learning rate of a step of this epoch."""
        done, epochs = self.epoch * self._steps + step, self._settings.epochs
        return learning_rate(self._settings, done / (epochs * self._steps))

    def so_far(self) -> tuple[float, str]:
        """Which share of the epoch is done, and how it goes."""
        done, all_images = self._images(self.step), len(self._split)
        return done / all_images, f"{done:,} of {all_images:,} images, loss {float(self._loss) / done:.3f}"

    def _images(self, steps: int) -> int:
        """In the first so many batches of an epoch."""
        return min(steps * self._settings.batch, len(self._split))

    def _take_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Follow the gradient of the mean loss of the whole batch, of which this process has a share; its summed loss.

        The parts are as many in all processes, which wait for each other in every one of them.
        """
        settings, processes = self._settings, world_size()
        count = self._images(self.step + 1) - self._images(self.step)
        parts = min(settings.accumulate, max(count // processes // 2, 1))
        summed = torch.zeros_like(self._loss)
        self._optimizer.zero_grad(set_to_none=True)
        for part, (x, y) in enumerate(zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True), 1):
            with self._gradients_kept_here(part < parts):
                with _precision(settings, self._device):
                    loss = F.cross_entropy(self._forward(x), y, label_smoothing=settings.label_smoothing)
                # The mean of this part as its share of the batch's; gradients are averaged over the processes.
                (loss * (len(y) * processes / count)).backward()  # type: ignore[no-untyped-call]
            summed += loss.detach() * len(y)
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._model)
        return mean_over_ranks(summed) * processes

    def _gradients_kept_here(self, yes: bool) -> AbstractContextManager[Any]:
        return self._parallel.no_sync() if yes and self._parallel is not None else nullcontext()

    def exchange_average(self) -> None:
        """Exchange the weights for their average, or back, where one was asked for."""
        if self._average is not None:
            exchange(self._model, self._average.module)

    def state(self) -> dict[str, Any]:
        """All that a later process needs, as tensors and plain values."""
        return {
            "of": self._identity(),
            "average": None if self._average is None else self._average.state_dict(),
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
        if self._average is not None:
            self._average.load_state_dict(state["average"])
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
def accuracy(model: nn.Module, dataset: Dataset, split: AnySplit, *, together: bool = False, epochs: int = 1) -> float:
    """Share of the images of `split` that `model` puts into the right class, 0..1, in float32.

    Args:
        together: all processes of torchrun call this, and share the work.
        epochs: that the model was trained for; an error names the last of them.

    Raises:
        DivergedError: an answer of the model is not finite, and so names no class.
    """
    model.eval()
    device = next(model.parameters()).device
    share = (rank(), world_size()) if together else (0, 1)
    correct = torch.zeros((), dtype=torch.float64, device=device)
    for images, labels in in_order(split, EVALUATION_BATCH * share[1], device, share):
        answers = model(dataset.normalized(images))
        # One answer that is not finite makes the whole sum so, of all processes.
        correct += torch.where(answers.isfinite().all(), (answers.argmax(dim=1) == labels).sum(), math.nan)
    if together:
        correct = mean_over_ranks(correct) * world_size()
    if not math.isfinite(float(correct)):
        raise DivergedError(f"in epoch {epochs}: the network's answers are not finite", epoch=epochs - 1)
    return round(float(correct)) / len(split)
