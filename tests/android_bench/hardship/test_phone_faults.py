"""Models that misbehave, and phones that are full, locked, another one: named, and the rest is measured."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bpnas.android_bench.errors import DeviceChangedError, DeviceError, DeviceSpaceError
from bpnas.android_bench.measurement import Measurement
from tests.phone.bench import SETTINGS, Bench, at
from tests.phone.chaos import (
    check_clean,
    check_numbers,
    disk_of,
    fill_disk,
    model_contents,
    mount_again,
    sabotage,
    state,
    write_requests,
)
from tests.phone.daemon import Adbd, connections, wait_until
from tests.phone.fixtures import StartAdbd

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def phone(start_adbd: StartAdbd) -> Adbd:
    """With this user's own rights, for the fake runner is a script of this Python."""
    return start_adbd(uid=os.getuid())


# --- models


def test_models_that_crash_hang_or_talk_are_named_and_the_rest_is_measured(bench: Bench, phone: Adbd) -> None:
    bad = {
        "signal:11": ("crash", "signal 11"),
        "signal:6": ("crash", "signal 6"),
        "signal:9": ("crash", "out of memory"),
        "crash:1": ("crash", "exit code 1"),
        "timeout": ("timeout", "2 s"),
        "hang": ("invalid", "no outcome for"),
        "refuse": ("refused", "no such operator"),
        "only:\\x00\\x00\\n": ("invalid", "did not arrive whole"),
        f"long:{20 << 20}": ("invalid", "a line of more than 16 MiB"),
        f"long:{10 << 20}": ("invalid", "more than 4 MiB"),
        "flood": ("invalid", "MiB"),
        "lines": ("invalid", "MiB"),
        "begins": ("invalid", "lines and no outcome"),
        "flip": ("invalid", "did not arrive whole"),
        "other": ("invalid", "did not arrive whole"),
        # Whatever the model after it says becomes the rest of the line: it must be one that answers.
        "only:half a li": ("invalid", "half a li"),
    }
    culprits = dict(zip(bench.keys[::2], bad, strict=False))
    bench.contents |= culprits
    bench.contents[bench.keys[1]] = "raw:\\x00\\x01\\x1b[2J{}[[[\\n"
    bench.contents[bench.keys[3]] = f"long:{3 << 20}"  # a runtime may talk
    device = bench.open(phone)
    result = bench.run(device)
    assert {failure.key for failure in result.failures} == set(culprits)
    for failure in result.failures:
        kind, says = bad[culprits[failure.key]]
        assert (failure.kind, says in failure.message) == (kind, True), (culprits[failure.key], failure)
        assert failure.message.isprintable() and len(failure.message) < 500
    bench.check(*culprits)
    device.close()
    check_clean(phone)


def wait_until_given_up(phone: Adbd) -> None:
    """Until its client has closed the connection; it is stopped."""
    before = connections(phone.port)
    wait_until(lambda: connections(phone.port) != before, pause_seconds=0.05)  # for a look takes the kernel long


@contextmanager
def mended(phone: Adbd) -> Iterator[None]:
    """A daemon that is killed is started again, one that is stopped goes on once it is given up."""
    over = threading.Event()

    def mend() -> None:
        while not over.wait(0.02):
            if state(phone) == "Z":
                phone.restart()
            elif state(phone) == "T":
                wait_until_given_up(phone)
                phone.cont()

    with sabotage(lambda: True, mend):
        try:
            yield
        finally:
            over.set()


@pytest.mark.parametrize("signal", [9, 19], ids=["killed", "stopped"])
def test_a_model_that_takes_the_daemon_with_it_every_time_is_given_up(signal: int, bench: Bench, phone: Adbd) -> None:
    culprit = bench.keys[5]
    bench.contents[culprit] = f"daemon:{signal}"
    device = bench.open(phone)
    with mended(phone):
        result = bench.run(device)
    (failure,) = result.failures
    assert (failure.key, failure.kind) == (culprit, "crash")
    assert "lost" in failure.message and "while this model ran" in failure.message
    bench.check(culprit)
    device.close()
    check_clean(phone)


