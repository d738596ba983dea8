"""What every command that runs a campaign is told, and the devices and records that follow from it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bpnas.android_bench.device import Device, DeviceOptions
from bpnas.android_bench.measurement import Failure, RunSettings
from bpnas.base.command import fail
from bpnas.base.errors import UsageError
from bpnas.base.plurals import counted
from bpnas.profiler.campaign.records import Plan, Records, Setup
from bpnas.profiler.campaign.rounds import MAX_SESSIONS
from bpnas.profiler.campaign.run import CampaignResult, refuse_unequal, run_campaign
from bpnas.profiler.commands.campaign_display import campaign_display
from bpnas.profiler.models.graph import EXPORT_VERSION

if TYPE_CHECKING:
    from bpnas.profiler.campaign.other_models import OtherPart

_Options = TypeVar("_Options", DeviceOptions, RunSettings)


@dataclass(frozen=True, slots=True)
class Team:
    """Open devices that are alike, by serial.

    Attributes:
        label: for people.
    """

    devices: Mapping[str, Device]
    setup: Setup
    label: str


@dataclass(frozen=True, slots=True)
class CampaignOptions:
    """As on the command line, where every name is explained.

    Attributes:
        deadline: as `time.monotonic` counts; None for none.
    """

    serials: tuple[str, ...]
    records: str | None
    deadline: float | None
    jobs: int
    seed: int
    sessions: int
    precision: float | None
    max_sessions: int
    device: DeviceOptions
    settings: RunSettings

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> CampaignOptions:
        """Those among the values of a command's parameters; what was not given keeps its default.

        Raises:
            UsageError: some of them contradict each other, or there is no device.
        """
        budget = parameters["budget"]
        return cls(
            serials=_serials(parameters["serials"]),
            deadline=None if budget is None else time.monotonic() + budget * 60,
            max_sessions=most_sessions(parameters["sessions"], parameters["max_sessions"]),
            device=given_options(DeviceOptions, parameters),
            settings=given_options(RunSettings, parameters),
            **{name: parameters[name] for name in ("records", "jobs", "seed", "sessions", "precision")},
        )

    @contextmanager
    def team(self, runtime: str) -> Iterator[Team]:
        """The devices, open on a runtime.

        Raises:
            UsageError: one of them is not there, or they are not alike.
            DeviceError: one of them cannot be used.
        """
        from bpnas.android_bench.opening import open_device

        with ExitStack() as stack:
            devices = {
                serial: stack.enter_context(open_device(serial, runtime, self.device)) for serial in self.serials
            }
            info = devices[self.serials[0]].info
            setup = Setup(info, self.settings, EXPORT_VERSION)
            refuse_unequal(devices, setup)
            yield Team(devices, setup, info.label if len(devices) == 1 else f"{info.label}, {len(devices)} devices")

    def path(self, team: Team) -> Path:
        """The records file."""
        return Path(self.records or f"{team.setup.device.name}.sqlite")

    def run(self, team: Team, plan: Plan, others: Sequence[OtherPart] = ()) -> CampaignResult:
        """Run a campaign, with its progress on standard error; see `run_campaign`.

        Raises:
            RecordsError: the records hold a campaign that must not meet this one in a table.
        """
        # Before torch loads, with which models are written: threads of it that wait for each other would spin, on the
        # cores of models that are timed here, and make the writing many times slower where other programs work.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        path, setup = self.path(team), plan.setup
        display = campaign_display(team.label, path, setup.device, setup.settings, len(team.devices))
        with Records.write(path) as records, display as show:
            if not others:
                records.refuse_other_setups(setup)
            return run_campaign(
                list(team.devices.values()),
                records,
                plan,
                others=others,
                serials=self.serials,
                seed=self.seed,
                max_sessions=self.max_sessions,
                budget_seconds=None if self.deadline is None else max(0.0, self.deadline - time.monotonic()),
                jobs=self.jobs,
                on_progress=show,
            )


def given_options(kind: type[_Options], parameters: Mapping[str, Any]) -> _Options:
    """Those options among the values of a command's parameters; what is None keeps its default."""
    values = {each.name: parameters.get(each.name) for each in fields(kind)}
    return kind(**{name: value for name, value in values.items() if value is not None})


def most_sessions(sessions: int, most: int | None) -> int:
    """What `--max-sessions` says, or its default; raises UsageError where it contradicts `--sessions`."""
    if most is not None and most < sessions:
        raise UsageError(f"--max-sessions {most} is less than --sessions {sessions}: leave it out, or raise it")
    return MAX_SESSIONS if most is None else most


def failure_fields(failures: Sequence[Failure]) -> list[dict[str, Any]]:
    """For a command's JSON."""
    return [{"key": f.key, "session": f.session, "kind": f.kind, "message": f.message} for f in failures]


def fail_for(failures: Sequence[Failure]) -> None:
    """End the command with exit code 1 if there are any."""
    if failures:
        first = failures[0]
        fail(
            f"{counted(len(failures), 'model')} failed, the first one, {first.key}, with {first.kind}: "
            f"{first.message}; all are noted in the records, call the same command again to try them again",
            1,
        )


def _serials(serials: tuple[str, ...]) -> tuple[str, ...]:
    if not serials:
        from bpnas.android_bench.serials import choose_serial

        return (choose_serial(),)
    twice = [serial for serial in serials if serials.count(serial) > 1]
    if twice:
        raise UsageError(f"--serial {twice[0]} is given twice: name every device once")
    return serials
