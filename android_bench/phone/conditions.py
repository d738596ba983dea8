"""The state of a phone now: what the runner watches, what is read between batches, and the wait until it is cool."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.phone.facts import PRELUDE, PhoneFacts, ask
from bpnas.android_bench.phone.hardware import GOVERNOR, Core, cores_of, plain_name
from bpnas.android_bench.remote import Remote

_POLL_SECONDS = 5.0
_CPUFREQ = "/sys/devices/system/cpu/cpu{}/cpufreq"
_PASSING = re.compile(r"cpu\d+_mhz|temperature_c|governor")

# Texts of dumpsys: unchanged since Android 6, except that the power manager's grew.
_READ = (
    PRELUDE
    + r"""
if [ -n "@ZONE@" ]; then first_line "@ZONE@"; say temperature "$line"; fi
for n in @CORES@; do
    d=/sys/devices/system/cpu/cpu$n/cpufreq
    first_line $d/scaling_cur_freq; say khz "$n,$line"
    first_line $d/scaling_governor; say governor "$line"
done
first_line /proc/loadavg; say load "$line"
if has getenforce; then say selinux "$(getenforce 2> /dev/null)"; fi
if has dumpsys; then
    within 10 dumpsys battery 2> /dev/null | grep -E '(powered|level|temperature):' |
        while read -r line; do say battery "$line"; done
    within 10 dumpsys power 2> /dev/null | grep -E 'mWakefulness=|Display Power: state=' |
        while read -r line; do say power "$line"; done
