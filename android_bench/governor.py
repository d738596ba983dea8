"""The frequency governor: set for the time of a campaign where root allows, and put back whatever happens.

While it is set, three things stand ready to restore the old one, each enough by itself: `Preparation.restore`; a guard,
a shell on the device that runs the restore script as soon as the connection it waits on is gone (host killed, cable
out); and the script itself, which stays on the device until it has succeeded and which the next campaign, or a person,
runs.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from types import TracebackType
from typing import Self

from bpnas.android_bench.conditions import pinned_cores
from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.facts import PRELUDE, PhoneFacts, as_root, ask
from bpnas.android_bench.hardware import GOVERNOR
from bpnas.android_bench.remote import FileToPush, Remote, ShellStream, printable, quote, until_ready

GUARD_MARK = "bpnas-guard"
"""Stands in the command line of every guard, so that one is found among the processes."""


class Preparation:
    """A phone made ready; leaving the `with` block restores it.

    Attributes:
        governor: `performance` if it is set now, by whomever; else empty.
        note: why nothing was set; empty if something was.
    """

    def __init__(
        self,
        remote: Remote,
        facts: PhoneFacts,
        governor: str,
        note: str,
        token: str = "",
        guard: ShellStream | None = None,
    ) -> None:
        self.governor = governor
        self.note = note
        self._remote = remote
        self._facts = facts
        self._token = token
        self._guard = guard

    def restore(self) -> None:
        """Put the old governors back; calling it twice does no harm. With the connection gone it leaves that to the
        guard on the device.

        Raises:
            DeviceError: the device did not take them back; the script stays there for another try.
        """
        guard, self._guard = self._guard, None
        if guard is None:
            return
        # If this fails the guard stays: it tries once more at the end of the connection.
        with suppress(DeviceLostError):
            _run_restore_script(self._remote, self._facts, self._token)
            guard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


def prepare(remote: Remote, facts: PhoneFacts, keep_governor: bool = False, affinity: str | None = None) -> Preparation:
    """Set the governor `performance` on the pinned cores where root allows; elsewhere do nothing and say why.

    What an earlier campaign, or this one before its connection was lost, left set is restored first, so that
    `performance` is never taken for the old value.

    Raises:
        DeviceLostError: the connection is gone; what was set is restored by the guard.
        DeviceError: what an earlier campaign left cannot be restored, or no guard can be started; nothing was set.
    """

    def nothing(note: str, governor: str = "") -> Preparation:
        return Preparation(remote, facts, governor, note)

    if not keep_governor:
        restore_leftovers(remote, facts)
    if keep_governor or not facts.root:
        return nothing("the governor is to be kept" if keep_governor else "no root: the governor stays as it is")
    old = _read_governors(remote, pinned_cores(facts, affinity))
    if not old:
        return nothing("no core here has a governor that can be set to performance")
    if set(old.values()) == {"performance"}:
        return nothing("the governor is performance already", "performance")
    token = secrets.token_hex(8)
    remote.push([FileToPush(_restore_script(facts, old, token).encode(), _script_path(facts), 0o755)])
    guard = _start_guard(remote, facts, token)
    prepared = Preparation(remote, facts, "performance", "", token, guard)
    try:
        # `sync` first: after a crash of the phone the script must be there. The script is gone if the guard has fired.
        writes = "; ".join(f"echo performance > {_governor_path(core)}" for core in old)
        wanted = f"grep -q {token} {quote(_script_path(facts))} && sync && {{ {writes}; }}"
        remote.shell(as_root(facts, wanted))
        now = _read_governors(remote, tuple(old))
        if set(now.values()) != {"performance"}:
            prepared.restore()
            return nothing("the kernel does not let the governor be set")
    except BaseException:
        with suppress(DeviceError):
            prepared.restore()
        raise
    return prepared


def restore_leftovers(remote: Remote, facts: PhoneFacts) -> bool:
    """Run the restore script that an earlier campaign left on the device, if there is one; says whether there was.

    Raises:
        DeviceLostError: the connection is gone.
        DeviceError: the script is still there afterwards.
    """
    return _run_restore_script(remote, facts, "")


def has_leftovers(remote: Remote, facts: PhoneFacts) -> bool:
    """Whether a restore script lies on the device: an earlier campaign's, or that of one at work."""
    return remote.shell(f"[ -e {quote(_script_path(facts))} ]").exit_code == 0


