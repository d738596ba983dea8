import errno
import importlib
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import termios
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bpnas.android_bench.device import DeviceInfo, DeviceOptions
from bpnas.android_bench.errors import DeviceLostError
from bpnas.android_bench.measurement import RunSettings
from bpnas.android_bench.mock import MockDevice
from bpnas.base.durations import duration
from bpnas.profiler import Backbone, Records, RecordsError
from tests.patience import PATIENCE
from tests.programs import Program, script, started
from tests.records_factory import make_plan, read_everything, write_records

TINY = """
name = "tiny"
stages = [{ channels = 8, blocks = 1, stride = 1 }, { channels = 16, blocks = 1, stride = 2 }]
[stem]
channels = 8
[head]
channels = 16
"""
PARTS = 2 + 6  # K1G1 at two sites; stem, heads of 10, 100 and 1000 classes, and two joins
MOCK = ("--serial", "mock:s9", "--backbone", "tiny.toml", "--input-size", "32", "--sessions", "1", "--paths", "K1G1")
COMMAND = script("profile-device")
OPEN_DEVICE = importlib.import_module("bpnas.android_bench.opening")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test runs in an empty directory with a small backbone in it."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)
    return tmp_path


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def bad_models(monkeypatch):
    """Model files that no device takes, and that need no torch."""
    monkeypatch.setattr("bpnas.profiler.campaign.model_files.export_part", lambda part, runtime: b"no model")


def files_here() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"tiny.toml"}


def error_line(text: str) -> str:
    """The one line of a command's standard error that is its error."""
    assert "Traceback" not in text
    (line,) = (line for line in text.splitlines() if line.startswith("Error:"))
    assert text.endswith(f"{line}\n")
    return line


# Bad input


BAD_INPUT = {
    "serial": (["--serial", "R58M123ABC"], "no device answers to serial 'R58M123ABC'"),
    "mock serial": (["--serial", "mock:s99"], "mock:s9"),
    "empty serial": (["--serial", ""], "--serial: the value is empty; give one, or leave it out"),
    "runtime": (["--runtime", "tensorrt"], "runtime 'tensorrt' is unknown: use tflite or onnxruntime"),
    "backbone": (["--backbone", "resnet"], "no backbone is called 'resnet': use one of fbnet, mobilenetv2"),
    "backbone file": (["--backbone", "none.toml"], "none.toml: the backbone cannot be read"),
    "backbone folder": (["--backbone", "folder.toml"], "folder.toml: the backbone cannot be read"),
    "backbone syntax": (["--backbone", "syntax.toml"], "syntax.toml: not valid TOML"),
    "backbone field": (["--backbone", "field.toml"], "field.toml: head.channels: 17 is not divisible by 8"),
    "filter": (["--paths", "K3G1,K9G1"], "path filter 'K9G1' matches none"),
    "empty filter": (["--paths="], "--paths: the value is empty"),
    "input size": (["--input-size", "4"], "input_size: must be a whole number from 8"),
    "classes": (["--classes", "0"], "head.classes: must be"),
    "runs": (["--runs", "0"], "runs: must be from 1"),
    "warm-up runs": (["--warmup-runs", "-1"], "warmup_runs: must be from 0"),
    "warm-up seconds": (["--warmup-seconds", "-0.5"], "warmup_seconds: must be from 0"),
    "seconds": (["--seconds", "nan"], "seconds: must be from 0"),
    "threads": (["--threads", "0"], "threads: must be from 1"),
    "sample length": (["--sample-ms", "-1"], "sample_ms: must be from 0"),
    "timeout": (["--timeout", "0"], "timeout_seconds: must be from 0.001"),
}


