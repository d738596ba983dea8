"""Phones that mean harm, or are out of their minds: bounded in time and memory, and nothing they say is ever run."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from bpnas.android_bench.device import DeviceOptions
from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.measurement import Failure, Measurement, Outcome, RunSettings
from bpnas.android_bench.remote import FileToPush
from bpnas.android_bench.runner.device import NativeDevice
from bpnas.android_bench.serials import connect
from tests.patience import PATIENCE, slowness
from tests.phone.chaos import check_clean, disk_of, impatience, write_fake_runner, write_requests
from tests.phone.daemon import Adbd
from tests.phone.fixtures import StartAdbd
from tests.phone.hostile import HostileDaemon, packet, shell_frame

SETTINGS = RunSettings(warmup_runs=0, warmup_seconds=0, runs=1, seconds=0, timeout_seconds=2)
MEMORY_BYTES = 64 << 20
"""What a hostile device may make us hold; what it sends is more."""

Open = Callable[..., NativeDevice]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (impatience() | {"adb.remote._SYNC_SECONDS": 2.0 * slowness()}).items():
        monkeypatch.setattr(f"bpnas.android_bench.{name}", seconds)


@pytest.fixture
def bounded() -> Iterator[None]:
    """The test is over soon, and never held much."""
    tracemalloc.start()
    began = time.monotonic()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEMORY_BYTES
    assert time.monotonic() - began < PATIENCE


# --- the protocol


def endless(data: bytes) -> Iterable[bytes]:
    return itertools.repeat(data)


HUGE = 0xFFFF_FFFF
ANSWERS: dict[str, Callable[[str], Iterable[bytes]]] = {
    "output without end": lambda service: endless(shell_frame(1, b"x" * 60_000)),
    "one frame without end": lambda service: [shell_frame(1, b"", HUGE), *[b"x" * 65_000] * 100],
    "errors without end": lambda service: endless(shell_frame(2, b"x" * 60_000)),
    "frames of no known kind": lambda service: endless(shell_frame(99, b"x" * 60_000)),
    "empty frames": lambda service: endless(shell_frame(1, b"") * 10_000),
    "packets without content": lambda service: endless(b""),
    "half a frame": lambda service: [shell_frame(1, b"x", 2)],
    "nothing": lambda service: [],
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_a_shell_that_answers_nonsense_is_given_up(answer: Callable[[str], Iterable[bytes]], bounded: None) -> None:
    with closing(HostileDaemon(answer)) as daemon, closing(connect(daemon.serial)) as remote:
        with pytest.raises(DeviceError) as caught:
            remote.shell("true", timeout_seconds=3.0)
        assert str(caught.value).isprintable()


SYNC: dict[str, Iterable[bytes]] = {
    "a chunk of 4 GB": [struct.pack("<4sI", b"DATA", HUGE)],
    "a complaint of 4 GB": [struct.pack("<4sI", b"FAIL", HUGE) + b"\x1b[2J" * 5000],
    "chunks without end": endless(struct.pack("<4sI", b"DATA", 1 << 16) + bytes(1 << 16)),
    "no such answer": [b"NOPE" + bytes(4)],
    "nothing": [],
    "another name": [b"DENT" + struct.pack("<IIII", 0, 0, 0, 9) + b"../../etc"],
}


@pytest.mark.parametrize("answer", SYNC.values(), ids=SYNC.keys())
def test_a_file_service_that_answers_nonsense_is_given_up(answer: Iterable[bytes], bounded: None) -> None:
    with (
        closing(HostileDaemon(lambda service: answer if service == "sync:" else [shell_frame(3, b"\0")])) as daemon,
        closing(connect(daemon.serial)) as remote,
    ):
        with pytest.raises(DeviceError) as caught:
            remote.pull("/data/file", 1 << 20)
        assert str(caught.value).isprintable()
        remote.reconnect()
        with pytest.raises(DeviceError) as caught:
            remote.push([FileToPush(b"content", "/data/file")])
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "greeting",
    [
        b"\xff" * 100_000,
        packet(b"WRTE", 1, 1, b"x" * 1000) * 1000,
        packet(b"WRTE", 0, 0)[:12] + struct.pack("<III", HUGE, 0, 0),
        packet(b"OPEN", 7, 0, b"tcp:22\0") * 100,
        packet(b"AUTH", 1, 0, bytes(20)) * 100,
    ],
    ids=["noise", "data for nobody", "a packet of 4 GB", "wishes of its own", "authorisation out of turn"],
)
def test_packets_out_of_turn_are_dropped_or_end_the_connection(greeting: bytes, bounded: None) -> None:
    def answer(service: str) -> Iterable[bytes]:
        return [shell_frame(1, b"fine"), shell_frame(3, b"\0")]

    with (
        closing(HostileDaemon(answer, greeting=greeting)) as daemon,
        closing(connect(daemon.serial)) as remote,
        suppress(DeviceLostError),
    ):
        assert remote.shell("true").text == "fine"


def test_a_banner_of_a_megabyte(bounded: None) -> None:
    banner = b"device::features=" + b"shell_v2," * 110_000
    with (
        closing(HostileDaemon(lambda service: [shell_frame(3, b"\7")], banner)) as daemon,
        closing(connect(daemon.serial)) as remote,
    ):
        assert remote.shell("true").exit_code == 7


# --- what it says of itself


@pytest.fixture
def phone(start_adbd: StartAdbd) -> Adbd:
    """Whoever runs `reboot` there leaves a trace."""
    adbd = start_adbd(uid=os.getuid(), mounts=True)
    reboot = adbd.root / "system/bin/reboot"
    reboot.write_text(f'#!/bin/sh\necho "$0 $*" >> {adbd.root}/rebooted\n')
    reboot.chmod(0o755)
    return adbd


@pytest.fixture
def open_phone(phone: Adbd, tmp_path: Path) -> Iterator[Open]:
    opened = []

    def serve(**options: object) -> NativeDevice:
        chosen = {"runner": write_fake_runner(tmp_path), "directory": f"{phone.directory}/bpnas", "affinity": "none"}
        remote = connect(phone.serial, phone.directory)
        opened.append(NativeDevice(remote, "tflite", DeviceOptions(**chosen | options)))  # type: ignore[arg-type]
        return opened[-1]

    yield serve
    for device in opened:
        device.close()
    check_clean(phone)
    assert not (phone.root / "rebooted").exists()


def time_models(device: NativeDevice, folder: Path, *contents: str) -> list[Outcome]:
    return list(device.run(write_requests(folder, contents), SETTINGS))


def test_what_is_run_there_would_leave_a_trace(phone: Adbd) -> None:
    with closing(connect(phone.serial, phone.directory)) as remote:
        remote.shell("echo $(reboot)")
    assert (phone.root / "rebooted").exists()


EVIL = [
    "$(reboot)",
    "`reboot`",
    "; reboot;",
    "' ; reboot ; '",
    '" ; reboot ; "',
    "\x1b]0;owned\x07\x1b[2J",
    "../../../../etc/passwd",
    "a\x00b\x7f\x9b\u202e",
    "x" * 100_000,
]


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_names_are_never_run_nor_shown_as_they_are(text: str, phone: Adbd, open_phone: Open, tmp_path: Path) -> None:
    for name in ("manufacturer", "model", "device"):
        phone.identity.set_property(f"ro.product.{name}", text)
    for name in ("ro.board.platform", "ro.hardware", "ro.build.version.release", "ro.build.fingerprint"):
        phone.identity.set_property(name, text)
    for file in ("class/thermal/thermal_zone0/type", "devices/system/cpu/cpu0/cpufreq/scaling_governor"):
        phone.identity.set_sys(file, text)
    phone.identity.set_service("battery", f"  level: {text}\n  {text}: 5\n  AC powered: {text}\n")
    phone.identity.set_service("power", f"mWakefulness={text}\nDisplay Power: state={text}\n")
    device = open_phone(keep_governor=False)
    info = device.info
    assert info.to_json().isprintable() and len(info.to_json()) < 3000
    assert info.name and set(info.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and len(info.name) <= 40
    (outcome,) = time_models(device, tmp_path, "ok:abc")
    assert isinstance(outcome, Measurement) and outcome.samples_ns == (1006,) * 3
    assert all(isinstance(v, float) or v.isprintable() for v in outcome.conditions["before"].values())


def test_a_property_of_more_than_a_megabyte_ends_it(phone: Adbd, open_phone: Open, bounded: None) -> None:
    phone.identity.set_property("ro.product.model", "x" * (3 << 19))
    with pytest.raises(DeviceError, match="printed more than 1048576 bytes"):
        open_phone()


def test_files_that_lie_on_the_device_are_never_run(phone: Adbd, open_phone: Open, tmp_path: Path) -> None:
    base = disk_of(phone) / "bpnas"
    precious = disk_of(phone) / "precious"
    precious.mkdir(parents=True)
    odd = ("bundle-$(reboot)", "bundle-; reboot", "bundle- x *", "run-$(reboot)", "run-`reboot` ' \" ;", "run--rf")
    for name in (*odd, f"run-{'a' * 16}", f"bundle-$(reboot)-{'b' * 16}", f"bundle-; reboot;-{'c' * 16}"):
        (base / name).mkdir(parents=True)
        (base / name / "holder").write_text("1; reboot\n")
        (base / name / "runner").write_text("-1 $(reboot)\n")
    link, other = base / f"run-{'d' * 16}", base / f"run-{'e' * 16}"
    link.symlink_to(precious)
    other.mkdir()
    (other / "runner").write_text(f"{os.getpid()}\n")  # alive, and none of ours
    (outcome,) = time_models(open_phone(), tmp_path, "ok:abc")
    assert isinstance(outcome, Measurement)
    assert precious.is_dir()
    # What bpnas has not named is not its to remove.
    assert {path.name for path in base.iterdir() if not path.name.startswith("bundle-own-")} >= {*odd, link.name}
    for name in odd:
        shutil.rmtree(base / name)
    link.unlink()
    precious.rmdir()


def signed(**values: object) -> str:
    """A line with the right checksum, as the model's file has it for the fake runner."""
    body = json.dumps(values, separators=(",", ":"))[:-1]
    line = f'{body},"crc32":"{zlib.crc32(body.encode()):08x}"}}\n'
    return line.encode("unicode_escape").decode().replace('\\"', '"')


