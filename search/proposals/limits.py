"""Latency limits: what is one at all, the default ones, and whether there are blocks within them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bpnas.base.errors import UsageError
from bpnas.profiler import network_cost
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block, BlockPath, SimplePath
from bpnas.search.errors import InfeasibleLimitError
from bpnas.search.proposals.space import BlockSpace

SHARES = (0.5, 0.7, 0.85, 1.0, 1.3)
"""Default limits, in units of the stacked `REFERENCE`."""

REFERENCE = Block.parse("K3E6G1")
"""MobileNetV2's block."""

_BELOW, _ABOVE = 0.6, 1.5
"""Between these times the targets: as far around them as `SHARES` are around their middle one."""

_LEAST_CHOICE = 10


def check_latency_ms(value: float, what: str = "latency limit") -> None:
    """Refuse what is no latency in ms, called `what` in the message, with a UsageError."""
    if not 0 < value < math.inf:
        raise UsageError(f"the {what} must be a positive number of ms, not {value}")


@dataclass(frozen=True, slots=True)
class DefaultLimits:
    """Limits where none were given.

    Attributes:
        limits_ms: in ascending order.
        text: where they come from, for people.
    """

    limits_ms: tuple[float, ...]
    text: str


def reference_block(paths: Sequence[BlockPath], backbone: Backbone) -> Block:
    """The block in whose latency limits are measured: MobileNetV2's, K3E6G1.

    Of a table without it, that one of the table's paths, each alone, that is nearest to it in multiply-adds.
    """
    if any(_alone(path) == REFERENCE for path in paths):
        return REFERENCE

    def multiply_adds(block: Block) -> float:
        return math.log(network_cost([block] * len(backbone.sites), backbone).macs)

    wanted = multiply_adds(REFERENCE)
    return min(map(_alone, paths), key=lambda block: abs(multiply_adds(block) - wanted))


def default_limits(space: BlockSpace, targets_ms: Sequence[float] = ()) -> DefaultLimits:
    """Five latency limits that bracket the networks that are wanted [ours].

    With targets they go in even ratios from `_BELOW` times the smallest to `_ABOVE` times the largest, without any they
    are `SHARES` of the latency of `reference_block` stacked. (Not quantiles of all blocks, of which one in a thousand
    is as fast as a network that one would deploy.)

    Each limit admits more blocks than the one before, ten where the table has as many: a limit that does not is
    raised, and one that cannot be is left out. So each has a candidate of its own. Rounded up to three digits, so
    that they read well.

    Args:
        targets_ms: of networks with one block at each site, in ms at the input size of `space`.
    """
    latencies = np.sort(space.latencies())
    if targets_ms:
        wanted = np.geomspace(_BELOW * min(targets_ms), _ABOVE * max(targets_ms), len(SHARES)).tolist()
        which = "target" if len(targets_ms) == 1 else "targets"
        text = f"{_BELOW:g} to {_ABOVE:g} times the {which} of {', '.join(f'{ms:.4g}' for ms in targets_ms)} ms"
    else:
        block = reference_block(space.paths, space.backbone)
        unit_ms = float(space.latency(block.code(space.coding)))
        wanted = [share * unit_ms for share in SHARES]
        text = f"{', '.join(f'{share:g}' for share in SHARES)} times the {unit_ms:.4g} ms of {block} at every site"
    least = min(_LEAST_CHOICE, max(1, len(latencies) // len(SHARES)))
    limits: list[float] = []
    admitted = raised = 0
    for limit in map(_rounded_up, wanted):
        needed = min(admitted + least, len(latencies))
        if needed == admitted:
            break
        inside = int(np.searchsorted(latencies, limit, side="right"))
        if inside < needed:
            limit, raised = _rounded_up(float(latencies[needed - 1])), raised + 1
            inside = int(np.searchsorted(latencies, limit, side="right"))
        limits.append(limit)
        admitted = inside
    if raised:
        text += f"; {raised} of them raised, for too few blocks of the table meet so little"
    if len(limits) < len(SHARES):
        text += f"; {len(SHARES) - len(limits)} left out, for they would admit nothing more"
    return DefaultLimits(tuple(limits), text)


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


def _alone(path: BlockPath) -> Block:
    return Block(path) if isinstance(path, SimplePath) else Block(None, (path,))
