"""Latency limits: what is one at all, the default ones, and whether there are blocks within them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from bpnas.base.errors import UsageError
from bpnas.search.errors import InfeasibleLimitError
from bpnas.search.proposals.space import BlockSpace

_LEAST_CHOICE = 10


def check_latency_ms(value: float, what: str = "latency limit") -> None:
    """Refuse what is no latency in ms, called `what` in the message, with a UsageError."""
    if not 0 < value < math.inf:
        raise UsageError(f"the {what} must be a positive number of ms, not {value}")


def default_limits(space: BlockSpace, quantiles: Sequence[float]) -> tuple[float, ...]:
    """Latency limits in ms at these quantiles of the latencies of all distinct blocks [ours].

    In a small space, of a table with few paths, limit number i (from 1) admits `_LEAST_CHOICE` * i blocks at least.
    Rounded up to three digits, so that they read well and never fall below the smallest.
    """
    latencies = np.sort(space.latencies())
    limits = set()
    for number, quantile in enumerate(sorted(quantiles), start=1):
        admitted = max(math.ceil(quantile * len(latencies)), _LEAST_CHOICE * number)
        limits.add(_rounded_up(float(latencies[min(admitted, len(latencies)) - 1])))
    return tuple(sorted(limits))


def feasible_limits(space: BlockSpace, limits_ms: Sequence[float]) -> tuple[float, ...]:
    """The limits in ascending order, each once.

    Raises:
        UsageError: one is no latency.
        InfeasibleLimitError: no block meets one.
    """
    limits = tuple(sorted({float(limit) for limit in limits_ms}))
    for limit in limits:
        check_latency_ms(limit)
        feasible = space.feasible(limit)
        if not feasible.size:
            raise InfeasibleLimitError(limit, feasible.smallest_ms)
    return limits


def check_bands(space: BlockSpace, limits_ms: Sequence[float]) -> None:
    """Refuse ascending limits between two of which there is no block, with an InfeasibleLimitError."""
    for low, high in pairwise(limits_ms):
        band = space.feasible(high, at_least_ms=low)
        if not band.size:
            raise band.empty()


def _rounded_up(value: float) -> float:
    text = f"{value:.2e}"
    rounded = float(text)
    if rounded < value:
        exponent = int(text.partition("e")[2])
        rounded = float(f"{rounded + 10.0 ** (exponent - 2):.2e}")
    return rounded
