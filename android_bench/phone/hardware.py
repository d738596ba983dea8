"""Cores and temperature sensors of a machine: which cores are fast, and which sensor tells how hot they are."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bpnas.base.plain_text import printable

GOVERNOR = re.compile(r"[A-Za-z0-9_-]{1,32}")
"""What the name of a frequency governor may be; nothing else gets into a script."""


@dataclass(frozen=True, slots=True)
class Core:
    """One processor core.

    Attributes:
        index: as in `cpu4`.
        max_khz: its highest frequency; 0 where it is not told.
        capacity: the kernel's figure of its speed, 1024 for the fastest; 0 where it is not told.
    """

    index: int
    max_khz: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Zone:
    """One temperature sensor.

    Attributes:
        index: as in `thermal_zone7`.
        kind: the kernel's name of it.
        scale: degrees Celsius in one unit of its file.
        celsius: what it read.
    """

    index: int
    kind: str
    scale: float
    celsius: float

    @property
    def path(self) -> str:
        """The file to read."""
        return f"/sys/class/thermal/thermal_zone{self.index}/temp"


def read_cores(lines: list[str]) -> tuple[Core, ...]:
    """Cores from lines `index,max_khz,capacity`, by index; what makes no sense is left out."""
    cores = {}
    for line in lines[:1024]:
        index, khz, capacity = (whole_number(field.strip()) for field in (line + ",,").split(",")[:3])
        if index is not None and 0 <= index < 1024:
            cores[index] = Core(index, max(khz or 0, 0), max(capacity or 0, 0))
    return tuple(core for _, core in sorted(cores.items()))


def read_zones(lines: list[str]) -> tuple[Zone, ...]:
    """Sensors with a plausible reading from lines `index,reading,kind`, by index."""
    zones = {}
    for line in lines[:1024]:
        name, _, rest = line.partition(",")
        reading, _, kind = rest.partition(",")
        index, value = whole_number(name), whole_number(reading)
        if index is None or value is None or index < 0:
            continue
        # The unit differs from driver to driver, and no file tells it.
        scale = 0.001 if value >= 1000 else 0.1 if value > 150 else 1.0
        if 5 <= value * scale <= 125:  # others are switched off (0, -273) or no thermometers
            zones[index] = Zone(index, plain_name(kind), scale, round(value * scale, 3))
    return tuple(zone for _, zone in sorted(zones.items()))


def big_cores(cores: tuple[Core, ...]) -> tuple[int, ...]:
    """The fast cores, whose order of speed the kernel tells; empty where it does not.

    With capacities: those of at least half the fastest one's, for little cores have a third. Without, by the highest
    frequency: at least 0.75 times the fastest one's. That keeps a prime core and its big neighbours together
    (Snapdragon 855: 2.84 and 2.42 GHz, little ones 1.79) and gives f0 on the Snapdragon 845 (2.80 and 1.77 GHz). Some
    chips whose little cores are clocked nearly as high need `--affinity`.
    """
    if not cores:
        return ()
    if all(core.capacity for core in cores):
        fastest = max(core.capacity for core in cores)
        return tuple(core.index for core in cores if core.capacity >= 0.5 * fastest)
    highest = max(core.max_khz for core in cores)
    return tuple(core.index for core in cores if core.max_khz >= 0.75 * highest) if highest else ()


def mask_of(indexes: tuple[int, ...]) -> str:
    """Cores as a hexadecimal mask, as `taskset` takes it: (4, 5, 6, 7) gives `f0`, none gives an empty text."""
    return f"{sum(1 << index for index in set(indexes)):x}" if indexes else ""


def cores_of(mask: str) -> tuple[int, ...]:
    """The inverse of `mask_of`; raises ValueError on what is no hexadecimal number."""
    bits = int(mask, 16) if mask else 0
    return tuple(index for index in range(bits.bit_length()) if bits >> index & 1)


def cores_in(mask: str) -> int | None:
    """How many cores a hexadecimal mask has; None of what is no mask."""
    try:
        return len(cores_of(mask)) or None
    except ValueError:
        return None


_ZONE_RANKS = (
    r"gold|prime|cpu-[1-9]-\d|big",  # Qualcomm's big clusters by their two ways of naming them; Exynos and Tensor
    r"cpu|x86_pkg|k10temp",
    r"tsens_tz_sensor",  # Qualcomm before 2018: on the chip, but which is where is not told
    r"soc|^ap$|acpitz",
)
_NOT_THE_CHIP = re.compile(r"batt|bms|chg|charg|usb|^pm|_pm|xo.?therm|pa.?therm|wlan|wifi|modem|skin|quiet|disp", re.I)


def choose_zone(zones: tuple[Zone, ...]) -> Zone | None:
    """The sensor nearest to the fast cores: by name the first of the big cluster, then of any core, then of the chip;
    among unnamed sensors of the chip, and failing those among all but battery, charger, radio and case, the hottest.
    """

    def order(zone: Zone) -> tuple[int, float, int]:
        rank = next((n for n, names in enumerate(_ZONE_RANKS) if re.search(names, zone.kind, re.I)), len(_ZONE_RANKS))
        unnamed = rank in (2, len(_ZONE_RANKS))
        return rank, -zone.celsius if unnamed else 0.0, zone.index

    return min((zone for zone in zones if not _NOT_THE_CHIP.search(zone.kind)), key=order, default=None)


def plain_name(text: str) -> str:
    """What a device calls something, fit for a terminal and for rich: brackets, which would be markup, become `?`."""
    text = printable(text, limit=120)
    return "".join(c if c.isalnum() or c in " ._-+/:,()@#&'\"=" else "?" for c in text)


def whole_number(text: str) -> int | None:
    """`text` as a whole number of at most 12 digits; None if it is none."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,12}", text) else None
