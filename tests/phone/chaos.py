"""Faults on purpose, and what must hold whatever happened: no record lost, none doubled, no number of another model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bpnas.android_bench.measurement import RunRequest
from bpnas.profiler import Backbone
from bpnas.profiler.paths import HEAD_CLASSES, enumerate_parts, head_parts, select_paths
from tests.patience import PATIENCE, slowness
from tests.phone.daemon import Adbd, wait_until
from tests.records_factory import read_everything

PATHS = "K1E?G1"
SIZES = (16, 32)
_IMPATIENT = {
    "adb.connection._IDLE_SECONDS": 1.0,
    "adb.remote._SILENCE_SECONDS": 0.5,
    "runner.session._SLICE_SECONDS": 0.5,
    "runner.session._GRACE_SECONDS": 0.5,
    "runner.device._COOL_SECONDS": 0.0,
    "runner.held_device._SHORTEST_DELAY_SECONDS": 0.1,
    "runner.held_device._LONGEST_DELAY_SECONDS": 1.0,
}


def impatience() -> dict[str, float]:
    """Constants of bpnas.android_bench with which silence is noticed after a second, not after half a minute, and who
    was lost is looked for soon; later where the machine is busy.
    """
    times = slowness()
    return {name: seconds * times for name, seconds in _IMPATIENT.items()}


_TO_STAY = re.compile(r"bpnas[^/]*(/bundle-.*)?")  # of what is on a device

# A daemon ends with the thread that started it: this one stays.
_saboteur = ThreadPoolExecutor(1, thread_name_prefix="saboteur")
_BACKBONE = """
name = "tiny"
stages = [{ channels = 8, blocks = 2, stride = 1 }, { channels = 16, blocks = 1, stride = 2 }]
[stem]
channels = 8
stride = 1
[head]
channels = 16
"""


def write_fake_runner(folder: Path) -> Path:
    """`fake_runner.py` as a program."""
    path = folder / "fake-runner"
    path.write_text(f"#!{sys.executable}\n{Path(__file__).with_name('fake_runner.py').read_text()}")
    return path


def write_backbone(folder: Path) -> Path:
    """A backbone with few parts."""
    path = folder / "tiny.toml"
    path.write_text(_BACKBONE)
    return path


def part_keys(backbone: Path, paths: str = PATHS) -> list[str]:
    """Of all parts of that backbone, at all `SIZES`, as `profile-device` plans them."""
    backbones = tuple(Backbone.load(backbone, size) for size in SIZES)
    heads = [head for each in backbones for head in head_parts(each, HEAD_CLASSES)]
    return list(dict.fromkeys(part.key for part in (*enumerate_parts(backbones, select_paths(paths)), *heads)))


def model_contents(
    keys: Iterable[str], special: Mapping[str, str] | None = None, seconds: float = 0.0
) -> dict[str, str]:
    """What the fake runner shall do with each part: be timed for so long, or what `special` says. No two contents that
    are answered have the same length, and so the same number."""
    return {key: f"slow:{seconds}:{'x' * index}" for index, key in enumerate(keys)} | dict(special or {})


def start_host(
    folder: Path,
    daemon: Adbd,
    contents: Mapping[str, str] | None,
    *options: str | Path,
    serial: str = "",
    log: IO[str] | None = None,
    patience_seconds: float = 15.0,
) -> subprocess.Popen[str]:
    """`profile-device` in a process of its own, with records in `folder`; what it says goes into `log` or a pipe.

    `contents` are the models, by key; real ones where it is None. Somebody else who has the device is waited for so
    long.
    """
    script = Path(__file__).with_name("chaos_host.py")
    constants = {**impatience(), "local.held_cores.PATIENCE_SECONDS": patience_seconds}
    (folder / "host.json").write_text(json.dumps({"contents": contents, "constants": constants}))
    words: list[str | Path] = [sys.executable, "-P", script, folder / "host.json", "--serial", serial or daemon.serial]
    words += ["--directory", f"{daemon.directory}/bpnas", "--affinity", "none", "--records", folder / "r.sqlite"]
    words += ["--backbone", write_backbone(folder), "--paths", PATHS, "--sessions", "1", "--timeout", "2"]
    words += [word for size in SIZES for word in ("--input-size", str(size))]
    out, err = (subprocess.PIPE, subprocess.PIPE) if log is None else (log, log)
    return subprocess.Popen([*words, *options], stdout=out, stderr=err, text=True)


def write_requests(folder: Path, contents: Iterable[str]) -> list[RunRequest]:
    """Models, and requests for them with keys `part-0`, `part-1`, ..."""
    requests = []
    for index, content in enumerate(contents):
        path = folder / f"{index}.model"
        path.write_text(content)
        requests.append(RunRequest(f"part-{index}", 0, path, hashlib.sha256(content.encode()).hexdigest()))
    return requests


def check_records(file: Path, contents: Mapping[str, str], failing: Iterable[str] = ()) -> None:
    """Every part was measured exactly once, and got its own number; of those named only failures are there.

    Raises:
        AssertionError: something was lost, doubled or mixed up.
    """
    failing = set(failing)
    _, measured, failed = read_everything(file)
    assert Counter(one.key for _, one in measured) == Counter(contents.keys() - failing)
    check_numbers(file, contents)
    assert {one.key for _, one in failed} == failing


def check_numbers(file: Path, contents: Mapping[str, str]) -> int:
    """Whatever was measured until now has its own number, and is there once; says how many there are.

    Raises:
        AssertionError: it has not.
    """
    measured = read_everything(file)[1] if file.exists() else []
    assert len({one.key for _, one in measured}) == len(measured)
    for _, one in measured:
        assert one.samples_ns == (1000 + len(contents[one.key]),) * 3, one
    return len(measured)


def count_measured(file: Path) -> int:
    """How many measurements of parts are in the records right now, whoever writes to them."""
    parts = "SELECT COUNT(*) FROM measurement WHERE key NOT LIKE 'sentinel@%'"
    address = f"{file.as_uri()}?mode=ro"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(address, uri=True)) as records:
        return int(records.execute(parts).fetchone()[0])
    return 0


def check_clean(daemon: Adbd, seconds: float = PATIENCE) -> None:
    """Nothing is left on the device but the program, whole, and no process.

    Raises:
        AssertionError: something is still there after that time.
    """
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not leftovers(daemon), seconds)
    left = leftovers(daemon)
    assert not left, left


def leftovers(daemon: Adbd) -> list[str]:
    """What a campaign should not have left on the device: files, processes."""
    disk = disk_of(daemon)
    names = [str(path.relative_to(disk)) for path in _everything_in(disk)]
    stray = [n for n in names if not _TO_STAY.fullmatch(n) or n.endswith(".tmp")]
    return stray + list(daemon.children().values())


def disk_of(daemon: Adbd) -> Path:
    """The daemon's directory as it sees it itself: with a size of its own it is mounted where nobody else sees it."""
    inside = Path(f"/proc/{daemon.pid}/root{daemon.directory}")
    return inside if inside.is_dir() else daemon.host_directory


