"""The cores that this process may use."""

from __future__ import annotations

import os


def own_cores() -> frozenset[int]:
    """The cores that this process, and what it starts, may run on, by number."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(own_cores())
