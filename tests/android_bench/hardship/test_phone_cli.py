"""`profile-device devices`, `doctor` and `bundle`: what they print, and how they end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result

from bpnas.android_bench.adb.attached import Attached
from bpnas.android_bench.errors import DeviceError
from bpnas.base.errors import UsageError
from bpnas.base.findings import Finding
from tests.root import ROOT

Cli = Callable[..., Result]
PHONES = (
    Attached("R58M123", "device", "SM-G960U", "usb"),
    Attached("192.168.0.7:5555", "unauthorized", "", "adb server"),
)


def attach(monkeypatch: pytest.MonkeyPatch, *devices: Attached) -> None:
    monkeypatch.setattr("bpnas.android_bench.serials.attached_devices", lambda: devices)


def say(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> list[tuple[str, str | None]]:
    calls: list[tuple[str, str | None]] = []

    def diagnose(serial: str, base: str | None = None) -> tuple[Finding, ...]:
        calls.append((serial, base))
        return findings

    monkeypatch.setattr("bpnas.android_bench.doctor.diagnose", diagnose)
    return calls


# --- devices


def test_nothing_attached_says_how_to_attach(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    attach(monkeypatch)
    result = cli("profile-device", "devices")
    assert result.exit_code == 0
    assert "USB debugging" in result.stdout and "profile-device doctor" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert (ROOT / "docs/phone.md").is_file()


def test_devices_in_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    attach(monkeypatch, *PHONES)
    result = cli("profile-device", "devices")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "serial            state         model     via",
        "R58M123           device        SM-G960U  usb",
        "192.168.0.7:5555  unauthorized            adb server",
        "What keeps a phone in another state than 'device': profile-device doctor --serial SERIAL",
    ]


def test_devices_for_machines(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    attach(monkeypatch, PHONES[0])
    result = cli("profile-device", "devices", "--json")
    assert json.loads(result.stdout) == {
        "devices": [{"serial": "R58M123", "state": "device", "model": "SM-G960U", "via": "usb"}]
    }
    attach(monkeypatch)
    assert json.loads(cli("profile-device", "devices", "--json").stdout) == {"devices": []}


def test_hostile_names_do_not_reach_the_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    attach(monkeypatch, Attached("\x1b[2J", "device", "a\nb\x9b", "usb"))
    result = cli("profile-device", "devices")
    assert not set("\x1b\x9b") & set(result.stdout)
    assert len(result.stdout.splitlines()) == 2


# --- doctor

OK = Finding("ok", "battery at 85 %")
WARNING = Finding("warning", "the screen is on", "press the power button")
ERROR = Finding("error", "no space", "delete apps")


def test_warnings_alone_are_no_failure(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = say(monkeypatch, OK, WARNING)
    result = cli("profile-device", "doctor", "--serial", "S1", "--directory", "/data/x")
    assert calls == [("S1", "/data/x")]
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "S1:",
        "ok       battery at 85 %",
        "warning  the screen is on",
        "         -> press the power button",
    ]


def test_an_error_is_a_failure(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, OK, ERROR)
    result = cli("profile-device", "doctor", "--serial", "S1")
    assert result.exit_code == 1
    assert "ERROR    no space\n         -> delete apps\n" in result.stdout
    assert result.stderr == "Error: S1: 1 thing to mend before a campaign can run\n"


def test_doctor_for_machines(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, OK, ERROR)
    result = cli("profile-device", "doctor", "--serial", "S1", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "serial": "S1",
        "errors": 1,
        "findings": [
            {"level": "ok", "what": "battery at 85 %", "remedy": ""},
            {"level": "error", "what": "no space", "remedy": "delete apps"},
        ],
    }


@pytest.mark.parametrize(
    ("attached", "environment", "serial"),
    [((), None, "local"), (PHONES[:1], None, "R58M123"), (PHONES, "S2", "S2")],
)
def test_the_phone_that_is_meant(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    attached: Sequence[Attached],
    environment: str | None,
    serial: str,
) -> None:
    attach(monkeypatch, *attached)
    if environment:
        monkeypatch.setenv("ANDROID_SERIAL", environment)
    calls = say(monkeypatch, OK)
    assert cli("profile-device", "doctor").exit_code == 0
    assert calls == [(serial, None)]


def test_several_phones_are_a_question(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    attach(monkeypatch, *PHONES)
    result = cli("profile-device", "doctor")
    assert result.exit_code == 2
    assert "R58M123" in result.stderr and "--serial" in result.stderr


def test_an_unknown_phone_is_wrong_usage(cli: Cli) -> None:
    result = cli("profile-device", "doctor", "--serial", "nope")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: no device answers to serial 'nope'")


def test_this_machine_really(cli: Cli, tmp_path: Path) -> None:
    result = cli("profile-device", "doctor", "--serial", "local", "--directory", str(tmp_path / "base"))
    assert result.stdout.startswith("local:\nok       this machine: ")
    assert "can be written, and programs in it run" in result.stdout
    assert not (tmp_path / "base").exists()


# --- bundle


@dataclass
class FakeBundle:
    directory: Path
    sha256: str
    files: Mapping[str, None]


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The arguments of each bundle that was asked for."""
    calls: list[tuple[object, ...]] = []

    def build_bundle(arch: str, out: Path, runtimes: Sequence[str], wheels: Path | None) -> FakeBundle:
        calls.append((arch, out, tuple(runtimes), wheels))
        if arch == "mips":
            raise UsageError("arch 'mips' is unknown: use arm64, x86_64 or host")
        if arch == "x86_64":
            raise DeviceError("cmake is missing; install it with 'apt-get install cmake'")
        folder = tmp_path / "bundle-arm64-ab"
        folder.mkdir()
        (folder / "runner").write_bytes(b"x" * 2_500_000)
        return FakeBundle(folder, "ab" * 32, {"runner": None})

    monkeypatch.setattr("bpnas.android_bench.runner.bundle.build_bundle", build_bundle)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


