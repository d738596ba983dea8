"""Campaigns on real devices, which take their models ahead and in another thread: what is lost, hangs or is ended."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from bpnas.android_bench.device import DeviceOptions
from bpnas.android_bench.errors import DeviceLostError
from bpnas.android_bench.measurement import RunSettings
from bpnas.android_bench.runner.device import NativeDevice
from bpnas.android_bench.serials import connect
from bpnas.profiler import Records, run_campaign
from bpnas.profiler.campaign.records import Plan, Setup
from tests.patience import PATIENCE
from tests.phone.chaos import write_fake_runner
from tests.records_factory import backbone, read_everything, tasks

SETTINGS = RunSettings(warmup_runs=0, warmup_seconds=0, runs=1, seconds=0, timeout_seconds=20)


@pytest.fixture(autouse=True)
def fake_models(monkeypatch):
    """What the fake runner does with a model stands in its file."""
    verbs: dict[str, str] = {}
    monkeypatch.setattr(
        "bpnas.profiler.campaign.model_files.export_part",
        lambda part, runtime: verbs.get(part.key, f"ok:{part.key}").encode(),
    )
    return verbs


@pytest.fixture
def open_phones(tmp_path, start_adbd):
    """So many daemons, and a device on each, which gives up at once when it is lost."""
    runner = write_fake_runner(tmp_path)
    with ExitStack() as stack:

        def start(count):
            daemons = [start_adbd(uid=os.getuid()) for _ in range(count)]
            devices = []
            for daemon in daemons:
                options = DeviceOptions(
                    runner=runner,
                    directory=f"{daemon.directory}/bpnas",
                    affinity="none",
                    keep_governor=True,
                    reconnect_seconds=0.0,
                )
                remote = connect(daemon.serial, str(daemon.directory))
                devices.append(stack.enter_context(NativeDevice(remote, "tflite", options)))
            return daemons, devices

        yield start


def plan_for(device):
    return Plan(Setup(device.info, SETTINGS, 1), (backbone(), backbone(32)), "K1E?G1,K3E?G1", 1)


def campaign(file, devices, **options):
    """Run a campaign; its plan, and its result or the exception in its place."""
    plan = plan_for(devices[0])
    try:
        with Records.write(file) as records:
            return plan, run_campaign(devices, records, plan, **options)
    except BaseException as error:
        return plan, error


def assert_complete(file, plan):
    _, measured, failed = read_everything(file)
    assert failed == []
    assert Counter((one.key, one.session) for _, one in measured) == Counter(tasks(plan))
    for _, one in measured:  # each part has its own samples
        assert one.samples_ns == (1000 + len(f"ok:{one.key}"),) * 3


def test_phones_share_the_work(tmp_path, open_phones):
    daemons, devices = open_phones(2)
    plan, result = campaign(tmp_path / "r.sqlite", devices)
    assert result.is_complete and result.lost == ()
    assert_complete(tmp_path / "r.sqlite", plan)
    serials = Counter(one.conditions["before"]["serial"] for _, one in read_everything(tmp_path / "r.sqlite")[1])
    assert serials.keys() == {daemon.serial for daemon in daemons}
    assert not list(tmp_path.glob(".r.sqlite.models"))


def test_what_a_killed_phone_had_taken_is_measured_by_the_other(tmp_path, open_phones):
    daemons, devices = open_phones(2)

    def kill(progress):
        if progress.measured == 5:
            daemons[0].kill()

    plan, result = campaign(
        tmp_path / "r.sqlite", devices, serials=[daemon.serial for daemon in daemons], on_progress=kill
    )
    assert result.is_complete, result
    assert_complete(tmp_path / "r.sqlite", plan)
    if result.lost:  # else all it had taken was answered before it was killed
        (sentence,) = result.lost
        assert sentence.startswith(daemons[0].serial)


def test_a_single_phone_that_is_killed_ends_it_and_the_next_call_goes_on(tmp_path, open_phones):
    daemons, devices = open_phones(1)

    def kill(progress):
        if progress.measured == 5:
            daemons[0].kill()

    plan, error = campaign(tmp_path / "r.sqlite", devices, on_progress=kill)
    assert isinstance(error, DeviceLostError)
    assert len(read_everything(tmp_path / "r.sqlite")[1]) >= 5
    _, others = open_phones(1)
    assert campaign(tmp_path / "r.sqlite", others)[1].is_complete
    assert_complete(tmp_path / "r.sqlite", plan)


@pytest.mark.parametrize("count", [1, 2])
def test_ctrl_c_ends_phones_in_mid_work_and_keeps_what_came(tmp_path, open_phones, count):
    _, devices = open_phones(count)

    def interrupt(progress):
        if progress.measured == 5:
            raise KeyboardInterrupt

    plan, error = campaign(tmp_path / "r.sqlite", devices, on_progress=interrupt)
    assert isinstance(error, KeyboardInterrupt)
    kept = len(read_everything(tmp_path / "r.sqlite")[1])
    assert 5 <= kept < len(tasks(plan))
    assert campaign(tmp_path / "r.sqlite", devices)[1].is_complete  # and the devices can be used on
    assert_complete(tmp_path / "r.sqlite", plan)


def test_a_model_that_hangs_on_one_phone_does_not_keep_it_from_ending(tmp_path, open_phones, fake_models, monkeypatch):
    monkeypatch.setattr("bpnas.profiler.campaign.device_workers._PATIENCE_SECONDS", 0.5)
    daemons, devices = open_phones(2)
    fake_models.update((key, "hang") for key, _ in tasks(plan_for(devices[0])))
    timer = threading.Timer(1.0, os.kill, (os.getpid(), 2))
    timer.start()
    _, error = campaign(tmp_path / "r.sqlite", devices)
    timer.join()
    assert isinstance(error, KeyboardInterrupt)
    for device in devices:
        device.close()  # ends what is still running there
    for thread in threading.enumerate():
        if thread.name.startswith("bpnas device"):
            thread.join(PATIENCE)
            assert not thread.is_alive()
    for daemon in daemons:
        assert [path.name.partition("-")[0] for path in Path(daemon.directory, "bpnas").iterdir()] == ["bundle"]
