"""How much memory a model may ask for, so that one that asks for too much costs itself alone."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

USUAL_BYTES = 4_000_000_000
"""More than any phone gives one program, and less than hurts a computer."""

_LEAST_BYTES = 500_000_000  # what a runtime alone needs, with room for a small model

OUT_OF_MEMORY = "the memory that it asks for is not there"

_SIGNS = (OUT_OF_MEMORY, "bad_alloc", "bad allocation", "allocate memory", "out of memory", "MemoryError")
_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def most_bytes(max_memory_gb: float | None, there: int | None) -> int:
    """The limit in bytes; 0 for none.

    Args:
        max_memory_gb: as in `DeviceOptions`.
        there: bytes that the device has; None where that is unknown.
    """
    if max_memory_gb is not None:
        return round(max_memory_gb * 1e9)
    return max(_LEAST_BYTES, min(USUAL_BYTES, there // 2)) if there else USUAL_BYTES


def limit_memory(most_bytes: int) -> None:
    """Refuse this process more memory than that; files that are mapped do not count."""
    _, most_allowed = resource.getrlimit(resource.RLIMIT_DATA)
    if most_allowed != resource.RLIM_INFINITY:
        most_bytes = min(most_bytes, most_allowed)
    resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_allowed))


def memory_of_this_machine() -> int | None:
    """Bytes that this process may hope for; None where nobody tells."""
    found = []
    with suppress(OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _GROUP_LIMITS:
        with suppress(OSError, ValueError):
            found.append(int(Path(path).read_text(encoding="ascii")))
    return min((each for each in found if each > 0), default=None)


def is_out_of_memory(message: str) -> bool:
    """Whether a runtime or a process says that it was refused memory."""
    return any(sign in message for sign in _SIGNS)


def option_text(max_memory_gb: float | None) -> str:
    """As the native runner takes it."""
    return "usual" if max_memory_gb is None else str(round(max_memory_gb * 1e9))


def with_remedy(message: str, max_memory_gb: float | None) -> str:
    """The message, with what to do where it is about memory."""
    if max_memory_gb == 0 or not is_out_of_memory(message):
        return message
    limit = "4 GB, or half of what the device has" if max_memory_gb is None else f"{max_memory_gb:g} GB"
    return f"{message}; a model may have {limit}, and --max-memory allows more"