def fill_disk(daemon: Adbd) -> Path:
    """Write a file until nothing more fits, on a daemon whose disk has a size of its own, and is alive; returns the
    file."""
    file = disk_of(daemon) / "film"
    if not file.parent.is_mount():  # it would be this machine's disk
        return file
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as film:
        while film.write(bytes(1 << 12)):
            pass
    return file


def mount_again(daemon: Adbd, options: str) -> None:
    """Mount the daemon's disk, which must have a size of its own, with other options, as `ro`."""
    words = ["nsenter", "-t", str(daemon.pid), "-m", "mount", "-o", f"remount,{options}", daemon.directory]
    subprocess.run(words, check=True, capture_output=True)


@contextmanager
def sabotage(moment: Callable[[], bool], act: Callable[[], None]) -> Iterator[None]:
    """Do something from another thread at a certain moment within the block.

    Raises:
        AssertionError: the moment never came.
    """
    over = threading.Event()

    def watch() -> bool:
        while not over.is_set():
            if moment():
                act()
                return True
            time.sleep(0.001)
        return False

    done = _saboteur.submit(watch)
    try:
        yield
    finally:
        over.set()
        came = done.result()
    assert came, "the moment never came"


def state(daemon: Adbd) -> str:
    """Of the daemon's process: `T` where it is stopped, `Z` where it was killed."""
    return Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()[0]


def pushing(daemon: Adbd) -> bool:
    """Whether a file of more than a megabyte is on its way to the device."""
    for path in _everything_in(daemon.host_directory):
        with contextlib.suppress(FileNotFoundError):
            if path.suffix == ".tmp" and path.stat().st_size > 1 << 20:
                return True
    return False


def _everything_in(folder: Path) -> Iterator[Path]:
    """All files and folders below it; what goes while we look is no error, as it would be for `Path.rglob`."""
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in [*folders, *files])


def running(daemon: Adbd, word: str) -> bool:
    """Whether a process with that word in its command line runs there."""
    return any(word in command for command in daemon.children().values())
