"""More threads than cores are refused wherever models are timed, and before anything is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from bpnas.android_bench.device import DeviceOptions
from bpnas.android_bench.local.device import LocalDevice
from bpnas.android_bench.measurement import Measurement, RunSettings
from bpnas.android_bench.opening import open_device
from bpnas.android_bench.runner.device import NativeDevice
from bpnas.android_bench.serials import connect
from bpnas.base.errors import UsageError
from bpnas.profiler.campaign.records import Records, Setup
from bpnas.profiler.campaign.run import run_campaign
from tests.phone.benchmark_model import BENCHMARK_MODEL
from tests.phone.chaos import write_backbone, write_fake_runner, write_requests
from tests.records_factory import make_plan

Cli = Callable[..., Result]


def settings(threads: int) -> RunSettings:
    return RunSettings(warmup_runs=0, warmup_seconds=0, runs=1, seconds=0, timeout_seconds=5, threads=threads)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine, with as many cores for this process on any machine."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)


@pytest.fixture
def native(tmp_path: Path) -> Iterator[Callable[..., NativeDevice]]:
    devices = []

    def opened(affinity: str, runner: Path | None = None) -> NativeDevice:
        options = DeviceOptions(
            runner=runner or write_fake_runner(tmp_path),
            directory=str(tmp_path / "device"),
            affinity=affinity,
            keep_governor=True,
        )
        devices.append(NativeDevice(connect("local", str(tmp_path)), "tflite", options))
        return devices[-1]

    yield opened
    for device in devices:
        device.close()


@pytest.mark.parametrize(
    ("affinity", "enough", "message"),
    [
        ("2", 1, "local: --threads 2 is too many, for --affinity 2 has 1 core: .* use --threads 1, or .* --affinity"),
        ("f0", 4, "local: --threads 5 is too many, for --affinity f0 has 4 cores: .* use --threads 4 or fewer"),
        ("none", 2, "local: --threads 3 is too many, for without --affinity a model has 2 cores"),  # the runner says 3
    ],
)
def test_a_native_runner_gets_no_more_threads_than_its_mask_has_cores(
    affinity: str, enough: int, message: str, native: Callable[..., NativeDevice], tmp_path: Path
) -> None:
    device = native(affinity)
    requests = write_requests(tmp_path, ["ok"])
    with pytest.raises(UsageError, match=message) as error:
        list(device.run(requests, settings(enough + 1)))
    assert error.value.exit_code == 2
    with pytest.raises(UsageError, match=message):
        device.profile(requests[0].path, settings(enough + 1))
    (outcome,) = device.run(requests, settings(enough))
    assert isinstance(outcome, Measurement)


def test_nor_does_benchmark_model(native: Callable[..., NativeDevice], tmp_path: Path) -> None:
    program = tmp_path / "benchmark_model"
    program.write_text(BENCHMARK_MODEL)
    with pytest.raises(UsageError, match="--threads 2 is too many, for --affinity 1 has 1 core"):
        list(native("1", program).run(write_requests(tmp_path, ["ok"]), settings(2)))


@pytest.mark.usefixtures("two_cores")
def test_nor_does_the_worker_of_this_machine(tmp_path: Path) -> None:
    with LocalDevice("tflite") as device:
        with pytest.raises(UsageError, match=r"local: --threads 3 is too many, .* a model has 2 cores"):
            list(device.run(write_requests(tmp_path, ["ok"]), settings(3)))
        (outcome,) = device.run(write_requests(tmp_path, ["no model"]), settings(2))
        assert outcome.key == "part-0"


def test_a_computed_device_has_no_cores_to_run_out_of(tmp_path: Path) -> None:
    with open_device("mock:s9", "tflite") as device:
        assert len(list(device.run(write_requests(tmp_path, ["ok"]), settings(256)))) == 1


def test_a_campaign_is_refused_before_anything_is_noted(native: Callable[..., NativeDevice], tmp_path: Path) -> None:
    device = native("1")
    plan = replace(make_plan(), setup=Setup(device.info, settings(2), 1))
    with Records.write(tmp_path / "r.sqlite") as records:
        with pytest.raises(UsageError, match="phone A: --threads 2 is too many, for --affinity 1 has 1 core"):
            run_campaign(device, records, plan, serials=["phone A"])
        assert not records.plans()


@pytest.fixture
def words(tmp_path: Path) -> dict[str, list[str | Path]]:
    model = tmp_path / "m.tflite"
    model.write_bytes(b"\x1c\x00\x00\x00TFL3")
    records: list[str | Path] = ["--threads", "3", "--serial", "local", "--records", tmp_path / "r.sqlite"]
    native: list[str | Path] = ["--runner", write_fake_runner(tmp_path), "--directory", f"{tmp_path}/device"]
    native += ["--affinity", "3"]
    return {
        "a campaign": [*records, "--backbone", write_backbone(tmp_path), "--input-size", "32", "--paths", "K1G1"],
        "on a runner": [*records, *native, "--backbone", write_backbone(tmp_path), "--input-size", "32"],
    }


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("case", ["a campaign", "on a runner"])
def test_the_command_ends_with_one_sentence(
    case: str, words: dict[str, list[str | Path]], cli: Cli, tmp_path: Path
) -> None:
    done = cli("profile-device", *words[case])
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("Error: local: --threads 3 is too many, for ")
    assert not (tmp_path / "r.sqlite").exists()