def test_a_bundle_with_nothing_said(cli: Cli, built: list[tuple[object, ...]], tmp_path: Path) -> None:
    result = cli("profile-device", "bundle")
    assert result.exit_code == 0
    assert built == [("arm64", tmp_path / "cache/bpnas/bundles", ("tflite", "onnxruntime"), None)]
    assert result.stdout == f"{tmp_path}/bundle-arm64-ab: 1 file, 2.5 MB, SHA-256 {'ab' * 32}\n"


def test_a_bundle_with_everything_said(cli: Cli, built: list[tuple[object, ...]], tmp_path: Path) -> None:
    options = ("--arch", "host", "--out", tmp_path / "out", "--wheels", tmp_path, "--runtime", "tflite", "--json")
    result = cli("profile-device", "bundle", *options)
    assert built == [("host", tmp_path / "out", ("tflite",), tmp_path)]
    assert json.loads(result.stdout) == {
        "directory": f"{tmp_path}/bundle-arm64-ab",
        "arch": "host",
        "sha256": "ab" * 32,
        "files": 1,
        "bytes": 2_500_000,
    }


@pytest.mark.parametrize(
    ("arch", "exit_code", "sentence"), [("mips", 2, "arch 'mips'"), ("x86_64", 1, "cmake is missing")]
)
def test_what_keeps_a_bundle_from_being_built(
    cli: Cli, built: list[tuple[object, ...]], arch: str, exit_code: int, sentence: str
) -> None:
    result = cli("profile-device", "bundle", "--arch", arch)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert result.stderr.startswith(f"Error: {sentence}")


@pytest.mark.parametrize("command", ["devices", "doctor", "bundle"])
def test_help(cli: Cli, command: str) -> None:
    result = cli("profile-device", command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
