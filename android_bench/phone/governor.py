"""The frequency governor: set for the time of a campaign where root allows, and always put back.

What the governors were is in a file on the device, `PLACE/.bpnas-governors`, from before the change until they are
restored. Three do that, each enough by itself: `Preparation.restore`; the shell that holds the device, as soon as the
connection it waits on is gone (host killed, cable out); and the next campaign. The file is data: a line is a token, a
core and a governor, and nothing of it is run.
"""

from __future__ import annotations

from contextlib import suppress

from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.phone.conditions import pinned_cores
from bpnas.android_bench.phone.facts import PRELUDE, PhoneFacts, as_root, ask
from bpnas.android_bench.phone.hardware import GOVERNOR
from bpnas.android_bench.remote import FileToPush, Remote, quote
from bpnas.base.plain_text import printable


class Preparation:
    """A phone made ready, until `restore`.

    Attributes:
        governor: `performance` if it is set now, by whomever; else empty.
        note: why nothing was set; empty if something was.
    """

    def __init__(self, remote: Remote, facts: PhoneFacts, governor: str, note: str, token: str = "") -> None:
        self.governor = governor
        self.note = note
        self._remote = remote
        self._facts = facts
        self._token = token

    def restore(self) -> None:
        """Put the old governors back; calling it twice does no harm. With the connection gone it leaves that to the
        device.

        Raises:
            DeviceError: the device did not take them back; the file stays there for another try.
        """
        token, self._token = self._token, ""
        if token:
            with suppress(DeviceLostError):
                _restore(self._remote, self._facts, token)


def prepare(
    remote: Remote, facts: PhoneFacts, token: str, keep_governor: bool = False, affinity: str | None = None
) -> Preparation:
    """Set the governor `performance` on the pinned cores where root allows; elsewhere do nothing and say why.

    What an earlier campaign, or this one before its connection was lost, left set is restored first, so that
    `performance` is never taken for the old value.

    Args:
        remote: the phone, held.
        facts: of it.
        token: of the `DeviceFolder` that holds it, whose shell restores what is set here when the connection ends.
        keep_governor: touch nothing.
        affinity: as in `pinned_cores`.

    Raises:
        DeviceLostError: the connection is gone; what was set is restored by the device.
        DeviceError: what an earlier campaign left cannot be restored; nothing was set.
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
    lines = "".join(f"{token} {core} {governor}\n" for core, governor in old.items())
    remote.push([FileToPush(lines.encode(), _file(facts))])
    prepared = Preparation(remote, facts, "performance", "", token)
    try:
        # `sync` first: after a crash of the phone the file must be there. It is gone if the device has restored them.
        writes = "; ".join(f"echo performance > {_governor_path(core)}" for core in old)
        remote.shell(as_root(facts, f"grep -q ^{token} {quote(_file(facts))} && sync && {{ {writes}; }}"))
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
    """Restore what an earlier campaign left set on the device, if it did; says whether it did. Only for who holds
    the device.

    Raises:
        DeviceLostError: the connection is gone.
        DeviceError: the device did not take it.
    """
    return has_leftovers(remote, facts) and _restore(remote, facts, "")


def has_leftovers(remote: Remote, facts: PhoneFacts) -> bool:
    """Whether governors are noted on the device: an earlier campaign's, or those of one at work."""
    return remote.shell(leftovers_command(facts)).exit_code == 0


def leftovers_command(facts: PhoneFacts) -> str:
    """A shell command that succeeds if `has_leftovers`."""
    return f"[ -e {quote(_file(facts))} ]"


def restore_command(facts: PhoneFacts, token: str) -> str:
    """A shell command that restores the governors which the campaign with that token, or with an empty one any
    campaign, has noted; it removes the file once it has succeeded.
    """
    if not facts.root:
        return ":"
    path = quote(_file(facts))
    # A core may be offline, and a restart restores by itself.
    put = (
        f"file={_governor_path('$core')}; "
        '[ ! -e "$file" ] || [ "$(cat "$file")" = "$governor" ] || echo "$governor" > "$file" || failed=1'
    )
    restore = (
        "failed=; while read -r token core governor; do "
        'case "$core" in ""|*[!0-9]*) continue ;; esac; case "$governor" in ""|*[!A-Za-z0-9_-]*) continue ;; esac; '
        f'{put}; done < {path}; [ -n "$failed" ] || rm -f {path}'
    )
    return f"if grep -q '^{token}' {path} 2> /dev/null; then {as_root(facts, restore)}; fi"


def _file(facts: PhoneFacts) -> str:
    return f"{facts.place}/.bpnas-governors"


def _governor_path(core: int | str) -> str:
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


def _restore(remote: Remote, facts: PhoneFacts, token: str) -> bool:
    """Restore what is noted under `token`; says whether something was."""
    path = quote(_file(facts))
    result = remote.shell(f"[ -e {path} ] || exit 3\n{restore_command(facts, token)}\n[ ! -e {path} ]")
    if result.exit_code not in (0, 3):
        said = printable(result.errors or result.output)
        raise DeviceError(
            f"{remote.serial}: the frequency governor of an earlier state cannot be restored"
            f"{f' ({said})' if said else ''}; restart the device, or write what {_file(facts)} there says into each "
            "core's scaling_governor as root, and remove that file"
        )
    return result.exit_code == 0
