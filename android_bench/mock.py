"""Computed devices for where there is no phone: an analytic Snapdragon 845 behind the `Device` protocol.

A mock reads the model file that it is given and answers with the sum of what its operators cost (see `Profile`), with
seeded noise. The constants of the Galaxy S9 are fitted to six published latencies of whole networks, and to block
latencies on a Pixel 3, which has the same chip, by

    python benchmarks/calibrate_mock.py --lut pixel3_fbnet_lut.csv

docs/mock.md says how well that works, and on what. Nothing that a mock answers is a measurement: `DeviceInfo.mock` is
true and goes into every record, table and report.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bpnas.android_bench.counting.limits import NotPriceableError, NotRunnableError
from bpnas.android_bench.device import Conditions, Device, DeviceInfo
from bpnas.android_bench.errors import UnknownSerialError
from bpnas.android_bench.measurement import Failure, Measurement, Outcome, RunRequest, RunSettings, read_model
from bpnas.android_bench.model_inputs import Shape
from bpnas.android_bench.operators import Operator, read_operators

_SPECIAL_KERNEL = 3  # depthwise convolutions up to it have code of their own in mobile runtimes


@dataclass(frozen=True, slots=True)
class Costs:
    """What operators cost on one device with one runtime; every operator is the sum of what applies to it.

    A dense or grouped convolution costs its multiply-adds and, for every value that enters one of its windows,
    `packing` more: so layers with few output channels are slow for their multiply-adds. Grouping divides the former
    and not the latter; and each group is split off, gathered by itself and joined, so that grouping pays off only
    where channels are many and maps small.

    Attributes:
        macs_per_ns: of dense and grouped convolutions and linear layers.
        packing: cost of gathering one input value, in multiply-adds.
        group_ns: of a grouped convolution, per value that enters, is gathered or leaves.
        depthwise_ns: per multiply-add of a depthwise convolution of 3x3 or less.
        large_kernel: times that for larger ones.
        weight_bytes_per_ns: weights stream from memory once.
        copy_ns: per value of an addition, a copy, a transposition, an activation, and of any other operator.
        gate_ns: per value of a pool, or of a product with one number per channel: runtimes have no fast code for these.
        operator_ns: of any operator, regardless of its size.
    """

    macs_per_ns: float
    packing: float
    group_ns: float
    depthwise_ns: float
    large_kernel: float
    weight_bytes_per_ns: float
    copy_ns: float
    gate_ns: float
    operator_ns: float

    def latency_ns(self, operators: Iterable[Operator]) -> float:
        """Nanoseconds of one inference."""
        return sum(self._operator_ns(operator) for operator in operators)

    def _operator_ns(self, operator: Operator) -> float:
        values_in, values_out = operator.input_bytes / 4, operator.output_bytes / 4
        fixed = self.operator_ns + operator.weight_bytes / self.weight_bytes_per_ns
        match operator.kind:
            case "conv" | "linear":
                gathered = operator.macs * operator.groups / operator.c_out
                grouping = (values_in + gathered + values_out) * self.group_ns if operator.groups > 1 else 0.0
                return fixed + (operator.macs + gathered * self.packing) / self.macs_per_ns + grouping
            case "depthwise":
                factor = 1.0 if operator.kernel <= _SPECIAL_KERNEL else self.large_kernel
                return fixed + operator.macs * self.depthwise_ns * factor
            case "pool" | "gate":
                return fixed + max(values_in, values_out) * self.gate_ns
            case _:
                return fixed + values_out * self.copy_ns


@dataclass(frozen=True, slots=True)
class Profile:
    """A computed device.

    Attributes:
        name, model, platform: as in `DeviceInfo`.
        version: raised with every change of the constants or of the formula.
        costs: see there.
    """

    name: str
    model: str
    platform: str
    version: str
    costs: Costs


PROFILES = {
    "s9": Profile(
        name="s9",
        model="Samsung Galaxy S9",
        platform="sdm845",
        version="mock-2",
        costs=Costs(
            macs_per_ns=12.0,
            packing=3.98,
            group_ns=1.57,
            depthwise_ns=1.01,
            large_kernel=1.23,
            weight_bytes_per_ns=5.25,
            copy_ns=1.57,
            gate_ns=12.6,
            operator_ns=84_800.0,
        ),
    )
}

_SESSION_SPREAD = 0.004  # standard deviation of a whole session, relative
_SAMPLE_SPREAD = 0.008  # of a sample within it
_BURST_SHARE, _BURST = 0.02, (0.04, 0.09)  # share of samples that are late, and by how much, as on a real phone


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
        self._latencies: dict[tuple[str, tuple[Shape, ...]], float] = {}
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
        latency_ns, said = None, ""
        try:
            latency_ns = self._latency_ns(request)
        except NotRunnableError as error:
            said = f"no phone runs it: {error}"
        except NotPriceableError as error:
            said = f"mock:{self._profile.name} cannot price it: {error}; a phone may run it, and so may --serial local"
        except (OSError, ValueError) as error:  # gone, changed on the way, or a ModelFormatError
            said = str(error)
        if latency_ns is None:
            return Failure(request.key, request.session, request.sha256, "refused", said, started_at)
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

    def _latency_ns(self, request: RunRequest) -> float:
        content, shapes = read_model(request.path, request.sha256), tuple(feed.shape for feed in request.feeds)
        model = request.sha256, shapes
        if model not in self._latencies:  # it has several sessions
            operators = read_operators(content, shapes, request.path.parent)
            self._latencies[model] = self._profile.costs.latency_ns(operators)
        return self._latencies[model]

    def _noise(self, rng: random.Random) -> float:
        late = rng.uniform(*_BURST) if rng.random() < _BURST_SHARE else 0.0
        return math.exp(rng.gauss(0.0, _SAMPLE_SPREAD)) + late

    def close(self) -> None:
        pass