@pytest.mark.parametrize(("options", "sentence"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_sentence_and_exit_code_2_and_makes_no_file(cli, options, sentence):
    Path("folder.toml").mkdir()
    Path("syntax.toml").write_text("name = ")
    Path("field.toml").write_text(TINY.replace("channels = 16\n", "channels = 17\n"))
    before = files_here()
    done = cli("profile-device", *MOCK, *options)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr == error_line(done.stderr) + "\n"
    assert sentence in done.stderr
    assert files_here() == before


@pytest.mark.parametrize(
    "options",
    [
        ["--input-size", "big"],
        ["--sessions", "0"],
        ["--jobs", "0"],
        ["--budget", "0"],
        ["--runs", "many"],
        ["--records", "."],
        ["--no-such-option"],
        ["superfluous"],
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense_are_named_with_exit_code_2(cli, options):
    done = cli("profile-device", *MOCK, *options)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert options[0] in error_line(done.stderr)
    assert files_here() == set()


def test_a_missing_folder_for_the_records(cli):
    done = cli("profile-device", *MOCK, "--records", "none/r.sqlite")
    assert done.exit_code == 1
    assert "does not exist" in error_line(done.stderr)
    assert files_here() == set()


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (corrupt, "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5000]), "damaged"),
        (lambda path: path.write_bytes(b"key,latency\n" * 200), "is a text file"),
        (lambda path: sqlite3.connect(path).executescript("PRAGMA user_version = 9").connection.close(), "version 9"),
        (lambda path: sqlite3.connect(path).executescript("PRAGMA application_id = 9").connection.close(), "no bpnas"),
    ],
    ids=["overwritten", "truncated", "text", "version", "another program's"],
)
def test_records_that_cannot_be_used_are_refused_and_left_alone(cli, damage, sentence):
    path = write_records(Path("r.sqlite"), make_plan(sessions=5))
    damage(path)
    content = path.read_bytes()
    done = cli("profile-device", *MOCK, "--records", path)
    assert done.exit_code == 1
    assert done.stderr == error_line(done.stderr) + "\n"
    assert done.stderr.startswith("Error: r.sqlite: ")
    assert sentence in done.stderr
    assert path.read_bytes() == content


def test_records_in_use_by_another_campaign(cli):
    with Records.write("s9.sqlite"):
        done = cli("profile-device", *MOCK)
    assert done.exit_code == 1
    assert "another process is writing to it" in error_line(done.stderr)


def test_models_that_the_device_refuses_are_counted_with_exit_code_1(cli, bad_models):
    done = cli("profile-device", *MOCK, "--json")
    assert done.exit_code == 1
    assert f"{PARTS + 2} models failed" in error_line(done.stderr)  # the sentinel failed before and after them
    result = json.loads(done.stdout)
    assert (result["total"], result["done"], result["measured"]) == (PARTS, 0, 0)
    assert len(result["failures"]) == PARTS + 2
    for one in result["failures"]:
        assert one.keys() == {"key", "session", "kind", "message"}
        assert one["kind"] == "refused"
    assert len(read_everything(Path("s9.sqlite"))[2]) == PARTS


def test_a_device_that_refuses_everything_is_given_up(cli, bad_models):
    done = cli("profile-device", *MOCK[:-1], "K1E*G1")
    assert done.exit_code == 1
    assert "25 models in a row failed" in error_line(done.stderr)
    assert len(read_everything(Path("s9.sqlite"))[2]) == 24  # and the sentinel, before them


def test_no_space_for_model_files(cli, monkeypatch):
    def full(part, runtime):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.tflite")

    monkeypatch.setattr("bpnas.profiler.campaign.model_files.export_part", full)
    done = cli("profile-device", *MOCK)
    assert done.exit_code == 1
    assert "model.tflite: no space left on the disk" in error_line(done.stderr)
    assert read_everything(Path("s9.sqlite"))[1:] == ([], [])
    assert files_here() == {"s9.sqlite", "s9.sqlite.lock"}


# What a call gives


def test_records_are_named_after_the_device(cli, torch):
    done = cli("profile-device", *MOCK)
    assert done.exit_code == 0, done.stderr
    assert files_here() == {"s9.sqlite", "s9.sqlite.lock"}
    assert f"s9.sqlite: {PARTS} of {PARTS} sessions measured" in done.stdout
    assert "MOCK" in done.stdout
    assert "build-table s9.sqlite" in done.stdout


def test_settings_are_those_of_the_options(cli, torch):
    options = {"warmup-runs": 3, "warmup-seconds": 0.25, "runs": 7, "seconds": 0.5, "threads": 2, "timeout": 9.0}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    done = cli("profile-device", *MOCK, *arguments, "--sessions", "2", "--classes", "7", "--records", "mine.sqlite")
    assert done.exit_code == 0, done.stderr
    assert "mine.sqlite" in files_here()
    (plan,), measured, _ = read_everything(Path("mine.sqlite"))
    assert plan.setup.settings == RunSettings(3, 0.25, 7, 0.5, threads=2, timeout_seconds=9.0)
    assert plan.backbones == (Backbone.load("tiny.toml", 32, 7),)
    assert (plan.paths, plan.sessions) == ("K1G1", 2)
    assert len(measured) == 2 * (PARTS + 1)  # the head has 7 classes, and 10, 100 and 1000, too
    assert {len(m.samples_ns) for _, m in measured} == {7}


def test_json_is_one_object_on_standard_output(cli, torch):
    done = cli("profile-device", *MOCK, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    fingerprint, seconds = result.pop("fingerprint"), result.pop("seconds")
    assert result == {
        "records": "s9.sqlite",
        "device": "s9",
        "mock": True,
        "runtime": "tflite",
        "total": PARTS,
        "done": PARTS,
        "measured": PARTS,
        "failures": [],
        "lost": [],
        "precision": 0.05,
        "short": 0,
        "worst": [],
        "flags": {"unknown": PARTS},
        "largest_drift_correction": 0.0,
    }
    assert fingerprint == read_everything(Path("s9.sqlite"))[0][0].setup.device.fingerprint
    assert 0 < seconds < 300


def test_a_second_call_goes_on_and_a_third_has_nothing_to_do(cli, torch):
    first = cli("profile-device", *MOCK, "--budget", "0.000001")
    assert first.exit_code == 0, first.stderr
    assert f"s9.sqlite: 1 of {PARTS} sessions measured" in first.stdout
    assert f"{PARTS - 1} are left: call the same command again to resume" in first.stdout
    second = json.loads(cli("profile-device", *MOCK, "--json").stdout)
    assert (second["done"], second["measured"]) == (PARTS, PARTS - 1)
    third = json.loads(cli("profile-device", *MOCK, "--json").stdout)
    assert (third["done"], third["measured"]) == (PARTS, 0)


def test_an_input_size_given_twice_is_one(cli, torch):
    assert json.loads(cli("profile-device", *MOCK, "--input-size", "32", "--json").stdout)["total"] == PARTS


def test_progress_is_plain_lines_where_there_is_no_terminal(cli, torch):
    done = cli("profile-device", *MOCK)
    assert "\x1b" not in done.stderr and "\r" not in done.stderr
    *_, last = done.stderr.splitlines()  # with one every half minute before it
    assert last.startswith("Samsung Galaxy S9 (MOCK") and f": {PARTS} of {PARTS} sessions, 0 s left, " in last
    assert "models/s" in last and "failed" not in last


def test_progress_is_a_bar_on_a_terminal(torch):
    ours, theirs = pty.openpty()
    try:
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "300"}
        with subprocess.Popen(
            [COMMAND, *MOCK, "--json"], stdout=subprocess.PIPE, stderr=theirs, env=environment
        ) as run:
            os.close(theirs)
            shown = b""
            while True:
                try:
                    chunk = os.read(ours, 65536)
                except OSError:  # how Linux says that the other end is closed
                    break
                if not chunk:
                    break
                shown += chunk
            assert json.loads(run.stdout.read())["done"] == PARTS
        assert run.returncode == 0
    finally:
        os.close(ours)
    assert b"\x1b[" in shown
    assert f"{PARTS}/{PARTS}".encode() in shown


# Ended by a signal


SESSIONS = 50  # so that no machine is done before it is interrupted
OPTIONS = ("--serial", "mock:s9", "--input-size", "32", "--sessions", str(SESSIONS))


def wait_for_rows(count: int, process: Program | subprocess.Popen[str]) -> None:
    while True:
        assert process.poll() is None, process.stderr
        with suppress(RecordsError):  # there is no such file yet
            if len(read_everything(Path("s9.sqlite"))[1]) >= count:
                return
        time.sleep(0.01)


def assert_interrupted(output: str, errors: str) -> None:
    assert output == ""
    assert "interrupted" in error_line(errors)
    assert "call the same command again" in errors
    assert files_here() == {"s9.sqlite", "s9.sqlite.lock"}
    read_everything(Path("s9.sqlite"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_one_sentence_and_an_exit_code_and_keeps_the_records(torch, number):
    with started(COMMAND, *OPTIONS) as program:
        wait_for_rows(5, program)
        program.send_signal(number)
        assert program.wait() == 128 + number
        assert_interrupted(program.stdout, program.stderr)
    assert len(read_everything(Path("s9.sqlite"))[1]) >= 5


def test_ctrl_c_on_a_terminal_reaches_all_processes_and_still_is_one_sentence(torch):
    """Also where it comes while they start."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([COMMAND, *OPTIONS, "--jobs", "2"], start_new_session=True, **pipes) as process:
        try:
            assert f": {SESSIONS * 3275:,} sessions" in process.stderr.readline()
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGINT)
            output, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 130
    assert_interrupted(output, errors)


# This machine


@pytest.mark.parametrize("runtime", ["tflite", "onnxruntime"])
def test_this_machine_from_export_to_table(cli, torch, runtime):
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
    options = ["--warmup-runs", "1", "--warmup-seconds", "0", "--runs", "3", "--seconds", "0", "--sessions", "2"]
    local = ["--serial", "local", "--runtime", runtime, *MOCK[2:], *options]
    done = cli("profile-device", *local, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["device"], result["mock"], result["runtime"]) == ("local", False, runtime)
    assert result["measured"] == 2 * PARTS
    (plan,), measured, failed = read_everything(Path("local.sqlite"))
    assert failed == []
    device = plan.setup.device
    assert len(device.runtime_sha256) == 64 and device.runtime_version
    for _, one in measured:
        assert len(one.samples_ns) >= 3
        assert all(ns > 0 for ns in one.samples_ns)
        assert one.warmup_runs >= 1 and one.repeats >= 1 and one.load_ns > 0
        assert abs(time.time() - one.started_at) < 300
        assert one.conditions.keys() == {"before", "after"}
    done = cli("build-table", "local.sqlite", "--json")
    assert done.exit_code == 0, done.stderr
    table = json.loads(done.stdout)
    assert (table["table"], table["entries"], table["mock"]) == ("local.parquet", PARTS, False)


# Several devices


@pytest.fixture
def phones(monkeypatch):
    """Serials A, B, ... are computed phones; what they are opened with, and each one's `run` can be replaced."""
    opened = {}

    def open_device(serial, runtime, options):
        device = MockDevice("s9", runtime)
        opened[serial] = (device, options)
        return device

    monkeypatch.setattr(OPEN_DEVICE, "open_device", open_device)
    return opened


def test_several_serials_share_the_work(cli, torch, phones):
    done = cli("profile-device", "--serial", "A", "--serial", "B", *MOCK[2:], "--json")
    assert done.exit_code == 0, done.stderr
    assert list(phones) == ["A", "B"]
    result = json.loads(done.stdout)
    assert (result["device"], result["done"], result["lost"]) == ("s9", PARTS, [])
    assert f"2 devices: {PARTS} sessions" in done.stderr


def test_a_lost_device_is_a_warning_and_noted_in_the_result(cli, torch, phones, monkeypatch):
    run, is_lost = MockDevice.run, threading.Event()

    def lose_b(self, requests, settings):
        if self is phones["B"][0]:
            is_lost.set()
            raise DeviceLostError("B: the cable was pulled")
        for outcome in run(self, requests, settings):
            is_lost.wait(PATIENCE)  # A alone would be done before B has begun
            yield outcome

    monkeypatch.setattr(MockDevice, "run", lose_b)
    done = cli("profile-device", "--serial", "A", "--serial", "B", *MOCK[2:])
    assert done.exit_code == 0, done.stderr
    assert f"{PARTS} of {PARTS} sessions measured" in done.stdout
    assert "Lost on the way: B: the cable was pulled\n" in done.stdout
    (warning,) = (line for line in done.stderr.splitlines() if line.startswith("Warning:"))
    assert warning.endswith("B: the cable was pulled")


def test_devices_that_differ_are_refused_and_no_file_is_made(cli, phones, monkeypatch):
    def open_device(serial, runtime, options):
        return MockDevice("s9", runtime, seed=len(serial))

    monkeypatch.setattr(OPEN_DEVICE, "open_device", open_device)
    done = cli("profile-device", "--serial", "A", "--serial", "BB", *MOCK[2:])
    assert done.exit_code == 2
    assert "A and BB cannot share this campaign" in error_line(done.stderr)
    assert "runtime_sha256: " in done.stderr
    assert files_here() == set()


def test_the_same_serial_twice_is_refused(cli, phones):
    done = cli("profile-device", "--serial", "A", "--serial", "B", "--serial", "A", *MOCK[2:])
    assert done.exit_code == 2
    assert "--serial A is given twice" in error_line(done.stderr)
    assert phones == {}


def test_without_a_serial_it_is_the_one_that_adb_means(cli, torch, monkeypatch):
    monkeypatch.setenv("ANDROID_SERIAL", "mock:s9")
    done = cli("profile-device", *MOCK[2:], "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["device"] == "s9"


# How a phone is used


def test_options_reach_the_device(cli, torch, phones):
    Path("bundle").mkdir()
    for name in ("runner", "runtime.so"):
        Path(name).touch()
    options = """
        --bundle bundle --runner runner --runtime-library runtime.so --affinity f0 --max-temperature 41.5
        --sentinel-limit 1.2 --reconnect 7 --keep-governor
        --directory /data/here
    """.split()
    assert cli("profile-device", "--serial", "A", *MOCK[2:], *options).exit_code == 0
    assert phones["A"][1] == DeviceOptions(
        Path("bundle"), Path("runner"), Path("runtime.so"), "f0", 41.5, 1.2, 7.0, True, "/data/here"
    )


def test_what_is_not_given_is_the_default_and_can_be_switched_off(cli, torch, phones):
    assert cli("profile-device", "--serial", "A", *MOCK[2:]).exit_code == 0
    assert phones["A"][1] == DeviceOptions()
    off = ["--max-temperature", "0", "--sentinel-limit", "0", "--affinity", "none", "--reconnect", "0"]
    assert cli("profile-device", "--serial", "B", *MOCK[2:], *off).exit_code == 0
    assert phones["B"][1] == DeviceOptions(
        affinity="none", max_temperature_c=0.0, sentinel_limit=0.0, reconnect_seconds=0.0
    )


@pytest.mark.parametrize(
    "options",
    [
        ["--bundle", "nowhere"],
        ["--bundle", "tiny.toml"],
        ["--runner", "nowhere"],
        ["--runtime-library", "."],
        ["--max-temperature", "-1"],
        ["--max-temperature", "nan"],
        ["--sentinel-limit", "0.9"],
        ["--sentinel-limit", "1"],
        ["--sentinel-limit", "nan"],
        ["--reconnect", "-1"],
        ["--reconnect", "inf"],
    ],
    ids=" ".join,
)
def test_settings_of_a_phone_that_make_no_sense_are_named(cli, phones, options):
    done = cli("profile-device", "--serial", "A", *MOCK[2:], *options)
    assert done.exit_code == 2
    assert options[0] in error_line(done.stderr)
    assert phones == {}
    assert files_here() == set()


# What it says beforehand, and while it measures


def test_it_says_beforehand_what_it_does_and_where_that_goes(cli, bad_models):
    first = cli("profile-device", *MOCK).stderr.splitlines()[0]
    assert f"{PARTS} models on " in first and f": {PARTS} sessions. " in first and "s9.sqlite" in first
    assert "computed" in first and "at the least" not in first  # a mock takes no time


def test_it_says_how_long_at_the_least(cli, monkeypatch, bad_models):
    class Device(MockDevice):
        @property
        def info(self) -> DeviceInfo:
            return replace(super().info, mock=False)

    def open_real(serial: str, runtime: str, options: DeviceOptions) -> Device:
        return Device("s9", runtime)

    monkeypatch.setattr(OPEN_DEVICE, "open_device", open_real)
    settings = ["--sessions", "3", "--seconds", "2", "--warmup-seconds", "1"]
    first = cli("profile-device", *MOCK, *settings).stderr.splitlines()[0]
    assert f": {3 * PARTS} sessions, {duration(9 * PARTS)} at the least. " in first


def test_the_state_of_a_phone_is_in_words(cli, phones, torch, monkeypatch):
    state = {
        "sentinel_ns": 149212.0,
        "temperature_c": 41.24,
        "cpu4_mhz": 1766.4,
        "battery_percent": 80.0,
        "load_1min": 0.31,
    }
    state |= {"governor": "performance", "screen": "off"}
    monkeypatch.setattr(MockDevice, "conditions", lambda device: state)
    assert cli("profile-device", "--serial", "A", *MOCK[2:]).exit_code == 0
    again = cli("profile-device", "--serial", "A", "--serial", "B", *MOCK[2:-4], "--sessions", "2", *MOCK[-2:])
    words = "sentinel 149 us, {0}41.2 °C, {0}cpu4 1766 MHz, {0}battery 80%, {0}load 0.31, {0}screen off"
    assert again.exit_code == 0, again.stderr
    assert "A " + words.format("A ") in again.stderr and "B " + words.format("B ") in again.stderr


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_of_any_width_shows_what_is_counted(columns, torch):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    with subprocess.Popen([COMMAND, *MOCK], stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the other end is closed
            while got := os.read(ours, 65536):
                shown += got
    os.close(ours)
    assert process.returncode == 0
    lines = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode().replace("\r", "\n").splitlines()
    assert any(f"{PARTS}/{PARTS}" in line for line in lines)
    assert max(map(len, lines)) <= columns


# The commands below


def test_help_has_a_heading_for_each_kind_of_option_and_lists_the_commands(cli):
    text = cli("profile-device", "--help").stdout
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Options:", "What to measure:", "How to measure it:", "A phone:", "Commands:"]
    commands = [line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line]
    assert commands == ["bundle", "devices", "doctor", "operators", "zoo"]


def test_help_tells_the_defaults_that_hold(cli):
    text = " ".join(cli("profile-device", "--help").stdout.split())
    for name, value in (
        *((option, getattr(RunSettings(), option)) for option in ("warmup_runs", "warmup_seconds", "runs", "seconds")),
        ("sample_ms", RunSettings().sample_ms),
        ("threads", RunSettings().threads),
        ("timeout", RunSettings().timeout_seconds),
        ("max_temperature", DeviceOptions().max_temperature_c),
        ("sentinel_limit", DeviceOptions().sentinel_limit),
        ("reconnect", DeviceOptions().reconnect_seconds),
    ):
        own = text.partition(f" --{name.replace('_', '-')} ")[2].partition(" --")[0]
        default = own.partition("[default: ")[2].partition("]")[0]
        assert float(default) == value, name


@pytest.mark.parametrize("command", ["devices", "doctor", "bundle"])
def test_the_commands_are_there_and_measure_nothing(cli, command):
    done = cli("profile-device", command, "--help")
    assert done.exit_code == 0
    assert f" {command} " in done.stdout.splitlines()[0]
    assert files_here() == set()


def test_options_before_a_command_that_would_not_see_them_are_refused(cli):
    done = cli("profile-device", "--serial", "mock:s9", "doctor")
    assert done.exit_code == 2
    assert "--serial: options of 'doctor' go after its name" in error_line(done.stderr)


def test_a_command_that_does_not_exist_is_named(cli):
    done = cli("profile-device", "docter")
    assert done.exit_code == 2
    assert "docter" in error_line(done.stderr)


def test_a_second_signal_does_not_cut_the_clean_up_short(cli, monkeypatch):
    closed = []

    def interrupted(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    def close(self):
        os.kill(os.getpid(), signal.SIGTERM)
        closed.append(self)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("bpnas.profiler.commands.campaign_options.run_campaign", interrupted)
    monkeypatch.setattr(MockDevice, "close", close)
    assert cli("profile-device", *MOCK).exit_code == 143
    assert len(closed) == 1
    assert signal.getsignal(signal.SIGTERM) == before == signal.SIG_DFL


def test_a_hang_up_that_is_ignored_stays_ignored(torch):
    process = subprocess.Popen(
        ["nohup", COMMAND, "--serial", "mock:s9", "--input-size", "32", "--paths", "K1E2G1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_rows(1, process)
        process.send_signal(signal.SIGHUP)
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, errors


# Precision


@pytest.mark.parametrize("share", ["2", "0", "100%", "-1%", "2 percent", "nan", "%", " ", "0.0001"])
def test_a_precision_that_makes_no_sense_is_named(cli, share):
    done = cli("profile-device", *MOCK, "--precision", share)
    assert done.exit_code == 2
    assert f"--precision': {share!r} is no precision from 0.1% to 50%; write for example 2% or 0.02" in done.stderr
    assert files_here() == set()


def test_fewer_sessions_allowed_than_planned_is_refused(cli):
    done = cli("profile-device", *MOCK, "--sessions", "4", "--max-sessions", "3")
    assert done.exit_code == 2
    assert "--max-sessions 3 is less than --sessions 4" in error_line(done.stderr)
    assert files_here() == set()


@pytest.fixture
def rough(monkeypatch):
    """A computed device whose sessions differ by several percent."""
    monkeypatch.setattr("bpnas.android_bench.mock._SESSION_SPREAD", 0.05)


def test_three_sessions_are_the_default(cli, torch):
    at = MOCK.index("--sessions")
    done = cli("profile-device", *MOCK[:at], *MOCK[at + 2 :], "--json")
    result = json.loads(done.stdout)
    assert (result["total"], result["short"], result["flags"]) == (3 * PARTS, 0, {})
    assert read_everything(Path("s9.sqlite"))[0][0].sessions == 3


@pytest.mark.parametrize("share", ["3%", "0.03"])
def test_a_precision_adds_sessions_and_is_told_of(cli, torch, rough, share):
    done = cli("profile-device", *MOCK, "--precision", share, "--max-sessions", "4", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["precision"] == 0.03
    assert PARTS < result["measured"] == result["total"] <= 4 * PARTS
    assert 0 < result["short"] == result["flags"]["imprecise"]
    assert len(result["worst"]) == min(5, result["short"])
    for one in result["worst"]:
        assert (one["sessions"], one["flags"]) == (4, ["imprecise"])
        assert one["half_width"] > 0.03
    assert read_everything(Path("s9.sqlite"))[0][0].precision == 0.03


def test_what_is_not_known_well_enough_is_named_with_the_remedy(cli, torch, rough):
    done = cli("profile-device", *MOCK, "--precision", "0.5%", "--max-sessions", "2")
    assert done.exit_code == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "not known" in line)
    assert line.startswith(f"{PARTS} parts are not known to within 0.5%: ")
    assert line.endswith(", ...; each has 2 sessions, and --max-sessions allows more")
    assert line.count("+-") == 5 and "% imprecise" in line
    assert f"Flags: imprecise {PARTS}" in done.stdout
    done = cli("profile-device", *MOCK, "--sessions", "2", "--records", "other.sqlite")
    assert "parts are not known to within 5%: " in done.stdout
    assert "; the same command measures these once more\n" in done.stdout
    assert "0 of them now" not in cli("profile-device", *MOCK, "--sessions", "2", "--records", "other.sqlite").stdout


def test_longer_samples_can_be_asked_for_and_are_the_remedy_for_a_coarse_clock(cli, torch, monkeypatch):
    run = MockDevice._run_one

    def coarse(self, request, settings):
        outcome = run(self, request, settings)
        tick_ns = 20_000
        samples = tuple(round(ns / tick_ns) * tick_ns for ns in outcome.samples_ns)
        return replace(outcome, samples_ns=samples)

    monkeypatch.setattr(MockDevice, "_run_one", coarse)
    done = cli("profile-device", *MOCK)
    assert f"clock {PARTS}" in done.stdout
    assert "with --sample-ms and other --records" in done.stdout
    done = cli("profile-device", *MOCK, "--sample-ms", "100", "--records", "long.sqlite")
    assert "clock" not in done.stdout
    assert read_everything(Path("long.sqlite"))[0][0].setup.settings.sample_ms == 100.0
