"""How many threads of a runtime a device can really run: more than cores wait for each other, and the wait is timed."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from bpnas.android_bench.measurement import RunSettings
from bpnas.base.errors import UsageError
from bpnas.base.plurals import counted


@runtime_checkable
class HasCores(Protocol):
    """A device that knows how many cores a model runs on; others, as computed ones, need not."""

    @property
    def cores(self) -> int | None:
        """Of the mask, or all that there are where nothing is pinned; None where that is unknown."""
        ...


def check_threads(device: object, settings: RunSettings, name: str, affinity: str = "") -> None:
    """Refuse more threads than a device has cores for them.

    Args:
        name: of the device, for the message.
        affinity: its mask, hexadecimal, or empty.

    Raises:
        UsageError: there are more.
    """
    cores = device.cores if isinstance(device, HasCores) else None
    if cores is None or settings.threads <= cores:
        return
    some = counted(cores, "core")
    where = f"--affinity {affinity} has {some}" if affinity else f"without --affinity a model has {some}"
    more = ", or name more cores with --affinity" if affinity else ""
    raise UsageError(
        f"{name}: --threads {settings.threads} is too many, for {where}: threads that wait for a core would be timed; "
        f"use --threads {cores}{' or fewer' * (cores > 1)}{more}"
    )
