"""A device that is held and made ready for the native runner, and found again where it was lost."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

from bpnas.android_bench.device import DeviceInfo, DeviceOptions
from bpnas.android_bench.errors import DeviceChangedError, DeviceError, DeviceLostError
from bpnas.android_bench.local.held_cores import sharing_a_clock
from bpnas.android_bench.phone.device_folder import DeviceFolder
from bpnas.android_bench.phone.facts import PhoneFacts, base_folder, device_info, read_facts
from bpnas.android_bench.phone.governor import Preparation, prepare
from bpnas.android_bench.phone.hardware import cores_of
from bpnas.android_bench.remote import Remote
from bpnas.android_bench.runner.installed import InstalledRunner
from bpnas.android_bench.runner.program import choose_program
from bpnas.base.cores import own_cores
from bpnas.base.errors import UsageError

# Between two looks for a lost device: twice as long each time.
_SHORTEST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 30.0


class HeldDevice:
    """A device that is held, with the governor set and the runner in place.

    Args:
        remote: connected; closed with this device.
        runtime: one of `RUNTIMES`.
        options: see `DeviceOptions`.

    Attributes:
        remote, runtime, options: as given.
        facts: of the device, read again after a loss.
        affinity: the mask that models are pinned to, without leading zeros; empty for none.
        info: the fingerprint; it stays the same.
        runner: the program there.
        ending: set when the device is to be closed, perhaps by another thread; what waits for the device ends then.

    Raises:
        DeviceError: the device cannot be used; `profile-device doctor` tells why.
        RuntimeUnavailableError: the runtime does not start there.
        UsageError: the mask of cores makes no sense.
    """

    def __init__(self, remote: Remote, runtime: str, options: DeviceOptions) -> None:
        self.remote, self.runtime, self.options = remote, runtime, options
        self.ending = threading.Event()
        self._folder: DeviceFolder | None = None
        self._preparation: Preparation | None = None
        try:
            self._base = base_folder(remote.serial, options.directory)
            self.facts = read_facts(remote, self._base)
            self.affinity = _mask(options.affinity, self.facts)
            self._program = choose_program(self.facts, runtime, options)
            self.info = self._set_up()
        except BaseException:
            self.close()
            raise

    @property
    def folder(self) -> DeviceFolder:
        """What holds the device; raises DeviceLostError while there is no connection."""
        if self._folder is None:
            raise DeviceLostError(f"{self.remote.serial}: not connected")
        return self._folder

    def wait(self, seconds: float) -> None:
        """Raises DeviceLostError where the device is closed meanwhile."""
        if self.ending.wait(seconds):
            raise DeviceLostError(f"{self.remote.serial}: closed while it was waiting")

    def come_back(self, loss: DeviceLostError) -> None:
        """Wait for the device after a loss and make it ready again.

        Raises:
            DeviceLostError: it did not come back in time, or is closed meanwhile.
            DeviceChangedError: it came back as another.
        """
        deadline, delay = time.monotonic() + self.options.reconnect_seconds, _SHORTEST_DELAY_SECONDS
        self._preparation = self._folder = None  # the device itself gives back what the connection held
        last: DeviceError = loss
        while not self.ending.wait(min(delay, max(0.0, deadline - time.monotonic()))):
            try:
                self.remote.reconnect()
                self.facts = read_facts(self.remote, self._base)
                info = self._set_up()
            except DeviceError as error:
                last = error
                if time.monotonic() > deadline:
                    break
                delay = min(2 * delay, _LONGEST_DELAY_SECONDS)
                continue
            if info != self.info:
                raise DeviceChangedError(
                    f"{self.remote.serial}: another device came back in its place ({_difference(self.info, info)}); "
                    "what was measured until then is kept, measure this one into another records file"
                )
            return
        raise DeviceLostError(
            f"{self.remote.serial}: lost, and not back within {self.options.reconnect_seconds:g} s ({last}); what "
            "was measured until then is kept, call the same command again when it is back"
        )

    def close(self) -> None:
        """Restore the governor, let go of the device, close the connection; calling it twice does no harm."""
        self.ending.set()
        with ExitStack() as stack:  # in reverse order, each also where one before it fails
            stack.callback(self.remote.close)
            if self._folder is not None:
                stack.callback(self._folder.close)
            if self._preparation is not None:
                stack.callback(self._preparation.restore)
            self._folder = self._preparation = None

    def _set_up(self) -> DeviceInfo:
        facts, serial = self.facts, self.remote.serial
        if not facts.writable or not facts.executable:
            what = "run" if facts.writable else "written"
            raise DeviceError(
                f"{serial}: files in {self._base} cannot be {what} on the device; see 'profile-device doctor --serial "
                f"{serial}'"
            )
        self._folder = folder = DeviceFolder(self.remote, facts, self._cores())
        folder.keep_bundle(self._program.name)
        self.runner = InstalledRunner(self.remote, self._base, self._program, facts, self.affinity)
        info = device_info(
            facts,
            runtime=self.runtime,
            runtime_version=self.runner.version,
            runtime_sha256=self._program.runtime_sha256,
            affinity=self.affinity,
        )
        pinned = self.affinity or "none"
        self._preparation = prepare(self.remote, facts, folder.token, self.options.keep_governor, pinned)
        return info

    def _cores(self) -> frozenset[int]:
        """Those of this machine that nobody else may time on meanwhile; on a phone it is all."""
        cores = frozenset(cores_of(self.affinity)) or own_cores()
        sets_governor = self.facts.root and not self.options.keep_governor
        return sharing_a_clock(cores) if sets_governor else cores


def _mask(affinity: str | None, facts: PhoneFacts) -> str:
    """The mask to pin to, without leading zeros; empty for none."""
    if affinity is None:
        return facts.big_mask if facts.is_android else ""
    if affinity == "none":
        return ""
    try:
        mask = int(affinity, 16)
    except ValueError:
        mask = 0
    if not 0 < mask < 1 << 128:
        raise UsageError(f"--affinity {affinity!r} is no mask of cores: write it in hexadecimal, as f0, or 'none'")
    return f"{mask:x}"


def _difference(old: DeviceInfo, new: DeviceInfo) -> str:
    names = [name for name in DeviceInfo.__slots__ if getattr(old, name) != getattr(new, name)]
    return "; ".join(f"{name}: {getattr(old, name)} | {getattr(new, name)}" for name in names)
