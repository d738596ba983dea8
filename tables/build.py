"""Records -> table. It aggregates samples, and refuses what does not belong together; it never fills in.

The estimate of a part is that of `bpnas.profiler.estimate`; its spread is the median absolute deviation and the 10th
and 90th percentile over all samples of the sessions that are used, as they were measured.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bpnas.base.collection import no_collection
from bpnas.base.plurals import counted
from bpnas.profiler.backbone import IMAGE_CHANNELS
from bpnas.profiler.block import BlockPath, ComplexPath
from bpnas.profiler.campaign.estimate import PRECISION, Estimate, estimate, estimate_part
from bpnas.profiler.campaign.records import Plan, Records, Setup, differences
from bpnas.profiler.campaign.run import plan_parts
from bpnas.profiler.campaign.sentinel import is_phone
from bpnas.profiler.campaign.session import Statistic
from bpnas.profiler.paths import (
    ContextPart,
    HeadPart,
    JoinPart,
    NeighboursPart,
    NetworkPart,
    Part,
    PathPart,
    StemPart,
    select_paths,
)
from bpnas.tables.coverage import paths_everywhere
from bpnas.tables.errors import BuildError
from bpnas.tables.latency_table import LatencyTable
from bpnas.tables.schema import arrow_table
from bpnas.tables.setup_sessions import Samples, SetupSessions
from bpnas.tables.table_meta import TableMeta
from bpnas.tables.validation.model_choice import choose_models

if TYPE_CHECKING:
    import pyarrow as pa

_NAMED = 5  # that many examples in a message


@dataclass(frozen=True, slots=True)
class BuiltTable:
    """A table in memory, with its metadata.

    Attributes:
        largest_correction: of any session for drift of the device, relative; 0 where nothing was corrected.
    """

    table: pa.Table
    meta: TableMeta
    largest_correction: float = 0.0


def build_table(
    files: Sequence[str | Path],
    *,
    runtime: str | None = None,
    backbone: str | None = None,
    paths: str | None = None,
    allow_missing: bool = False,
    additivity: str | None = None,
    statistic: Statistic = "median",
) -> BuiltTable:
    """Make a table of all that these records files planned.

    Args:
        files: records of one device; several files are joined.
        runtime: which one, where the records hold several.
        backbone: the name of one, where the records hold several.
        paths: only paths that match this filter.
        allow_missing: make a table although parts of the plan are not measured; its metadata names them.
        additivity: the model that the table predicts with; default what `choose_models` finds.
        statistic: of samples that stands for a session, and of sessions that stands for a part.

    Raises:
        RecordsError: a file cannot be read or is damaged.
        BuildError: the records are of several devices, runtimes, settings or backbones, parts are missing, or the model
            that was asked for is not available.
        UsageError: there is no such model.
    """
    with ExitStack() as opened:
        records = [opened.enter_context(Records.read(file, by_rows=True)) for file in files]
        return _build(records, runtime, backbone, paths, allow_missing, additivity, statistic)


def _build(
    records: Sequence[Records],
    runtime: str | None,
    backbone: str | None,
    paths: str | None,
    allow_missing: bool,
    additivity: str | None,
    statistic: Statistic,
) -> BuiltTable:
    by_file = {str(file.path): _chosen(file.plans(), runtime, backbone) for file in records}
    plans = [plan for own in by_file.values() for plan in own]
    names = ", ".join(by_file)
    if not plans:
        wanted = " ".join(f"{what} {name}" for what, name in (("runtime", runtime), ("backbone", backbone)) if name)
        raise BuildError(f"{names}: no campaign{' with ' + wanted if wanted else ''} in these records")
    setup = _only_setup(by_file)
    _only_backbone(names, plans)

    wanted_parts = _wanted(plans, None if paths is None else set(select_paths(paths)))
    if not any(isinstance(one.part, PathPart) for one in wanted_parts.values()):
        raise BuildError(f"{names}: no path that matches {paths!r} was planned to be measured")
    with no_collection():
        found = _rows(wanted_parts, SetupSessions(records, setup, statistic), statistic)
    if (found.missing or found.begun) and not allow_missing:
        raise BuildError(
            f"{names}: {_holes(found, len(wanted_parts))}; finish the campaign with the same profile-device command, "
            "or accept a table with holes with --allow-missing"
        )
    if not found.rows:
        raise BuildError(f"{names}: nothing is measured yet; call the same profile-device command again")
    table = arrow_table(found.rows)
    keys = {row["key"] for row in found.rows}
    meta = replace(_meta(setup, plans, tuple(found.missing), keys), statistic=statistic)
    models = choose_models(LatencyTable(table, meta), additivity)
    return BuiltTable(table, replace(meta, models=models), found.correction)


def _chosen(plans: Iterable[Plan], runtime: str | None, backbone: str | None) -> list[Plan]:
    """Those of a runtime and a backbone; what a table is evaluated with must not get into it."""
    return [
        plan
        for plan in plans
        if plan.test_seed is None
        and runtime in (None, plan.setup.device.runtime)
        and backbone in (None, plan.backbones[0].name)
    ]


def _holes(found: _Found, planned: int) -> str:
    holes = []
    if found.missing:
        why = f" (the device was throttled whenever it measured {name_some(found.unusable)})" if found.unusable else ""
        holes.append(f"{len(found.missing):,} of {planned:,} entries missing: {name_some(found.missing)}{why}")
    if found.begun:
        holes.append(f"{len(found.begun):,} of {planned:,} with fewer sessions than planned: {name_some(found.begun)}")
    return "; ".join(holes)


@dataclass(slots=True)
class _Found:
    """What the records have.

    Attributes:
        rows: of the table.
        missing, unusable: keys of the parts without a row, and of those among them that were measured nevertheless.
        begun: keys of rows with fewer sessions than planned.
        correction: the largest one.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    correction: float = 0.0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A part, the sessions that were planned of it, and the precision asked for, where several plans cover it."""

    part: Part
    sessions: int
    precision: float


def _wanted(plans: Iterable[Plan], keep: set[BlockPath] | None) -> dict[str, _Wanted]:
    """What these plans cover, by key; only parts of the paths in `keep`."""
    wanted: dict[str, _Wanted] = {}
    for plan in plans:
        asked = PRECISION if plan.precision is None else plan.precision
        for part in plan_parts(plan):
            if keep is None or keep.issuperset(_paths_of(part)):
                before = wanted.get(part.key, _Wanted(part, 0, asked))
                wanted[part.key] = _Wanted(part, max(plan.sessions, before.sessions), min(asked, before.precision))
    return wanted


def _rows(wanted: Mapping[str, _Wanted], sessions: SetupSessions, statistic: Statistic) -> _Found:
    """Parts are read one after the other: the samples of all would not fit into memory."""
    setup, all_found = sessions.setup, _Found()
    drifts = estimate(sessions.of_sentinels(), can_throttle=is_phone(setup.device), statistic=statistic)
    for key, one in sorted(wanted.items()):
        samples = sessions.of_part(key)
        found = estimate_part(key, samples, one.sessions, drifts, statistic) if samples else None
        if found is None or not found.used:
            all_found.missing.append(key)
            all_found.unusable += [key] if found is not None else []
            continue
        all_found.rows.append(_row(one.part, setup, found, one.precision, samples))
        all_found.begun += [key] if found.measured < one.sessions else []
        all_found.correction = max(all_found.correction, found.largest_correction)
    return all_found


def _paths_of(part: Part) -> set[BlockPath]:
    match part:
        case PathPart() | ContextPart():
            return {part.path}
        case NetworkPart():
            return {path for block in part.blocks if block is not None for path in block.paths}
        case _:
            return set()


def _only_setup(files: Mapping[str, Sequence[Plan]]) -> Setup:
    setups = list(dict.fromkeys(plan.setup for plans in files.values() for plan in plans))
    if len(setups) == 1:
        return setups[0]
    raise BuildError(
        f"{', '.join(files)}: the records are not of one device with one runtime and one setting, and latencies of "
        f"different ones must not meet in one table ({'; '.join(differences(setups)[:_NAMED])}); "
        f"{_choices(files, setups)}"
    )


def _choices(files: Mapping[str, Sequence[Plan]], setups: Sequence[Setup]) -> str:
    """What to give instead, so that one setup is left."""
    runtimes = dict.fromkeys(setup.device.runtime for setup in setups)
    if len(runtimes) == len(setups):
        return f"choose {' or '.join(f'--runtime {name}' for name in runtimes)}"
    of_one: dict[Setup, list[str]] = {}
    for file, plans in files.items():
        found = {plan.setup for plan in plans}
        if len(found) == 1:
            of_one.setdefault(found.pop(), []).append(file)
    if of_one:
        commands = (shlex.join(["build-table", *each]) for each in of_one.values())
        return f"give the records of one: {', or '.join(commands)}"
    return "the records of one campaign are needed: measure again, with profile-device --records FILE"


def _only_backbone(names: str, plans: Iterable[Plan]) -> None:
    backbones = dict.fromkeys(backbone for plan in plans for backbone in plan.backbones)
    # One table may hold several input sizes, each with its own stem stride, and several numbers of classes.
    shapes = {json.dumps({**b.to_dict(), "input_size": 0, "stem_stride": 0, "classes": 0}) for b in backbones}
    if len(shapes) > 1 or len(backbones) > len({(b.input_size, b.classes) for b in backbones}):
        known = sorted({b.name for b in backbones})
        remedy = "choose one with --backbone" if len(known) > 1 else "they share a name, so give records of one of them"
        raise BuildError(f"{names}: the records are of several backbones ({', '.join(known)}); {remedy}")


def _meta(setup: Setup, plans: Sequence[Plan], missing: tuple[str, ...], keys: set[str]) -> TableMeta:
    backbones = dict.fromkeys(backbone for plan in plans for backbone in plan.backbones)
    return TableMeta(
        device=setup.device,
        settings=setup.settings,
        export_version=setup.export_version,
        backbones=tuple(sorted(backbones, key=lambda b: (b.input_size, b.classes))),
        paths=paths_everywhere(backbones, keys),
        missing=missing,
    )


def _row(part: Part, setup: Setup, found: Estimate, precision: float, samples: Samples) -> dict[str, Any]:
    samples_ms = np.concatenate([samples[session] for session in found.used])
    p10, median, p90 = np.percentile(samples_ms, (10, 50, 90))
    return {
        "key": part.key,
        "kind": part.kind,
        **geometry(part),
        "latency_ms": found.latency_ms,
        "low_ms": found.low_ms,
        "high_ms": found.high_ms,
        "mad_ms": float(np.median(np.abs(samples_ms - median))),
        "p10_ms": float(p10),
        "p90_ms": float(p90),
        "sessions": len(found.used),
        "samples": len(samples_ms),
        "quarantined": len(found.quarantined),
        "flags": " ".join(found.doubts(precision)),
        "device": setup.device.name,
        "runtime": setup.device.runtime,
        "source": "mock" if setup.device.mock else "measured",
    }


def geometry(part: Part) -> dict[str, Any]:
    """The columns that say what a part is, by name; those that do not apply to it are left out."""
    match part:
        case PathPart(path, site) | ContextPart(path, site):
            return {
                "path": str(path),
                "kernel": path.kernel,
                "groups": path.groups,
                "expansion": path.expansion if isinstance(path, ComplexPath) else None,
                **asdict(site),
            }
        case StemPart():
            return {
                "c_in": IMAGE_CHANNELS,
                "c_out": part.channels,
                "stride": part.stride,
                "input_size": part.input_size,
            }
        case HeadPart():
            return {"c_in": part.c_in, "c_out": part.channels, "input_size": part.input_size}
        case JoinPart() | NeighboursPart():
            return {"c_in": part.channels, "c_out": part.channels, "input_size": part.input_size}
        case NetworkPart():
            return {"c_in": IMAGE_CHANNELS, "c_out": part.backbone.classes, "input_size": part.backbone.input_size}


def name_some(keys: Sequence[str]) -> str:
    """The first few keys, for a message."""
    return ", ".join(keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")


def missing_text(missing: Sequence[str]) -> str:
    """What a table lacks of what was planned, for people."""
    entries = counted(len(missing), "planned entry is", "planned entries are")
    return f"{entries} missing: {name_some(missing)}"
