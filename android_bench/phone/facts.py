"""What a machine is, asked in one go: maker, system on chip, cores, sensors, rights. What changes while it runs is in
`conditions`.

The scripts of this room run on toybox (Android 6 and newer), busybox and dash. They answer in lines `key=value`, and
the last line is `end=1`, so that a shell that is none is noticed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from bpnas.android_bench.device import DEVICE_FOLDER, DeviceInfo
from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.local.private_folder import private_folder
from bpnas.android_bench.phone.hardware import (
    Core,
    Zone,
    big_cores,
    choose_zone,
    mask_of,
    plain_name,
    read_cores,
    read_zones,
    whole_number,
)
from bpnas.android_bench.remote import Remote, quote
from bpnas.base.plain_text import printable

# Android's emulator sets the first of these since Android 12, the second before.
_EMULATOR_PROPERTIES = ("ro.boot.qemu", "ro.kernel.qemu")
_PROPERTIES = (
    "ro.product.manufacturer ro.product.model ro.board.platform ro.hardware.chipname ro.hardware "
    "ro.build.version.release ro.build.version.sdk ro.build.fingerprint ro.product.cpu.abi "
    + " ".join(_EMULATOR_PROPERTIES)
)
_TOOLS = "taskset sha256sum timeout setsid mkdir dumpsys getprop su"

PRELUDE = r"""
say() { echo "$1=$2"; }
has() { command -v "$1" > /dev/null 2>&1; }
within() { if has timeout; then timeout "$@"; else shift; "$@"; fi; }
first_line() { line=; { read -r line < "$1"; } 2> /dev/null; }
"""
"""What the scripts share: an answer, whether a tool is there, a time limit in seconds, the first line of a file."""

_SCRIPT = (
    PRELUDE
    + r"""
base=@BASE@
trap '' HUP PIPE  # when the connection breaks it runs to its end, and leaves nothing
if has getprop; then for p in @PROPERTIES@; do say "$p" "$(getprop "$p" 2> /dev/null)"; done; fi
say kernel "$(uname -r)"
say machine "$(uname -m)"
say uid "$(id -u)"
say system "$(grep -m 1 '^PRETTY_NAME=' /etc/os-release 2> /dev/null)"
first_line /sys/class/dmi/id/product_name; say product "$line"
first_line /proc/device-tree/model; say board "$line"
grep -m 1 '^Hardware' /proc/cpuinfo 2> /dev/null | while read -r line; do say processor "$line"; done
grep -m 1 '^model name' /proc/cpuinfo 2> /dev/null | while read -r line; do say processor "$line"; done
for t in @TOOLS@; do if has "$t"; then say tool "$t"; fi; done
if has getenforce; then say selinux "$(getenforce 2> /dev/null)"; fi
# Without a time limit a su that asks for a password, or on the screen, would hold everything up.
if has getprop && has su && has timeout; then
    for su in 'su 0 sh -c' 'su -c'; do
        if [ "$(timeout 10 $su 'id -u' < /dev/null 2> /dev/null)" = 0 ]; then say su "$su"; break; fi
    done
fi
for d in /sys/devices/system/cpu/cpu[0-9]*; do
    first_line "$d/cpufreq/cpuinfo_max_freq"; khz=$line
    first_line "$d/cpu_capacity"; say core "${d##*cpu},$khz,$line"
done
for d in /sys/class/thermal/thermal_zone[0-9]*; do
    first_line "$d/type"; kind=$line
    first_line "$d/temp"; say zone "${d##*thermal_zone},$line,$kind"
done
for place in "${ANDROID_DATA:-/data}/local/tmp" "${TMPDIR:-/tmp}"; do
    if [ -d "$place" ] && [ -w "$place" ]; then say place "$place"; break; fi
done
made=
[ -d "$base" ] || made=1
mkdir -p "$base" 2> /dev/null
probe=$base/.bpnas-probe.$$
shell=/bin/sh
[ -x /system/bin/sh ] && shell=/system/bin/sh
if { echo "#!$shell"; echo 'echo runs'; } 2> /dev/null > "$probe"; then
    say writable 1
    chmod 755 "$probe"
    say executable "$("$probe" 2> /dev/null)"
