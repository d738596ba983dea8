"""Phones that are killed, stopped, cut off or pulled out in use: what was measured is kept, the rest follows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from importlib import import_module

import pytest

from bpnas.android_bench.adb.connection import AdbConnection
from bpnas.android_bench.errors import DeviceLostError, UnknownSerialError
from bpnas.android_bench.serials import _connect_adb
from bpnas.profiler.campaign.run import Progress
from tests.patience import PATIENCE
from tests.phone.adb_client import AdbServer
from tests.phone.bench import Bench, at
from tests.phone.chaos import (
    check_clean,
    check_numbers,
    model_contents,
    pushing,
    running,
    sabotage,
)
from tests.phone.daemon import Adbd
from tests.phone.fixtures import StartAdbd
from tests.phone.proxy import Proxy

BIG = 40 << 20

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def phone(start_adbd: StartAdbd) -> Adbd:
    """With this user's own rights, for the fake runner is a script of this Python."""
    return start_adbd(uid=os.getuid())


def restart(daemon: Adbd) -> None:
    daemon.kill()
    time.sleep(0.3)
    daemon.restart()


def pause(daemon: Adbd) -> None:
    daemon.stop()
    time.sleep(2.0)  # long enough to be noticed by most; nothing is wrong where it is not
    daemon.cont()


MOMENTS = ("push", "shell", "stream")


def moment_of(name: str, daemon: Adbd, bench: Bench) -> Callable[[], bool]:
    """Prepare for that moment, and tell when it is there."""
    if name == "push":
        bench.contents[bench.keys[5]] = f"ok:{'x' * BIG}"
        return lambda: pushing(daemon)
    if name == "shell":
        dumpsys = daemon.root / "system/bin/dumpsys"
        quick = dumpsys.read_text()
        dumpsys.write_text(quick.replace("\n", "\nsleep 0.2\n", 1))
        return lambda: running(daemon, "dumpsys battery")
    bench.contents = model_contents(bench.keys, seconds=0.02)
    return lambda: bench.measured >= 3


