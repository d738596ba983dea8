"""What is wrong with a table, before a search believes it: one finding a line, each with what mends it.

An error keeps a search from using the table, or means that a number in it cannot be true; a warning makes the numbers
worse or doubtful. No number is ever changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bpnas.base.findings import Finding
from bpnas.base.plurals import entries as count_of
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.paths import head_part, stem_part
from bpnas.tables.build import missing_text, name_some
from bpnas.tables.coverage import paths_at, paths_everywhere
from bpnas.tables.errors import TableError
from bpnas.tables.heads import measured_heads
from bpnas.tables.latency_table import to_pandas
from bpnas.tables.more_heads import more_heads
from bpnas.tables.schema import read_table
from bpnas.tables.table_meta import SCHEMA_VERSION, TableMeta

if TYPE_CHECKING:
    import pandas as pd

CLOCK_STEP_MS = 1e-6
"""A nanosecond, the step of the clocks that samples are taken with: no inference is faster."""

WIDE_INTERVAL = 0.05
"""Half the width of a confidence interval over the latency; from here on the entry is called imprecise."""

QUARANTINED_SHARE = 0.10
"""This share of all sessions may be unused before the campaign itself looks doubtful."""

DOUBLED_EXPANSION = 0.8
"""A path with twice the expansion has twice the work. Caches and kernels may hide that, but less than this share of the
time is odd."""


def diagnose_table(path: Path) -> tuple[Finding, ...]:
    """Read a table and check it; that it cannot be read is a finding too."""
    try:
        table, meta, digest = read_table(path)
    except TableError as error:
        # Errors of this room name the file, say what is the case and, after a semicolon, what to do.
        what, _, remedy = str(error).removeprefix(f"{path}: ").partition("; ")
        return (Finding("error", what, remedy or "build the table again from its records"),)
    frame = to_pandas(table)
    keys = set(frame["key"])
    return (
        Finding("ok", f"the file is whole: schema version {SCHEMA_VERSION}, SHA-256 {digest}"),
        *_origin(meta),
        *_missing(meta, len(frame)),
        *_impossible(frame),
        *_odd(frame, meta),
        *_sessions(frame),
        *_intervals(frame),
        *_quarantined(frame),
        *_flags(frame),
        *_expansions(frame),
        *(finding for backbone in meta.backbones for finding in _coverage(meta, keys, backbone)),
        *_heads(frame, meta),
    )


def _origin(meta: TableMeta) -> Iterator[Finding]:
    remedy = "to measure a device: profile-device --serial SERIAL, then build-table"
    if meta.mock:
        yield Finding("warning", "MOCK: every number was computed, none was measured", remedy)
    elif meta.imported is not None:
        source = f"{meta.imported.file} by reader {meta.imported.reader}"
        yield Finding("warning", f"imported from {source}, not measured here: nobody can say how it was taken", remedy)
    else:
        yield Finding("ok", f"measured on {meta.device.label}")


def _missing(meta: TableMeta, entries: int) -> Iterator[Finding]:
    if meta.missing:
        yield Finding(
            "warning",
            missing_text(meta.missing),
            "finish the campaign with the same profile-device command, and build the table again",
        )
    elif meta.imported is None:
        yield Finding("ok", f"{count_of(entries)}, none of those planned is missing")


def _impossible(frame: pd.DataFrame) -> Iterator[Finding]:
    keys = sorted(frame["key"][frame["latency_ms"] < CLOCK_STEP_MS])
    if keys:  # what else cannot be true is refused when a table is read
        yield Finding("error", _list("faster than a nanosecond", keys), "measure again")
    else:
        yield Finding("ok", "no impossible number")


def _odd(frame: pd.DataFrame, meta: TableMeta) -> Iterator[Finding]:
    latency = frame["latency_ms"]
    checks = {
        "a latency outside its own confidence interval": (frame["low_ms"] > latency) | (frame["high_ms"] < latency),
        "a latency below the 10th percentile of its samples": (frame["p10_ms"] > latency) & (meta.statistic != "p10"),
        "a latency above the 90th percentile of its samples": frame["p90_ms"] < latency,
    }
    for what, rows in checks.items():
        if rows.any():
            keys = sorted(frame["key"][rows])
            yield Finding(
                "warning",
                _list(what, keys),
                "the sessions disagree; measure more of them, with profile-device --sessions",
            )


def _sessions(frame: pd.DataFrame) -> Iterator[Finding]:
    single = sorted(frame["key"][(frame["sessions"] == 1).fillna(False)])
    unknown = sorted(frame["key"][frame["sessions"].isna()])
    if single:
        yield Finding(
            "warning",
            _list("of one session alone, so that nobody knows how far sessions differ", single, len(frame)),
            "profile-device --sessions 3 on the same records adds sessions",
        )
    if unknown:
        yield Finding("warning", _list("of an unknown number of sessions", unknown, len(frame)))
    if not single and not unknown:
        yield Finding("ok", f"{int(frame['sessions'].min())} sessions or more behind every entry")


def _intervals(frame: pd.DataFrame) -> Iterator[Finding]:
    half = (frame["high_ms"] - frame["low_ms"]) / 2 / frame["latency_ms"]
    known = half.notna()
    wide = frame.assign(half=half)[half > WIDE_INTERVAL].sort_values(["half", "key"], ascending=[False, True])
    if len(wide):
        worst = [f"{key} +-{share:.0%}" for key, share in zip(wide["key"], wide["half"], strict=True)]
        yield Finding(
            "warning",
            _list(f"known to no better than {WIDE_INTERVAL:.0%}", worst),
            "measure more sessions of them, on a quieter and cooler device",
        )
    elif known.any():
        yield Finding("ok", f"known to {half.max():.1%} or better: {count_of(int(known.sum()))}")
    unknown = sorted(frame["key"][~known & (frame["sessions"] != 1).fillna(True)])  # of one session: said already
    if unknown:
        yield Finding("warning", _list("without a confidence interval", unknown, len(frame)))


def _quarantined(frame: pd.DataFrame) -> Iterator[Finding]:
    unused, used = int(frame["quarantined"].sum()), int(frame["sessions"].sum())
    share = f"{unused:,} of {unused + used:,}"
    if unused > QUARANTINED_SHARE * (unused + used):
        yield Finding(
            "warning",
            f"sessions that were measured, but are not used: {share}",
            "look for what slows the device down (heat, other programs), and measure again",
        )
    elif unused:
        yield Finding("ok", f"sessions that are left out, with a reason: {share}")


def _flags(frame: pd.DataFrame) -> Iterator[Finding]:
    flags = frame["flags"].fillna("").str.split()
    for flag in sorted(set(flags.explode().dropna()) - {"unknown"}):  # of one session: said already
        keys = sorted(frame["key"][flags.map(lambda words, flag=flag: flag in words)])
        yield Finding("warning", _list(f"flagged '{flag}'", keys))


def _expansions(frame: pd.DataFrame) -> Iterator[Finding]:
    paths = frame[frame["expansion"].notna()]
    columns = (paths[name].tolist() for name in ("key", "path", "kernel", "groups", "expansion", "latency_ms"))
    latencies: dict[tuple[str, int, int, int], tuple[str, float]] = {}
    for key, path, kernel, groups, expansion, latency_ms in zip(*columns, strict=True):
        place = key.removeprefix(path)  # the site, behind an S where channels are shuffled
        latencies[place, kernel, groups, expansion] = (key, latency_ms)
    odd = []
    for (place, kernel, groups, expansion), (key, latency_ms) in latencies.items():
        half = latencies.get((place, kernel, groups, expansion // 2)) if expansion % 2 == 0 else None
        if half is not None and latency_ms < DOUBLED_EXPANSION * half[1]:
            odd.append(f"{key} {latency_ms:.4g} ms against {half[1]:.4g} ms")
    if odd:
        yield Finding(
            "warning",
            _list("much faster than the same path with half the expansion", odd),
            "it may be true, for kernels and caches differ; time a few of them again before you believe it",
        )


def _coverage(meta: TableMeta, keys: set[str], backbone: Backbone) -> Iterator[Finding]:
    name = f"backbone {backbone.name} at input size {backbone.input_size} with {backbone.classes} classes"
    measure = f"profile-device --backbone {backbone.name} --input-size {backbone.input_size}"
    if meta.imported is None:
        remedy = f"{measure} on the same records, and build the table again"
    else:
        remedy = f"its source has no more; for a whole table of the device: {measure}, then build-table"
    everywhere = len(paths_everywhere([backbone], keys))
    counts = {str(site): len(paths_at(site, backbone.channel_shuffle, keys)) for site in dict.fromkeys(backbone.sites)}
    fewest = [f"{site} ({count})" for site, count in counts.items() if count == min(counts.values())]
    if not everywhere:
        yield Finding("error", f"{name}: no path has an entry at every site; fewest at {name_some(fewest)}", remedy)
    elif max(counts.values()) > everywhere:
        yield Finding(
            "warning",
            f"{name}: {everywhere} of 272 paths have an entry at every site, and a search takes no others; fewest at "
            f"{name_some(fewest)}",
            remedy,
        )
    else:
        sites = "its only site" if len(backbone.sites) == 1 else f"all {len(backbone.sites)} sites"
        yield Finding("ok", f"{name}: {everywhere} of 272 paths at {sites}")
    absent = [part.key for part in (stem_part(backbone), head_part(backbone)) if part.key not in keys]
    if absent:
        yield Finding("error", f"{name}: no entry {' nor '.join(absent)}, which every network has", remedy)


def _heads(frame: pd.DataFrame, meta: TableMeta) -> Iterator[Finding]:
    """The first backbone of each input size that has one head alone, so that none of other classes is known."""
    sessions = min(map(int, frame["sessions"].dropna()), default=1)
    for backbone in {each.input_size: each for each in reversed(meta.backbones)}.values():
        heads = measured_heads(frame["key"], head_part(backbone))
        if len(heads) == 1:
            yield Finding(
                "warning",
                f"one head at input size {backbone.input_size}, of {backbone.classes:,} classes: images and networks "
                "with another number of classes are refused",
                more_heads(meta, backbone, sessions),
            )


def _list(what: str, entries: Sequence[str], of: int = 0) -> str:
    """The number of entries, and the first ones by name, unless they are all `of` the table."""
    if len(entries) == of > 1:
        return f"{what}: all {of:,} entries"
    return f"{what}: {count_of(len(entries))} ({name_some(entries)})"
