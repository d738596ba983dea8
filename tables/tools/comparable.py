"""What tables must have in common to be compared or joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from bpnas.android_bench.measurement import RunSettings
from bpnas.tables.table_meta import TableMeta


def device_differences(metas: Sequence[TableMeta]) -> list[str]:
    """The fields of the fingerprint that differ, for people: `os: Android 9 | Android 10`."""
    return _differences([asdict(meta.device) for meta in metas])


def settings_differences(metas: Sequence[TableMeta]) -> list[str]:
    """What differs in how and on which models the runs were made: `threads: 1 | 4`."""
    return _differences(
        [
            {**_settings(meta.settings), "export_version": meta.export_version, "statistic": meta.statistic}
            for meta in metas
        ]
    )


def source_differences(metas: Sequence[TableMeta]) -> list[str]:
    """What differs in the files that imported tables were made of."""
    return _differences([{} if meta.imported is None else asdict(meta.imported) for meta in metas])


def _settings(settings: RunSettings | None) -> dict[str, Any]:
    return (
        dict.fromkeys((field.name for field in fields(RunSettings)), "unknown")
        if settings is None
        else asdict(settings)
    )


def _differences(values: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for each in values for name in each)
    found = {name: dict.fromkeys(str(each.get(name, "none")) for each in values) for name in names}
    return [f"{name}: {' | '.join(different)}" for name, different in found.items() if len(different) > 1]
