"""What the doctor finds: on a phone in order, with one thing wrong at a time, and on hostile ones."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bpnas.android_bench.doctor import diagnose, examine
from bpnas.android_bench.errors import DeviceError, DeviceLostError, UnknownSerialError
from bpnas.android_bench.phone.device_folder import DeviceFolder
from bpnas.android_bench.phone.governor import has_leftovers, prepare
from bpnas.base.findings import Finding
from tests.folder_phone import FolderPhone, facts_of, prepared_phone
from tests.phone.daemon import Adbd, wait_until
from tests.phone.legacy import LegacyDaemon


@pytest.fixture(autouse=True)
def no_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[FolderPhone]:
    with closing(FolderPhone(tmp_path)) as phone:
        phone.add_tool("settings", "echo 0")
        yield phone


def findings(phone: FolderPhone, **changes: object) -> tuple[Finding, ...]:
    return examine(phone, dataclasses.replace(facts_of(phone), **changes))  # type: ignore[arg-type]


def trouble(found: tuple[Finding, ...]) -> list[Finding]:
    """All that is not in order, but for what every phone here has: no bundle, no root."""
    usual = ("there is no bundle", "governor schedutil and no root")
    return [finding for finding in found if finding.level != "ok" and not finding.what.startswith(usual)]


def the_trouble(found: tuple[Finding, ...]) -> Finding:
    (finding,) = trouble(found)
    return finding


def test_a_phone_in_order(phone: FolderPhone) -> None:
    found = findings(phone)
    assert trouble(found) == []
    said = "\n".join(finding.what for finding in found)
    for part in (
        "samsung SM-G960U, sdm845, Android 10 (API 29), arm64-v8a",
        f"{phone.base} can be written, and programs in it run, SELinux enforcing",
        "cores 4 5 6 7 (mask f0); taskset is not needed",
        "37.4 C (sensor cpu0-gold-usr)",
        "battery at 85 %",
        "charged by usb",
        "screen off",
    ):
        assert part in said


def test_the_round_trips_are_few(phone: FolderPhone) -> None:
    facts = facts_of(phone)
    phone.commands.clear()
    examine(phone, facts)
    assert len(phone.commands) <= 3


def test_every_finding_but_the_good_ones_has_a_remedy(phone: FolderPhone) -> None:
    phone.identity.set_service("battery", "AC powered: false\n level: 7")
    found = findings(
        phone, writable=False, free_bytes=1, big_mask="", abi="armeabi-v7a", cpu_zone=None, platform="exynos9810"
    )
    assert len(trouble(found)) == 8
    for finding in found:
        assert bool(finding.remedy) == (finding.level != "ok")


@pytest.mark.parametrize(
    ("changes", "level", "what", "remedy"),
    [
        ({"is_android": False, "release": "Debian"}, "warning", "not Android but Debian", "profile-device devices"),
        ({"is_emulator": True}, "warning", "an emulator, not a phone", "measure on a phone"),
        ({"platform": "exynos9810"}, "warning", "chip exynos9810, not the Snapdragon 845", "SM-G960U"),
        ({"platform": ""}, "warning", "chip \\(unknown\\), not the Snapdragon 845", "SM-G960U"),
        ({"abi": "armeabi-v7a"}, "error", "armeabi-v7a is not 64-bit ARM", "--runner"),
        ({"writable": False}, "error", "cannot be written", "another folder with --directory"),
        ({"executable": False}, "error", "noexec, or SELinux, which is enforcing", "logcat"),
        ({"executable": False, "selinux": "Permissive"}, "error", "mounted noexec$", "adb shell mount"),
        ({"free_bytes": 100 << 20}, "error", "only 100 MB are free, 200 MB are needed", "free some"),
        ({"free_bytes": None}, "warning", "does not tell how much space", "df"),
        ({"big_mask": ""}, "warning", "which of its cores are the fast ones", "--affinity f0"),
        ({"cpu_zone": None}, "warning", "no temperature sensor", "--sentinel-limit"),
    ],
)  # fmt: skip
def test_what_the_facts_show(
    phone: FolderPhone, changes: dict[str, object], level: str, what: str, remedy: str
) -> None:
    finding = the_trouble(findings(phone, **changes))
    assert finding.level == level
    assert re.search(what, finding.what)
    assert remedy in finding.remedy


def battery(**values: object) -> str:
    fields = {"AC powered": "false", "USB powered": "true", "level": 85, "temperature": 274} | values
    return "\n".join(f"  {key}: {value}" for key, value in fields.items())


@pytest.mark.parametrize(
    ("service", "text", "what", "remedy"),
    [
        ("battery", battery(level=12), "battery at 12 %", "charge it to 30 %"),
        ("battery", battery(**{"USB powered": "false"}), "runs on its battery", "plug it into"),
        ("power", "Display Power: state=ON", "the screen is on", "power button"),
    ],
)
def test_what_the_services_show(phone: FolderPhone, service: str, text: str, what: str, remedy: str) -> None:
    phone.identity.set_service(service, text)
    finding = the_trouble(findings(phone))
    assert (finding.level, what in finding.what, remedy in finding.remedy) == ("warning", True, True)


def test_a_hot_phone(phone: FolderPhone) -> None:
    phone.identity.set_sys("class/thermal/thermal_zone1/temp", "45100")
    assert "45.1 C, above 45 C" in the_trouble(findings(phone)).what


def test_the_battery_saver(phone: FolderPhone) -> None:
    phone.add_tool("settings", '[ "$*" = "get global low_power" ] && echo 1')
    assert "battery saver is on" in the_trouble(findings(phone)).what


def test_an_old_daemon(phone: FolderPhone) -> None:
    phone.has_shell_v2 = False
    assert "Android 6 or older" in the_trouble(findings(phone)).what


def test_a_clock_that_is_wrong_is_only_noted(phone: FolderPhone) -> None:
    facts = facts_of(phone)
    found = examine(phone, facts, clock=lambda: time.time() + 10 * 86_400)
    assert trouble(found) == []
    assert "its clock is 10 days off; no figure depends on it" in [finding.what for finding in found]
    assert not any("clock is" in finding.what for finding in examine(phone, facts))


@pytest.mark.parametrize("uid", [0, 2000])
def test_the_governor_without_root_and_with(tmp_path: Path, uid: int) -> None:
    with closing(FolderPhone(tmp_path, uid=uid)) as phone:
        (finding,) = (finding for finding in findings(phone) if finding.what.startswith("governor"))
    assert finding.level == ("warning" if uid else "ok")
    assert ("no root" if uid else "sets performance and restores it") in finding.what


def test_a_missing_bundle_is_a_command_away(phone: FolderPhone) -> None:
    (finding,) = (finding for finding in findings(phone) if finding.what.startswith("there is no bundle"))
    assert finding.level == "warning"
    assert "`profile-device bundle --arch arm64`" in finding.remedy


def test_a_damaged_bundle_is_an_error(phone: FolderPhone, tmp_path: Path) -> None:
    folder = tmp_path / "cache/bpnas/bundles/bundle-arm64-0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    finding = the_trouble(findings(phone))
    assert finding.level == "error"
    assert str(folder) in finding.what and "name a folder that 'profile-device bundle' has made" in finding.remedy


# --- what an earlier run left, and what a run at work needs


def test_what_an_earlier_run_left_is_restored(rooted: FolderPhone) -> None:
    facts = facts_of(rooted)
    prepare(rooted, facts, "0" * 16)
    found = examine(rooted, facts)
    assert Finding("ok", "an earlier run had left the governor set; it is restored now") in found
    assert set(rooted.governors()) == {"schedutil"}
    assert not has_leftovers(rooted, facts)


def test_what_cannot_be_restored_is_an_error(rooted: FolderPhone) -> None:
    facts = facts_of(rooted)
    prepare(rooted, facts, "0" * 16)
    governor = rooted.root / "sys/devices/system/cpu/cpu4/cpufreq/scaling_governor"
    governor.unlink()
    governor.mkdir()
    (finding,) = (finding for finding in examine(rooted, facts) if finding.level == "error")
    assert "cannot be restored" in finding.what
    assert f"{rooted.root}/data/local/tmp/.bpnas-governors" in finding.remedy


def test_a_campaign_at_work_is_found_and_left_alone(rooted: FolderPhone) -> None:
    facts = facts_of(rooted)
    with closing(DeviceFolder(rooted, facts)) as folder, prepared_phone(rooted, facts, folder.token):
        finding = the_trouble(examine(rooted, facts))
        assert finding.level == "error"
        assert "another run of bpnas is at work" in finding.what
        assert f", process {os.getpid()}, since 20" in finding.what
        assert "adb shell kill " in finding.remedy
        assert "performance" in rooted.governors()
    assert trouble(examine(rooted, facts)) == []


def test_a_runner_that_was_left_alone_is_found(phone: FolderPhone) -> None:
    facts, arguments = facts_of(phone), ["./bpnas-runner", "--list", "x"]
    # A shell with these words in its command line, which only waits.
    with subprocess.Popen(["/bin/sh", "-c", "read -r line", *arguments], stdin=subprocess.PIPE) as process:
        try:
            phone.add_process(process.pid)
            wait_until(lambda: arguments[-1].encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes())
            finding = the_trouble(examine(phone, facts))
            assert f"(process {process.pid})" in finding.what
        finally:
            process.kill()


# --- connecting


def test_through_a_real_daemon(adbd: Adbd) -> None:
    found = diagnose(adbd.serial, f"{adbd.directory}/bpnas")
    assert found[0] == Finding("ok", "samsung SM-G960U, sdm845, Android 10 (API 29), x86_64")
    # Its /proc is this machine's, where another test may be timing something.
    assert [f for f in found if f.level == "error" and "another run" not in f.what] == []


def test_through_a_daemon_of_android_6(legacy_daemon: LegacyDaemon) -> None:
    found = diagnose(legacy_daemon.serial, f"{legacy_daemon.directory}/bpnas")
    assert "Android 6.0.1 (API 23)" in found[0].what
    assert any("Android 6 or older" in f.what for f in found)
    (error,) = (f for f in found if f.level == "error" and "another run" not in f.what)
    assert "armeabi-v7a is not 64-bit ARM" in error.what


def test_through_an_arm64_phone(arm64_phone: Adbd) -> None:
    arm64_phone.reset()
    found = diagnose(arm64_phone.serial)
    assert found[0] == Finding("ok", "samsung SM-G960U, sdm845, Android 10 (API 29), arm64-v8a")
    assert [f.what[:17] for f in trouble(found) if "another run" not in f.what] == ["it is an emulator"]


def test_a_device_that_does_not_answer_is_a_finding() -> None:
    (finding,) = diagnose("127.0.0.1:9")
    assert finding.level == "error"
    assert "no ADB daemon answers" in finding.what
    assert finding.remedy


def test_no_such_device_is_wrong_usage() -> None:
    with pytest.raises(UnknownSerialError):
        diagnose("nope")


def test_a_computed_device_has_nothing_to_examine() -> None:
    (finding,) = diagnose("mock:s9")
    assert finding.level == "ok"


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        (DeviceError("S1: unauthorized; unlock the phone and say yes"), "unauthorized", "unlock the phone and say yes"),
        (DeviceLostError("S1: the connection\x1b[0m is gone"), r"the connection\x1b[0m is gone", "check the cable"),
    ],
)
def test_errors_become_findings(monkeypatch: pytest.MonkeyPatch, error: DeviceError, what: str, remedy: str) -> None:
    def refuse(serial: str) -> None:
        raise error

    monkeypatch.setattr("bpnas.android_bench.serials.connect", refuse)
    (finding,) = diagnose("S1")
    assert (finding.level, finding.what) == ("error", what)
    assert finding.remedy.startswith(remedy)


def test_a_phone_lost_in_the_middle_is_a_finding_and_is_hung_up(
    phone: FolderPhone, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []
    phone.lost = True
    monkeypatch.setattr("bpnas.android_bench.serials.connect", lambda serial: phone)
    monkeypatch.setattr(phone, "close", lambda: closed.append(True))
    (finding,) = diagnose("folder")
    assert (finding.level, finding.what) == ("error", "the connection is gone")
    assert closed
