"""Records made by hand: what a campaign would have written, without a device and without torch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bpnas.android_bench.device import DeviceInfo
from bpnas.android_bench.measurement import Failure, Measurement, RunSettings
from bpnas.profiler import Backbone, Records
from bpnas.profiler.backbone import Stage
from bpnas.profiler.campaign.records import Plan, Setup
from bpnas.profiler.campaign.run import plan_parts
from bpnas.profiler.campaign.sentinel import is_sentinel

PATHS = "K1G1,K3E2G1,K3E2G2"
TOOLS = {"bpnas": "0.1.0", "torch": "none"}
QUICK = RunSettings(warmup_runs=1, warmup_seconds=0.0, runs=3, seconds=0.0)


def backbone(input_size: int = 16, name: str = "tiny", classes: int = 10, shuffle: bool = False) -> Backbone:
    """Three sites, of which the first two are one geometry and residual."""
    return Backbone(name, input_size, 8, 1, (Stage(8, 2, 1), Stage(16, 1, 2)), 16, classes, shuffle)


def device_info(**changes: Any) -> DeviceInfo:
    values = {
        "name": "bench",
        "mock": False,
        "model": "Test Bench 1",
        "platform": "sdm845",
        "os": "none 1",
        "abi": "arm64",
        "runtime": "tflite",
        "runtime_version": "tflite 2",
        "runtime_sha256": "ab" * 32,
    }
    return DeviceInfo(**{**values, **changes})


def make_plan(
    *backbones: Backbone,
    paths: str | None = PATHS,
    sessions: int = 1,
    settings: RunSettings = QUICK,
    export_version: int = 1,
    networks: int = 0,
    precision: float | None = None,
    heads: tuple[int, ...] = (),
    **device: Any,
) -> Plan:
    setup = Setup(device_info(**device), settings, export_version)
    return Plan(setup, backbones or (backbone(),), paths, sessions, networks, heads=heads, precision=precision)


def measurement(key: str, session: int = 0, **changes: Any) -> Measurement:
    """Samples that depend on key and session alone: a calm device, on which sessions differ by half a percent."""
    repeats = random.Random(key).randrange(1, 4)
    center_ns = random.Random(key).randrange(1_000_000, 9_000_000)
    rng = random.Random(f"{key}/{session}")
    center_ns *= rng.uniform(0.995, 1.005)
    values = Measurement(
        key=key,
        session=session,
        sha256="cd" * 32,
        samples_ns=tuple(round(center_ns * rng.uniform(0.995, 1.005)) for _ in range(5)),
        repeats=repeats,
        warmup_runs=3,
        warmup_ns=rng.randrange(10**7),
        load_ns=rng.randrange(10**6),
        started_at=1.7e9 + rng.random(),
        conditions={"before": {"temperature_c": 30.5, "screen": "off"}, "after": {"temperature_c": 31.0}},
    )
    return replace(values, **changes)


def failure(key: str, session: int = 0, **changes: Any) -> Failure:
    return replace(
        Failure(key, session, "cd" * 32, "crash", "the process died (killed by signal 11)", 1.7e9), **changes
    )


def tasks(plan: Plan) -> list[tuple[str, int]]:
    """(key, session) of all that a plan covers."""
    return [(part.key, session) for session in range(plan.sessions) for part in plan_parts(plan)]


def write_records(
    path: Path,
    plan: Plan,
    make: Callable[[str, int], Measurement | Failure | None] = measurement,
    order: Iterable[tuple[str, int]] | None = None,
) -> Path:
    """Add a plan and an outcome for everything in it; None from `make` leaves a hole."""
    with Records.write(path) as records:
        records.add_plan(plan)
        for key, session in tasks(plan) if order is None else order:
            outcome = make(key, session)
            if outcome is not None:
                records.add(plan.setup, TOOLS, outcome)
    return path


def read_everything(path: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """Plans, measurements and failures of a records file, without the sentinel's."""
    with Records.read(path) as records:
        return (
            list(records.plans()),
            [each for each in records.measurements() if not is_sentinel(each[1].key)],
            [each for each in records.failures() if not is_sentinel(each[1].key)],
        )


def read_sentinels(path: Path) -> list[Measurement]:
    """The sentinel's measurements of a records file."""
    with Records.read(path) as records:
        return [one for _, one in records.measurements() if is_sentinel(one.key)]
