"""An exponential moving average of a model's weights, which generalises better than the last weights do."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged_copy(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` that `update_parameters(model)`, called after every step, moves towards it.

    Update number n (from 1) keeps a share of min(decay, (1 + n) / (10 + n)) of the copy, so that the first weights,
    which are random, are forgotten soon also where a training is short (as in TensorFlow's moving average with
    `num_updates`). Running statistics of batch normalisation are averaged like weights.
    """

    def update(
        averaged: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], _: object
    ) -> None:
        done = int(copy.n_averaged)  # it is on the CPU; the argument is with the model, where reading it would wait
        step = get_ema_multi_avg_fn(min(decay, (1 + done) / (10 + done)))  # type: ignore[no-untyped-call]
        step(averaged, current, done)

    copy = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return copy


@torch.no_grad()
def exchange(one: nn.Module, other: nn.Module) -> None:
    """Swap the values of all parameters and buffers of two models of one architecture; twice changes nothing."""
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        kept = a.clone()
        a.copy_(b)
        b.copy_(kept)
