"""Measurements -> one estimate per part, with its confidence interval and its doubts.

A pure function of all sessions of one setup, those of the sentinel included: in which order they are given, and copies,
change nothing. What was measured after what is in their places, not in the wall clock, which may be set back.
The rules and their reasons are in docs/measuring.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from bpnas.profiler.campaign.drift import Drift, read_drift
from bpnas.profiler.campaign.sentinel import is_sentinel
from bpnas.profiler.campaign.session import Session, Statistic

PRECISION = 0.05
"""Half the confidence interval over the estimate that is good enough where nothing else was asked for."""

CONFIDENCE = 0.95
"""Of the interval."""

RESAMPLES = 2000
"""Of the bootstrap."""

Reason = Literal["noisy", "throttled"]
Flag = Literal["clock", "imprecise", "noisy", "throttled", "unknown"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is known of one part.

    Attributes:
        key: of the part.
        latency_ms: median (or 10th percentile) of the sessions that are used, corrected for drift; None where none can
            be used.
        low_ms, high_ms: its confidence interval; None of fewer than two sessions.
        used: the sessions.
        quarantined: sessions that are not used, with the reason.
        flags: doubts about the sessions. `clock`: it is too coarse for one of them. `noisy`: one of them is, and no
            calm one took its place. `throttled`: fewer can be used than were planned.
        largest_correction: of the sessions used, relative.
    """

    key: str
    latency_ms: float | None
    low_ms: float | None
    high_ms: float | None
    used: tuple[Session, ...]
    quarantined: tuple[tuple[Session, Reason], ...]
    flags: tuple[Flag, ...]
    largest_correction: float

    @property
    def measured(self) -> int:
        """Sessions, whether used or not."""
        return len(self.used) + len(self.quarantined)

    @property
    def half_width(self) -> float | None:
        """Half the confidence interval, relative to the estimate; None where it is not known."""
        if self.latency_ms is None or self.low_ms is None or self.high_ms is None:
            return None
        return (self.high_ms - self.low_ms) / 2 / self.latency_ms

    def doubts(self, precision: float) -> tuple[Flag, ...]:
        """All flags: also `imprecise`, or `unknown` where one session does not tell the precision; sorted."""
        if self.half_width is None:
            return (*self.flags, "unknown")
        return tuple(sorted((*self.flags, "imprecise"))) if self.half_width > precision else self.flags


@dataclass(frozen=True, slots=True)
class Estimates:
    """Everything that is known of one setup.

    Attributes:
        parts: by key.
        drifts: by the serial of the device.
    """

    parts: Mapping[str, Estimate]
    drifts: Mapping[str, Drift]

    def corrected_ms(self, session: Session) -> float:
        """Latency of a session, corrected for drift."""
        return session.latency_ms / self.factor(session)

    def factor(self, session: Session) -> float:
        """How many times slower than usual its device was."""
        drift = self.drifts.get(session.serial)
        return 1.0 if drift is None else drift.factor(session.place)

    def reason_against(self, session: Session) -> Reason | None:
        """Why a session should be measured again, if it should."""
        drift = self.drifts.get(session.serial)
        if drift is not None and drift.is_throttled(session.place):
            return "throttled"
        return "noisy" if session.is_noisy else None