GOOD = {"model": 1, "id": "1", "samples_ns": [5], "repeats": 1, "warmup_runs": 0, "warmup_ns": 0, "load_ns": 0}
EMPTY: dict[str, dict[str, float]] = {"before": {}, "after": {}}
TRUE = GOOD | EMPTY
LIES = {
    "a number beyond all numbers": TRUE | {"samples_ns": [10**400]},
    "a number too large": TRUE | {"samples_ns": [2**53]},
    "no time at all": TRUE | {"samples_ns": [0]},
    "time that runs backwards": TRUE | {"samples_ns": [-5]},
    "a fraction": TRUE | {"samples_ns": [5.5]},
    "infinity": TRUE | {"samples_ns": [float("inf")]},
    "no number": TRUE | {"samples_ns": [float("nan")]},
    "words": TRUE | {"samples_ns": ["5"]},
    "true": TRUE | {"samples_ns": [True]},
    "no samples": TRUE | {"samples_ns": []},
    "an object": TRUE | {"samples_ns": {"5": 5}},
    "nothing repeated": TRUE | {"repeats": 0},
    "too much told": GOOD | {"before": {str(n): 1.0 for n in range(1000)}, "after": {}},
    "no conditions": GOOD,
    "someone else's number": TRUE | {"model": 10**30},
    "someone else's name": TRUE | {"id": "../1"},
}


