"""The folder on a device that holds what bpnas puts there: one user at a time, cleaned up whatever happens.

    BASE/bundle-ARCH-HASH/   runner and runtimes; stays between campaigns, but only the one in use
    BASE/run-TOKEN/          one campaign's models; goes when its connection does

The lock is a shell on the device whose standard input is the connection: as long as it waits, the run folder is taken;
when the connection ends, for whatever reason, it ends a runner that is left and removes the folder. So neither a host
that was killed nor a cable that fell out leaves anything behind.
"""

from __future__ import annotations

import secrets
import time
from contextlib import suppress

from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.remote import Remote, ShellStream, printable, quote, until_ready

_TAKE_SECONDS = 15.0  # a daemon takes some seconds to end the shells of a connection that broke

# End the runner that a run folder names, if it is one: process numbers are used again.
_END_RUNNER = r"""
end_runner() {
    runner=
    [ -f "$1/runner" ] && read -r runner < "$1/runner"
    case "$runner" in
        ''|*[!0-9]*) ;;
        *) case "$(readlink "/proc/$runner/cwd")" in */"${1##*/}"/*) kill -9 "$runner" ;; esac ;;
    esac
} 2> /dev/null
"""
# A run folder whose lock is still held is named; every other one is removed, its runner ended.
_LOOK = (
    _END_RUNNER
    + r"""
mkdir -p @BASE@ && cd @BASE@ || exit 1
for run in run-*; do
    [ -d "$run" ] || continue
    holder=
    [ -f "$run/holder" ] && read -r holder < "$run/holder"
    case "$holder" in
        ''|*[!0-9]*) ;;
        *) case "$(cat "/proc/$holder/cmdline" 2> /dev/null)" in *"$run"*) echo "$holder"; continue ;; esac ;;
    esac
    end_runner "$run"
    rm -rf "$run"
done
"""
)
_HOLD = (
    _END_RUNNER
    + r"""
trap '' HUP TERM INT
mkdir -p @RUN@ && cd @BASE@ && echo $$ > @RUN@/holder && echo ready || exit 1
cat > /dev/null
end_runner @RUN@
rm -rf @RUN@
"""
)


class DeviceFolder:
    """The folder, taken.

    Args:
        remote: the device.
        base: absolute path there.

    Raises:
        DeviceError: another campaign is using the device, or the folder cannot be used.
        DeviceLostError: the connection is gone.
    """

    def __init__(self, remote: Remote, base: str) -> None:
        self._remote = remote
        self.base = base
        self.run = f"{base}/run-{secrets.token_hex(8)}"
        self._wait_for_others()
        self._holder: ShellStream | None = self._hold()

    def keep_bundle(self, name: str) -> None:
        """Remove every bundle but the one with that name, and files of which only a part arrived."""
        others = f'for each in bundle-*; do [ "$each" = {quote(name)} ] || rm -rf "$each"; done'
        halves = f"rm -f *.tmp probe.* {quote(name)}/*.tmp"
        self._remote.shell(f"cd {quote(self.base)} && {others}; {halves}", timeout_seconds=60.0)

    def remove(self, path: str) -> None:
        """Remove a file or folder of this run."""
        self._remote.shell(f"rm -rf {quote(path)}", timeout_seconds=60.0)

    def release(self) -> None:
        """Give the folder back; calling it twice does no harm. If the connection is gone, the device does it itself."""
        holder, self._holder = self._holder, None
        if holder is not None:
            with suppress(DeviceError):
                self._remote.shell(f"rm -rf {quote(self.run)}", timeout_seconds=60.0)
            holder.close()

    def _wait_for_others(self) -> None:
        deadline = time.monotonic() + _TAKE_SECONDS
        while True:
            result = self._remote.shell(_LOOK.replace("@BASE@", quote(self.base)))
            if result.exit_code:
                raise DeviceError(
                    f"{self._remote.serial}: the folder {self.base} cannot be used on the device "
                    f"({printable(result.errors or result.output) or 'no reason given'}); see 'profile-device doctor'"
                )
            if not result.text:
                return
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{self._remote.serial}: another campaign is timing on this device (process "
                    f"{printable(result.text, 40)} there); wait until it is done, or restart the device"
                )
            time.sleep(0.5)

    def _hold(self) -> ShellStream:
        script = _HOLD.replace("@RUN@", quote(self.run)).replace("@BASE@", quote(self.base))
        holder = self._remote.stream(script)
        try:
            said = until_ready(holder, 15.0)
        except DeviceLostError:
            holder.close()
            raise
        if b"ready" not in said:
            holder.close()
            raise DeviceError(
                f"{self._remote.serial}: the folder {self.base} cannot be written on the device "
                f"({printable(said) or printable(holder.errors) or 'no reason given'}); see 'profile-device doctor'"
            )
        return holder
