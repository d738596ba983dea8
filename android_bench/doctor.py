"""What is wrong with a phone, before a night is spent on it: one finding a line, each with what mends it.

An error keeps a campaign from running; a warning makes its figures worse or hard to compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from bpnas.android_bench.device import Conditions
from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.local.held_cores import holder_of_cores
from bpnas.android_bench.mock import MockDevice
from bpnas.android_bench.phone.conditions import pinned_cores, read_conditions
from bpnas.android_bench.phone.device_folder import DeviceFolder, holder_command
from bpnas.android_bench.phone.facts import PRELUDE, PhoneFacts, ask, base_folder, galaxy_s9, read_facts
from bpnas.android_bench.phone.governor import leftovers_command, restore_leftovers
from bpnas.android_bench.phone.hardware import mask_of, whole_number
from bpnas.android_bench.remote import Remote
from bpnas.base.cores import own_cores
from bpnas.base.findings import Finding
from bpnas.base.plain_text import printable

MIN_FREE_BYTES = 200 << 20
MAX_TEMPERATURE_C = 45.0
MIN_BATTERY_PERCENT = 30.0
MAX_CLOCK_ERROR_SECONDS = 86_400.0

# The runner: `read` drops the NUL bytes between arguments; the quotes keep the pattern from matching the shell that
# searches.
_STATE = (
    PRELUDE
    + r"""
say clock "$(date +%s)"
for d in /proc/[0-9]*; do
    { while read -r line || [ -n "$line" ]; do
        case $line in *bpnas-runner"--"*) say busy "${d##*/}" ;; esac
    done < "$d/cmdline"; } 2> /dev/null
