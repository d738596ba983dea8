"""What the sentinel says of one device over time: when it was throttled, and how much it drifted.

Only one device's sessions meet here, and the sentinel's latencies are taken relative to its own baseline. What came
after what is the order of the records: a wall clock may be set back.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from bpnas.profiler.campaign.session import MIN_SAMPLES, Session

THROTTLED = 1.10
"""A sentinel slower than this many times its baseline: the device was throttled, or busy with something else."""

SMOOTHING = 5
"""Sentinels in the running median: a single odd one changes nothing."""

MIN_SENTINELS = 8
"""With fewer, a rise throughout would still be a likely accident."""

SIGNIFICANT = -3.0
"""Standard normal deviate of the trend test below which drift is believed: noise alone gets there in 0.1 % of cases."""

# In terms of the sentinel's noise s: a running median of five has noise 0.56 s of its own, which the correction adds
# to every session. A drift of 0.56 s pays for that, and makes the curve's deviation 0.56 s * sqrt(2) = 0.8 s.
_WORTH_CORRECTING = 0.8

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Drift:
    """One device over time.

    Attributes:
        serial: of the device; empty where there is just one.
        sentinels: that could be used.
        throttled: those of them that were too slow.
        largest: of all corrections of this device's sentinel, relative, as 0.04; 0 where nothing is corrected.
        good_at, slow_at: places (see `Session`) of the good and of the throttled ones, ascending.
        curve: logarithm of how much slower than usual the device was at each good one, or None: no drift to be sure of.
    """

    serial: str
    sentinels: int
    throttled: int
    largest: float
    good_at: tuple[int, ...]
    slow_at: tuple[int, ...]
    curve: tuple[float, ...] | None

    def is_throttled(self, place: int) -> bool:
        """Whether a session is between the last good sentinel before a slow one and the next good one after it."""
        if not place or not self.slow_at:
            return False
        after = bisect_right(self.good_at, place)
        first = bisect_right(self.slow_at, self.good_at[after - 1]) if after else 0
        return first < len(self.slow_at) and (after == len(self.good_at) or self.slow_at[first] < self.good_at[after])

    def factor(self, place: int) -> float:
        """How many times slower than usual the device was; 1 where there is no drift to be sure of."""
        if self.curve is None or not place:
            return 1.0
        after = bisect_right(self.good_at, place)
        if after in (0, len(self.good_at)):  # before the first sentinel as at it, after the last one likewise
            return math.exp(self.curve[max(after - 1, 0)])
        (start, end), (low, high) = self.good_at[after - 1 : after + 1], self.curve[after - 1 : after + 1]
        return math.exp(low + (high - low) * (place - start) / (end - start))


def read_drift(serial: str, sentinels: Sequence[Session], can_throttle: bool = True) -> Drift:
    """What the sentinel's sessions on one device say, in any order.

    Sessions without a place, and of too few samples, say nothing. Where the device cannot throttle, a slow sentinel is
    only one of the values that the curve is drawn through.
    """
    usable = [one for one in sentinels if one.place and one.samples >= MIN_SAMPLES and one.latency_ms > 0.0]
    ratios: dict[Session, float] = {}
    for _, same in groupby(sorted(usable, key=lambda one: one.key), key=lambda one: one.key):
        group = list(same)
        baseline = _baseline([one.latency_ms for one in group])
        ratios.update((one, one.latency_ms / baseline) for one in group)
    in_order = sorted(ratios, key=lambda one: (one.place, one.latency_ms))
    at = np.array([one.place for one in in_order], np.int64)
    ratio = np.array([ratios[one] for one in in_order], np.float64)
    slow = (ratio > THROTTLED) & can_throttle
    curve = _curve(np.log(ratio[~slow]))
    largest = 0.0 if curve is None else math.expm1(float(np.abs(curve).max()))
    return Drift(
        serial=serial,
        sentinels=len(in_order),
        throttled=int(slow.sum()),
        largest=largest,
        good_at=tuple(at[~slow].tolist()),
        slow_at=tuple(at[slow].tolist()),
        curve=None if curve is None else tuple(curve.tolist()),
    )


def _baseline(latencies: Sequence[float]) -> float:
    """The sentinel's latency on the device at its best: the median of the faster half.

    It holds as long as the device is at its best for a good quarter of the time, and does not hang on the one fastest
    session.
    """
    fastest = sorted(latencies)[: math.ceil(len(latencies) / 2)]
    return float(np.median(fastest))


def _curve(logs: Floats) -> Floats | None:
    """The drift at each sentinel as a logarithm, relative to its median; None where it is not significant."""
    if len(logs) < MIN_SENTINELS or _trend(logs) > SIGNIFICANT:
        return None
    half = SMOOTHING // 2
    smooth = np.array([np.median(logs[max(0, i - half) : i + half + 1]) for i in range(len(logs))])
    # Drift hardly changes from one sentinel to the next: their differences are noise, twice.
    differences = np.diff(logs)
    noise = 1.4826 * float(np.median(np.abs(differences - np.median(differences)))) / math.sqrt(2)
    if float(np.std(smooth)) < _WORTH_CORRECTING * noise:
        return None
    centred: Floats = smooth - np.median(smooth)
    return centred


def _trend(values: Floats) -> float:
    """Von Neumann's ratio of ranks as a standard normal deviate: far below 0 where neighbours are alike.

    R. Bartels, "The Rank Version of von Neumann's Ratio Test for Randomness", JASA 77 (1982), 40-46.
    """
    n = len(values)
    distinct, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(distinct) == 1:
        return 0.0
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # equal values share the mean of their ranks
    ratio = float((np.diff(ranks) ** 2).sum() / ((ranks - ranks.mean()) ** 2).sum())
    variance = 4 * (n - 2) * (5 * n**2 - 2 * n - 9) / (5 * n * (n + 1) * (n - 1) ** 2)
    return (ratio - 2.0) / math.sqrt(variance)
