"""A device, taken by one campaign at a time, and the folder on it that holds what bpnas puts there.

    PLACE/.bpnas-hold-PID-TOKEN   who has the device, told by a shell on it
    PLACE/.bpnas-governors        what the frequency governors were before the campaign
    BASE/bundle-ARCH-HASH/        runner and runtimes; stays between campaigns, but only the one in use
    BASE/run-TOKEN/               one campaign's models, and `runner-NUMBER`, the processes that time them

PLACE is the same for all campaigns on a device, BASE is what `--directory` says. The device is held by a shell on it
whose standard input is the connection: when the connection ends, for any reason, it ends a runner that is left, removes
the run folder, restores the governors and lets go of the device, in this order. So neither a host that was
killed nor a cable that fell out leaves anything behind, and nobody gets a device that is not put back yet.

The hold is atomic: each shell first makes its own file, then looks for those of others, so of two at once at least one
sees the other, and the one that sees a live one gives up. A file whose shell is dead counts for nothing. On `local`
it is cores that are held, see `held_cores`, and the shell is handed them.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress

from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.local.held_cores import patience_until, this_process
from bpnas.android_bench.phone.facts import PhoneFacts
from bpnas.android_bench.phone.governor import restore_command
from bpnas.android_bench.remote import Remote, ShellStream, quote, until_ready
from bpnas.base.plain_text import printable

_READY_SECONDS = 15.0

# The process that holds the device, and who that is; a file that is left of a dead one is removed.
_HOLDER = r"""
holder() {
    for hold in @PLACE@/.bpnas-hold-*; do
        [ "$hold" = "$1" ] && continue
        pid=${hold##*/.bpnas-hold-}; token=${pid#*-}; pid=${pid%%-*}
        case "$pid" in ''|*[!0-9]*) continue ;; esac
        case "$token" in *[!0-9a-f]*) continue ;; ????????????????) ;; *) continue ;; esac
        case "$(cat "/proc/$pid/cmdline")" in
            *"$token"*) who=; read -r who < "$hold"; echo "$pid ${who:-unknown}"; return ;;
        esac
        rm -f "$hold"
    done
} 2> /dev/null
"""
# End a run, or its runners alone; `$2` is the number of the one that stays. A process is ended if it is a runner of
# this folder, for their numbers are used again, and waited for: a busy machine takes its time, and the one that comes
# next must find the cores idle. The folder gets another name first: what is about to become a runner finds it gone.
_END = r"""
end_runners() {
    for noted in "$1"/runner*; do
        runner=
        [ "${noted##*-}" != "$2" ] && [ -f "$noted" ] && read -r runner < "$noted"
        case "$runner" in
            ''|*[!0-9]*) ;;
            *) case "$(readlink "/proc/$runner/cwd")" in */"${1##*/}"/*)
                kill -9 "$runner"
                n=0
                while [ $n -lt 50 ] && [ -n "$(cat "/proc/$runner/cmdline")" ]; do sleep 0.1; n=$((n + 1)); done
            esac ;;
        esac
    done
} 2> /dev/null
end_run() {
    ended=${1%.ended}.ended
    [ "$1" = "$ended" ] || mv "$1" "$ended"
    end_runners "$ended"
    rm -rf "$ended"
} 2> /dev/null
"""
# Two that are under way at once, of which one was given up before it began, each note themselves before they look: so
# the later one sees the earlier one and ends it, or the earlier one sees the later one and goes.
_BECOME_RUNNER = (
    _END
    + r"""
cd @PLACE@ && echo $$ > ../runner-@NUMBER@ || exit 1
for noted in ../runner-*; do [ "${noted##*-}" -le @NUMBER@ ] || exit 1; done
end_runners @RUN@ @NUMBER@
[ -d @PLACE@ ] || exit 1
"""
)
_HOLD = r"""
hold=@PLACE@/.bpnas-hold-$$-@TOKEN@
trap 'rm -f "$hold"' EXIT
echo @WHO@ > "$hold"
[ -e "$hold" ] || exit 1
found=$(holder "$hold")
[ -z "$found" ] || { echo "held $found"; exit; }
"""
# A run folder whose shell is alive belongs to a campaign on other cores; every other one is left over.
_TAKE = (
    _END
    + r"""
trap '' HUP TERM INT
@HOLD@
mkdir -p @BASE@ && cd @BASE@ || exit 1
others=
for run in run-*; do
    token=${run#run-}; token=${token%.ended}
    case "$token" in *[!0-9a-f]*) continue ;; ????????????????) ;; *) continue ;; esac
    [ -d "$run" ] && [ ! -h "$run" ] || continue
    pid=
    [ -f "$run/holder" ] && read -r pid < "$run/holder"
    case "$pid" in
        ''|*[!0-9]*) ;;
        *) case "$(cat "/proc/$pid/cmdline" 2> /dev/null)" in *"run-$token"*) others=1; continue ;; esac ;;
    esac
    end_run "$run"
done
[ -n "$others" ] || rm -rf .bpnas-run-*
rm -f @PLACE@/.bpnas-governors.*.tmp
new=.bpnas-run-@TOKEN@
mkdir $new && echo $$ > $new/holder && mv $new run-@TOKEN@ && echo "${others:-0} ready" || exit 1
cat > /dev/null
end_run run-@TOKEN@
rm -f @PLACE@/.bpnas-governors.*.tmp
@RESTORE@
"""
)


class DeviceFolder:
    """The device and the folder, taken.

    Args:
        remote: the device.
        facts: of it.
        cores: that the campaign runs on; they are what is held where several campaigns may share a machine.
        patience_seconds: a daemon takes some seconds to end the shells of a connection that broke; None means
            `PATIENCE_SECONDS`.

    Attributes:
        run: the folder of this campaign on the device.
        token: of this campaign, in all names that are its own.

    Raises:
        DeviceError: another campaign has the device, and the message says who and since when; or the folder cannot be
            used.
        DeviceLostError: the connection is gone.
    """

    def __init__(
        self,
        remote: Remote,
        facts: PhoneFacts,
        cores: Iterable[int] = (),
        patience_seconds: float | None = None,
    ) -> None:
        self._remote, self._facts = remote, facts
        self._is_held = remote.hold(cores, patience_seconds)
        self.token = secrets.token_hex(8)
        self.run = f"{facts.base}/run-{self.token}"
        self._runners = 0
        self._is_shared = False
        self._holder: ShellStream | None = self._take(patience_seconds)

    def keep_bundle(self, name: str) -> None:
        """Remove every bundle but the one with that name, and files of which only a part arrived."""
        if self._is_shared:  # by a campaign on other cores of this machine, which may use another one
            return
        # The person who named this folder may keep things of their own in it.
        mine = f"{'[0-9a-f]' * 16}"
        others = f'for each in bundle-*-{mine}; do [ "$each" = {quote(name)} ] || rm -rf "$each"; done'
        halves = f"rm -f {quote(name)}/*.tmp .bpnas-probe.*"
        self._remote.shell(f"cd {quote(self._facts.base)} && {others}; {halves}", timeout_seconds=60.0)

    def place_runner(self, place: str) -> str:
        """Shell commands that come before those that become the runner.

        They end the runner before it, should that one still be there, for two would time each other; they end
        themselves where a later one was asked for meanwhile, or the campaign is over: a device that has been stopped
        for a while takes up all that it was asked for at once. They go to the folder `place` of this run.
        """
        self._runners += 1
        script = _BECOME_RUNNER.replace("@PLACE@", quote(place)).replace("@RUN@", quote(self.run))
        return script.replace("@NUMBER@", str(self._runners))

    def remove(self, path: str) -> None:
        """Remove a file or folder of this run."""
        self._remote.shell(f"rm -rf {quote(path)}", timeout_seconds=60.0)

    def close(self) -> None:
        """Give the device back; calling it twice does no harm. If the connection is gone, the device does it itself."""
        holder, self._holder = self._holder, None
        if holder is not None:
            hold = f"{quote(self._facts.place)}/.bpnas-hold-*-{self.token}"
            with suppress(DeviceError):
                self._remote.shell(f"{_END}end_run {quote(self.run)}; rm -f {hold}", timeout_seconds=60.0)
            holder.close()

    def _take(self, patience_seconds: float | None) -> ShellStream:
        deadline = patience_until(patience_seconds)
        while True:
            stream, said = self._try()
            if said.endswith(b" ready\n"):
                self._is_shared = said.startswith(b"1")
                return stream
            stream.close()
            if not said.startswith(b"held "):
                reason = printable(said) or printable(stream.errors) or "no reason given"
                raise DeviceError(
                    f"{self._remote.serial}: the folder {self._facts.base} cannot be used on the device ({reason}); "
                    "see 'profile-device doctor'"
                )
            if time.monotonic() > deadline:
                pid, _, who = printable(said, 200).removeprefix("held ").partition(" ")
                raise DeviceError(
                    f"{self._remote.serial}: another campaign is timing on this device ({who}; process {pid} on the "
                    "device); wait until it is done, or end it"
                )
            time.sleep(random.uniform(0.2, 0.6))  # of two that give up at once one comes first next time

    def _try(self) -> tuple[ShellStream, bytes]:
        facts, token = self._facts, self.token
        hold = "" if self._is_held else _HOLDER + _HOLD
        script = _TAKE.replace("@HOLD@", hold).replace("@RESTORE@", restore_command(facts, token))
        script = script.replace("@PLACE@", quote(facts.place)).replace("@BASE@", quote(facts.base))
        stream = self._remote.stream(script.replace("@TOKEN@", token).replace("@WHO@", quote(this_process())))
        try:
            return stream, until_ready(stream, _READY_SECONDS)
        except DeviceLostError:
            stream.close()
            raise


def holder_command(facts: PhoneFacts) -> str:
    """A shell command that prints who has the device: the number of a process there, and who started it, in a line;
    nothing where nobody has it.
    """
    return _HOLDER.replace("@PLACE@", quote(facts.place)) + "holder none"