def _script_path(facts: PhoneFacts) -> str:
    return f"{facts.base}/restore.sh"


def _governor_path(core: int) -> str:
    return f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"


def _read_governors(remote: Remote, cores: tuple[int, ...]) -> dict[int, str]:
    """The governor of each core that has one and knows `performance`."""
    script = (
        PRELUDE
        + f"for n in {' '.join(map(str, cores)) or '-'}; do d=/sys/devices/system/cpu/cpu$n/cpufreq\n"
        + "first_line $d/scaling_governor; now=$line; first_line $d/scaling_available_governors\n"
        + 'say core "$n,$now,$line"; done; say end 1'
    )
    governors = {}
    for line in ask(remote, script).get("core", [])[: len(cores)]:
        core, now, available = (line + ",,").split(",")[:3]
        if core.isdecimal() and int(core) in cores and "performance" in available.split() and GOVERNOR.fullmatch(now):
            governors[int(core)] = now
    return governors


def _restore_script(facts: PhoneFacts, old: dict[int, str], token: str) -> str:
    """Complete in itself, so that a person can run it too; it takes itself away once it has succeeded."""
    lines = [
        "#!/bin/sh",
        f"# Written by bpnas ({token}): puts the governors of the processor back. Needs root.",
        "failed=",
        # A core may be offline, and a restart restores by itself.
        'put() { [ ! -e "$2" ] || [ "$(cat "$2")" = "$1" ] || echo "$1" > "$2" || failed=1; }',
        *(f"put {governor} {_governor_path(core)}" for core, governor in old.items()),
        f'[ -n "$failed" ] || rm -f {quote(_script_path(facts))}',
    ]
    return "\n".join(lines) + "\n"


def _run_restore_script(remote: Remote, facts: PhoneFacts, token: str) -> bool:
    """Run the script if it is there and holds `token`; says whether it was."""
    path = quote(_script_path(facts))
    run = as_root(facts, f"sh {path}")
    result = remote.shell(f"grep -q {token or 'bpnas'} {path} 2> /dev/null || exit 3; {run}; [ ! -e {path} ]")
    if result.exit_code not in (0, 3):
        said = printable(result.errors or result.output)
        raise DeviceError(
            f"{remote.serial}: the frequency governor of an earlier state cannot be restored"
            f"{f' ({said})' if said else ''}; run `sh {_script_path(facts)}` on the device as root, or restart the "
            "device and delete that file"
        )
    return result.exit_code == 0


def _start_guard(remote: Remote, facts: PhoneFacts, token: str) -> ShellStream:
    """Start the guard and wait until it stands.

    `cat` ends with the connection, for the daemon closes the standard input of its shells then; signals that it sends
    them besides are ignored. The token keeps a guard that wakes up late off the script of the next campaign.
    """
    path = quote(_script_path(facts))
    run = as_root(facts, f"sh {path}")
    guard = remote.stream(
        f"trap '' HUP TERM; : {GUARD_MARK}; echo ready; cat > /dev/null; grep -q {token} {path} 2> /dev/null && {run}"
    )
    try:
        said = until_ready(guard, 10.0)
    except BaseException:
        guard.close()
        raise
    if b"ready" in said:
        return guard
    guard.close()
    raise DeviceError(
        f"{remote.serial}: no guard could be started that restores the governor after a lost connection (it said: "
        f"{printable(said) or 'nothing'}); use --keep-governor"
    )
