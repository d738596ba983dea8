"""Hosts that are ended in mid-campaign, politely or not: records are kept, the phone is clean and as it was."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.phone.chaos import (
    check_clean,
    check_numbers,
    check_records,
    count_measured,
    leftovers,
    model_contents,
    part_keys,
    start_host,
    write_backbone,
    write_fake_runner,
)
from tests.phone.daemon import Adbd, wait_until
from tests.phone.fixtures import StartAdbd

Start = Callable[..., "subprocess.Popen[str]"]
GOVERNORS = "devices/system/cpu/cpu{}/cpufreq/scaling_governor"


@pytest.fixture
def contents(tmp_path: Path) -> dict[str, str]:
    return model_contents(part_keys(write_backbone(tmp_path)), seconds=0.05)


@pytest.fixture
def start(tmp_path: Path, contents: dict[str, str]) -> Iterator[Start]:
    """Start `profile-device` on a daemon."""
    hosts = []
    runner = write_fake_runner(tmp_path)

    def begin(daemon: Adbd, *options: str) -> subprocess.Popen[str]:
        hosts.append(start_host(tmp_path, daemon, contents, "--runner", runner, *options))
        return hosts[-1]

    yield begin
    for host in hosts:
        host.kill()
        host.communicate()


def governors(daemon: Adbd) -> set[str]:
    cores = daemon.root.glob("sys/devices/system/cpu/cpu[0-9]*")
    return {daemon.identity.sys(GOVERNORS.format(core.name.removeprefix("cpu"))) for core in cores}


def wait_for_records(folder: Path, count: int) -> None:
    wait_until(lambda: count_measured(folder / "r.sqlite") >= count)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_restores_and_cleans_the_phone_and_goes_on_later(
    number: signal.Signals, start: Start, start_adbd: StartAdbd, contents: dict[str, str], tmp_path: Path
) -> None:
    phone = start_adbd(uid=0, mounts=True)
    before = governors(phone)
    host = start(phone)
    wait_for_records(tmp_path, 12)
    during = governors(phone)
    host.send_signal(number)
    out, err = host.communicate(timeout=PATIENCE)
    assert host.returncode == 128 + number, (out, err)
    assert err.splitlines()[-1] == ("Error: interrupted; what was done is kept, call the same command again to resume")
    assert "Traceback" not in err
    assert 0 < check_numbers(tmp_path / "r.sqlite", contents) < len(contents)
    assert leftovers(phone) == []  # at once, for the command did it and not the phone
    assert (during, governors(phone)) == ({"performance"}, before)
    again = start(phone)
    out, err = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, (out, err)
    check_records(tmp_path / "r.sqlite", contents)
    check_clean(phone)
    assert governors(phone) == before


def test_a_command_that_is_killed_leaves_no_trace_on_the_phone_and_goes_on_later(
    start: Start, start_adbd: StartAdbd, contents: dict[str, str], tmp_path: Path
) -> None:
    phone = start_adbd(uid=0, mounts=True)
    before = governors(phone)
    host = start(phone)
    wait_for_records(tmp_path, 12)
    host.kill()
    host.communicate()
    assert 0 < check_numbers(tmp_path / "r.sqlite", contents) < len(contents)
    check_clean(phone)
    wait_until(lambda: governors(phone) == before)
    again = start(phone)
    out, err = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, (out, err)
    check_records(tmp_path / "r.sqlite", contents)
    check_clean(phone)
    assert not (tmp_path / ".r.sqlite.models").exists()


def test_a_command_that_is_killed_and_called_again_at_once_waits_for_the_phone(
    start: Start, start_adbd: StartAdbd, contents: dict[str, str], tmp_path: Path
) -> None:
    phone = start_adbd(uid=os.getuid())
    for count in (5, 12):
        host = start(phone)
        wait_for_records(tmp_path, count)
        host.kill()
        host.communicate()
    last = start(phone)
    out, err = last.communicate(timeout=PATIENCE)
    assert last.returncode == 0, (out, err)
    check_records(tmp_path / "r.sqlite", contents)
    check_clean(phone)
