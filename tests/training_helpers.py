"""Small models, small images and a training of two epochs, for tests of all trainings. They need torch."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

import pytest
import torch

from bpnas.profiler import Block, build_module
from bpnas.search.data.dataset import Dataset, Split
from bpnas.search.presets import TrainSettings
from bpnas.search.training import resumable
from bpnas.search.training.train import train
from tests.search_helpers import tiny_backbone

Result = TypeVar("Result")

SETTINGS = TrainSettings(epochs=2, batch=16, learning_rate=0.05, weight_decay=5e-4)


class KilledError(Exception):
    """In place of a signal, in the middle of a training."""


def killed_until_done(
    run: Callable[[], Result],
    seed: int,
    most: int,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException] = KilledError,
) -> tuple[Result, int]:
    """Call `run` until it gets to its end; each time, after 1 to `most` checkpoints, `error` ends it.

    Returns:
        What it gave, and how many times it was killed.
    """
    rng, save_checkpoint, kills = Random(seed), resumable.save_checkpoint, 0
    while True:
        left = rng.randint(1, most)

        def save(path, state):
            nonlocal left
            save_checkpoint(path, state)
            assert path.exists()
            left -= 1
            if not left:
                raise error

        monkeypatch.setattr(resumable, "save_checkpoint", save)
        try:
            return run(), kills
        except error:
            kills += 1


def small(count=70, flip=True):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=generator)
    split = Split(images, labels)
    return Dataset("random", split, split, tuple(map(str, range(10))), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), flip)


def model(seed=0, block="K3E1G1"):
    backbone = tiny_backbone()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_module([Block.parse(block)] * len(backbone.sites), backbone)


def weights(module):
    return torch.cat([value.detach().double().flatten() for value in module.state_dict().values()])


def trained(settings=SETTINGS, **arguments):
    module, dataset = model(), small()
    train(module, dataset, dataset.train, settings, seed=3, **arguments)
    return weights(module)


def flat_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(192, 10))
