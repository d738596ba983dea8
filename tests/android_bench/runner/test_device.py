"""A device that the native runner works on: what models, runners and hosts do wrong costs nothing but itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from bpnas.android_bench.device import DeviceOptions
from bpnas.android_bench.errors import DeviceError, RuntimeUnavailableError
from bpnas.android_bench.measurement import Failure, Measurement, Outcome, RunSettings
from bpnas.android_bench.runner.device import NativeDevice
from bpnas.android_bench.serials import connect
from bpnas.base.errors import UsageError
from tests.phone.benchmark_model import BENCHMARK_MODEL
from tests.phone.chaos import write_fake_runner, write_requests
from tests.phone.daemon import Adbd, wait_until

SETTINGS = RunSettings(warmup_runs=0, warmup_seconds=0, runs=1, seconds=0, timeout_seconds=2)

Serve = Callable[..., NativeDevice]


@pytest.fixture
def fake_runner(tmp_path: Path) -> Path:
    return write_fake_runner(tmp_path)


@pytest.fixture(params=["local", "adbd", "server", "legacy"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Serial of a device, and a folder on it: this machine, a real adbd, one through an adb server, and an old one."""
    if request.param == "local":
        return "local", str(tmp_path / "device")
    if request.param == "legacy":
        daemon = request.getfixturevalue("legacy_daemon")
        return daemon.serial, f"{daemon.directory}/bpnas"
    # With this user's own rights: the runner is a script of this Python, which others may not be allowed to run.
    adbd = request.getfixturevalue("start_adbd")(uid=os.getuid())
    if request.param == "server":
        server = request.getfixturevalue("adb_server")
        server.connect(adbd.serial)
        request.getfixturevalue("monkeypatch").setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
    return adbd.serial, f"{adbd.directory}/bpnas"


@pytest.fixture
def open_native(way: tuple[str, str], fake_runner: Path) -> Iterator[Serve]:
    devices = []

    def serve(**options: object) -> NativeDevice:
        serial, folder = way
        chosen = DeviceOptions(
            **{"runner": fake_runner, "directory": folder, "affinity": "none", "keep_governor": True} | options
        )  # type: ignore[arg-type]
        devices.append(NativeDevice(connect(serial, str(Path(folder).parent)), "tflite", chosen))
        return devices[-1]

    yield serve
    for device in devices:
        device.close()


def kinds(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.kind if isinstance(outcome, Failure) else "ok" for outcome in outcomes]


def check_numbers(outcomes: Sequence[Outcome], contents: Sequence[str]) -> None:
    """Every outcome belongs to its own model."""
    assert [outcome.key for outcome in outcomes] == [f"part-{index}" for index in range(len(contents))]
    for outcome, content in zip(outcomes, contents, strict=True):
        if isinstance(outcome, Measurement):
            assert outcome.samples_ns == (1000 + len(content),) * 3
            assert outcome.repeats == 2


def test_each_model_gives_its_own_samples_and_nothing_stays_behind(
    open_native: Serve, way: tuple[str, str], tmp_path: Path
) -> None:
    contents = [f"ok:{'x' * index}" for index in range(150)]  # three batches
    device = open_native()
    outcomes = list(device.run(write_requests(tmp_path, contents), SETTINGS))
    check_numbers(outcomes, contents)
    assert kinds(outcomes) == ["ok"] * 150
    assert device.info.runtime_version == "tflite 9.9 (bpnas-runner fake)"
    conditions = outcomes[0].conditions  # type: ignore[union-attr]
    assert conditions["before"]["serial"] == way[0]
    assert conditions["before"]["sentinel_ns"] == 100.0
    assert conditions["after"]["sentinel_ns"] == 101.0
    folder = Path(way[1])
    assert [path.name.partition("-")[0] for path in sorted(folder.iterdir())] == ["bundle", "run"]
    device.close()
    assert [path.name.partition("-")[0] for path in folder.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        ("refuse", "refused", "no such operator"),
        ("timeout", "timeout", "2 s"),
        ("throttled", "invalid", "1.1 times slower"),
        ("crash:1", "crash", "exit code 1"),
        ("crash:3", "crash", "exit code 3"),
        ("signal:11", "crash", "signal 11"),
        ("signal:6", "crash", "signal 6"),
        ("signal:9", "crash", "out of memory"),
        ("flip", "invalid", "did not arrive whole"),
        ("other", "invalid", "did not arrive whole"),
        ("only:", "invalid", "did not arrive whole"),
        ("only:half a li", "invalid", "did not arrive whole"),
        ("only:\\x00\\x00\\xff\\n", "invalid", "did not arrive whole"),
        ('only:{"model":1,"samples_ns":[1]}\\n', "invalid", "did not arrive whole"),
        ("flood", "invalid", "MiB"),
        ("lines", "invalid", "MiB"),
    ],
)
def test_a_bad_model_is_named_and_the_rest_is_measured(
    content: str, kind: str, says: str, open_native: Serve, tmp_path: Path
) -> None:
    contents = ["ok:a", content, "ok:bc", content, "ok:def"]
    outcomes = list(open_native().run(write_requests(tmp_path, contents), SETTINGS))
    check_numbers(outcomes, contents)
    assert kinds(outcomes) == ["ok", kind, "ok", kind, "ok"]
    assert says in outcomes[1].message  # type: ignore[union-attr]
    assert "\n" not in outcomes[1].message  # type: ignore[union-attr]


