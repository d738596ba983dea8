"""Find and end everything that a test's phone started, whatever became of its parents.

A daemon gives each shell a session of its own, and a shell's children outlive it: neither process groups nor parents
tell what belongs to whom. The environment does, for it is inherited.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from pathlib import Path

from tests.patience import PATIENCE

VARIABLE = "BPNAS_TEST_PHONE"


def new_mark() -> str:
    """A value of `VARIABLE` that no other phone has."""
    return f"{os.getpid()}-{uuid.uuid4().hex}"


def marked(mark: str) -> dict[int, str]:
    """The processes alive with that mark in their environment: their command lines by process id."""
    found = {}
    for pid, its_mark in _marks().items():
        if its_mark == mark:
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                found[pid] = words.decode(errors="replace").strip()
    return found


def end_orphans() -> None:
    """End what a test run left behind that was itself killed."""
    for mark in set(_marks().values()):
        owner, _, _ = mark.partition("-")
        if not Path("/proc", owner).exists():
            end_marked(mark)


def end_marked(mark: str) -> None:
    """Kill them all. Again until none is left, for one that is about to be killed may start another.

    Raises:
        AssertionError: some do not die.
    """
    deadline = time.monotonic() + PATIENCE
    while alive := marked(mark):
        assert time.monotonic() < deadline, f"processes that survive SIGKILL: {alive}"
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def _marks() -> dict[int, str]:
    """The marks of all processes that have one, by process id."""
    prefix = f"{VARIABLE}=".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            # It may end while we look, or be someone else's.
            with contextlib.suppress(OSError):
                for entry in (folder / "environ").read_bytes().split(b"\0"):
                    if entry.startswith(prefix):
                        found[int(folder.name)] = entry.removeprefix(prefix).decode()
    return found
