"""Train a detector; a training that is interrupted goes on where it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

import torch
from torch import Tensor, nn

from bpnas.base.randomness import derived_seed
from bpnas.search.data.batches import pick_device
from bpnas.search.training.checkpoint import load_checkpoint, save_checkpoint
from bpnas.search.training.divergence import FiniteWatch, diverged_at
from bpnas.search.training.seeded import seeded
from bpnas.search.transfer.detection.coco import CocoImage
from bpnas.search.transfer.detection.images import epoch_order, example, read_image
from bpnas.search.transfer.detection.settings import DetectionSettings
from bpnas.search.transfer.images import loaded_batches

CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class DetectionEpoch:
    """What one epoch did.

    Attributes:
        epoch: from 0.
        losses: mean over its steps, by the names that torchvision gives them.
    """

    epoch: int
    losses: dict[str, float]

    @property
    def loss(self) -> float:
        """Their sum, which is what is minimised."""
        return sum(self.losses.values())


def train_detector(
    model: nn.Module,
    images: Sequence[CocoImage],
    settings: DetectionSettings,
    *,
    seed: int,
    checkpoint: Path | None = None,
    on_epoch: Callable[[DetectionEpoch], None] = lambda report: None,
) -> None:
    """Train `model` in place.

    Order and mirroring of an epoch, and the samples that a step takes its losses on, are drawn from `seed` and their
    numbers alone, so that a training that goes on from `checkpoint` ends where an undisturbed one does, to the last bit
    on a CPU with as many threads.

    Args:
        model: see `build_detector`.
        images: with at least one box each.
        checkpoint: gone on from if it is there; written after every epoch, and within one every `CHECKPOINT_SECONDS`.

    Raises:
        DataError: an image is damaged.
        DivergedError: a loss is not finite, said before the step is taken, or a weight, said before anything is kept.
        RunError: the checkpoint is damaged.
        SpaceError: no space for the checkpoint; the previous one is kept.
    """
    device = pick_device()
    model.to(device).train()
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    done, first, sums = 0, 0, dict[str, float]()
    identity = {"seed": seed, "images": len(images), "shapes": [list(p.shape) for p in model.parameters()]}
    identity |= asdict(settings)
    state = None if checkpoint is None else load_checkpoint(checkpoint)
    # A state of another training, left behind by whatever, is as good as none.
    if state is not None and state["of"] == identity:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done, first, sums = state["epoch"] + 1, state["step"], state["sums"]
    saved, watch = monotonic(), FiniteWatch(device, model)

    def save(epoch: int, step: int) -> None:
        nonlocal saved
        if checkpoint is not None:
            states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(checkpoint, {**states, "of": identity, "epoch": epoch - 1, "step": step, "sums": sums})
            saved = monotonic()

    for epoch in range(done, settings.epochs):
        generator = torch.Generator().manual_seed(derived_seed(seed, "epoch", epoch))
        order = epoch_order(images, settings.batch, generator)
        mirrored = (torch.rand(len(images), generator=generator) < 0.5).tolist()

        def rate(step: int, before: int = epoch * len(order), steps: int = len(order)) -> float:
            return settings.rate(before + step, steps)

        def check(steps: int, epoch: int = epoch) -> None:
            watch.begin(steps)  # each loss is looked at by itself, for it is read anyway
            watch.check(epoch, steps, rate)

        batches = [[images[number] for number in numbers] for numbers in order[first:]]
        for step, pixels in enumerate(loaded_batches(batches, read_image), start=first):
            examples = [
                example(image, images[number], mirrored[number], device)
                for image, number in zip(pixels, order[step], strict=True)
            ]

            def forward(examples: list[tuple[Tensor, dict[str, Tensor]]] = examples) -> dict[str, Tensor]:
                losses: dict[str, Tensor] = model([image for image, _ in examples], [shown for _, shown in examples])
                return losses

            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            optimizer.zero_grad(set_to_none=True)
            losses = seeded(derived_seed(seed, "step", epoch, step), forward)
            total = torch.stack(list(losses.values())).sum()
            values = {name: float(loss.detach()) for name, loss in losses.items()}
            if (bad := next((name for name, value in values.items() if not math.isfinite(value)), None)) is not None:
                raise diverged_at(epoch, f"step {step + 1}", f"the loss {bad} is not finite", rate(step))
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            if step + 1 < len(order) and monotonic() - saved >= CHECKPOINT_SECONDS:
                check(step + 1)
                save(epoch, step + 1)
        check(len(order))
        on_epoch(DetectionEpoch(epoch, {name: value / len(order) for name, value in sums.items()}))
        first, sums = 0, {}
        # After the report: a kill in between repeats the epoch, and with it the report, to the same end.
        save(epoch + 1, 0)
