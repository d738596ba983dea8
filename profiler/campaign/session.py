"""What the measuring protocol needs of one session: its latency, its noise, and whether the clock resolves it.

The rules and their reasons are in docs/measuring.md; every constant is next to its rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

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
        place: number of the session among those of its device, in the order of the records: a later one has a larger
            one, also where the wall clock was set back between them. 0 where the device has no clock at all, as a
            computed one, whose answers do not depend on when it is asked.
        latency_ms: median of the samples, or another one of `STATISTICS`, divided by the inferences within each.
        samples: how many.
        spread: half the range from the 16th to the 84th percentile over the median. That is the standard deviation of
            normal noise, but rare bursts, which the median ignores as well, do not count. None of too few samples.
        is_coarse: at most half of the samples are distinct, and the smallest step between them is large.
    """

    key: str
    number: int
    serial: str
    place: int
    latency_ms: float
    samples: int
    spread: float | None
    is_coarse: bool

    @property
    def is_noisy(self) -> bool:
        return self.spread is not None and self.spread > NOISY


class Summarizer:
    """Summarizes the measurements of one setup, given in the order in which they were taken.

    Args:
        statistic: of the samples of a session; it stands for the session.
    """

    def __init__(self, statistic: Statistic = "median") -> None:
        self._statistic: Statistic = statistic
        self._measured: Counter[str] = Counter()  # by device: several take turns in the records

    def __call__(self, measurement: Measurement) -> Session:
        serial = serial_of(measurement)
        self._measured[serial] += 1
        return summarize(measurement, self._measured[serial], self._statistic)


def serial_of(measurement: Measurement) -> str:
    """Serial of the device that measured it; empty where the device does not say."""
    return str(measurement.conditions.get("before", {}).get("serial", ""))


def summarize(measurement: Measurement, place: int = 0, statistic: Statistic = "median") -> Session:
    """Summarize a measurement; `statistic` of its samples stands for it. For `place` see `Session`."""
    return summarize_all([measurement], [place], statistic)[0]


def summarize_all(
    measurements: Sequence[Measurement], places: Sequence[int], statistic: Statistic = "median"
) -> list[Session]:
    """Summarize measurements, as `summarize` does: many at once take a fraction of the time."""
    serials = [serial_of(one) for one in measurements]
    return [session for session, _ in with_samples(measurements, serials, places, statistic)]


class _Measured(Protocol):
    """What there must be of a measurement."""

    @property
    def key(self) -> str: ...
    @property
    def session(self) -> int: ...
    @property
    def samples_ns(self) -> tuple[int, ...]: ...
    @property
    def repeats(self) -> int: ...
    @property
    def started_at(self) -> float: ...


def with_samples(
    measurements: Sequence[_Measured], serials: Sequence[str], places: Sequence[int], statistic: Statistic
) -> list[tuple[Session, npt.NDArray[np.float64]]]:
    """What `summarize_all` says of measurements by devices of these serials, each with its samples in ms."""
    by_length: dict[int, list[int]] = {}
    for index, one in enumerate(measurements):
        by_length.setdefault(len(one.samples_ns), []).append(index)
    found: dict[int, tuple[Session, npt.NDArray[np.float64]]] = {}
    for same in by_length.values():
        samples = np.array([measurements[index].samples_ns for index in same], np.float64)
        values = _values(samples, statistic)
        repeats = np.array([[measurements[index].repeats] for index in same], np.float64)
        for index, own, chosen, spread, is_coarse in zip(same, samples / repeats / 1e6, *values, strict=True):
            one = measurements[index]
            session = Session(
                key=one.key,
                number=one.session,
                serial=serials[index],
                place=places[index] if one.started_at else 0,
                latency_ms=chosen / one.repeats / 1e6,
                samples=samples.shape[1],
                spread=spread,
                is_coarse=is_coarse,
            )
            found[index] = session, own
    return [found[index] for index in range(len(measurements))]


def _values(
    samples: npt.NDArray[np.float64], statistic: Statistic
) -> tuple[list[float], list[float | None], list[bool]]:
    """The statistic, the spread and whether the clock is too coarse, of each row of samples."""
    count = samples.shape[1]
    low, median, high = np.percentile(samples, (16, 50, 84), axis=1)
    chosen = median if statistic == "median" else np.percentile(samples, STATISTICS[statistic], axis=1)
    enough = (count >= MIN_SAMPLES) & (median > 0.0)
    spread = np.divide((high - low) / 2, median, out=np.zeros_like(median), where=enough)
    steps = np.diff(np.sort(samples, axis=1), axis=1)
    distinct = np.count_nonzero(steps, axis=1)
    smallest = np.where(steps > 0.0, steps, np.inf).min(axis=1, initial=np.inf)
    coarse = enough & (distinct > 0) & (distinct < count / 2) & (smallest > COARSE * median)
    spreads = [each if good else None for each, good in zip(spread.tolist(), enough.tolist(), strict=True)]
    return chosen.tolist(), spreads, coarse.tolist()