def test_a_core_that_does_not_get_back_to_its_speed_ends_it(open_native: Serve, tmp_path: Path) -> None:
    came: list[Outcome] = []
    first = open_native()
    with pytest.raises(DeviceError, match=r"3 models in a row .* --sentinel-limit"):
        came.extend(first.run(write_requests(tmp_path, ["ok:a", *["throttled"] * 3, "ok:b"]), SETTINGS))
    assert kinds(came) == ["ok", "invalid", "invalid", "invalid"]
    first.close()
    device = open_native(sentinel_limit=1.5)
    outcomes = list(device.run(write_requests(tmp_path, ["throttled", "throttled", "ok:a"] * 2), SETTINGS))
    assert kinds(outcomes) == ["invalid", "invalid", "ok"] * 2
    assert "1.5 times slower" in outcomes[0].message  # type: ignore[union-attr]


@pytest.mark.parametrize(("qemu", "limit"), [(None, 1.1), ("1", 0.0)], ids=["phone", "emulator"])
def test_the_sentinel_is_heeded_on_phones_and_not_on_emulators(
    start_adbd: Callable[..., Adbd], fake_runner: Path, tmp_path: Path, qemu: str | None, limit: float
) -> None:
    adbd = start_adbd(uid=os.getuid())
    adbd.identity.set_property("ro.boot.qemu", qemu)
    options = DeviceOptions(runner=fake_runner, directory=f"{adbd.directory}/bpnas", affinity="none")
    with NativeDevice(connect(adbd.serial, adbd.directory), "tflite", options) as device:
        (outcome,) = device.run(write_requests(tmp_path, ["ok"]), SETTINGS)
    assert isinstance(outcome, Measurement)
    assert outcome.conditions["before"]["sentinel_limit"] == limit


def test_noise_around_an_answer_is_ignored(open_native: Serve, tmp_path: Path) -> None:
    noises = [
        "raw:hello\\n",
        "raw:\\x00\\x01\\n\\n",
        "raw:[[[[[[\\n",
        "raw:{}\\n",
        'raw:{"crc32":"00000000"}\\n',
        "raw:\\r\\n",
    ]
    outcomes = list(open_native().run(write_requests(tmp_path, noises), SETTINGS))
    check_numbers(outcomes, noises)
    assert kinds(outcomes) == ["ok"] * len(noises)


def test_a_file_that_changed_is_refused_in_its_place(open_native: Serve, tmp_path: Path) -> None:
    asked = write_requests(tmp_path, ["ok:1", "ok:2", "ok:3", "ok:4"])
    asked[0].path.unlink()
    asked[2].path.write_text("ok:another")
    outcomes = list(open_native().run(asked, SETTINGS))
    assert kinds(outcomes) == ["refused", "ok", "refused", "ok"]
    assert [outcome.key for outcome in outcomes] == [request.key for request in asked]