def estimate(
    sessions: Iterable[Session],
    planned: Mapping[str, int] | None = None,
    *,
    can_throttle: bool = True,
    statistic: Statistic = "median",
) -> Estimates:
    """What sessions of one setup say of its parts.

    Args:
        sessions: of one setup, in any order; equal ones count once.
        planned: sessions that were planned of a part, by key; one where nothing is said. That many calm sessions are
            enough to leave the noisy ones out.
        can_throttle: whether a slow sentinel makes its neighbours unusable; of a phone, see `sentinel.is_phone`.
        statistic: of a part's sessions that stands for the part; as that of their samples, see `session.Summarizer`.
    """
    by_key: dict[str, list[Session]] = {}
    sentinels: dict[str, list[Session]] = {}
    # Sorted, so that not even a rounding error depends on the order.
    for session in sorted(set(sessions), key=lambda one: (one.key, one.number, one.place, one.latency_ms)):
        if is_sentinel(session.key):
            sentinels.setdefault(session.serial, []).append(session)
        else:
            by_key.setdefault(session.key, []).append(session)
    drifts = {serial: read_drift(serial, sentinels[serial], can_throttle) for serial in sorted(sentinels)}
    found = Estimates({}, drifts)
    parts = {key: _part(key, by_key[key], (planned or {}).get(key, 1), found, statistic) for key in by_key}
    return Estimates(parts, drifts)


def estimate_part(
    key: str, sessions: Collection[Session], planned: int, found: Estimates, statistic: Statistic = "median"
) -> Estimate:
    """What `estimate` says of one part, with the drifts of `found`: for more parts than memory holds sessions of.

    No session may be there twice.
    """
    in_order = sorted(sessions, key=lambda one: (one.number, one.place, one.latency_ms))
    return _part(key, in_order, planned, found, statistic)


def of_sessions(latencies_ms: Sequence[float], statistic: Statistic) -> float:
    """What stands for several sessions: their median, or 10th percentile, which of ten or less is the smallest."""
    values = np.sort(np.asarray(latencies_ms, np.float64))
    lower, upper = _places(len(values), statistic)
    return float(values[lower] + values[upper]) / 2


def _places(n: int, statistic: Statistic) -> tuple[int, int]:
    """Where among n sorted values the two are whose mean is the statistic."""
    return ((n - 1) // 2, n // 2) if statistic == "median" else ((n - 1) // 10, (n - 1) // 10)


def _part(key: str, sessions: list[Session], planned: int, found: Estimates, statistic: Statistic) -> Estimate:
    reasons = [found.reason_against(session) for session in sessions]
    enough = reasons.count(None) >= planned
    kept = [reason is None or (reason == "noisy" and not enough) for reason in reasons]
    used = [session for session, keep in zip(sessions, kept, strict=True) if keep]
    judged = zip(sessions, reasons, kept, strict=True)
    quarantined = [(session, reason) for session, reason, keep in judged if reason and not keep]
    flags: list[Flag] = []
    if any(session.is_coarse for session in used):
        flags.append("clock")
    if "noisy" in reasons and not enough:
        flags.append("noisy")
    if len(used) < planned and len(sessions) >= planned:
        flags.append("throttled")
    factors = [found.factor(session) for session in used]
    values = np.sort([session.latency_ms / factor for session, factor in zip(used, factors, strict=True)])
    low_ms, high_ms = _interval(values, statistic)
    return Estimate(
        key=key,
        latency_ms=of_sessions(values.tolist(), statistic) if used else None,
        low_ms=low_ms,
        high_ms=high_ms,
        used=tuple(used),
        quarantined=tuple(quarantined),
        flags=tuple(flags),
        largest_correction=max((abs(factor - 1.0) for factor in factors), default=0.0),
    )


def _interval(
    values: npt.NDArray[np.float64], statistic: Statistic = "median"
) -> tuple[float, float] | tuple[None, None]:
    """Percentile bootstrap of the statistic, over sorted values.

    B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    if len(values) < 2:
        return None, None
    lower, upper = _resampled(len(values), statistic)
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile((values[lower] + values[upper]) / 2, (tail, 1.0 - tail))
    return float(low), float(high)


@cache
def _resampled(n: int, statistic: Statistic) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Where the two values of each resample are among n sorted ones: the same resamples for all parts."""
    resamples = np.sort(np.random.default_rng(n).integers(0, n, (RESAMPLES, n)), axis=1)
    lower, upper = _places(n, statistic)
    return resamples[:, lower], resamples[:, upper]
