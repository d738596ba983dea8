"""What a plan would cost on this machine, from the speed of a few steps of networks as it would train them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from torch import nn

from bpnas.profiler import build_module
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block
from bpnas.search.data.batches import pick_device
from bpnas.search.data.dataset import Dataset, load_data
from bpnas.search.presets import TrainSettings
from bpnas.search.search_plan import SearchPlan
from bpnas.search.training.train import train

_LEAST_SECONDS = 0.5
_PIXELS_ON_CPU = 400 * 32**2
"""In a batch, at most: smaller images need large batches, or the rest of a step would be timed; large ones do not."""

_LEAST_BATCH = 16

_Known = dict[tuple[Backbone, Block, int, str, bool], float]
"""Seconds an image that were timed already."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage trains, and how long that takes here: an extrapolation, not a measurement.

    Attributes:
        stage: `proposals`, `connections` or `retraining`.
        data: the images, for people.
        input_size: height and width, in pixels.
        images: that one training sees in each epoch.
        epochs: of each training.
        trainings: at most, for a block that is drawn again is not trained again.
        cost_hours: of all of them, one after the other.
    """

    stage: str
    data: str
    input_size: int
    images: int
    epochs: int
    trainings: int
    cost_hours: float


def plan_cost(plan: SearchPlan, clock: Callable[[], float] = perf_counter) -> tuple[StageCost, ...]:
    """The stages of a plan. Networks of its typical blocks are trained for a few steps each, which nobody keeps.

    A step of the supernet is taken to cost what one of each of its candidates costs, and the networks of its end to
    train like the middle one.

    Args:
        plan: what to do.
        clock: in seconds.

    Raises:
        DataError: images are missing or damaged.
    """
    preset, stage, (size, later_size) = plan.request.preset, plan.request.stage, plan.input_sizes
    (source, later), blocks, costs = plan.sources, plan.typical_blocks(), []
    known: _Known = {}
    if plan.space is not None and stage != "connections":
        first = preset.proposals
        dataset = load_data(source.absolute, size, first.train.train_images)
        seconds = _seconds_per_image(plan.space.backbone, blocks, dataset, first.train, clock, known)
        images = round(len(dataset.train) * (1 - first.validation_share))
        images = min(images, first.subset or images)
        hours = images * first.train.epochs * first.cycles * sum(seconds) / 3600
        trainings = first.cycles * len(seconds)
        costs.append(StageCost("proposals", source.title, size, images, first.train.epochs, trainings, hours))
    if stage != "proposals":
        second, last = preset.connections, preset.retraining
        dataset = load_data(later.absolute, later_size, preset.later_images)
        seconds = _seconds_per_image(plan.backbone, blocks, dataset, second.train, clock, known)
        computed = min(1.0, (second.sampled_paths or len(seconds)) / len(seconds))
        networks = max(1, len(plan.targets_ms))
        for name, settings, trainings, each in (
            ("connections", second.train, 1, sum(seconds) * computed),
            ("retraining", last, networks, seconds[len(seconds) // 2]),
        ):
            images = min(len(dataset.train), settings.train_images or len(dataset.train))
            hours = images * settings.epochs * trainings * each / 3600
            costs.append(StageCost(name, later.title, later_size, images, settings.epochs, trainings, hours))
    return tuple(costs)


def _seconds_per_image(
    backbone: Backbone,
    blocks: Sequence[Block],
    dataset: Dataset,
    settings: TrainSettings,
    clock: Callable[[], float],
    known: _Known,
) -> list[float]:
    """Cost of one step of training, for each block, stacked; what stages have in common is timed once."""
    batch = settings.batch
    if pick_device().type == "cpu":
        batch = min(batch, max(_LEAST_BATCH, _PIXELS_ON_CPU // dataset.input_size**2))
    found = []
    for block in blocks:
        key = (backbone, block, batch, settings.precision, settings.compile)
        if key not in known:
            model = build_module([block] * len(backbone.sites), backbone)
            known[key] = _speed(model, dataset, replace(settings, batch=batch), clock)
        found.append(known[key])
    return found


def _speed(model: nn.Module, dataset: Dataset, settings: TrainSettings, clock: Callable[[], float]) -> float:
    batch = settings.batch
    few = replace(settings, epochs=1, warmup_epochs=0, batch=batch, learning_rate=1e-4, accumulate=1)
    train(model, dataset, dataset.train.first(batch), few, seed=0)
    count = batch
    while True:
        part = dataset.train.first(count)
        start = clock()
        train(model, dataset, part, few, seed=0)
        seconds = clock() - start
        if seconds >= _LEAST_SECONDS or len(part) < count:
            return seconds / len(part)
        count *= 4
