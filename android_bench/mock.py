"""Computed devices for where there is no phone: an analytic Snapdragon 845 behind the `Device` protocol.

A mock reads the model file that it is given and answers with the sum over its operators of

    operator overhead + multiply-adds / throughput + bytes moved / bandwidth

with seeded noise. The constants are round figures near the published latencies of MobileNetV1 and V2 on a Galaxy S9
(float32, one big core); they are not fitted. Nothing that a mock answers is a measurement: `DeviceInfo.mock` is true
and goes into every record, table and report.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bpnas.android_bench.device import Conditions, Device, DeviceInfo
from bpnas.android_bench.errors import UnknownSerialError
from bpnas.android_bench.operators import Operator, read_operators
from bpnas.android_bench.runner import Failure, Measurement, Outcome, RunRequest, RunSettings, read_model


@dataclass(frozen=True, slots=True)
class Profile:
    """Constants of a computed device.

    Attributes:
        name, model, platform: as in `DeviceInfo`.
        version: raised with every change of the constants or of the formula.
        conv_macs_per_ns: dense convolutions and linear layers.
        depthwise_macs_per_ns: by kernel size; other sizes take the largest one's.
        full_width: a grouped convolution with at least so many channels per group is as efficient as a dense one.
        bytes_per_ns: memory traffic.
        operator_ns: per operator, whatever it does.
    """

    name: str
    model: str
    platform: str
    version: str
    conv_macs_per_ns: float
    depthwise_macs_per_ns: dict[int, float]
    full_width: int
    bytes_per_ns: float
    operator_ns: float

    def latency_ns(self, operators: Sequence[Operator]) -> float:
        """Nanoseconds of one inference."""
        return sum(self._operator_ns(operator) for operator in operators)

    def _operator_ns(self, operator: Operator) -> float:
        if operator.kind == "depthwise":
            rates = self.depthwise_macs_per_ns
            macs_per_ns = rates.get(operator.kernel, rates[max(rates)])
        else:
            # Few channels per group leave vector lanes empty, which is why grouping can cost more than it saves.
            width = min(operator.c_in, operator.c_out) / operator.groups
            macs_per_ns = self.conv_macs_per_ns
            if operator.groups > 1:
                macs_per_ns *= min(1.0, (width / self.full_width) ** 0.8)
        traffic = operator.input_bytes + operator.output_bytes + operator.weight_bytes
        return self.operator_ns + operator.macs / macs_per_ns + traffic / self.bytes_per_ns


PROFILES = {
    "s9": Profile(
        name="s9",
        model="Samsung Galaxy S9",
        platform="sdm845",
        version="mock-1",
        conv_macs_per_ns=9.5,
        depthwise_macs_per_ns={3: 1.7, 5: 2.2, 7: 2.5},
        full_width=48,
        bytes_per_ns=8.0,
        operator_ns=10_000.0,
    )
}

_SESSION_SPREAD = 0.004  # standard deviation of a whole session, relative
_SAMPLE_SPREAD = 0.008  # of a sample within it
_BURST_SHARE, _BURST = 0.02, (0.04, 0.09)  # now and then a sample is late by so much, as on a real phone


class MockDevice(Device):
    """A computed device.

    Args:
        name: one of `PROFILES`.
        runtime: only for the fingerprint; the latencies are the same.
        seed: of the noise. The same file, key, session and seed give the same samples.
    """

    def __init__(self, name: str, runtime: str, seed: int = 0) -> None:
        if name not in PROFILES:
            known = ", ".join(f"mock:{known}" for known in PROFILES)
            raise UnknownSerialError(f"no device answers to serial 'mock:{name}': the computed devices are {known}")
        self._profile = PROFILES[name]
        self._seed = seed
        profile = self._profile
        self._info = DeviceInfo(
            name=profile.name,
            mock=True,
            model=profile.model,
            platform=profile.platform,
            os="none",
            abi="none",
            runtime=runtime,
            runtime_version=profile.version,
            runtime_sha256=hashlib.sha256(repr((profile, seed)).encode()).hexdigest(),
        )

    @property
    def info(self) -> DeviceInfo:
        return self._info

    def conditions(self) -> Conditions:
        return {"device": "mock"}

    def run(self, requests: Iterable[RunRequest], settings: RunSettings) -> Iterator[Outcome]:
        for request in requests:
            yield self._run_one(request, settings)

    def _run_one(self, request: RunRequest, settings: RunSettings) -> Outcome:
        # A computed device has no clock: what depends on time would make equal runs differ.
        started_at = 0.0
        try:
            latency_ns = self._profile.latency_ns(read_operators(read_model(request.path, request.sha256)))
        except (OSError, ValueError) as error:  # gone, changed on the way, or a ModelFormatError
            return Failure(request.key, request.session, request.sha256, "refused", str(error), started_at)
        rng = random.Random(f"{self._seed}/{request.key}/{request.session}")
        repeats = max(1, round(settings.sample_ms * 1e6 / latency_ns))
        center = latency_ns * repeats * math.exp(rng.gauss(0.0, _SESSION_SPREAD))
        samples = tuple(round(center * self._noise(rng)) for _ in range(settings.runs))
        return Measurement(
            key=request.key,
            session=request.session,
            sha256=request.sha256,
            samples_ns=samples,
            repeats=repeats,
            warmup_runs=settings.warmup_runs,
            warmup_ns=round(latency_ns * settings.warmup_runs),
            load_ns=0,
            started_at=started_at,
            conditions={"before": dict(self.conditions()), "after": dict(self.conditions())},
        )

    def _noise(self, rng: random.Random) -> float:
        late = rng.uniform(*_BURST) if rng.random() < _BURST_SHARE else 0.0
        return math.exp(rng.gauss(0.0, _SAMPLE_SPREAD)) + late

    def close(self) -> None:
        pass
