"""The differentiable latency of a supernet and the loss factor made of it. BP-NAS, Eq. 5, 6 and 8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bpnas.android_bench.errors import UsageError


@dataclass(frozen=True, slots=True)
class LatencyLoss:
    """L_lat = lambda * (LAT / T - 1) + 1, with lambda = 1 where LAT >= T and `lambda_below` elsewhere (Eq. 5, 6).

    The cross-entropy is multiplied by it (Eq. 4). It is 1 at the target, rises with the full slope above, and hardly
    falls below, so that a network that is fast enough gains nothing from being faster.

    Attributes:
        target_ms: T.
        lambda_below: lambda below T; 0.01 in the paper.

    Raises:
        UsageError: the target is not positive, or lambda is not in 0..1.
    """

    target_ms: float
    lambda_below: float = 0.01

    def __post_init__(self) -> None:
        if not (self.target_ms > 0 and math.isfinite(self.target_ms)):
            raise UsageError(f"the latency target must be a positive number of ms, not {self.target_ms}")
        if not 0 <= self.lambda_below <= 1:
            raise UsageError(f"lambda below the target must be from 0 to 1, not {self.lambda_below}")

    def __call__(self, latency_ms: Tensor | float) -> Tensor:
        """The factor for latencies in ms, of the same shape; differentiable, with slope lambda / T."""
        latency = latency_ms if isinstance(latency_ms, Tensor) else torch.tensor(latency_ms, dtype=torch.float64)
        excess = latency / self.target_ms - 1
        return torch.where(excess >= 0, excess, self.lambda_below * excess) + 1


def expected_latency(probabilities: Sequence[Tensor], latencies_ms: Sequence[Tensor], fixed_ms: float = 0.0) -> Tensor:
    """LAT = fixed + sum over sites l and candidates i of P(i; l) * latency(i; l), in ms (Eq. 8).

    With a one in every P it is the latency of that network by table.

    Args:
        probabilities: one (candidates,) tensor per site.
        latencies_ms: the same shapes, from the table, whatever model it predicts with; Skip is 0.
        fixed_ms: what every network has beside its blocks.
    """
    pairs = zip(probabilities, latencies_ms, strict=True)
    return torch.stack([(p * ms.to(p.device)).sum() for p, ms in pairs]).sum() + fixed_ms