def test_a_second_campaign_on_the_same_device_waits_and_then_is_refused(
    open_native: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpnas.android_bench.local.held_cores.PATIENCE_SECONDS", 0.5)
    first = open_native()
    who = rf"@.*, process {os.getpid()}, since 20\d\d-\d\d-\d\d \d\d:\d\d UTC"
    with pytest.raises(DeviceError, match=who):
        open_native()
    first.close()
    open_native()


def test_stopping_in_the_middle_ends_the_runner_and_cleans_up(
    open_native: Serve, way: tuple[str, str], tmp_path: Path
) -> None:
    device = open_native()
    outcomes = device.run(write_requests(tmp_path, ["ok:a", "hang"]), SETTINGS)
    assert next(outcomes).key == "part-0"
    outcomes.close()  # type: ignore[attr-defined]
    device.close()
    assert [path.name.partition("-")[0] for path in Path(way[1]).iterdir()] == ["bundle"]


def test_a_killed_host_leaves_neither_files_nor_processes(
    way: tuple[str, str], fake_runner: Path, tmp_path: Path
) -> None:
    serial, folder = way
    (tmp_path / "hang").write_text("hang")
    script = f"""
import hashlib, sys
from pathlib import Path
from bpnas.android_bench.serials import connect
from bpnas.android_bench.device import DeviceOptions
from bpnas.android_bench.runner.device import NativeDevice
from bpnas.android_bench.measurement import RunRequest, RunSettings
options = DeviceOptions(runner=Path({str(fake_runner)!r}), directory={folder!r}, keep_governor=True)
device = NativeDevice(connect({serial!r}, {str(Path(folder).parent)!r}), "tflite", options)
path = Path({str(tmp_path / "hang")!r})
print("ready", flush=True)
list(device.run([RunRequest("k", 0, path, hashlib.sha256(b"hang").hexdigest())], RunSettings()))
"""
    runs = Path(folder)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as host:
        try:
            assert host.stdout is not None and host.stdout.readline() == b"ready\n"
            # The shell there creates the file first and writes its number then.
            wait_until(lambda: any(path.read_text() for path in runs.glob("run-*/runner-*")))
            runner = int(next(runs.glob("run-*/runner-*")).read_text())
        finally:
            host.kill()
    wait_until(lambda: not any(runs.glob("run-*")))
    wait_until(lambda: not Path(f"/proc/{runner}").exists())


def test_a_runtime_that_does_not_start_is_said_at_once(open_native: Serve, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho cannot load libfoo >&2\nexit 3\n")
    with pytest.raises(RuntimeUnavailableError, match="cannot load libfoo"):
        open_native(runner=broken)


def test_a_runner_for_another_processor_is_said_at_once(open_native: Serve, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF not for this machine")
    with pytest.raises(DeviceError, match="cannot be started"):
        open_native(runner=broken)


def test_the_program_is_put_there_once_and_mended_if_it_was_harmed(open_native: Serve, way: tuple[str, str]) -> None:
    open_native().close()
    (program,) = Path(way[1]).glob("bundle-*/runner")
    first = program.stat().st_mtime_ns
    open_native().close()
    if "legacy" not in way[1]:
        assert program.stat().st_mtime_ns == first
    program.write_text("harmed")
    open_native().close()
    assert program.stat().st_size > 1000
    (Path(way[1]) / f"bundle-old-{'0' * 16}").mkdir()
    of_others = ("bundle-of-mine", "run-results", "model.tmp", "probe.csv", f"run-{'x' * 16}")
    for name in of_others:
        (Path(way[1]) / name).mkdir()
    open_native().close()
    assert {path.name for path in Path(way[1]).iterdir()} == {program.parent.name, *of_others}


def test_a_place_that_cannot_be_written_is_named(way: tuple[str, str], open_native: Serve) -> None:
    with pytest.raises(DeviceError, match="/proc/nowhere"):
        open_native(directory="/proc/nowhere")


@pytest.mark.parametrize("mask", ["", "0", "xyz", "-1", "f" * 40])
def test_a_mask_that_makes_no_sense_is_a_usage_error(mask: str, fake_runner: Path, tmp_path: Path) -> None:
    options = DeviceOptions(runner=fake_runner, directory=str(tmp_path / "device"), affinity=mask)
    with pytest.raises(UsageError, match="mask"):
        NativeDevice(connect("local"), "tflite", options)


def test_benchmark_model_takes_the_runners_place(open_native: Serve, tmp_path: Path) -> None:
    program = tmp_path / "benchmark_model"
    program.write_text(BENCHMARK_MODEL)
    device = open_native(runner=program)
    assert "benchmark_model" in device.info.runtime_version
    settings = RunSettings(runs=50, timeout_seconds=5)
    outcomes = list(
        device.run(write_requests(tmp_path, ["ok", "refuse", "abort", "hang", "silent", "tiny", "ok"]), settings)
    )
    assert kinds(outcomes) == ["ok", "refused", "crash", "timeout", "invalid", "refused", "ok"]
    for outcome in (outcomes[0], outcomes[-1]):
        assert isinstance(outcome, Measurement)
        assert outcome.samples_ns == (1250500,) * 5  # a mean each, of the timed runs and not of the warm-up
        assert (outcome.repeats, outcome.load_ns) == (1, 2500000)
        assert outcome.conditions["after"]["inferences_per_sample"] == 10.0
    assert "Failed to initialize" in outcomes[1].message  # type: ignore[union-attr]
    assert "signal 6" in outcomes[2].message  # type: ignore[union-attr]
    assert "less than a microsecond" in outcomes[5].message  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_temperature_c", -1.0),
        ("max_temperature_c", float("nan")),
        ("sentinel_limit", 0.5),
        ("sentinel_limit", float("inf")),
        ("reconnect_seconds", -1.0),
        ("directory", "relative/folder"),
        ("directory", "/data/local\n/tmp"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(option: str, value: object) -> None:
    with pytest.raises(UsageError, match="--"):
        DeviceOptions(**{option: value})  # type: ignore[arg-type]