fi 2> /dev/null
rm -f "$probe" 2> /dev/null
df -k "$base" 2> /dev/null | while read -r line; do say df "$line"; done
if [ -n "$made" ]; then rmdir "$base" 2> /dev/null; fi
say end 1
"""
)


@dataclass(frozen=True, slots=True)
class PhoneFacts:
    """What `read_facts` found; texts are fit for a terminal, and empty where nothing was told.

    Attributes:
        is_android: it answers to `getprop` with a version of Android.
        is_emulator: it is Android on an emulator; it shares its cores with other work, and its times are no phone's.
        manufacturer, model: as the maker calls them.
        platform: the system on chip, as `sdm845`, or the processor.
        release: version of Android, or of another system.
        sdk: API level of Android; 0 elsewhere.
        build: Android's build fingerprint.
        kernel, machine: as `uname` says them.
        abi: Android's name of the instruction set, as `arm64-v8a`.
        uid: of the shell; None where it was not told.
        root: `uid` (the shell is root), `su` (it can become root) or empty.
        su: the command that becomes root, as `su -c`; only with `root` `su`.
        cores: by index.
        big_mask: the fast cores, as a hexadecimal mask; empty where they are unknown. See `big_cores`.
        zones: sensors that read a plausible temperature, by index.
        cpu_zone: the one to watch. See `choose_zone`.
        tools: the programs there, of those that are of use.
        selinux: `Enforcing`, `Permissive`, `Disabled`, or empty.
        place: where every campaign on the device looks for others, regardless of its own folder.
        base: the folder that was tried.
        writable, executable: whether files in it can be written, and run.
        free_bytes: on its file system; None where it is not told.
    """

    is_android: bool
    is_emulator: bool
    manufacturer: str
    model: str
    platform: str
    release: str
    sdk: int
    build: str
    kernel: str
    machine: str
    abi: str
    uid: int | None
    root: str
    su: str
    cores: tuple[Core, ...]
    big_mask: str
    zones: tuple[Zone, ...]
    cpu_zone: Zone | None
    tools: tuple[str, ...]
    selinux: str
    place: str
    base: str
    writable: bool
    executable: bool
    free_bytes: int | None


def read_facts(remote: Remote, base: str = DEVICE_FOLDER) -> PhoneFacts:
    """Ask the machine what it is, in one shell. The folder `base` is made for the question and taken away again if it
    was not there.

    Raises:
        DeviceLostError: the connection is gone.
        DeviceError: what answers is no POSIX shell.
    """
    script = _SCRIPT.replace("@BASE@", quote(base)).replace("@PROPERTIES@", _PROPERTIES).replace("@TOOLS@", _TOOLS)
    answers = ask(remote, script, timeout_seconds=60.0)

    def first(key: str) -> str:
        return plain_name(answers.get(key, [""])[0])

    release, machine = first("ro.build.version.release"), first("machine")
    is_android = bool(release or first("ro.build.version.sdk"))
    uid = whole_number(first("uid"))
    su = first("su") if first("su") in ("su 0 sh -c", "su -c") else ""
    cores = read_cores(answers.get("core", []))
    zones = read_zones(answers.get("zone", []))
    platform = _platform(
        first("ro.board.platform"), first("ro.hardware.chipname"), first("ro.hardware"), first("processor")
    )
    return PhoneFacts(
        is_android=is_android,
        is_emulator=is_android and any(first(name) == "1" for name in _EMULATOR_PROPERTIES),
        manufacturer=first("ro.product.manufacturer"),
        model=first("ro.product.model") or first("board") or first("product") or platform,
        platform=platform,
        release=release or first("system").partition("=")[2].strip("\"'"),
        sdk=whole_number(first("ro.build.version.sdk")) or 0,
        build=first("ro.build.fingerprint"),
        kernel=first("kernel"),
        machine=machine,
        abi=first("ro.product.cpu.abi") or {"aarch64": "arm64-v8a", "armv7l": "armeabi-v7a"}.get(machine, machine),
        uid=uid,
        root="uid" if uid == 0 else "su" if su else "",
        su="" if uid == 0 else su,
        cores=cores,
        big_mask=mask_of(big_cores(cores)),
        zones=zones,
        cpu_zone=choose_zone(zones),
        tools=tuple(tool for tool in _TOOLS.split() if tool in answers.get("tool", [])),
        selinux=first("selinux"),
        place=_place(remote.serial, answers.get("place", [""])[0], base),
        base=base,
        writable=first("writable") == "1",
        executable=first("executable") == "runs",
        free_bytes=_free_bytes(answers.get("df", [])),
    )


def base_folder(serial: str, directory: str | None = None) -> str:
    """The folder that bpnas works in on the device with that serial, `directory` if it is given.

    Raises:
        DeviceError: on this machine it is not private, see `private_folder`; nothing in it is used.
    """
    if serial == "local":
        return str(private_folder(directory))
    return directory or DEVICE_FOLDER


def _place(serial: str, told: str, base: str) -> str:
    if serial == "local":
        return str(private_folder())
    return told if told.startswith("/") and told.isprintable() else base


def ask(remote: Remote, script: str, timeout_seconds: float = 30.0) -> dict[str, list[str]]:
    """Run a script that answers in lines `key=value`, `end=1` last; every key's values in order.

    Raises:
        DeviceLostError: the connection is gone, or no end came in time.
        DeviceError: the last line is missing.
    """
    result = remote.shell(script, timeout_seconds)
    answers: dict[str, list[str]] = {}
    for line in result.text.splitlines():
        key, separator, value = line.partition("=")
        if separator:
            answers.setdefault(key, []).append(value.strip())
    if answers.get("end") != ["1"]:
        said = printable(result.errors or result.output) or "nothing"
        raise DeviceError(
            f"{remote.serial}: the shell there did not run a script to its end (exit code {result.exit_code}, it said: "
            f"{said}); check that `adb -s {remote.serial} shell uname` works"
        )
    return answers


def as_root(facts: PhoneFacts, command: str) -> str:
    """`command`, one line, as a shell command that runs as root; only where `facts.root` is not empty."""
    return f"{facts.su} {quote(command)} < /dev/null" if facts.root == "su" else command


def device_info(
    facts: PhoneFacts, *, runtime: str, runtime_version: str, runtime_sha256: str, affinity: str
) -> DeviceInfo:
    """The fingerprint of a phone with a runtime: of what stays from day to day and is the same in two equal phones."""
    maker = "" if facts.model.lower().startswith(facts.manufacturer.lower()) else f"{facts.manufacturer} "
    system = f"Android {facts.release} ({facts.build})" if facts.is_android else f"{facts.release} {facts.kernel}"
    return DeviceInfo(
        name=short_name(facts),
        mock=False,
        model=f"{maker}{facts.model}{' (EMULATOR: no phone)' if facts.is_emulator else ''}".strip() or "unknown",
        platform=facts.platform or "unknown",
        os=system.strip(),
        abi=facts.abi,
        runtime=runtime,
        runtime_version=runtime_version,
        runtime_sha256=runtime_sha256,
        affinity=affinity,
    )


_GALAXY_S9 = {"SM-G960": "s9", "SM-G965": "s9plus"}


def galaxy_s9(facts: PhoneFacts) -> str:
    """`s9` or `s9plus`, whichever chip is in it; empty for other phones."""
    return _GALAXY_S9.get(facts.model[:7].upper(), "")


def short_name(facts: PhoneFacts) -> str:
    """Fit for a file name, 1 to 40 characters of [a-z0-9-]: `s9` for the Galaxy S9 with the Snapdragon 845,
    `s9-exynos9810` for the other one, else the model; an emulator's ends with `-emulator`.
    """
    name = galaxy_s9(facts) or facts.model
    if galaxy_s9(facts) and facts.platform.lower() != "sdm845":
        name = f"{name}-{facts.platform}"
    suffix = "-emulator" if facts.is_emulator else ""
    most = 40 - len(suffix)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())[:most].strip("-")
    # Names that bpnas gives to other things: a phone must not pass for them.
    if not slug or slug == "local" or slug.startswith("mock"):
        slug = f"phone-{slug}"[:most].strip("-")
    return slug + suffix


def _platform(board: str, chip: str, hardware: str, processor: str) -> str:
    hardware = hardware.removeprefix("samsung")
    # Samsung calls the board of every Exynos since 2012 exynos5; the chip's number is in another property.
    exact = [name for name in (chip, hardware) if re.match(r"exynos\d{4}", name, re.I)]
    if board.lower().startswith(("exynos", "universal")) and exact:
        return exact[0].lower()
    return board or chip or hardware or processor.partition(":")[2].strip()


def _free_bytes(lines: list[str]) -> int | None:
    # Long device names put a row on two lines; what is free is before the percentage in every layout.
    words = " ".join(lines[1:]).split()
    for before, word in pairwise(words):
        if re.fullmatch(r"[0-9]{1,3}%", word) and (free := whole_number(before)) is not None:
            return free * 1024
    return None
