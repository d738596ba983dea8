"""What a phone says of itself, honest and hostile, through a real shell; and what its name and fingerprint become."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.local.remote import LocalRemote
from bpnas.android_bench.phone.facts import PhoneFacts, device_info, read_facts, short_name
from bpnas.android_bench.phone.hardware import Core, Zone, big_cores, choose_zone, cores_of, mask_of, read_zones
from bpnas.android_bench.remote import ShellResult
from tests.folder_phone import S9_CORES, SNAPDRAGON_855_CORES, FolderPhone, facts_of


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[FolderPhone]:
    with closing(FolderPhone(tmp_path)) as phone:
        yield phone


def info(facts: PhoneFacts) -> str:
    return device_info(facts, runtime="tflite", runtime_version="2.3", runtime_sha256="0" * 64, affinity="f0").to_json()


def test_a_galaxy_s9_in_one_shell(phone: FolderPhone) -> None:
    facts = facts_of(phone)
    assert len(phone.commands) == 1
    assert (facts.is_android, facts.is_emulator) == (True, False)
    assert (facts.manufacturer, facts.model, facts.platform) == ("samsung", "SM-G960U", "sdm845")
    assert (facts.release, facts.sdk, facts.abi) == ("10", 29, "arm64-v8a")
    assert facts.build.startswith("samsung/starqltesq/")
    assert facts.cores == tuple(Core(n, khz, 0) for n, khz in enumerate(S9_CORES))
    assert facts.big_mask == "f0"
    assert facts.cpu_zone == Zone(1, "cpu0-gold-usr", 0.001, 37.4)
    assert [zone.kind for zone in facts.zones] == ["cpu0-silver-usr", "cpu0-gold-usr", "gpu0-usr", "battery"]
    assert (facts.uid, facts.root, facts.su) == (2000, "", "")
    assert {"getprop", "dumpsys", "mkdir"} <= set(facts.tools)
    assert facts.selinux == "Enforcing"
    assert facts.writable and facts.executable
    assert facts.free_bytes is not None
    assert abs(facts.free_bytes - shutil.disk_usage(phone.root).free) < 1 << 30


def test_the_question_leaves_nothing_behind(phone: FolderPhone) -> None:
    base = Path(phone.base)
    facts_of(phone)
    assert not base.exists()
    base.mkdir()
    (base / "kept").touch()
    facts_of(phone)
    assert [path.name for path in base.iterdir()] == ["kept"]


def test_this_machine_is_told_by_what_linux_says(tmp_path: Path) -> None:
    facts = read_facts(LocalRemote(), str(tmp_path / "base"))
    assert not facts.is_android
    assert facts.kernel and facts.machine and facts.abi and facts.model
    assert facts.writable and facts.executable
    assert facts.uid is not None


def test_a_base_that_cannot_be_written(phone: FolderPhone) -> None:
    (phone.root / "file").touch()
    facts = read_facts(phone, f"{phone.root}/file/below")
    assert (facts.writable, facts.executable, facts.free_bytes) == (False, False, None)


def test_a_base_with_quotes_and_dollars_is_only_a_name(phone: FolderPhone) -> None:
    base = f"{phone.root}/it's $(touch {phone.root}/pwned)"
    assert read_facts(phone, base).writable
    assert not (phone.root / "pwned").exists()


def test_su_is_found_in_the_form_that_works(phone: FolderPhone) -> None:
    phone.add_su()
    facts = facts_of(phone)
    assert (facts.root, facts.su) == ("su", "su -c")


def test_a_shell_that_is_root_needs_no_su(tmp_path: Path) -> None:
    phone = FolderPhone(tmp_path, uid=0)
    phone.add_su()
    facts = facts_of(phone)
    assert (facts.root, facts.su) == ("uid", "")


@pytest.mark.parametrize("script", ["read password; echo 0", "exit 1", "echo nonsense", "echo 10"])
def test_a_su_that_refuses_is_no_root(phone: FolderPhone, script: str) -> None:
    phone.add_tool("su", script.replace("echo 0", '[ -n "$password" ] && echo 0'))
    assert facts_of(phone).root == ""


def test_what_answers_without_a_shell_is_an_error_with_a_remedy() -> None:
    class Broken(LocalRemote):
        def shell(self, command: str, timeout_seconds: float = 30.0) -> ShellResult:
            return ShellResult(127, b"kernel=6\n\x1b[31mno such applet\n")

    with pytest.raises(DeviceError, match=r"local: the shell .*exit code 127.*no such applet.*check that") as caught:
        read_facts(Broken())
    assert "\x1b" not in str(caught.value)


def test_hostile_texts_cannot_reach_a_terminal_a_file_name_or_rich(phone: FolderPhone) -> None:
    phone.identity.set_property("ro.product.model", "../../etc/[red]x[/red]\x1b]0;owned\x07 $(id) `id`" + "y" * 10_000)
    phone.identity.set_property("ro.product.manufacturer", "\x00\x85\u202e")
    phone.identity.set_property("ro.build.version.sdk", "9" * 400)
    facts = facts_of(phone)
    text = info(facts)
    assert not set("\x1b\x07[]`$") & set(facts.model)
    assert len(text) < 2000
    assert facts.sdk == 0
    name = short_name(facts)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and len(name) <= 40


def test_hostile_numbers_of_cores_and_zones_are_left_out(phone: FolderPhone) -> None:
    phone.identity.set_sys("devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "9" * 100)
    phone.identity.set_sys("devices/system/cpu/cpu99999/cpufreq/cpuinfo_max_freq", "1")
    phone.identity.set_sys("class/thermal/thermal_zone77/temp", "NaN")
    facts = facts_of(phone)
    assert facts.cores[0] == Core(0, 0, 0)
    assert len(facts.cores) == 8
    assert 77 not in [zone.index for zone in facts.zones]


# --- names and fingerprints


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({}, "s9"),
        ({"ro.product.model": "SM-G965U1"}, "s9plus"),
        ({"ro.product.model": "SM-G960F", "ro.board.platform": "exynos5", "ro.hardware": "samsungexynos9810"},
         "s9-exynos9810"),
        ({"ro.product.model": "SM-G965F", "ro.board.platform": "exynos5", "ro.hardware.chipname": "exynos9810"},
         "s9plus-exynos9810"),
        ({"ro.product.model": "Pixel 3"}, "pixel-3"),
        ({"ro.product.model": "红米 Note 5"}, "note-5"),
        ({"ro.product.model": "红米"}, "phone"),
        ({"ro.product.model": "local"}, "phone-local"),
        ({"ro.product.model": "mock-s9"}, "phone-mock-s9"),
        ({"ro.product.model": "-" * 50}, "phone"),
        ({"ro.product.model": "a" * 100}, "a" * 40),
        ({"ro.boot.qemu": "0"}, "s9"),
        ({"ro.boot.qemu": "1"}, "s9-emulator"),
        ({"ro.kernel.qemu": "1", "ro.product.model": "sdk_gphone_x86"}, "sdk-gphone-x86-emulator"),
        ({"ro.boot.qemu": "1", "ro.product.model": "-"}, "phone-emulator"),
        ({"ro.boot.qemu": "1", "ro.product.model": "a" * 100}, f"{'a' * 31}-emulator"),
    ],
)  # fmt: skip
def test_names_are_fit_for_files(phone: FolderPhone, properties: dict[str, str], name: str) -> None:
    for key, value in properties.items():
        phone.identity.set_property(key, value)
    assert short_name(facts_of(phone)) == name


def test_equal_phones_have_equal_fingerprints_whatever_the_day(phone: FolderPhone, tmp_path: Path) -> None:
    before = info(facts_of(phone))
    other = FolderPhone(tmp_path / "other")
    other.identity.set_property("ro.serialno", "another")
    other.identity.set_sys("class/thermal/thermal_zone0/temp", "51000")
    other.set_governors("powersave")
    other.add_su()
    other.identity.set_service("battery", "level: 3")
    assert info(facts_of(other)) == before
    other.identity.set_property("ro.build.fingerprint", "samsung/another")
    assert info(facts_of(other)) != before


def test_a_fingerprint_names_the_system(phone: FolderPhone) -> None:
    found = device_info(
        facts_of(phone), runtime="onnxruntime", runtime_version="1.32.0", runtime_sha256="ab", affinity="f0"
    )
    assert found.os.startswith("Android 10 (samsung/starqltesq/")
    assert (found.name, found.model, found.platform) == ("s9", "samsung SM-G960U", "sdm845")
    assert (found.mock, found.affinity, found.runtime_version) == (False, "f0", "1.32.0")


def test_an_emulator_does_not_pass_for_the_phone_that_it_imitates(phone: FolderPhone) -> None:
    assert not facts_of(phone).is_emulator
    of_the_phone = info(facts_of(phone))
    phone.identity.set_property("ro.boot.qemu", "1")
    facts = facts_of(phone)
    assert facts.is_emulator
    assert info(facts) != of_the_phone
    assert "SM-G960U (EMULATOR: no phone)" in info(facts)


# --- which cores, which sensor


@pytest.mark.parametrize(
    ("khz", "mask"),
    [
        (S9_CORES, "f0"),
        (SNAPDRAGON_855_CORES, "f0"),
        ((1_794_000,) * 4 + (2_704_000,) * 4, "f0"),  # Exynos 9810
        ((2_803_200,) * 4 + (1_766_400,) * 4, "f"),
        ((1_500_000,) * 4, "f"),
        ((0,) * 4, ""),
        ((0, 0, 2_000_000, 2_000_000), "c"),
        ((), ""),
    ],
)
def test_big_cores_by_frequency(khz: tuple[int, ...], mask: str) -> None:
    assert mask_of(big_cores(tuple(Core(n, value, 0) for n, value in enumerate(khz)))) == mask


def test_capacities_decide_where_frequencies_hardly_differ() -> None:
    # Snapdragon 695: 1.80 and 2.21 GHz
    cores = tuple(Core(n, 1_804_800, 400) for n in range(6)) + tuple(Core(n, 2_208_000, 1024) for n in (6, 7))
    assert mask_of(big_cores(cores)) == "c0"
    assert cores_of("c0") == (6, 7)


@pytest.mark.parametrize(
    ("kinds", "chosen"),
    [
        ((("battery", 60), ("cpu0-silver-usr", 50), ("cpu0-gold-usr", 40), ("cpu1-gold-usr", 45)), "cpu0-gold-usr"),
        ((("aoss0-usr", 50), ("cpu-0-0-usr", 50), ("cpu-1-0-usr", 40)), "cpu-1-0-usr"),
        ((("BIG", 40), ("LITTLE", 45), ("cpu", 50)), "BIG"),
        ((("soc", 50), ("mtktscpu", 40)), "mtktscpu"),
        ((("soc", 60), ("tsens_tz_sensor1", 40), ("tsens_tz_sensor7", 45)), "tsens_tz_sensor7"),
        ((("acpitz", 30), ("iwlwifi_1", 50)), "acpitz"),
        ((("therm1", 30), ("therm2", 40), ("battery", 50), ("skin", 55), ("pm8998_tz", 60)), "therm2"),
        ((("battery", 30),), None),
        ((), None),
    ],
)
def test_the_sensor_nearest_to_the_fast_cores(kinds: tuple[tuple[str, int], ...], chosen: str | None) -> None:
    zone = choose_zone(tuple(Zone(n, kind, 1.0, celsius) for n, (kind, celsius) in enumerate(kinds)))
    assert (zone.kind if zone else None) == chosen


def test_the_unit_of_a_sensor_is_told_by_its_size() -> None:
    lines = ["0,36100,a", "1,361,b", "2,36,c", "3,0,off", "4,-273000,off", "5,999999999,broken", "6,,none", "7,4e4,odd"]
    zones = read_zones(lines)
    assert [(zone.kind, zone.scale) for zone in zones] == [("a", 0.001), ("b", 0.1), ("c", 1.0)]
    assert [zone.celsius for zone in zones] == [36.1, 36.1, 36.0]


@pytest.mark.parametrize(
    ("df", "free"),
    [
        ("Filesystem     1K-blocks    Used Available Use% Mounted on\n/dev/dm-0 1000 600 400 60% /data", 400 << 10),
        ("Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/block/by-name/userdata\n  1000 600 400  60% /data",
         400 << 10),
        ("Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/a 9 5 4 100% /a 5% b", 4 << 10),
        ("Filesystem  Size  Used  Free  Blksize\n/data  25.0G  3.0G  22.0G  4096", None),
        ("df: /data: no", None),
    ],
)  # fmt: skip
def test_free_space_in_all_layouts(phone: FolderPhone, df: str, free: int | None) -> None:
    phone.add_tool("df", f"cat << 'END'\n{df}\nEND")
    assert facts_of(phone).free_bytes == free
