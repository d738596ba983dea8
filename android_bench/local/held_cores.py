"""The cores of this machine, held by one process at a time: two that time models on one core spoil each other.

On Linux a core is held by a socket in the abstract namespace (unix(7)): binding its name is atomic and holds between
users, and the kernel frees it with the last process that has it open, however that one ends. A second name, which
/proc/net/unix shows to everybody, says who holds it and since when. Elsewhere a lock file does it, for one user.
"""

from __future__ import annotations

import errno
import getpass
import os
import random
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.local.private_folder import cache_folder
from bpnas.base.plain_text import printable

PATIENCE_SECONDS = 15.0
"""What a command that was killed had started is cleaned up by then."""

_MAX_NAME_BYTES = 107  # of a socket, without the NUL that makes it an abstract one


def patience_until(seconds: float | None = None) -> float:
    """Until when somebody who holds something is waited for, on the monotonic clock."""
    return time.monotonic() + (PATIENCE_SECONDS if seconds is None else seconds)


def sharing_a_clock(cores: Iterable[int]) -> frozenset[int]:
    """These cores of this machine and those whose frequency, and so whose governor, is theirs too."""
    shared = set(cores)
    for core in tuple(shared):
        with suppress(OSError, ValueError):
            related = Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/related_cpus").read_text(encoding="ascii")
            shared.update(map(int, related.split()))
    return frozenset(shared)


class HeldCores:
    """Some cores, held until `close`, or until the last process ends that `descriptors` were passed on to.

    Args:
        cores: by number.
        patience_seconds: wait this long for somebody else to be done with them; None means `PATIENCE_SECONDS`.

    Attributes:
        descriptors: to pass on to processes that use the cores; none on systems other than Linux.

    Raises:
        DeviceError: somebody else holds one of them; the message says who, and since when.
    """

    def __init__(self, cores: Iterable[int], patience_seconds: float | None = None) -> None:
        wanted, deadline = sorted(set(cores)), patience_until(patience_seconds)
        while (taken := self._take(wanted)) is not None:
            if time.monotonic() > deadline:
                who = holder_of_cores([taken]) or "another campaign"
                raise DeviceError(
                    f"local: core {taken} is held by {who}; wait until that is done, or time on other cores with "
                    "`taskset -c N` before the command"
                )
            time.sleep(random.uniform(0.1, 0.3))

    def _take(self, wanted: Iterable[int]) -> int | None:
        """Take all of them, or none; returns one that somebody else has."""
        with ExitStack() as held:
            self.descriptors: tuple[int, ...] = ()
            # In ascending order: of several that want some of the same cores, one gets the lowest of these.
            for core in wanted:
                if not self._take_one(core, held):
                    return core
            self._held = held.pop_all()
            return None

    def _take_one(self, core: int, held: ExitStack) -> bool:
        if sys.platform != "linux":
            return _lock_file(core, held)
        claim, label = (held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) for _ in range(2))
        try:
            claim.bind(f"\0{_name(core)}")
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
        with suppress(OSError):  # it only tells
            label.bind(b"\0" + f"{_name(core)}/{this_process()}".encode()[:_MAX_NAME_BYTES])
        self.descriptors += (claim.fileno(), label.fileno())
        return True

    def close(self) -> None:
        """Let go of them; calling it twice does no harm."""
        self._held.close()


def holder_of_cores(cores: Iterable[int]) -> str:
    """Who holds one of these cores, fit for a terminal; empty where nobody does, or nobody can tell."""
    labels = tuple(f"@{_name(core)}/" for core in cores)
    try:
        sockets = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    # The name is the eighth column, and may hold spaces.
    names = (line.split(maxsplit=7)[-1] for line in sockets)
    return next((printable(name.partition("/")[2], 100) for name in names if name.startswith(labels)), "")


def this_process() -> str:
    """This process as a holder, for people: `anna@desk, process 4711, since 2026-11-27 18:05 UTC`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"user {os.getuid()}"
    place = printable(f"{user}@{socket.gethostname()}", 40)
    return f"{place}, process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"


def _name(core: int) -> str:
    # Holders see each other within one space; only the tests of bpnas have others than the one without a name.
    return f"bpnas{os.environ.get('BPNAS_HOLD_SPACE', '')}-cpu{core}"


def _lock_file(core: int, held: ExitStack) -> bool:
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held.enter_context(FileLock(folder / f"{_name(core)}.lock", timeout=0))
    except Timeout:
        return False
    return True