def test_the_model_before_such_a_one_is_not_blamed(bench: Bench, phone: Adbd, tmp_path: Path) -> None:
    """Its answer is lost with the connection every time that both are in one process."""
    contents = ["ok:", "ok:x", "ambush:9", "ok:xxx"]
    device = bench.open(phone)
    with mended(phone):
        outcomes = list(device.run(write_requests(tmp_path, contents), SETTINGS))
    assert [o.samples_ns[0] if isinstance(o, Measurement) else o.kind for o in outcomes] == [1003, 1004, "crash", 1006]


# --- the device itself


def test_a_batch_that_fits_only_once_the_one_before_is_gone(bench: Bench, start_adbd: StartAdbd) -> None:
    phone = start_adbd(uid=os.getuid(), disk_bytes=8 << 20)
    bench.contents = {key: f"ok:{'x' * (200_000 + index)}" for index, key in enumerate(bench.keys)}
    device = bench.open(phone)
    assert bench.run(device).is_complete
    bench.check()
    device.close()
    check_clean(phone)


def test_a_full_device_ends_it_and_what_came_is_kept(bench: Bench, start_adbd: StartAdbd) -> None:
    phone = start_adbd(uid=os.getuid(), disk_bytes=12 << 20)
    bench.contents = {key: f"ok:{'x' * (200_000 + index)}" for index, key in enumerate(bench.keys)}
    device = bench.open(phone)
    film = disk_of(phone) / "film"
    film.write_bytes(bytes(9 << 20))
    with pytest.raises(DeviceSpaceError, match=r"no space left on the device for .*; free some and try again"):
        bench.run(device)
    assert 0 < check_numbers(bench.file, bench.contents) < len(bench.keys)
    film.unlink()
    assert bench.run(device).is_complete
    bench.check()
    device.close()
    check_clean(phone)


def test_a_device_that_is_full_from_the_beginning_is_left_as_it_was(bench: Bench, start_adbd: StartAdbd) -> None:
    phone = start_adbd(uid=os.getuid(), disk_bytes=1 << 20)
    film = fill_disk(phone)
    with pytest.raises(DeviceError, match="cannot be written"):
        bench.open(phone)
    film.unlink()
    check_clean(phone)


def test_a_device_that_may_not_be_written_any_more_is_named(bench: Bench, start_adbd: StartAdbd) -> None:
    phone = start_adbd(uid=os.getuid(), disk_bytes=8 << 20)
    device = bench.open(phone)
    with pytest.raises(DeviceError, match=rf"{phone.directory}.*Read-only file system"):
        bench.run(device, on_progress=at(0, lambda: mount_again(phone, "ro")))
    mount_again(phone, "rw")
    assert bench.run(device).is_complete
    bench.check()
    device.close()
    check_clean(phone)


@pytest.mark.parametrize(("options", "what"), [("ro", "written"), ("noexec", "run")])
def test_a_place_where_nothing_can_be_written_or_run_is_named(
    options: str, what: str, bench: Bench, start_adbd: StartAdbd
) -> None:
    phone = start_adbd(uid=os.getuid(), disk_bytes=8 << 20)
    mount_again(phone, options)
    with pytest.raises(DeviceError, match=rf"files in {phone.directory}/bpnas cannot be {what}"):
        bench.open(phone)
    check_clean(phone)


def test_another_device_in_its_place_is_not_measured(bench: Bench, phone: Adbd) -> None:
    bench.contents = model_contents(bench.keys, seconds=0.02)
    device = bench.open(phone)

    def update() -> None:
        phone.identity.set_property("ro.build.fingerprint", "samsung/another/build")
        phone.restart()

    with pytest.raises(DeviceChangedError, match=r"another device came back in its place .*samsung/another/build"):
        bench.run(device, on_progress=at(3, update))
    kept = check_numbers(bench.file, bench.contents)
    device.close()
    check_clean(phone)
    phone.identity.reset()
    again = bench.open(phone)
    assert bench.run(again).measured == len(bench.keys) - kept
    bench.check()


def test_a_wall_clock_that_jumps_changes_nothing(bench: Bench, phone: Adbd, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    jumps = itertools.cycle([0.0, 4e9, -now, 3600.0, -86_400.0])
    monkeypatch.setattr(time, "time", lambda: now + next(jumps))
    device = bench.open(phone)
    assert bench.run(device).is_complete
    bench.check()