done
if @LEFTOVERS@; then say leftovers 1; fi
say holder "$(@HOLDER@)"
if has settings; then say saver "$(within 10 settings get global low_power 2> /dev/null < /dev/null)"; fi
say end 1
"""
)


def diagnose(serial: str, base: str | None = None) -> tuple[Finding, ...]:
    """Connect to a device, examine it and hang up; that it cannot be reached, or is lost meanwhile, is a finding too.

    Args:
        serial: as `--serial` takes it.
        base: folder on the device; None takes the usual one.

    Raises:
        UnknownSerialError: there is no such device.
    """
    from bpnas.android_bench.serials import connect

    if serial.startswith("mock:"):
        MockDevice(serial.removeprefix("mock:"), "tflite")  # which refuses a name that there is not
        return (Finding("ok", "computed, not measured: there is nothing to examine"),)
    try:
        with closing(connect(serial)) as remote, _left_as_it_was(serial, base):
            return examine(remote, read_facts(remote, base_folder(serial, base)))
    except DeviceError as error:
        return (_from_error(serial, error),)


@contextmanager
def _left_as_it_was(serial: str, base: str | None) -> Iterator[None]:
    """A folder of this machine that was not there is not there afterwards."""
    is_new = serial == "local" and base is not None and not Path(base).exists()
    try:
        yield
    finally:
        if is_new and base is not None:
            with suppress(OSError):
                Path(base).rmdir()


def examine(
    remote: Remote, facts: PhoneFacts, affinity: str | None = None, clock: Callable[[], float] = time.time
) -> tuple[Finding, ...]:
    """Look at everything that a campaign depends on. What an earlier run left set is restored.

    Args:
        remote: the phone.
        facts: of the phone, just read.
        affinity: hexadecimal mask, `none`, or None for the big cores.
        clock: seconds since 1970.

    Raises:
        DeviceLostError: the connection is gone.
        DeviceError: what answers is no POSIX shell.
    """
    script = _STATE.replace("@LEFTOVERS@", leftovers_command(facts)).replace("@HOLDER@", holder_command(facts))
    state = ask(remote, script)
    conditions = read_conditions(remote, facts, affinity)
    return (
        *_identity(remote.serial, facts),
        *_program(remote, facts),
        *_storage(facts),
        *_other_runs(remote, facts, state),
        *_cores(facts, affinity),
        *_clock_rate(facts, conditions),
        *_heat(facts, conditions),
        *_power(conditions, state),
        *_time_of_day(state, clock()),
    )


def _from_error(serial: str, error: DeviceError) -> Finding:
    # Errors of this room name the device, say what is the case and, after a semicolon, what to do.
    what, _, remedy = printable(str(error).removeprefix(f"{serial}: "), 500).partition("; ")
    return Finding("error", what, remedy or "check the cable or the address, and that USB debugging is on")


def _identity(serial: str, facts: PhoneFacts) -> Iterator[Finding]:
    if facts.is_android:
        name = f"{facts.manufacturer} {facts.model}".strip()
        chip = facts.platform or "unknown chip"
        yield Finding("ok", f"{name}, {chip}, Android {facts.release} (API {facts.sdk}), {facts.abi}")
    elif serial == "local":
        yield Finding("ok", f"this machine: {facts.platform}, {facts.release}, {facts.abi}")
    else:
        yield Finding(
            "warning",
            f"not Android but {facts.release or facts.kernel or 'something unknown'}, {facts.abi}",
            "continue if you mean this machine; for a phone, take the serial that `profile-device devices` lists",
        )
    if facts.is_emulator:
        yield Finding(
            "warning",
            "it is an emulator, not a phone: its times are those of this computer, and its sentinel is not heeded",
            "use it to try the commands; measure on a phone",
        )
    s9 = galaxy_s9(facts)
    if s9 and facts.platform.lower() != "sdm845":
        yield Finding(
            "warning",
            f"this Galaxy S9 has the chip {facts.platform or '(unknown)'}, not the Snapdragon 845",
            "build a table of its own for it; to compare with published Snapdragon figures take an SM-G960U, SM-G960W "
            "or SM-G9600",
        )


def _program(remote: Remote, facts: PhoneFacts) -> Iterator[Finding]:
    if not getattr(remote, "has_shell_v2", True):
        yield Finding(
            "warning",
            "the ADB daemon is an old one (Android 6 or older): it mixes errors into the output and is slower",
            "none is needed; update Android if there is an update",
        )
    if remote.serial == "local":
        return
    from bpnas.android_bench.runner.bundle import ARCH_OF_ABI, default_bundle

    arch = ARCH_OF_ABI.get(facts.abi)
    if arch is None:
        yield Finding(
            "error",
            f"the instruction set {facts.abi or '(unknown)'} is not 64-bit ARM, for which the runner is built",
            "take a 64-bit phone, or give a build of TensorFlow's benchmark_model for this one with --runner",
        )
        return
    try:
        bundle = default_bundle(arch)
    except DeviceError as error:
        yield _from_error(remote.serial, error)
        return
    if bundle is None:
        yield Finding(
            "warning",
            f"there is no bundle for {facts.abi} on this computer yet",
            f"build it: `profile-device bundle --arch {arch}`; or pass your own runner with --runner",
        )
    else:
        yield Finding("ok", f"runner: {bundle.directory}")


def _storage(facts: PhoneFacts) -> Iterator[Finding]:
    if not facts.writable:
        yield Finding(
            "error",
            f"{facts.base} cannot be written",
            f"see what `adb shell ls -ld {facts.base}` says, and name another folder with --directory if it belongs to "
            "another user; restart the phone if its storage has become read-only",
        )
    elif not facts.executable:
        enforcing = ", or SELinux, which is enforcing, forbids it" if facts.selinux.lower() == "enforcing" else ""
        yield Finding(
            "error",
            f"programs in {facts.base} cannot be run: the file system is mounted noexec{enforcing}",
            "see `adb shell mount` and `adb logcat -d | grep avc`; use a phone that lets the shell run programs in "
            "/data/local/tmp, as stock Android does",
        )
    else:
        selinux = f", SELinux {facts.selinux.lower()}" if facts.selinux else ""
        yield Finding("ok", f"{facts.base} can be written, and programs in it run{selinux}")
    if facts.free_bytes is None:
        yield Finding("warning", "the phone does not tell how much space is free", "see `adb shell df /data`")
    elif facts.free_bytes < MIN_FREE_BYTES:
        yield Finding(
            "error",
            f"only {facts.free_bytes >> 20} MB are free, {MIN_FREE_BYTES >> 20} MB are needed",
            "free some: Settings > Storage on the phone shows what takes it",
        )
    else:
        yield Finding("ok", f"{facts.free_bytes >> 20} MB free")


def _other_runs(remote: Remote, facts: PhoneFacts, state: dict[str, list[str]]) -> Iterator[Finding]:
    busy = [number for number in dict.fromkeys(state.get("busy", [])) if whole_number(number)][:8]
    holder = printable(state.get("holder", [""])[0], 200)
    if remote.serial == "local":  # where cores are held, not the machine
        holder = holder_of_cores(own_cores())
    if holder or busy:
        # What it has set is its own, and it will restore it.
        number, _, who = holder.partition(" ")
        if whole_number(number):
            busy, holder = list(dict.fromkeys((number, *busy))), who
        found = [f"process {', '.join(busy)}"] if busy else []
        yield Finding(
            "error",
            f"another run of bpnas is at work here ({'; '.join([*found, *filter(None, [holder])])})",
            "wait until it has ended" + (f", or end it: `adb shell kill {' '.join(busy)}`" if busy else ""),
        )
        return
    try:
        if state.get("leftovers") == ["1"]:
            with closing(DeviceFolder(remote, facts, patience_seconds=0.0)):
                if restore_leftovers(remote, facts):
                    yield Finding("ok", "an earlier run had left the governor set; it is restored now")
    except DeviceLostError:
        raise
    except DeviceError as error:
        yield _from_error(remote.serial, error)


def _cores(facts: PhoneFacts, affinity: str | None) -> Iterator[Finding]:
    if affinity is None and facts.is_android and not facts.big_mask:
        yield Finding(
            "warning",
            "the phone does not tell which of its cores are the fast ones, so models run on any",
            "find out from the chip's data sheet and pass the mask, as in --affinity f0 for cores 4 to 7",
        )
        return
    if affinity == "none" or (affinity is None and not facts.is_android):
        yield Finding("ok", "models run on any core")
        return
    pinned = pinned_cores(facts, affinity)
    shown = f"core{'s' * (len(pinned) > 1)} {' '.join(map(str, pinned))}"
    yield Finding("ok", f"the runner pins itself to {shown} (mask {mask_of(pinned)}); taskset is not needed")


def _clock_rate(facts: PhoneFacts, conditions: Conditions) -> Iterator[Finding]:
    governor = conditions.get("governor")
    if governor is None:
        if facts.is_android:
            yield Finding(
                "warning",
                "the phone does not tell its clock rates: a slow clock can only be seen in the sentinel",
                "keep --sentinel-limit on",
            )
    elif governor == "performance":
        yield Finding("ok", "governor performance")
    elif facts.root:
        yield Finding("ok", f"governor {governor}; root is there, so a campaign sets performance and restores it")
    else:
        yield Finding(
            "warning",
            f"governor {governor} and no root: the clock moves with the load",
            "none is needed for a table, for warm-up and sentinel allow for it; for less spread use a rooted phone",
        )


def _heat(facts: PhoneFacts, conditions: Conditions) -> Iterator[Finding]:
    celsius = conditions.get("temperature_c")
    if not isinstance(celsius, float):
        if facts.is_android:
            yield Finding(
                "warning",
                "no temperature sensor of the processor can be read: nothing waits for it to cool",
                "keep --sentinel-limit on, and the phone in a cool place",
            )
    elif celsius > MAX_TEMPERATURE_C:
        yield Finding(
            "warning",
            f"the processor has {celsius:.1f} C, above {MAX_TEMPERATURE_C:g} C: it will be slowed down soon",
            "take the phone out of its case and out of the sun, and leave it with the screen off for ten minutes",
        )
    else:
        sensor = f" (sensor {facts.cpu_zone.kind})" if facts.cpu_zone else ""
        yield Finding("ok", f"the processor has {celsius:.1f} C{sensor}")


def _power(conditions: Conditions, state: dict[str, list[str]]) -> Iterator[Finding]:
    percent, charging = conditions.get("battery_percent"), conditions.get("charging")
    if isinstance(percent, float) and percent < MIN_BATTERY_PERCENT:
        yield Finding(
            "warning",
            f"battery at {percent:.0f} %: phones slow down when it is low",
            f"charge it to {MIN_BATTERY_PERCENT:.0f} % or more before a campaign",
        )
    elif isinstance(percent, float):
        yield Finding("ok", f"battery at {percent:.0f} %")
    if charging == "no":
        yield Finding(
            "warning",
            "it runs on its battery, and a campaign takes hours",
            "plug it into a charger or a USB port that keeps its level",
        )
    elif charging is not None:
        yield Finding("ok", f"charged by {charging}")
    screen = conditions.get("screen")
    if screen == "on":
        yield Finding(
            "warning",
            "the screen is on: drawing takes time from the cores, and heats",
            "press the power button, or `adb shell input keyevent 223`",
        )
    elif screen == "off":
        yield Finding("ok", "screen off")
    if state.get("saver") == ["1"]:
        yield Finding(
            "warning",
            "the battery saver is on, which holds the clock down",
            "switch it off: Settings > Battery, or `adb shell settings put global low_power 0`",
        )


def _time_of_day(state: dict[str, list[str]], now: float) -> Iterator[Finding]:
    told = whole_number(state.get("clock", [""])[0])
    if told is not None and abs(told - now) > MAX_CLOCK_ERROR_SECONDS:
        days = abs(told - now) / 86_400
        yield Finding("ok", f"its clock is {days:.0f} days off; no figure depends on it")