fi
say end 1
"""
)


# --- reading


@dataclass(frozen=True, slots=True)
class Watch:
    """A file on the device that holds one number or one word, read right before and after every model.

    Attributes:
        name: of the condition, with its unit; words of several files may have one name, and are joined by `+` then.
        path: absolute.
        scale: what one unit of the file is in the unit of the name; None for a word.
    """

    name: str
    path: str
    scale: float | None


def watch_files(facts: PhoneFacts, affinity: str | None = None) -> tuple[Watch, ...]:
    """What the runner itself reads: the frequency of the first pinned core in MHz, the temperature in degrees Celsius,
    the governor of the first core of each kind among the pinned ones.

    Args:
        facts: of the phone.
        affinity: hexadecimal mask or `none`; None means the big cores.
    """
    watches = []
    leaders = _leaders(facts, affinity)
    if leaders and leaders[0].max_khz:
        first = leaders[0].index
        watches.append(Watch(f"cpu{first}_mhz", f"{_CPUFREQ.format(first)}/scaling_cur_freq", 0.001))
    if facts.cpu_zone is not None:
        watches.append(Watch("temperature_c", facts.cpu_zone.path, facts.cpu_zone.scale))
    governors = (Watch("governor", f"{_CPUFREQ.format(core.index)}/scaling_governor", None) for core in leaders)
    return (*watches, *governors)


def lasting(conditions: Mapping[str, float | str]) -> dict[str, float | str]:
    """Those that may be said of the next model too: not clock, temperature and governor, which are read around every
    model or are not known there.
    """
    return {name: value for name, value in conditions.items() if not _PASSING.fullmatch(name)}


def read_conditions(remote: Remote, facts: PhoneFacts, affinity: str | None = None) -> dict[str, float | str]:
    """The state now, in one shell; what the device does not tell is left out.

    Returns:
        `temperature_c`; `cpu4_mhz` and the like, of the first core of each kind among the pinned ones; `governor` (of
        these, joined by `+` where they differ); `load_1min`; `selinux`; and on Android `battery_percent`,
        `battery_temperature_c`, `charging` (`ac`, `usb`, `wireless` or `no`), `screen` (`on`, `off` or `unknown`).

    Raises:
        DeviceLostError: the connection is gone.
        DeviceError: what answers is no POSIX shell.
    """
    zone, leaders = facts.cpu_zone, [core.index for core in _leaders(facts, affinity)]
    script = _READ.replace("@ZONE@", zone.path if zone else "").replace("@CORES@", " ".join(map(str, leaders)))
    answers = ask(remote, script)
    conditions: dict[str, float | str] = {}

    def put(name: str, text: str, scale: float = 1.0, digits: int = 1) -> None:
        with suppress(ValueError):
            value = float(text) * scale
            if math.isfinite(value):
                conditions[name] = round(value, digits)

    if zone is not None:
        put("temperature_c", answers.get("temperature", [""])[0], zone.scale)
    for line in answers.get("khz", [])[: len(leaders)]:
        core, _, khz = line.partition(",")
        if core.isdecimal() and int(core) in leaders:
            put(f"cpu{int(core)}_mhz", khz, 0.001)
    governors = dict.fromkeys(filter(GOVERNOR.fullmatch, answers.get("governor", [])))
    if governors:
        conditions["governor"] = "+".join(governors)
    put("load_1min", answers.get("load", [""])[0].partition(" ")[0], digits=2)
    if selinux := plain_name(answers.get("selinux", [""])[0]):
        conditions["selinux"] = selinux.lower()
    battery = _pairs(answers.get("battery", []), ":")
    put("battery_percent", battery.get("level", ""))
    put("battery_temperature_c", battery.get("temperature", ""), 0.1)  # Android counts in tenths
    if battery:
        sources = ("AC", "USB", "Wireless", "Dock")
        powered = [source.lower() for source in sources if battery.get(f"{source} powered") == "true"]
        conditions["charging"] = powered[0] if powered else "no"
    if "dumpsys" in facts.tools:
        conditions["screen"] = _screen(_pairs(answers.get("power", []), "="))
    return conditions


def _leaders(facts: PhoneFacts, affinity: str | None) -> tuple[Core, ...]:
    """The first core of each kind among the pinned ones: cores of one kind share a clock and a governor."""
    kinds: dict[tuple[int, int], Core] = {}
    pinned = pinned_cores(facts, affinity)
    for core in facts.cores:
        if core.index in pinned:
            kinds.setdefault((core.max_khz, core.capacity), core)
    return tuple(kinds.values())


def pinned_cores(facts: PhoneFacts, affinity: str | None = None) -> tuple[int, ...]:
    """The cores that a model may run on, of those that there are: of the mask `affinity`, all if it is `none`, the big
    ones if it is None; all where the big ones are unknown.
    """
    mask = facts.big_mask if affinity is None else affinity
    everything = tuple(core.index for core in facts.cores)
    if mask in ("", "none"):
        return everything
    return tuple(index for index in cores_of(mask) if index in everything)


def _pairs(lines: list[str], separator: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in lines:
        key, found, value = line.partition(separator)
        if found:
            pairs.setdefault(key.strip(), value.strip())
    return pairs


def _screen(power: dict[str, str]) -> str:
    # The display's own state where it is told; a phone that dozes with an always-on display is off but for a clock.
    state = power.get("Display Power: state") or power.get("mWakefulness") or ""
    return {"ON": "on", "OFF": "off", "Awake": "on", "Asleep": "off", "DOZE": "off", "DOZE_SUSPEND": "off",
            "Dozing": "off", "Dreaming": "on"}.get(state, "unknown")  # fmt: skip


# --- the thermal gate


def wait_until_cool(
    remote: Remote,
    facts: PhoneFacts,
    limit_c: float,
    max_seconds: float,
    on_wait: Callable[[float], None] = lambda celsius: None,
    sleep: Callable[[float], None] = time.sleep,
) -> float | None:
    """Wait until the processor is at `limit_c` degrees Celsius or below.

    Args:
        remote: the phone.
        facts: of the phone.
        limit_c: degrees Celsius; 0 switches the gate off.
        max_seconds: the longest wait.
        on_wait: called with the temperature before each wait of five seconds.
        sleep: waits for the seconds it is given.

    Returns:
        The temperature; None without a limit or without a sensor that reads.

    Raises:
        DeviceError: it is still hotter after `max_seconds`.
        DeviceLostError: the connection is gone.
    """
    if limit_c <= 0 or facts.cpu_zone is None:
        return None
    waits = math.ceil(max_seconds / _POLL_SECONDS)
    for wait in range(waits + 1):
        text = remote.shell(f"cat {facts.cpu_zone.path}").text
        try:
            celsius = round(float(text) * facts.cpu_zone.scale, 1)
        except ValueError:
            return None
        if not celsius > limit_c:
            return celsius
        if wait < waits:
            on_wait(celsius)
            sleep(_POLL_SECONDS)
    raise DeviceError(
        f"{remote.serial}: still {celsius:.1f} C after {max_seconds:.0f} s, above the limit of {limit_c:g} C; take it "
        "out of its case and out of the sun, let air at it, and call the same command again, or raise --max-temperature"
    )
