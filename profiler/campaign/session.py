"""What the measuring protocol needs of one session: its latency, its noise, and whether the clock resolves it.

The rules and their reasons are in docs/measuring.md; every constant is next to its rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bpnas.android_bench.measurement import Measurement

Task = tuple[str, int]
"""Key of a part and number of the session in which it is timed."""

Statistic = Literal["median", "p10"]

STATISTICS: dict[Statistic, float] = {"median": 50.0, "p10": 10.0}
"""What stands for the samples of a session, and for the sessions of a part: a percentile, by name."""

MIN_SAMPLES = 10
"""A session of fewer samples says nothing about its noise, about the clock, or, of the sentinel, about the device."""

NOISY = 0.03
"""A session with a larger relative spread is noisy, and measured again once."""

COARSE = 0.005
"""Samples that differ in steps of more than this share of their median show the clock, not the model."""


@dataclass(frozen=True, slots=True)
class Session:
    """Summary of one measurement.

    Attributes:
        key, number: of the part and of this session among those of the part.
        serial: of the device that measured it; empty where the device does not say, as there is just one.
        started_at: seconds since 1970; 0 where the device has no clock.
        latency_ms: median of the samples, or another one of `STATISTICS`, divided by the inferences within each.
        samples: how many.
        spread: half the range from the 16th to the 84th percentile over the median. That is the standard deviation of
            normal noise, but rare bursts, which the median ignores as well, do not count. None of too few samples.
        is_coarse: at most half of the samples are distinct, and the smallest step between them is large.
    """

    key: str
    number: int
    serial: str
    started_at: float
    latency_ms: float
    samples: int
    spread: float | None
    is_coarse: bool

    @property
    def is_noisy(self) -> bool:
        return self.spread is not None and self.spread > NOISY


def summarize(measurement: Measurement, statistic: Statistic = "median") -> Session:
    """Summarize a measurement; `statistic` of its samples stands for it."""
    samples = np.asarray(measurement.samples_ns, np.float64)
    low, median, high = (float(value) for value in np.percentile(samples, (16, 50, 84)))
    enough = len(samples) >= MIN_SAMPLES and median > 0.0
    steps = np.diff(np.unique(samples))
    is_coarse = enough and 0 < len(steps) < len(samples) / 2 and float(steps.min()) > COARSE * median
    return Session(
        key=measurement.key,
        number=measurement.session,
        serial=str(measurement.conditions.get("before", {}).get("serial", "")),
        started_at=measurement.started_at,
        latency_ms=float(np.percentile(samples, STATISTICS[statistic])) / measurement.repeats / 1e6,
        samples=len(samples),
        spread=(high - low) / 2 / median if enough else None,
        is_coarse=is_coarse,
    )
