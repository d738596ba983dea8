"""Time random whole networks on the device of a table, with the machinery of a campaign: resumable, nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bpnas.android_bench.device import Device
from bpnas.base.errors import UsageError
from bpnas.profiler.block import BlockPath
from bpnas.profiler.campaign.estimate import estimate
from bpnas.profiler.campaign.records import Plan, Records, Setup, differences
from bpnas.profiler.campaign.rounds import MAX_SESSIONS
from bpnas.profiler.campaign.run import CampaignResult, Progress, plan_parts, run_campaign
from bpnas.profiler.campaign.sentinel import is_phone
from bpnas.profiler.campaign.session import Statistic, Summarizer
from bpnas.profiler.models.graph import EXPORT_VERSION
from bpnas.profiler.paths import NetworkPart, all_paths
from bpnas.tables.table_meta import TableMeta
from bpnas.tables.validation.validate import TimedNetwork


@dataclass(frozen=True, slots=True)
class TimedNetworks:
    """What was timed, and how the campaign ended."""

    networks: tuple[TimedNetwork, ...]
    campaign: CampaignResult


def refuse_mock_mismatch(meta: TableMeta, serial: str) -> None:
    """Refuse to compare computed latencies with a device, or measured ones with a computed device.

    Raises:
        UsageError: it names the serial that fits.
    """
    if meta.mock and not serial.startswith("mock:"):
        raise UsageError(
            f"the table's latencies were computed, so they say nothing about {serial}; validate it with "
            f"--serial mock:{meta.device_name}"
        )
    if serial.startswith("mock:") and not meta.mock:
        raise UsageError(f"the table was measured on {meta.device.model}, which {serial}, a computed device, cannot be")


def plan_networks(
    meta: TableMeta, device: Device, *, networks: int, sessions: int, seed: int = 0, input_sizes: Sequence[int] = ()
) -> Plan:
    """Random test networks of the paths that a table has at every site, to be timed as the table was.

    Args:
        meta: of the table.
        device: open.
        networks: per input size.
        sessions: fresh sessions of each.
        seed: of the choice.
        input_sizes: default all of the table.

    Raises:
        UsageError: the table was not measured by bpnas, the device or the version of the models is not the table's,
            or the table has no such input size or no path at every site.
    """
    there = {backbone.input_size for backbone in meta.backbones}
    for size in input_sizes:
        if size not in there:
            known = ", ".join(map(str, sorted(there)))
            raise UsageError(f"--input-size {size}: the table holds input sizes {known}")
    if meta.setup is None:
        raise UsageError("the table was imported, so how to time a network as it was is not known: measure one here")
    setup = Setup(device.info, meta.setup.settings, EXPORT_VERSION)
    different = differences([meta.setup, setup])
    if different:
        raise UsageError(
            f"this is not what the table was measured with ({'; '.join(different)}); validate it on the same device, "
            "or measure a table for this one with profile-device"
        )
    if not meta.paths:
        raise UsageError("the table has no path at every site, so no network can be made of it: profile more paths")
    backbones = tuple(b for b in meta.backbones if b.input_size in (input_sizes or there))
    plan = Plan(setup, backbones, _path_filter(meta.paths), sessions, networks, test_seed=seed)
    if not plan_parts(plan):
        raise UsageError("the table's paths make no network to evaluate it with: profile more paths")
    return plan


def time_networks(
    device: Device,
    records: Records,
    plan: Plan,
    *,
    statistic: Statistic = "median",
    max_sessions: int = MAX_SESSIONS,
    serial: str = "device",
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> TimedNetworks:
    """Time what of the plan is not in the records yet; networks that failed are left out.

    Args:
        statistic: of the table.
        max_sessions: of one network, if the plan itself has not more.
        serial: name of the device in messages.

    Raises:
        DeviceError: the device was lost; what was timed is kept.
        SpaceError: the disk is full.
        RecordsError: the records hold a campaign with other settings.
    """
    records.refuse_other_setups(plan.setup)
    result = run_campaign(device, records, plan, serials=[serial], max_sessions=max_sessions, on_progress=on_progress)
    parts = {part.key: part for part in plan_parts(plan) if isinstance(part, NetworkPart)}
    sessions = map(Summarizer(statistic), records.measurements_of(plan.setup))
    found = estimate(
        sessions, dict.fromkeys(parts, plan.sessions), can_throttle=is_phone(plan.setup.device), statistic=statistic
    )
    used = {key: found.parts[key].used for key in parts if key in found.parts}
    timed = tuple(
        TimedNetwork(parts[key], tuple(map(found.corrected_ms, good)), statistic) for key, good in used.items() if good
    )
    return TimedNetworks(timed, result)


def _path_filter(names: Sequence[str]) -> str | None:
    everything: tuple[BlockPath, ...] = all_paths()
    return None if len(names) == len(everything) else ",".join(names)
