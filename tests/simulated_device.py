"""Devices of known truth: what they answer is computed from it, with noise, drift and disturbances as a test wants."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from bpnas.android_bench.device import Conditions, DeviceInfo
from bpnas.android_bench.measurement import Measurement, RunRequest, RunSettings
from bpnas.profiler.campaign.sentinel import EVERY, is_sentinel
from tests.records_factory import device_info

SENTINEL = "sentinel@K3E6G1@8-16s2x16"
SECONDS = 2.0  # from one session to the next


def steady(now: float) -> float:
    return 1.0


def right(now: float) -> float:
    return 0.0


def calm(key: str, session: int) -> float:
    return 1.0


@dataclass
class SimulatedDevice:
    """Times a model as `truth_ms` says, times `slowdown` of the seconds since its beginning, times noise.

    Attributes:
        serial: in the conditions.
        slowdown: of everything, by time.
        wrong_by: seconds that the wall clock is ahead, by time.
        session_noise, sample_noise: standard deviations, relative.
        noisier: how many times the sample noise of one session is.
        tick_ns: of the clock.
        seen: (key, session) of all parts, in the order of measuring; of the sentinel in `sentinels`.
    """

    serial: str = "A"
    slowdown: Callable[[float], float] = steady
    wrong_by: Callable[[float], float] = right
    session_noise: float = 0.004
    sample_noise: float = 0.008
    noisier: Callable[[str, int], float] = calm
    tick_ns: int = 1
    samples: int = 25
    began_at: float = 1.7e9
    seed: int = 0
    info: DeviceInfo = field(default_factory=lambda: device_info(os="Android 10 (QP1A.190711.020)"))
    seen: list[tuple[str, int]] = field(default_factory=list)
    sentinels: list[tuple[str, int]] = field(default_factory=list)
    now: float = 0.0

    def measure(self, key: str, session: int) -> Measurement:
        rng = random.Random(f"{self.seed}/{self.serial}/{key}/{session}")
        center_ns = truth_ms(key) * 1e6 * self.slowdown(self.now) * math.exp(rng.gauss(0.0, self.session_noise))
        spread = self.sample_noise * self.noisier(key, session)
        samples = (center_ns * math.exp(rng.gauss(0.0, spread)) for _ in range(self.samples))
        started_at = self.began_at + self.now + self.wrong_by(self.now)
        self.now += SECONDS
        (self.sentinels if is_sentinel(key) else self.seen).append((key, session))
        return Measurement(
            key=key,
            session=session,
            sha256="cd" * 32,
            samples_ns=tuple(round(ns / self.tick_ns) * self.tick_ns for ns in samples),
            repeats=1,
            warmup_runs=1,
            warmup_ns=1,
            load_ns=1,
            started_at=started_at,
            conditions={"before": {"serial": self.serial}},
        )

    def run(self, requests: Iterable[RunRequest], settings: RunSettings) -> Iterator[Measurement]:
        for request in requests:
            yield self.measure(request.key, request.session)

    def conditions(self) -> Conditions:
        return {"temperature_c": 30.0}

    def campaign(self, keys: Iterable[str], sessions: int) -> list[Measurement]:
        """Every key so many times in shuffled order, with a sentinel before, between and after."""
        keys, measured = list(keys), [self.measure(SENTINEL, 0)]
        for session in range(sessions):
            random.Random(session).shuffle(keys)
            for key in keys:
                if len(self.seen) % EVERY == EVERY - 1:
                    measured.append(self.measure(SENTINEL, len(self.sentinels)))
                measured.append(self.measure(key, session))
        return [*measured, self.measure(SENTINEL, len(self.sentinels))]


def truth_ms(key: str) -> float:
    """What a model takes on an undisturbed device: from 1 to 9 ms."""
    return random.Random(key).uniform(1.0, 9.0)
