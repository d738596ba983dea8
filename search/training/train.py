"""Train one model, in one process or in several that torchrun started, and measure its accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from bpnas.base.plurals import counted
from bpnas.base.randomness import derived_seed
from bpnas.search.data.batches import AnySplit, batch_count, batches, in_order, on_device, pick_device
from bpnas.search.data.dataset import Dataset
from bpnas.search.errors import DataError, DivergedError
from bpnas.search.presets import TrainSettings
from bpnas.search.training.distributed import mean_over_ranks, rank, sync_batch_norms, world_size
from bpnas.search.training.ema import averaged_copy, exchange
from bpnas.search.training.malloc import keep_freed_memory
from bpnas.search.training.resumable import Kept, Phase, Place, Steps, run_epochs

EVALUATION_BATCH = 256
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

    Every epoch draws its random numbers from `seed` and its own number alone, so that a training resumed from
    `checkpoint` ends where an undisturbed one does, to the last bit on a CPU with as many threads.

    Where torchrun started several processes, each calls this with the same arguments and takes its share of every
    batch; together they do what one process does, up to rounding. The first one reports and writes. A training may be
    resumed with another number of processes.

    Args:
        model: (N, 3, S, S) -> (N, classes).
        split: the images, best on the device already (see `on_device`).
        checkpoint: resumed from if it is there and of this training; written after an epoch or a step when that was
            last done `checkpoint_seconds` ago, by default a minute. Not removed at the end.
        on_epoch, on_step: see `run_epochs`.
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
            f"{dataset.source}: a batch of {counted(min(settings.batch, len(split)), 'image')} is too small for "
            f"{world_size()} processes"
        )
    training = _Training(model, dataset, on_device(split, pick_device()), settings, seed)

    def evaluated() -> bool:
        training.exchange_average()
        last = ended(training.place.epoch, training.curve)
        training.exchange_average()
        return last

    run_epochs(
        training,
        checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        every_epoch=False,
        on_epoch=on_epoch,
        on_step=on_step,
        ended=evaluated,
    )
    training.exchange_average()
    return training.curve


class _Training:
    """A classifier, its optimiser, and the accuracies measured on the way."""

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
        self._steps = batch_count(len(split), settings.batch, world_size())
        self.epochs, self.place = settings.epochs, Place()
        self.curve: Curve = []
        self.of: Mapping[str, Any] = {
            "seed": seed,
            "images": len(split),
            "source": dataset.source,
            "shapes": [list(parameter.shape) for parameter in model.parameters()],
            **asdict(settings),
        }
        average = {} if self._average is None else {"average": self._average}
        plain: dict[str, Kept] = {"loss": self._loss, "curve": self.curve}
        self.kept: Mapping[str, Kept] = {"model": model, "optimizer": self._optimizer, **average, **plain}

    def phases(self) -> list[Phase]:
        return [Phase(self._steps, self._run, self._rate)]

    def _run(self) -> Steps:
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "epoch", self.place.epoch))
        first, share = self.place.step, (rank(), world_size())
        self._model.train()
        for images, labels in batches(
            self._dataset, self._split, self._settings.batch, generator, self._device, first, share
        ):
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate(self.place.step)
            self._loss += self._take_step(images, labels)
            yield self._loss

    def end_epoch(self, since: Place, seconds: float) -> EpochReport:
        count = self._images(self._steps)
        mean = float(self._loss) / max(count, 1)
        self._loss.zero_()
        return EpochReport(self.place.epoch, mean, count - self._images(since.step), seconds)

    def _rate(self, step: int) -> float:
        done, epochs = self.place.epoch * self._steps + step, self._settings.epochs
        return learning_rate(self._settings, done / (epochs * self._steps))

    def so_far(self) -> tuple[float, str]:
        done, all_images = self._images(self.place.step), len(self._split)
        return done / all_images, f"{done:,} of {all_images:,} images, loss {float(self._loss) / done:.3f}"

    def _images(self, steps: int) -> int:
        """In that many first batches of an epoch."""
        return min(steps * self._settings.batch, len(self._split))

    def _take_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Follow the gradient of the mean loss of the whole batch, of which this process has a share; its summed loss.

        The parts are as many in all processes, which wait for each other in every one of them.
        """
        settings, processes = self._settings, world_size()
        count = self._images(self.place.step + 1) - self._images(self.place.step)
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
