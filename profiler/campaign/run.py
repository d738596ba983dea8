"""The loop that times every part of some backbones: shuffled, resumable, on one device or several alike; a crash costs
one model, a lost device costs nothing.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from bpnas.android_bench.device import Conditions, Device
from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.measurement import Failure, Measurement, Outcome
from bpnas.android_bench.threads import check_threads
from bpnas.base.errors import UsageError
from bpnas.profiler.campaign.device_workers import DeviceWorkers
from bpnas.profiler.campaign.model_files import ModelFiles
from bpnas.profiler.campaign.other_models import AnyPart, OtherPart
from bpnas.profiler.campaign.records import Plan, Records, Setup, differences
from bpnas.profiler.campaign.rounds import MAX_SESSIONS, Assessment, Rounds
from bpnas.profiler.campaign.sentinel import SentinelTasks, is_phone, is_sentinel, sentinel_model
from bpnas.profiler.campaign.session import Summarizer, Task
from bpnas.profiler.campaign.work_queue import WorkQueue
from bpnas.profiler.networks import Fold, random_networks
from bpnas.profiler.paths import Part, all_paths, context_parts, enumerate_parts, head_parts, select_paths

WORTH_PROCESSES = 32
"""Fewer models than this are written before another process has loaded torch."""

_TOOLS = ("bpnas", "torch", "onnx", "flatbuffers", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignState:
    """How far a campaign is. The sentinel counts in none of these.

    Attributes:
        parts: models to time.
        total, done: sessions of the plan's parts, of which more are added where a round follows; measured, in this call
            or before.
        measured: in this call.
        elapsed_seconds: of this call.
        lost: one sentence per device that was given up, while others continued.
    """

    parts: int
    total: int
    done: int
    measured: int
    elapsed_seconds: float
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(CampaignState):
    """The state of a campaign after one more model.

    Attributes:
        failures: in this call, without the sentinel's.
        conditions: the device's state after its last measurement; of several devices, each name after the serial.
    """

    failures: int
    conditions: Conditions

    @property
    def per_second(self) -> float:
        """Models a second in this call."""
        return (self.measured + self.failures) / self.elapsed_seconds if self.elapsed_seconds else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """Time to the end at this rate; None as long as there is no rate."""
        return (self.total - self.done - self.failures) / self.per_second if self.per_second else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignResult(CampaignState):
    """How a call of `run_campaign` ended.

    Attributes:
        failures: of this call, the sentinel's among them.
        assessment: how well the parts are known by now.
    """

    failures: tuple[Failure, ...]
    assessment: Assessment

    @property
    def is_complete(self) -> bool:
        """Whether all that was to be measured is, well or not."""
        return self.done == self.total


def plan_parts(plan: Plan) -> tuple[Part, ...]:
    """The parts that a plan covers.

    Raises:
        UsageError: its path filter matches nothing.
    """
    paths = all_paths() if plan.paths is None else select_paths(plan.paths)
    fold: Fold = "fit" if plan.test_seed is None else "test"
    networks = [
        network
        for backbone in plan.backbones
        for network in random_networks(backbone, paths, plan.networks, fold=fold, seed=plan.test_seed or 0)
    ]
    if plan.test_seed is not None:
        return tuple(networks)
    parts = enumerate_parts(plan.backbones, paths)
    heads = dict.fromkeys(head for backbone in plan.backbones for head in head_parts(backbone, plan.heads))
    in_context = context_parts(plan.backbones, paths) if plan.context else ()
    return (*parts, *(head for head in heads if head not in parts), *in_context, *networks)


def refuse_unequal(devices: Mapping[str, Device], setup: Setup) -> None:
    """Refuse devices whose latencies must not meet in one table, or would not be those of the models.

    Args:
        devices: by the name that they have in messages.
        setup: of the plan that they are to measure.

    Raises:
        UsageError: their fingerprints differ, or are not the plan's; the message lists where. Or one has fewer cores
            than the plan's settings have threads.
    """
    for name, device in devices.items():
        check_threads(device, setup.settings, name, device.info.affinity)
    different = differences([setup, *(replace(setup, device=device.info) for device in devices.values())])
    if different:
        raise UsageError(
            f"{' and '.join(devices)} cannot share this campaign, for their latencies must not meet in one table "
            f"({'; '.join(different)}); measure each with records of its own"
        )


def run_campaign(
    device: Device | Sequence[Device],
    records: Records,
    plan: Plan,
    *,
    others: Sequence[OtherPart] = (),
    serials: Sequence[str] = (),
    seed: int = 0,
    max_sessions: int = MAX_SESSIONS,
    budget_seconds: float | None = None,
    jobs: int = 1,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> CampaignResult:
    """Measure what of the plan is not in the records yet.

    All parts are timed once in random order, then all once more in another order, and so on for every session of the
    plan, so that a slow change of the device meets all parts alike. Each outcome is in the file before anything else
    happens with it. A part that failed is tried again by the next call. The sentinel is timed between the parts.

    Then what was noisy, or came from a throttled device, is measured once more. If the plan asks for a precision,
    parts that are not known as well get another session, and another, until all are or have `max_sessions`. If it does
    not, a call that finds everything measured gives those parts one more session that are not known within
    `estimate.PRECISION`.

    Several devices share the work, each at its own pace. What a lost one took and did not answer is done by the
    others. On Ctrl-C, and at the end of the budget, what they are at is still waited for and kept, for some seconds.

    Args:
        device: open, one or several; their info must be that of `plan.setup`.
        records: open for writing.
        others: these models instead of the plan's parts; then no plan is noted, so that no table asks for them, and no
            sentinel is timed.
        serials: names of the devices in messages; by default `device 1`, `device 2`, ...
        seed: of the order.
        max_sessions: of one part, if the plan itself has not more.
        budget_seconds: begin no other model after this time.
        jobs: processes that write model files while a device waits for the next ones.
        on_progress: called at the start of every round and after every model.

    Raises:
        UsageError: the fingerprints of the devices differ, or there are more threads than cores.
        DeviceError: no device is left: the last one was lost, or too many models in a row failed on it.
        SpaceError: the disk is full.
    """
    team = list(device) if isinstance(device, Sequence) else [device]
    names = list(serials) or [f"device {n + 1}" for n in range(len(team))]
    if not team or not len(team) == len(names) == len(set(names)):
        raise UsageError(f"a campaign needs devices with one serial each, not {len(team)} with {', '.join(names)}")
    devices = dict(zip(names, team, strict=True))
    campaign = Campaign(devices, records, plan, others, seed, max_sessions, budget_seconds, on_progress)
    return campaign.run(jobs)


class Campaign:
    """One call of `run_campaign`, which explains the arguments."""

    def __init__(
        self,
        devices: Mapping[str, Device],
        records: Records,
        plan: Plan,
        others: Sequence[OtherPart],
        seed: int,
        max_sessions: int,
        budget_seconds: float | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._start = time.monotonic()
        self._devices, self._records, self._setup = devices, records, plan.setup
        self._budget_seconds, self._on_progress = budget_seconds, on_progress
        refuse_unequal(devices, plan.setup)
        self._parts: dict[str, AnyPart] = {part.key: part for part in others or plan_parts(plan)}
        if not others:
            records.add_plan(plan)
        self._rounds = Rounds(
            list(self._parts),
            plan.sessions,
            seed=seed,
            precision=plan.precision,
            max_sessions=max_sessions,
            failed=_failed(records, plan, others),
            can_throttle=is_phone(plan.setup.device),
        )
        self._summarize = Summarizer()
        for one in records.measurements_of(plan.setup):
            self._rounds.add(self._summarize(one))
        self._others = bool(others)
        self._wanted = self._rounds.tasks
        self._tools = _tool_versions()
        self._measured, self._is_over = 0, False
        self._failures: list[Failure] = []
        self._lost: dict[str, str] = {}
        self._conditions = {name: one.conditions() for name, one in devices.items()}
        self._sentinels: SentinelTasks | None = None
        if not others:
            sentinel, self._parts[sentinel] = sentinel_model(plan.backbones[0])
            self._sentinels = SentinelTasks(sentinel, records.done(plan.setup))

    def run(self, jobs: int) -> CampaignResult:
        """Measure round after round; once only. Raises what `run_campaign` raises of devices and disk."""
        tasks = self._next_round()
        processes = jobs if len(tasks) > WORTH_PROCESSES else 1
        folder = self._records.path.with_name(f".{self._records.path.name}.models")
        self._report()
        with ModelFiles(folder, self._parts, self._setup.device.runtime, processes) as models:
            while tasks:
                self._measure(tasks, models)
                tasks = [] if self._is_over else self._next_round()
                if tasks:
                    self._report()
        return CampaignResult(**self._state(), failures=tuple(self._failures), assessment=self._rounds.assess())

    def _next_round(self) -> list[Task]:
        tasks = self._rounds.next()
        self._wanted.update(tasks)
        return tasks

    def _measure(self, tasks: list[Task], models: ModelFiles) -> None:
        """One round, on the devices that are left."""
        there = {name: one for name, one in self._devices.items() if name not in self._lost}
        queue = WorkQueue(tasks, models, len(there), self._sentinels)
        with DeviceWorkers(there, queue, self._setup.settings, self._lost, self._others) as workers:
            try:
                self._take_all(workers, queue)
            except KeyboardInterrupt:
                queue.stop()
                with suppress(DeviceError):  # that devices end badly is no news after Ctrl-C
                    self._take_all(workers, queue)
                raise

    def _take_all(self, workers: DeviceWorkers, queue: WorkQueue) -> None:
        for name, outcome in workers.outcomes():
            if self._others and isinstance(outcome, Failure) and outcome.kind != "invalid":
                # Who is no model for this device in one session is none in another, and may take long to show it.
                self._wanted.difference_update(queue.drop(outcome.key))
            self._take(name, outcome)
            if self._is_over:
                queue.stop()

    def _take(self, device: str, outcome: Outcome) -> None:
        """Note an outcome, in the records before anything else happens with it."""
        self._records.add(self._setup, self._tools, outcome)
        if isinstance(outcome, Measurement):
            self._rounds.add(self._summarize(outcome))
            self._measured += not is_sentinel(outcome.key)
            self._conditions[device] = {**self._conditions[device], **outcome.conditions.get("after", {})}
        else:
            self._failures.append(outcome)
        if not is_sentinel(outcome.key):
            self._report()
            self._is_over = self._budget_seconds is not None and self._elapsed() >= self._budget_seconds

    def _report(self) -> None:
        failures = sum(not is_sentinel(failure.key) for failure in self._failures)
        self._on_progress(Progress(**self._state(), failures=failures, conditions=_merged(self._conditions)))

    def _state(self) -> dict[str, Any]:
        """The fields of `CampaignState`."""
        return {
            "parts": len(self._parts) - (self._sentinels is not None),
            "total": len(self._wanted),
            "done": self._rounds.measured,
            "measured": self._measured,
            "elapsed_seconds": self._elapsed(),
            "lost": tuple(self._lost.values()),
        }

    def _elapsed(self) -> float:
        return time.monotonic() - self._start


def _failed(records: Records, plan: Plan, others: Sequence[OtherPart]) -> set[Task]:
    """What failed in an earlier call; of somebody's file no other session is tried then."""
    failed = records.failed(plan.setup)
    return failed | {(key, n) for key, _ in failed for n in range(plan.sessions)} if others else failed


def _merged(states: Mapping[str, Conditions]) -> Conditions:
    if len(states) == 1:
        (only,) = states.values()
        return only
    return {f"{serial} {name}": value for serial, state in states.items() for name, value in state.items()}


def _tool_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
