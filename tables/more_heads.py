"""How a table with one head comes to more of them: the commands, as they are typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import fields

from bpnas.android_bench.measurement import RunSettings
from bpnas.profiler.backbone import Backbone
from bpnas.tables.table_meta import TableMeta

_RUNTIME, _BACKBONE, _SESSIONS = "tflite", "mobilenetv2", 3  # the defaults of profile-device
_OPTIONS = {"timeout_seconds": "--timeout"}  # the others are called like the setting


def more_heads(meta: TableMeta, backbone: Backbone, sessions: int) -> str:
    """What to do for heads of other numbers of classes, for people.

    Args:
        meta: of the table.
        backbone: of it, at the input size that is meant.
        sessions: that are behind its entries at least.
    """
    if meta.settings is None:
        return (
            f"its source has no other, so take images of {backbone.classes} classes, or measure a table of your own "
            "with profile-device"
        )
    records = f"{meta.device_name}.sqlite"
    measure = ["profile-device", *_device(meta), *_parts(meta, backbone, sessions), "--records", records]
    return (
        f"time more heads, and nothing else, with {shlex.join(measure)} and make the table again with "
        f"{shlex.join(['build-table', records])} (where its records have another name, give that one)"
    )


def _device(meta: TableMeta) -> Iterator[str]:
    """The same device and settings, for only those meet in one table; an attached phone needs no serial."""
    device, settings = meta.device, meta.settings
    if device.mock:
        yield from ("--serial", f"mock:{device.name}")
    elif device.name == "local":
        yield from ("--serial", "local")
    elif device.affinity:
        yield from ("--affinity", device.affinity)
    if device.runtime != _RUNTIME:
        yield from ("--runtime", device.runtime)
    for each in fields(RunSettings):
        if (value := getattr(settings, each.name)) != each.default:
            yield from (_OPTIONS.get(each.name, f"--{each.name.replace('_', '-')}"), f"{value:g}")


def _parts(meta: TableMeta, backbone: Backbone, sessions: int) -> Iterator[str]:
    """The backbone at that size, with a single path, which is there already."""
    shipped = backbone.name in Backbone.names()
    if backbone.name != _BACKBONE:
        yield from ("--backbone", backbone.name if shipped else f"{backbone.name}.toml")
    yield from ("--input-size", str(backbone.input_size))
    if not shipped or Backbone.load(backbone.name, backbone.input_size).classes != backbone.classes:
        yield from ("--classes", str(backbone.classes))
    if meta.paths:
        yield from ("--paths", meta.paths[0])
    if sessions != _SESSIONS:
        yield from ("--sessions", str(sessions))