def test_an_answer_that_can_be_true_is_believed(open_phone: Open, tmp_path: Path) -> None:
    outcomes = time_models(open_phone(), tmp_path, "ok:a", f"only:{signed(**TRUE)}")
    assert [o.samples_ns for o in outcomes if isinstance(o, Measurement)] == [(1004,) * 3, (5,)]


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_an_answer_that_cannot_be_true_is_not_believed(
    lie: dict[str, object], open_phone: Open, tmp_path: Path
) -> None:
    outcomes = time_models(open_phone(), tmp_path, "ok:a", f"only:{signed(**lie)}", "ok:abc")
    assert [o.samples_ns for o in outcomes if isinstance(o, Measurement)] == [(1004,) * 3, (1006,) * 3]
    (failure,) = [o for o in outcomes if isinstance(o, Failure)]
    assert (failure.key, failure.kind) == ("part-1", "invalid")
    assert failure.message.isprintable() and len(failure.message) < 500


def test_what_a_runtime_says_is_shown_in_one_clean_line(open_phone: Open, tmp_path: Path) -> None:
    refused = signed(model=0, id="0", refused="\x1b[2J$(reboot)\n" * 10_000)
    (failure,) = time_models(open_phone(), tmp_path, f"only:{refused}")
    assert isinstance(failure, Failure) and failure.kind == "refused"
    assert failure.message.isprintable() and "$(reboot)" in failure.message and len(failure.message) <= 500
