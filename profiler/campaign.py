"""The loop that times every part of some backbones on one device: shuffled, resumable, a crash costs one model."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from multiprocessing import get_context, parent_process
from pathlib import Path

from bpnas.android_bench.device import MODEL_SUFFIX, Conditions, Device
from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.runner import Failure, RunRequest
from bpnas.profiler.paths import Part, enumerate_parts, select_paths
from bpnas.profiler.records import Plan, Records

BATCH = 32
"""Models that exist as files at a time: all of them together would be gigabytes."""

MAX_FAILURES_IN_A_ROW = 25
"""So many models failing one after the other is the device's fault, not theirs."""

_TOOLS = ("bpnas", "torch", "onnx", "flatbuffers", "numpy")


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a campaign after one more model.

    Attributes:
        total, done: sessions in the plan; measured, in this call or before.
        measured, failures: in this call.
        elapsed_seconds: of this call.
        conditions: the device's state.
    """

    total: int
    done: int
    measured: int
    failures: int
    elapsed_seconds: float
    conditions: Conditions

    @property
    def per_second(self) -> float:
        """Models a second in this call."""
        return (self.measured + self.failures) / self.elapsed_seconds if self.elapsed_seconds else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """Time to the end at this rate; None as long as there is no rate."""
        return (self.total - self.done - self.failures) / self.per_second if self.per_second else None


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """How a call of `run_campaign` ended.

    Attributes:
        total: sessions in the plan.
        done: measured by now, in this call or before.
        measured: in this call.
        failures: of this call.
        elapsed_seconds: of this call.
    """

    total: int
    done: int
    measured: int
    failures: tuple[Failure, ...]
    elapsed_seconds: float

    @property
    def is_complete(self) -> bool:
        """Whether all of the plan is measured."""
        return self.done == self.total


def plan_parts(plan: Plan) -> tuple[Part, ...]:
    """The parts that a plan covers.

    Raises:
        UsageError: its path filter matches nothing.
    """
    return enumerate_parts(plan.backbones, None if plan.paths is None else select_paths(plan.paths))


def run_campaign(
    device: Device,
    records: Records,
    plan: Plan,
    *,
    seed: int = 0,
    budget_seconds: float | None = None,
    jobs: int = 1,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> CampaignResult:
    """Measure what of the plan is not in the records yet.

    All parts are timed once in random order, then all once more in another order, and so on for every session of the
    plan, so that a slow change of the device meets all parts alike. Each outcome is in the file before the next
    begins. A part that failed is tried again by the next call.

    Args:
        device: open; its info must be that of `plan.setup`.
        records: open for writing.
        seed: of the order.
        budget_seconds: stop before the next model once so much time has gone.
        jobs: processes that write model files between the timings.
        on_progress: called at the start and after every model.

    Raises:
        DeviceError: the device was lost, or too many models in a row failed.
        SpaceError: the disk is full.
    """
    setup, start = plan.setup, time.monotonic()
    parts = {part.key: part for part in plan_parts(plan)}
    records.add_plan(plan)
    finished = records.done(setup)
    order = list(_shuffled_tasks(list(parts), plan.sessions, seed))
    todo = [task for task in order if task not in finished]
    tools = _tool_versions()
    done, measured, failures, in_a_row = len(order) - len(todo), 0, list[Failure](), 0

    def elapsed() -> float:
        return time.monotonic() - start

    def report() -> None:
        on_progress(Progress(len(order), done, measured, len(failures), elapsed(), device.conditions()))

    def result() -> CampaignResult:
        return CampaignResult(len(order), done, measured, tuple(failures), elapsed())

    report()
    with ExitStack() as stack:
        folder = records.path.with_name(f".{records.path.name}.models")
        shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed
        folder.mkdir()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        export = partial(_export_to_file, folder=folder, runtime=setup.device.runtime)
        mapper: Callable[..., Iterator[RunRequest]] = starmap
        if jobs > 1 and len(todo) > BATCH:
            pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_start_exporter)
            stack.callback(pool.shutdown, cancel_futures=True)
            mapper = partial(_pool_starmap, pool)
        for first in range(0, len(todo), BATCH):
            batch = todo[first : first + BATCH]
            requests = list(mapper(export, [(parts[key], session) for key, session in batch]))
            for outcome in device.run(requests, setup.settings):
                records.add(setup, tools, outcome)
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                    in_a_row += 1
                else:
                    done, measured, in_a_row = done + 1, measured + 1, 0
                report()
                if in_a_row == MAX_FAILURES_IN_A_ROW:
                    last = failures[-1]
                    raise DeviceError(
                        f"{in_a_row} models in a row failed, the last one, {last.key}, with {last.kind}: "
                        f"{last.message}; mend the device or its runtime and call the same command again"
                    )
                if budget_seconds is not None and elapsed() >= budget_seconds:
                    return result()
            for request in requests:
                request.path.unlink(missing_ok=True)
    return result()


def _shuffled_tasks(keys: Sequence[str], sessions: int, seed: int) -> Iterator[tuple[str, int]]:
    for session in range(sessions):
        shuffled = list(keys)
        random.Random(f"{seed}/{session}").shuffle(shuffled)
        for key in shuffled:
            yield key, session


def export_part(part: Part, runtime: str) -> bytes:
    """The model file of a part, with weights that depend on nothing but its key."""
    import torch

    from bpnas.profiler.modules import build_module

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(int.from_bytes(hashlib.sha256(part.key.encode()).digest()[:8], "big") >> 1)
        module = build_module(part).eval()
    if runtime == "onnxruntime":
        from bpnas.profiler.onnx_export import to_onnx

        return to_onnx(module, part.input_shapes[0])
    from bpnas.profiler.tflite_export import to_tflite

    return to_tflite(module, part.input_shapes[0])


def _export_to_file(part: Part, session: int, folder: Path, runtime: str) -> RunRequest:
    content = export_part(part, runtime)
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{digest}-{session}{MODEL_SUFFIX[runtime]}"
    path.write_bytes(content)
    return RunRequest(part.key, session, path, digest)


def _pool_starmap(
    pool: ProcessPoolExecutor, function: Callable[..., RunRequest], tasks: list[tuple[Part, int]]
) -> Iterator[RunRequest]:
    # Ctrl-C reaches every process on the terminal, but is the campaign's to handle: exporters start with it blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.map(function, *zip(*tasks, strict=True), chunksize=4)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_exporter() -> None:
    threading.Thread(target=_end_with_campaign, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _end_with_campaign() -> None:
    # An idle exporter would otherwise outlive a campaign that was killed, and wait for ever.
    campaign = parent_process()
    assert campaign is not None
    campaign.join()
    os._exit(1)


def _tool_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
