"""What makes a daemon look like a phone: properties, services and sysfs of a Galaxy S9, as plain files to change.

Nothing here is real but the format: the processor is this machine's, or qemu's. So it says of itself what Android's
emulator says, `ro.boot.qemu`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

LITTLE_KHZ = 1_766_400
BIG_KHZ = 2_803_200

PROPERTIES = {
    "ro.board.platform": "sdm845",
    "ro.boot.qemu": "1",
    "ro.boot.hardware": "qcom",
    "ro.build.fingerprint": "samsung/starqltesq/starqltesq:10/QP1A.190711.020/G960USQU9FVB2:user/release-keys",
    "ro.build.id": "QP1A.190711.020",
    "ro.build.version.release": "10",
    "ro.build.version.sdk": "29",
    "ro.hardware": "qcom",
    "ro.product.brand": "samsung",
    "ro.product.device": "starqltesq",
    "ro.product.manufacturer": "samsung",
    "ro.product.model": "SM-G960U",
    "ro.product.name": "starqltesq",
    "ro.serialno": "2c8f1a3b0d1c7ece",
    "ro.soc.model": "SDM845",
    "sys.boot_completed": "1",
}

SERVICES = {
    "battery": """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 500000
  Charge counter: 2550000
  status: 2
  health: 2
  present: true
  level: 85
  scale: 100
  voltage: 4192
  temperature: 274
  technology: Li-ion
""",
    "display": """DISPLAY MANAGER (dumpsys display)
  mGlobalDisplayState=OFF
  mScreenState=OFF
""",
    "power": """POWER MANAGER (dumpsys power)

Power Manager State:
  mWakefulness=Asleep
  mStayOn=false
Display Power: state=OFF
""",
}

ZONES = (("cpu0-silver-usr", 36_100), ("cpu0-gold-usr", 37_400), ("gpu0-usr", 35_700), ("battery", 27_400))
"""Thermal zones and their temperatures in thousandths of a degree Celsius."""

# They find their files from where they lie themselves: the phone's root is / only in a chroot.
GETPROP = """#!/bin/sh
file="${0%/system/bin/*}/properties"
if [ $# -eq 0 ]; then
    while IFS= read -r line; do echo "[${line%%=*}]: [${line#*=}]"; done <"$file"
else
    while IFS= read -r line; do
        if [ "${line%%=*}" = "$1" ]; then printf '%s\\n' "${line#*=}"; exit; fi
    done <"$file"
    echo "${2-}"
fi
"""
DUMPSYS = """#!/bin/sh
cat "${0%/system/bin/*}/services/$1" 2>/dev/null || { echo "Can't find service: $1" >&2; exit 20; }
"""
GETENFORCE = """#!/bin/sh
cat "${0%/system/bin/*}/enforce"
"""


class Identity:
    """The files of one phone below `root`, where the tests may write and the phone's user may not."""

    def __init__(self, root: Path, abi: str, cores: Sequence[int] | None = None) -> None:
        """`cores`: the highest frequency of each core in kHz, by its number; without it `host_cores`."""
        self.root = root
        self._abi = abi
        self._cores = host_cores() if cores is None else tuple(cores)
        tools = root / "system/bin"
        tools.mkdir(parents=True, exist_ok=True)
        for name, script in (("getprop", GETPROP), ("dumpsys", DUMPSYS), ("getenforce", GETENFORCE)):
            (tools / name).write_text(script)
            (tools / name).chmod(0o755)
        self.reset()

    def reset(self) -> None:
        """Undo all changes."""
        self._properties = PROPERTIES | {"ro.product.cpu.abi": self._abi, "ro.product.cpu.abilist": self._abi}
        self.set_property("ro.product.cpu.abi", self._abi)
        _write(self.root / "enforce", "Enforcing\n")
        shutil.rmtree(self.root / "services", ignore_errors=True)
        for name, text in SERVICES.items():
            self.set_service(name, text)
        (self.root / "sys").mkdir(exist_ok=True)
        for child in (self.root / "sys").iterdir():  # the folder itself may be mounted somewhere
            shutil.rmtree(child)
        self._write_cores()
        for number, (kind, temperature) in enumerate(ZONES):
            self.set_sys(f"class/thermal/thermal_zone{number}/type", kind)
            self.set_sys(f"class/thermal/thermal_zone{number}/temp", str(temperature))
        for name, value in (("capacity", "85"), ("status", "Charging"), ("temp", "274")):
            self.set_sys(f"class/power_supply/battery/{name}", value)

    def property(self, name: str) -> str:
        """What `getprop NAME` prints now."""
        return self._properties.get(name, "")

    def set_property(self, name: str, value: str | None) -> None:
        """What `getprop NAME` prints; None: nothing."""
        if value is None:
            self._properties.pop(name, None)
        else:
            self._properties[name] = value
        lines = [f"{name}={value}\n" for name, value in sorted(self._properties.items())]
        _write(self.root / "properties", "".join(lines))

    def set_service(self, name: str, text: str | bytes) -> None:
        """What `dumpsys NAME` prints."""
        _write(self.root / "services" / name, text)

    def set_sys(self, path: str, text: str | bytes) -> None:
        """The content of the file /sys/`path`; a line end is added to text."""
        _write(self.root / "sys" / path, text + "\n" if isinstance(text, str) else text)

    def sys(self, path: str) -> str:
        """The content of the file /sys/`path`, without its line end."""
        return (self.root / "sys" / path).read_text().strip()

    def big_cores(self) -> list[bool]:
        """Of each core, whether it is one of the fastest."""
        return [khz == max(self._cores) for khz in self._cores]

    def _write_cores(self) -> None:
        numbers = f"0-{len(self._cores) - 1}" if len(self._cores) > 1 else "0"
        for name in ("online", "possible", "present"):
            self.set_sys(f"devices/system/cpu/{name}", numbers)
        for number, highest_khz in enumerate(self._cores):
            for name, value in (
                ("cpuinfo_max_freq", str(highest_khz)),
                ("cpuinfo_min_freq", "300000"),
                ("scaling_available_governors", "conservative ondemand userspace powersave performance schedutil"),
                ("scaling_cur_freq", str(highest_khz)),
                ("scaling_governor", "schedutil"),
                ("scaling_max_freq", str(highest_khz)),
            ):
                self.set_sys(f"devices/system/cpu/cpu{number}/cpufreq/{name}", value)


def host_cores() -> tuple[int, ...]:
    """As many cores as this process may use, at most eight, the upper half of them big: a mask of the big cores is one
    that this machine can set, which f0, the S9's own, is not on less than eight cores."""
    count = min(8, max(os.sched_getaffinity(0)) + 1)
    return (LITTLE_KHZ,) * (count // 2) + (BIG_KHZ,) * (count - count // 2)


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
