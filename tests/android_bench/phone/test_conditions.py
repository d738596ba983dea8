"""The state of a phone through a real shell, the thermal gate, and a governor that comes back whatever happens."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.phone.conditions import Watch, pinned_cores, read_conditions, wait_until_cool, watch_files
from bpnas.android_bench.phone.device_folder import DeviceFolder
from bpnas.android_bench.phone.facts import read_facts
from bpnas.android_bench.phone.governor import Preparation, has_leftovers, prepare, restore_leftovers
from bpnas.android_bench.serials import connect
from tests.folder_phone import SNAPDRAGON_855_CORES, FolderPhone, facts_of, prepared_phone
from tests.patience import PATIENCE
from tests.phone.daemon import wait_until
from tests.phone.fixtures import StartAdbd
from tests.phone.identity import BIG_KHZ, LITTLE_KHZ

OLD = ["schedutil"] * 8
TOKEN = "0123456789abcdef"
SET = ["schedutil"] * 4 + ["performance"] * 4


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[FolderPhone]:
    with closing(FolderPhone(tmp_path)) as phone:
        yield phone


# --- conditions


def test_conditions_of_a_galaxy_s9_in_one_shell(phone: FolderPhone) -> None:
    facts = facts_of(phone)
    phone.commands.clear()
    conditions = read_conditions(phone, facts)
    assert len(phone.commands) == 1
    load = conditions.pop("load_1min")
    assert isinstance(load, float) and load >= 0
    assert conditions == {
        "temperature_c": 37.4,
        "cpu4_mhz": 2803.2,
        "governor": "schedutil",
        "battery_percent": 85.0,
        "battery_temperature_c": 27.4,
        "charging": "usb",
        "screen": "off",
        "selinux": "enforcing",
    }


def test_every_kind_of_pinned_core_is_read(tmp_path: Path) -> None:
    phone = FolderPhone(tmp_path, SNAPDRAGON_855_CORES)
    phone.set_governors(*["schedutil"] * 7, "walt")
    facts = facts_of(phone)
    conditions = read_conditions(phone, facts)
    assert [name for name in conditions if name.endswith("_mhz")] == ["cpu4_mhz", "cpu7_mhz"]
    assert conditions["governor"] == "schedutil+walt"
    assert "cpu0_mhz" in read_conditions(phone, facts, affinity="3")


@pytest.mark.parametrize(
    ("power", "screen"),
    [
        ("  mWakefulness=Awake\nDisplay Power: state=ON", "on"),
        ("  mWakefulness=Awake\nDisplay Power: state=OFF", "off"),
        ("  mWakefulness=Dozing\nDisplay Power: state=DOZE", "off"),
        ("  mWakefulness=Asleep", "off"),
        ("  mWakefulness=Awake", "on"),
        ("  mWakefulness=\x1b[2J", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_screen(phone: FolderPhone, power: str, screen: str) -> None:
    phone.identity.set_service("power", power)
    assert read_conditions(phone, facts_of(phone))["screen"] == screen


@pytest.mark.parametrize(
    ("battery", "charging"),
    [
        ("AC powered: true\n  USB powered: false", "ac"),
        ("AC powered: false\n  Wireless powered: true", "wireless"),
        ("AC powered: false\n  USB powered: false", "no"),
    ],
)
def test_charging(phone: FolderPhone, battery: str, charging: str) -> None:
    phone.identity.set_service("battery", f"Current Battery Service state:\n  {battery}\n  level: 40\n")
    assert read_conditions(phone, facts_of(phone))["charging"] == charging


def test_what_makes_no_sense_is_left_out(phone: FolderPhone) -> None:
    facts = facts_of(phone)
    phone.identity.set_sys("class/thermal/thermal_zone1/temp", "inf")
    phone.identity.set_sys("devices/system/cpu/cpu4/cpufreq/scaling_cur_freq", "<unknown>")
    phone.identity.set_sys("devices/system/cpu/cpu4/cpufreq/scaling_governor", "x; rm -rf /")
    phone.identity.set_service("battery", "  level: nan\n  temperature: [bold]\n")
    conditions = read_conditions(phone, facts)
    assert set(conditions) == {"load_1min", "charging", "screen", "selinux"}


def test_this_machine_has_conditions_too(tmp_path: Path) -> None:
    remote = connect("local")
    facts = read_facts(remote, str(tmp_path))
    assert "load_1min" in read_conditions(remote, facts)
    assert "battery_percent" not in read_conditions(remote, facts)


def test_what_the_runner_watches(phone: FolderPhone) -> None:
    facts = facts_of(phone)
    temperature = Watch("temperature_c", "/sys/class/thermal/thermal_zone1/temp", 0.001)
    frequency = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
    big, little = (Watch("governor", f"/sys/devices/system/cpu/cpu{n}/cpufreq/scaling_governor", None) for n in (4, 0))
    assert watch_files(facts) == (Watch("cpu4_mhz", frequency.format(4), 0.001), temperature, big)
    assert watch_files(facts, "2")[:2] == (Watch("cpu1_mhz", frequency.format(1), 0.001), temperature)
    assert watch_files(facts, "none")[2:] == (little, big), "of every kind of core, as `read_conditions` has it"
    blind = dataclasses.replace(facts, cpu_zone=None, cores=())
    assert watch_files(blind) == ()


@pytest.mark.parametrize(
    ("affinity", "cores"),
    [(None, (4, 5, 6, 7)), ("f0", (4, 5, 6, 7)), ("none", tuple(range(8))), ("3", (0, 1)), ("f00", ())],
)
def test_pinned_cores(phone: FolderPhone, affinity: str | None, cores: tuple[int, ...]) -> None:
    assert pinned_cores(facts_of(phone), affinity) == cores


# --- the thermal gate


def set_celsius(phone: FolderPhone, celsius: float) -> None:
    phone.identity.set_sys("class/thermal/thermal_zone1/temp", str(round(celsius * 1000)))


def test_the_gate_opens_once_it_is_cool(phone: FolderPhone) -> None:
    facts, waits, seen = facts_of(phone), [], []
    set_celsius(phone, 60)

    def cool_down(seconds: float) -> None:
        waits.append(seconds)
        set_celsius(phone, 60 - 8 * len(waits))

    assert wait_until_cool(phone, facts, 45.0, 600, seen.append, cool_down) == 44.0
    assert waits == [5.0, 5.0]
    assert seen == [60.0, 52.0]


def test_a_phone_that_stays_hot_ends_the_wait(phone: FolderPhone) -> None:
    facts, waits = facts_of(phone), []
    set_celsius(phone, 60)
    with pytest.raises(DeviceError, match=r"folder: still 60\.0 C after 20 s, above the limit of 45 C; take it out"):
        wait_until_cool(phone, facts, 45.0, 20, sleep=waits.append)
    assert sum(waits) == 20


def test_the_gate_is_no_obstacle_where_there_is_nothing_to_read(phone: FolderPhone) -> None:
    facts = facts_of(phone)
    set_celsius(phone, 60)
    no_sleep: list[float] = []
    assert wait_until_cool(phone, facts, 0, 600, sleep=no_sleep.append) is None
    assert wait_until_cool(phone, dataclasses.replace(facts, cpu_zone=None), 45, 600, sleep=no_sleep.append) is None
    phone.identity.set_sys("class/thermal/thermal_zone1/temp", "")
    assert wait_until_cool(phone, facts, 45, 600, sleep=no_sleep.append) is None
    assert no_sleep == []


# --- the governor


def noted(phone: FolderPhone) -> Path:
    """What the governors were."""
    return phone.root / "data/local/tmp/.bpnas-governors"


def held_and_set(phone: FolderPhone) -> tuple[DeviceFolder, Preparation]:
    facts = facts_of(phone)
    folder = DeviceFolder(phone, facts)
    return folder, prepare(phone, facts, folder.token)


def test_the_governor_is_set_for_a_while(rooted: FolderPhone) -> None:
    facts = facts_of(rooted)
    with prepared_phone(rooted, facts, TOKEN) as prepared:
        assert (prepared.governor, prepared.note) == ("performance", "")
        assert rooted.governors() == SET
        assert has_leftovers(rooted, facts)
    assert rooted.governors() == OLD
    assert not has_leftovers(rooted, facts)
    rooted.set_governors("powersave")
    prepared.restore()
    assert rooted.governors()[0] == "powersave"


def test_it_is_restored_when_the_work_fails(rooted: FolderPhone) -> None:
    with pytest.raises(KeyboardInterrupt), prepared_phone(rooted, facts_of(rooted), TOKEN):
        raise KeyboardInterrupt
    assert rooted.governors() == OLD


def test_governors_come_back_core_by_core(rooted: FolderPhone) -> None:
    old = ["a", "b", "c", "d", "interactive", "walt", "sched_pixel", "performance"]
    rooted.set_governors(*old)
    with prepared_phone(rooted, facts_of(rooted), TOKEN, affinity="f8"):
        assert rooted.governors() == ["a", "b", "c"] + ["performance"] * 5
    assert rooted.governors() == old


def test_what_they_were_is_noted_before_anything_is_changed(rooted: FolderPhone) -> None:
    facts = facts_of(rooted)
    rooted.commands.clear()
    with prepared_phone(rooted, facts, TOKEN):
        changes = [n for n, command in enumerate(rooted.commands) if "echo performance" in command]
        assert changes[0] > rooted.commands.index("push")
        assert "sync" in rooted.commands[changes[0]]


def test_su_is_used_where_the_shell_is_not_root(phone: FolderPhone) -> None:
    phone.add_su()
    real_su = (phone.root / "system/bin/su").read_text()
    log = phone.root / "su.log"
    phone.add_tool("su", f'echo "$2" >> {log}\n{real_su}')
    facts = facts_of(phone)
    log.unlink()
    with prepared_phone(phone, facts, TOKEN) as prepared:
        assert prepared.governor == "performance"
        assert phone.governors() == SET
    assert phone.governors() == OLD
    said = log.read_text()
    assert "echo performance" in said and 'echo "$governor"' in said


def test_without_root_nothing_is_touched(phone: FolderPhone) -> None:
    with prepared_phone(phone, facts_of(phone), TOKEN) as prepared:
        assert (prepared.governor, prepared.note) == ("", "no root: the governor stays as it is")
        assert phone.governors() == OLD


def test_a_governor_is_kept_if_it_is_to_be(rooted: FolderPhone) -> None:
    facts = facts_of(rooted)
    rooted.commands.clear()
    with prepared_phone(rooted, facts, TOKEN, keep_governor=True) as prepared:
        assert prepared.note == "the governor is to be kept"
    assert rooted.commands == []


def test_performance_already(rooted: FolderPhone) -> None:
    rooted.set_governors(*["performance"] * 8)
    with prepared_phone(rooted, facts_of(rooted), TOKEN) as prepared:
        assert (prepared.governor, prepared.note) == ("performance", "the governor is performance already")
    assert rooted.governors() == ["performance"] * 8


def test_hostile_names_of_governors_never_reach_a_script(rooted: FolderPhone) -> None:
    facts = facts_of(rooted)
    rooted.set_governors(*OLD[:4], *[f"$(touch {rooted.root}/pwned)", "a;b", "x" * 33, "a\nb"])
    with prepared_phone(rooted, facts, TOKEN) as prepared:
        # Of the last one the first line counts, and it is harmless.
        assert prepared.governor == "performance"
        assert noted(rooted).read_text() == f"{TOKEN} 7 a\n"
    assert not (rooted.root / "pwned").exists()


def test_a_core_without_performance_is_left_alone(rooted: FolderPhone) -> None:
    for core in range(4, 8):
        rooted.identity.set_sys(f"devices/system/cpu/cpu{core}/cpufreq/scaling_available_governors", "schedutil")
    with prepared_phone(rooted, facts_of(rooted), TOKEN) as prepared:
        assert prepared.note == "no core here has a governor that can be set to performance"
    assert rooted.governors() == OLD


def test_a_kernel_that_refuses_is_said(rooted: FolderPhone) -> None:
    facts = facts_of(rooted)
    rooted.add_tool("sync", "exit 1")  # the change is not made after it
    with prepared_phone(rooted, facts, TOKEN) as prepared:
        assert (prepared.governor, prepared.note) == ("", "the kernel does not let the governor be set")
    assert not has_leftovers(rooted, facts)


def test_the_device_restores_when_the_cable_is_out(rooted: FolderPhone) -> None:
    folder, prepared = held_and_set(rooted)
    rooted.cut()
    wait_until(lambda: rooted.governors() == OLD)
    wait_until(lambda: not noted(rooted).exists())
    prepared.restore()  # not able to reach it any more, and not in the way
    folder.close()


def test_after_a_reconnect_the_original_governor_survives(rooted: FolderPhone) -> None:
    facts = facts_of(rooted)
    folder, first = held_and_set(rooted)
    # The connection is back before the device has noticed anything.
    second = prepare(rooted, facts, TOKEN)
    assert rooted.governors() == SET
    rooted.streams[0]._process.stdin.close()  # type: ignore[attr-defined]  # now the first shell wakes up
    rooted.streams[0]._process.wait(PATIENCE)  # type: ignore[attr-defined]
    assert rooted.governors() == SET
    second.restore()
    assert rooted.governors() == OLD
    first.restore()
    folder.close()


def test_what_an_earlier_campaign_left_is_restored(rooted: FolderPhone) -> None:
    facts = facts_of(rooted)
    assert not restore_leftovers(rooted, facts)
    prepare(rooted, facts, TOKEN)  # and nobody is left who would restore them
    assert rooted.governors() == SET
    assert restore_leftovers(rooted, facts)
    assert rooted.governors() == OLD
    assert not has_leftovers(rooted, facts)


def test_what_is_noted_is_data_and_never_run(rooted: FolderPhone) -> None:
    facts, token = facts_of(rooted), "f" * 16
    evil = f"$(touch {rooted.root}/pwned)"
    noted(rooted).write_text(
        f"#!/bin/sh\ntouch {rooted.root}/pwned\n{token} 4 {evil}\n{token} ../../{evil} walt\n{token} 5 walt;{evil}\n"
        f"{token} 6 interactive\n"
    )
    assert restore_leftovers(rooted, facts)
    assert rooted.governors() == ["schedutil"] * 6 + ["interactive", "schedutil"]
    assert not (rooted.root / "pwned").exists()


def test_a_script_in_the_working_folder_is_never_run(rooted: FolderPhone) -> None:
    base = Path(rooted.base)
    base.mkdir(parents=True)
    for name in ("restore.sh", "holder", "probe.sh"):
        (base / name).write_text(f"# bpnas\ntouch {rooted.root}/pwned\n")
        (base / name).chmod(0o755)
    folder, prepared = held_and_set(rooted)
    prepared.restore()
    folder.close()
    assert not restore_leftovers(rooted, facts_of(rooted))
    assert not (rooted.root / "pwned").exists()


def test_a_restore_that_fails_says_so_and_keeps_what_is_noted(rooted: FolderPhone) -> None:
    facts = facts_of(rooted)
    prepared = prepare(rooted, facts, TOKEN)
    governor = rooted.root / "sys/devices/system/cpu/cpu4/cpufreq/scaling_governor"
    governor.unlink()
    governor.mkdir()  # neither readable nor writable, for root either
    with pytest.raises(DeviceError, match=r"folder: .*cannot be restored \(.*\); restart the device, or write .*"):
        prepared.restore()
    governor.rmdir()
    governor.write_text("performance\n")
    assert restore_leftovers(rooted, facts)
    assert rooted.governors() == OLD


def test_a_connection_lost_while_setting_is_told(rooted: FolderPhone, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = rooted.shell

    def lose(command: str, timeout_seconds: float = 30.0) -> object:
        result = shell(command, timeout_seconds)
        if "echo performance" in command:
            rooted.cut()
            raise DeviceLostError("folder: the connection is gone")
        return result

    monkeypatch.setattr(rooted, "shell", lose)
    with pytest.raises(DeviceLostError):
        held_and_set(rooted)
    wait_until(lambda: rooted.governors() == OLD)


# --- the same through a real daemon

CHILD = """
import sys, time
from bpnas.android_bench.serials import connect
from bpnas.android_bench.phone.device_folder import DeviceFolder
from bpnas.android_bench.phone.facts import PhoneFacts, read_facts
from bpnas.android_bench.phone.governor import prepare
remote = connect(sys.argv[1])
facts = read_facts(remote, sys.argv[2])
folder = DeviceFolder(remote, facts)
prepared = prepare(remote, facts, folder.token)
print(prepared.governor, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("end", ["host killed", "daemon killed"])
def test_through_adbd_the_device_restores(start_adbd: StartAdbd, end: str) -> None:
    adbd = start_adbd(uid=0, cores=(LITTLE_KHZ, BIG_KHZ), mounts=True)
    governor = "devices/system/cpu/cpu1/cpufreq/scaling_governor"
    arguments = [sys.executable, "-P", "-c", CHILD, adbd.serial, f"{adbd.directory}/bpnas"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "performance\n"
            assert adbd.identity.sys(governor) == "performance"
            if end == "host killed":
                os.kill(child.pid, signal.SIGKILL)
            else:
                adbd.kill()
            wait_until(lambda: adbd.identity.sys(governor) == "schedutil")
            wait_until(lambda: not list(adbd.host_directory.glob(".bpnas-*")))
        finally:
            child.kill()
    if end == "host killed":
        wait_until(lambda: not adbd.children())


def test_through_adbd_and_back(start_adbd: StartAdbd) -> None:
    adbd = start_adbd(uid=0, cores=(LITTLE_KHZ, BIG_KHZ), mounts=True)
    with closing(connect(adbd.serial)) as remote:
        facts = read_facts(remote, f"{adbd.directory}/bpnas")
        assert (facts.root, facts.big_mask, facts.platform) == ("uid", "2", "sdm845")
        with prepared_phone(remote, facts, TOKEN) as prepared:
            assert prepared.governor == "performance"
            remote.reconnect()
            with prepared_phone(remote, facts, TOKEN):
                assert read_conditions(remote, facts)["governor"] == "performance"
            assert read_conditions(remote, facts)["governor"] == "schedutil"
        assert read_conditions(remote, facts)["governor"] == "schedutil"
        assert not has_leftovers(remote, facts)
        started = time.time()
        assert read_conditions(remote, facts)["temperature_c"] == 37.4
        assert time.time() - started < 30