@pytest.mark.parametrize("fault", [restart, pause], ids=["killed", "stopped"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_daemon_that_is_lost_and_comes_back_costs_nothing(
    moment: str, fault: Callable[[Adbd], None], bench: Bench, phone: Adbd
) -> None:
    device = bench.open(phone)
    with sabotage(moment_of(moment, phone, bench), lambda: fault(phone)):
        result = bench.run(device)
    assert result.is_complete
    bench.check()
    device.close()
    check_clean(phone)


@pytest.mark.parametrize("fault", [Adbd.kill, Adbd.stop], ids=["killed", "stopped"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_daemon_that_does_not_come_back_ends_it_and_what_came_is_kept(
    moment: str, fault: Callable[[Adbd], None], bench: Bench, phone: Adbd
) -> None:
    device = bench.open(phone, reconnect_seconds=1.0)
    with (
        sabotage(moment_of(moment, phone, bench), lambda: fault(phone)),
        pytest.raises(DeviceLostError, match=r"not back within 1 s .*call the same command again"),
    ):
        bench.run(device)
    kept = check_numbers(bench.file, bench.contents)
    began = time.monotonic()
    device.close()
    assert time.monotonic() - began < PATIENCE  # of which a person would say that it hangs
    if fault is Adbd.stop:
        phone.cont()
    else:
        phone.restart()
    again = bench.open(phone)
    result = bench.run(again)
    assert (result.is_complete, result.measured) == (True, len(bench.keys) - kept)
    bench.check()
    again.close()
    check_clean(phone)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_connection_that_is_reset_costs_nothing(moment: str, bench: Bench, phone: Adbd) -> None:
    with closing(Proxy(phone.port)) as proxy:
        device = bench.open(phone, proxy.serial)
        with sabotage(moment_of(moment, phone, bench), proxy.reset):
            result = bench.run(device)
        assert result.is_complete
        bench.check()
        device.close()
    check_clean(phone)


def test_a_device_that_is_lost_again_and_again(bench: Bench, phone: Adbd) -> None:
    bench.contents = model_contents(bench.keys, seconds=0.02)
    device = bench.open(phone)

    def lose(now: Progress) -> None:
        if now.measured in (2, 3, 4, 20, 40) and now.measured not in lost:
            lost.append(now.measured)
            phone.restart()

    lost: list[int] = []
    assert bench.run(device, on_progress=lose).is_complete
    assert lost == [2, 3, 4, 20, 40]
    bench.check()


@pytest.mark.slow  # the server takes its time until it looks for the daemon again
@pytest.mark.parametrize("fault", [restart, pause], ids=["killed", "stopped"])
def test_a_daemon_behind_an_adb_server_that_comes_back_costs_nothing(
    fault: Callable[[Adbd], None],
    bench: Bench,
    phone: Adbd,
    adb_server: AdbServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bpnas.android_bench.adb.server._ANSWER_SECONDS", 1.0)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))
    adb_server.connect(phone.serial)
    device = bench.open(phone)
    with sabotage(moment_of("stream", phone, bench), lambda: fault(phone)):
        assert bench.run(device).is_complete
    bench.check()
    device.close()
    check_clean(phone)


def test_an_adb_server_that_ends_is_done_without(
    bench: Bench, phone: Adbd, adb_server: AdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))
    adb_server.connect(phone.serial)
    device = bench.open(phone)
    with sabotage(moment_of("stream", phone, bench), adb_server.close):
        assert bench.run(device).is_complete
    bench.check()
    device.close()
    check_clean(phone)


def test_a_cable_that_is_out_for_a_while_costs_nothing(
    bench: Bench, phone: Adbd, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = 0

    def attach(serial: str) -> AdbConnection:
        nonlocal missing
        missing -= 1
        if missing > 0:
            raise UnknownSerialError(f"no device answers to serial {serial!r}")
        return _connect_adb(phone.serial)

    def pull_out() -> None:
        nonlocal missing
        missing = 3
        phone.restart()

    monkeypatch.setattr("bpnas.android_bench.serials._connect_adb", attach)
    bench.contents = model_contents(bench.keys, seconds=0.02)
    device = bench.open(phone, "R58M123")
    assert bench.run(device, on_progress=at(5, pull_out)).is_complete
    assert missing <= 0
    bench.check()


@pytest.mark.parametrize("losses", [1, 2])
@pytest.mark.parametrize(
    "place", ["serials._connect_adb", "runner.held_device.read_facts"], ids=["connection", "question"]
)
def test_a_device_that_is_lost_while_it_is_opened_is_tried_once_more(
    place: str, losses: int, bench: Bench, phone: Adbd, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"bpnas.android_bench.{place}"
    module, _, function = name.rpartition(".")
    real, left = getattr(import_module(module), function), [DeviceLostError("reset by peer")] * losses

    def lose(*arguments: object) -> object:
        if left:
            raise left.pop()
        return real(*arguments)

    monkeypatch.setattr(name, lose)
    if losses == 2:
        with pytest.raises(DeviceLostError, match="reset by peer"):
            bench.open(phone)
    device = bench.open(phone)
    assert bench.run(device).is_complete
    device.close()
    check_clean(phone)


@pytest.mark.parametrize("fault", [Adbd.kill, Adbd.stop], ids=["killed", "stopped"])
def test_a_program_that_arrived_by_half_is_taken_away(fault: Callable[[Adbd], None], bench: Bench, phone: Adbd) -> None:
    small = bench.runner.read_bytes()
    bench.runner.write_bytes(small + b"#" * BIG)
    with sabotage(lambda: pushing(phone), lambda: fault(phone)), pytest.raises(DeviceLostError):
        bench.open(phone)
    phone.restart()
    device = bench.open(phone)
    assert bench.run(device).is_complete
    device.close()
    check_clean(phone)


def test_the_work_of_a_phone_that_falls_silent_is_done_by_the_other(bench: Bench, start_adbd: StartAdbd) -> None:
    bench.contents = model_contents(bench.keys, seconds=0.02)
    phones = [start_adbd(uid=os.getuid()) for _ in range(2)]
    devices = [bench.open(each, reconnect_seconds=1.0) for each in phones]
    result = bench.run(*devices, on_progress=at(5, phones[0].stop))
    assert result.is_complete
    (sentence,) = result.lost
    assert "not back within 1 s" in sentence
    bench.check()
    phones[0].cont()
    for phone, device in zip(phones, devices, strict=True):
        device.close()
        check_clean(phone)
