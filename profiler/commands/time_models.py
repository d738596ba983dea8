"""Models that are no part of a backbone, timed by runtime, one runtime after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bpnas.android_bench.measurement import Failure
from bpnas.profiler.campaign.other_models import OtherPart, Timing, timing
from bpnas.profiler.campaign.records import Plan, Setup
from bpnas.profiler.campaign.run import CampaignResult
from bpnas.profiler.commands.campaign_options import CampaignOptions


@dataclass(frozen=True, slots=True)
class TimedModels:
    """What was timed.

    Attributes:
        records: the file with all samples.
        setups: of every runtime, by its name.
        timings: one per model.
        campaigns: how they ended, one per runtime.
    """

    records: Path
    setups: Mapping[str, Setup]
    timings: tuple[Timing, ...]
    campaigns: tuple[CampaignResult, ...]

    @property
    def setup(self) -> Setup:
        """Setup of the runtime that came last."""
        return list(self.setups.values())[-1]

    @property
    def failures(self) -> list[Failure]:
        """Of all campaigns."""
        return [failure for result in self.campaigns for failure in result.failures]


def time_models(groups: Mapping[str, Sequence[OtherPart]], options: CampaignOptions) -> TimedModels:
    """Time what is not in the records yet, with progress on standard error.

    Args:
        groups: models by runtime, at least one.

    Raises:
        UsageError: the device is not there, or does not know a runtime.
        DeviceError: the device cannot be used, or was lost; what was timed is kept.
        RecordsError: the records are in use or damaged.
    """
    timings: list[Timing] = []
    setups: dict[str, Setup] = {}
    campaigns = []
    for runtime, parts in groups.items():
        with options.team(runtime) as team:
            setups[runtime], records = team.setup, options.path(team)
            plan = Plan(team.setup, (), None, options.sessions, precision=options.precision)
            result = options.run(team, plan, parts)
        timings += [timing(part, runtime, result.assessment) for part in parts]
        campaigns.append(result)
    return TimedModels(records, setups, tuple(timings), tuple(campaigns))
