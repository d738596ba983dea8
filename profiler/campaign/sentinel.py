"""The sentinel: one model that is timed again and again, so that a change of the device can be told from its models.

It is timed by each device when it begins, after every `EVERY` models and when it has no more to do, in sessions that
are counted on through all calls. What it says is read in `drift.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from bpnas.android_bench.device import DeviceInfo
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import ComplexPath
from bpnas.profiler.campaign.session import Task
from bpnas.profiler.paths import PathPart

EVERY = 30
"""Models between two sentinels: they cost 3.3 % of the time, and with those at both ends less than 5."""

_MARK = "sentinel@"


def is_sentinel(key: str) -> bool:
    """Whether a measurement with this key is the sentinel's, and no part of any plan."""
    return key.startswith(_MARK)


def is_phone(device: DeviceInfo) -> bool:
    """Whether a slow sentinel means that the device was throttled.

    What is no phone, an emulator among them, shares its cores with other work, and may be slow at any moment.
    """
    return device.os.startswith("Android") and not device.name.endswith("-emulator")


def sentinel_model(backbone: Backbone) -> tuple[str, PathPart]:
    """Key and model of the sentinel for this backbone: a middling path at the site in its middle.

    It is the same for any paths that are measured. With several backbones in one file each has its own.
    """
    part = PathPart(ComplexPath(3, 1, 6), backbone.sites[len(backbone.sites) // 2], backbone.channel_shuffle)
    return f"{_MARK}{part.key}", part


class SentinelTasks:
    """Who is to time the sentinel when.

    Args:
        key: of the sentinel.
        measured: every (key, session) in the records.
    """

    def __init__(self, key: str, measured: Iterable[Task]) -> None:
        self._key = key
        self._next = 1 + max((number for each, number in measured if each == key), default=-1)
        self._models_since: dict[str, int] = {}  # by device; none: it has not begun

    def due(self, device: str, *, last: bool) -> Task | None:
        """The sentinel's task for a device, if it is time; `last` where the device gets nothing else."""
        since = self._models_since.get(device, EVERY)
        if not (self.lacks_last(device) if last else since >= EVERY):
            return None
        self._models_since[device] = 0
        self._next += 1
        return self._key, self._next - 1

    def lacks_last(self, device: str) -> bool:
        """Whether the device was given models after its last sentinel."""
        return self._models_since.get(device, 0) > 0

    def note(self, device: str) -> None:
        """The device was given a model."""
        self._models_since[device] = self._models_since.get(device, 0) + 1
