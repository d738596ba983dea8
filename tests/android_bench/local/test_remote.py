"""This machine as a remote, where it is not like a phone; what it has in common with one is in `test_remote.py`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.local.remote import LocalRemote
from bpnas.android_bench.remote import FileToPush, Remote
from bpnas.android_bench.serials import connect
from tests.patience import PATIENCE
from tests.phone.daemon import wait_until


@pytest.fixture
def remote() -> Remote:
    return LocalRemote()


def test_it_needs_no_connection(remote: Remote) -> None:
    assert remote.serial == connect("local").serial == "local"
    remote.reconnect()
    remote.close()
    assert remote.shell("echo on").text == "on"


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_closing_a_stream_ends_all_that_it_started(remote: Remote) -> None:
    stream = remote.stream("sleep 1234 & echo $!; trap '' TERM HUP INT; wait")
    child = int(stream.read(PATIENCE))
    assert not ended(child)
    stream.close()
    wait_until(lambda: ended(child))
    with pytest.raises(DeviceLostError, match="closed on this side"):
        stream.read(PATIENCE)


def test_what_a_finished_command_left_running_is_left_alone(remote: Remote) -> None:
    """As on a phone: a guard that outlives its command is meant to."""
    pid = int(remote.shell("sleep 1234 > /dev/null 2>&1 & echo $!").text)
    try:
        time.sleep(0.2)
        assert not ended(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_commands_do_not_hear_ctrl_c(remote: Remote) -> None:
    with closing(remote.stream("echo $$; read line")) as stream:
        assert os.getsid(int(stream.read(PATIENCE))) != os.getsid(0)


def test_a_command_notices_that_this_process_is_gone(tmp_path: Path) -> None:
    """Its input ends: what watches over the device then gives back what was set."""
    program = (
        "import os, sys, signal\n"
        "from bpnas.android_bench.local.remote import LocalRemote\n"
        f"stream = LocalRemote().stream('read line; touch {tmp_path}/noticed')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-P", "-c", program], check=False).returncode == -signal.SIGKILL
    wait_until((tmp_path / "noticed").exists)


def test_a_descriptor_above_1023_is_no_obstacle(remote: Remote) -> None:
    with ExitStack() as stack:
        for _ in range(1100):
            try:
                stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pytest.skip("this user may not open so many files")
        assert remote.shell("echo high").text == "high"


def test_many_commands_leave_no_descriptor(remote: Remote) -> None:
    remote.shell("true")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        remote.shell("echo out; echo err >&2")
        remote.stream("sleep 1234").close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_command_that_keeps_complaining_ends_in_time(remote: Remote) -> None:
    began = time.monotonic()
    with pytest.raises(DeviceLostError, match=r"no answer within 0\.3 s"):
        remote.shell("yes >&2", timeout_seconds=0.3)
    assert time.monotonic() - began < PATIENCE


def test_a_file_without_end_is_not_read_to_it(remote: Remote) -> None:
    with pytest.raises(DeviceError, match="longer than the 3000000 bytes"):
        remote.pull("/dev/zero", 3_000_000)


@pytest.mark.parametrize("path", ["/proc/none/file", "/dev/null/file"])
def test_a_place_that_cannot_be_written_is_named(remote: Remote, path: str) -> None:
    with pytest.raises(DeviceError, match=f"local: {path} cannot be written"):
        remote.push([FileToPush(b"x", path)])


def test_reading_and_closing_at_once_never_raises_anything_else(remote: Remote) -> None:
    faults: list[BaseException] = []

    def read(stream_number: int) -> None:
        stream = remote.stream("yes")
        closer = threading.Timer(0.001 * (stream_number % 10), stream.close)
        closer.start()
        try:
            while stream.read(PATIENCE):
                pass
        except DeviceLostError:
            pass
        except BaseException as error:
            faults.append(error)
        closer.join()

    for number in range(100):
        read(number)
    assert faults == []


def test_a_stream_closed_between_waiting_and_reading_is_read_or_lost(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, read, closers = remote.stream("yes"), os.read, []

    def read_late(number: int, size: int) -> bytes:
        closers.append(threading.Thread(target=stream.close))
        closers[-1].start()
        time.sleep(0.05)
        return read(number, size)

    monkeypatch.setattr("bpnas.android_bench.local.remote.os.read", read_late)
    assert stream.read(PATIENCE).startswith(b"y\n")
    monkeypatch.undo()
    closers[0].join()
    with pytest.raises(DeviceLostError):
        stream.read(PATIENCE)
