"""Shell and files over ADB where the daemon, its programs or the bytes on the way are not as usual."""

from __future__ import annotations

import itertools
import random
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpnas.android_bench.adb.remote import AdbRemote
from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.remote import FileToPush, ShellResult
from bpnas.android_bench.serials import connect
from tests.patience import PATIENCE
from tests.phone.chaos import pushing, sabotage
from tests.phone.daemon import Adbd
from tests.phone.legacy import LegacyDaemon


class FakeStream:
    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = iter(pieces)
        self.is_closed = False

    def read(self, timeout_seconds: float) -> bytes:
        return next(self.pieces, b"")

    def write(self, data: bytes) -> None: ...

    def close(self) -> None:
        self.is_closed = True


class FakeConnection:
    """Answers every service with the pieces that a function of its name gives."""

    max_service_bytes = 1 << 20

    def __init__(self, answer: Callable[[str], Iterable[bytes]], *features: str) -> None:
        self.answer = answer
        self.features = frozenset(features)
        self.streams: list[FakeStream] = []

    def open(self, service: str) -> FakeStream:
        self.streams.append(FakeStream(self.answer(service)))
        return self.streams[-1]

    def close(self) -> None: ...


def shell(answer: Callable[[str], Iterable[bytes]], *features: str) -> ShellResult:
    connection = FakeConnection(answer, *features)
    result = AdbRemote("fake", lambda: connection).shell("true")
    assert all(stream.is_closed for stream in connection.streams)
    return result


def cut(data: bytes, draw: Callable[[st.SearchStrategy[list[int]]], list[int]]) -> list[bytes]:
    """`data` in pieces, none of them empty."""
    places = sorted(set(draw(st.lists(st.integers(0, len(data)), max_size=12))) | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


# --- the old shell


def mark(service: str) -> bytes:
    """What it will print at the end, up to the exit code."""
    return service.rpartition("echo ")[2].replace("''", "").removesuffix("$?").encode()


def on_a_terminal(output: bytes) -> bytes:
    return output.replace(b"\n", b"\r\n")


OUTPUT = st.lists(
    st.sampled_from([b"\n", b"\r", b"__bpnas_", b"__bpnas_00=1\n", b"=", b"_", b"0", b"text"]), max_size=8
)


@given(OUTPUT.map(b"".join), st.integers(0, 255), st.data())
def test_an_old_shell_may_be_cut_anywhere(output: bytes, code: int, data: st.DataObject) -> None:
    def answer(service: str) -> list[bytes]:
        return cut(on_a_terminal(output) + mark(service) + b"%d\r\n" % code, data.draw)

    # A `\r` right before a line end cannot be told from the terminal's own.
    assert shell(answer) == ShellResult(code, on_a_terminal(output).replace(b"\r\n", b"\n"))


@given(st.binary(max_size=200), st.data())
def test_an_old_shell_without_a_last_line_was_cut_off(output: bytes, data: st.DataObject) -> None:
    with pytest.raises(DeviceLostError, match="fake: the connection ended before the command did"):
        shell(lambda service: cut(output, data.draw))
    for ending in (b"", b"x", b"-1", b" "):
        with pytest.raises(DeviceLostError, match="ended before the command did"):
            shell(lambda service, ending=ending: [output, mark(service) + ending])  # type: ignore[misc]


def test_an_old_shell_that_goes_on_after_its_end_is_given_up() -> None:
    def answer(service: str) -> Iterator[bytes]:
        yield mark(service) + b"0\n"
        while True:
            yield b"x" * 1000

    with pytest.raises(DeviceError, match="did not stop after its command had ended"):
        shell(answer)
    assert shell(lambda service: [b"out\n", mark(service) + b"4\r\n", b"of a child\r\n"]) == ShellResult(4, b"out\n")


def test_a_command_leaves_no_script_behind_though_it_is_cut_off(legacy_daemon: LegacyDaemon) -> None:
    with closing(connect(legacy_daemon.serial, legacy_daemon.directory)) as remote:
        stream = remote.stream(f"# {'x' * 5000}\necho up\nsleep 1234")
        assert stream.read(PATIENCE) == b"up\n"
        assert list(Path(legacy_daemon.directory).iterdir()) == []
        stream.close()


# --- the new one


def frame(kind: int, data: bytes) -> bytes:
    return struct.pack("<BI", kind, len(data)) + data


FRAMES = st.lists(st.tuples(st.sampled_from([1, 1, 1, 2, 2, 0, 4, 200]), st.binary(max_size=6)), max_size=8)


@given(FRAMES, st.integers(0, 255), st.data())
def test_frames_may_be_cut_anywhere(frames: list[tuple[int, bytes]], code: int, data: st.DataObject) -> None:
    sent = b"".join(frame(kind, content) for kind, content in frames) + frame(3, bytes([code])) + b"what follows"
    output, errors = (b"".join(content for kind, content in frames if kind == wanted) for wanted in (1, 2))
    assert shell(lambda service: cut(sent, data.draw), "shell_v2") == ShellResult(code, output, errors)


@given(st.binary(max_size=60), st.data())
def test_noise_instead_of_frames_is_an_ending_or_a_loss(noise: bytes, data: st.DataObject) -> None:
    with suppress(DeviceLostError):
        assert 0 <= shell(lambda service: cut(noise, data.draw), "shell_v2").exit_code <= 255


def test_a_million_small_frames_take_no_longer_than_their_bytes() -> None:
    piece = frame(1, b"x") * 100_000 + frame(2, b"") * 100_000
    began = time.process_time()
    result = shell(lambda service: [piece] * 5 + [frame(3, b"\0")], "shell_v2")
    assert len(result.output) == 500_000
    assert time.process_time() - began < 20  # some seconds; it was hours when each frame moved all that follow


def test_a_command_too_long_for_one_shell_goes_through_another(adbd: Adbd) -> None:
    with closing(connect(adbd.serial, adbd.directory)) as remote:
        assert isinstance(remote, AdbRemote) and remote.has_shell_v2
        assert remote.shell(f"# {'x' * 2_000_000}\necho out; echo err >&2; exit 6") == ShellResult(
            6, b"out\n", b"err\n"
        )


# --- files that do not arrive as they were sent


def program(phone: Adbd, name: str, script: str) -> None:
    """What the device has under that name."""
    path = phone.root / "system/bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_damage_on_the_way_is_noticed(adbd: Adbd) -> None:
    program(
        adbd,
        "sha256sum",
        'case "$*" in *two*) for f; do case $f in *two*) printf x >> $f; esac; done; esac\n'
        'exec /usr/bin/sha256sum "$@"',
    )
    files = [FileToPush(name.encode(), f"{adbd.directory}/{name}") for name in ("one", "two", "three")]
    with closing(connect(adbd.serial)) as remote:
        with pytest.raises(DeviceError, match=r"/two arrived damaged \(its SHA-256 differs\); check the cable"):
            remote.push(files)
        assert list(adbd.host_directory.iterdir()) == [], "none under its name, and nothing temporary"
        remote.push([files[0], files[2]])
    assert sorted(path.name for path in adbd.host_directory.iterdir()) == ["one", "three"]


@pytest.mark.parametrize("answer", ["echo sha256sum: not found; exit 127", "exit 127", "echo >&2 not found; exit 127"])
def test_a_device_that_cannot_sum_is_read_back(adbd: Adbd, answer: str) -> None:
    program(adbd, "sha256sum", answer)
    content = random.Random(0).randbytes(300_000)
    with closing(connect(adbd.serial)) as remote:
        for _ in range(2):
            remote.push([FileToPush(content, f"{adbd.directory}/file"), FileToPush(b"", f"{adbd.directory}/empty")])
        assert (adbd.host_directory / "file").read_bytes() == content
    assert sorted(path.name for path in adbd.host_directory.iterdir()) == ["empty", "file"]


@pytest.mark.parametrize("answer", ["exit 1", "echo", "kill -9 $$", "echo 0 $1", "cat $1", "echo 'x y z' | head -c 3"])
def test_sums_that_make_no_sense_are_damage(adbd: Adbd, answer: str) -> None:
    program(adbd, "sha256sum", answer)
    with closing(connect(adbd.serial)) as remote, pytest.raises(DeviceError, match="arrived damaged"):
        remote.push([FileToPush(b"content", f"{adbd.directory}/file")])
    assert list(adbd.host_directory.iterdir()) == []


def test_what_a_linker_warns_of_is_no_sum(adbd: Adbd) -> None:
    program(adbd, "sha256sum", 'echo "WARNING: linker: unused DT entry"; echo; exec /usr/bin/sha256sum "$@"')
    with closing(connect(adbd.serial)) as remote:
        remote.push([FileToPush(b"content", f"{adbd.directory}/file")])
    assert (adbd.host_directory / "file").read_bytes() == b"content"


def test_a_file_that_cannot_get_its_name_is_named(adbd: Adbd) -> None:
    program(adbd, "mv", "echo \"mv: cannot move '$2': Read-only file system\" >&2; exit 1")
    with closing(connect(adbd.serial)) as remote, pytest.raises(DeviceError, match=r"/file cannot be used .*Read-only"):
        remote.push([FileToPush(b"content", f"{adbd.directory}/file")])
    assert list(adbd.host_directory.iterdir()) == []


def test_a_file_is_as_it_was_until_the_new_one_is_there(adbd: Adbd) -> None:
    program(adbd, "sha256sum", "echo 0; exit 0")
    (adbd.host_directory / "file").write_bytes(b"old")
    with closing(connect(adbd.serial)) as remote, pytest.raises(DeviceError, match="damaged"):
        remote.push([FileToPush(b"new", f"{adbd.directory}/file")])
    assert (adbd.host_directory / "file").read_bytes() == b"old"


def test_an_interrupted_push_leaves_the_device_usable(adbd: Adbd, tmp_path: Path) -> None:
    """Half a packet is on its way: what is sent after it must not be taken for its other half."""
    file = tmp_path / "file"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 30)
    main = threading.main_thread().ident
    assert main is not None
    with closing(connect(adbd.serial)) as remote:
        with pytest.raises(KeyboardInterrupt):  # noqa: SIM117 - the interrupt ends the inner one too
            with sabotage(lambda: pushing(adbd), lambda: signal.pthread_kill(main, signal.SIGINT)):
                remote.push([FileToPush(file, f"{adbd.directory}/file")])
        assert not (adbd.host_directory / "file").exists()
        try:
            assert remote.shell("echo on").text == "on"
        except DeviceLostError:
            remote.reconnect()
            assert remote.shell("echo on").text == "on"
        remote.push([FileToPush(b"content", f"{adbd.directory}/file")])


# --- coming back


def test_a_daemon_that_was_restarted_is_the_same_remote(adbd: Adbd) -> None:
    with closing(connect(adbd.serial)) as remote:
        remote.push([FileToPush(b"one", f"{adbd.directory}/folder/file")])
        adbd.kill()
        with pytest.raises(DeviceLostError):
            remote.shell("true")
        with pytest.raises(DeviceLostError, match="no ADB daemon answers"):
            remote.reconnect()
        with pytest.raises(DeviceLostError, match="not connected"):
            remote.push([FileToPush(b"two", f"{adbd.directory}/folder/file")])
        adbd.restart()
        (adbd.host_directory / "folder/file").unlink()
        (adbd.host_directory / "folder").rmdir()
        remote.reconnect()
        remote.push([FileToPush(b"two", f"{adbd.directory}/folder/file")])
        assert (adbd.host_directory / "folder/file").read_bytes() == b"two"


def test_a_folder_that_went_is_made_again(adbd: Adbd, legacy_daemon: LegacyDaemon) -> None:
    for phone in (adbd, legacy_daemon):
        with closing(connect(phone.serial, phone.directory)) as remote:
            for _ in range(2):
                remote.push([FileToPush(b"x", f"{phone.directory}/a/b/file")])
                assert remote.shell(f"cat {phone.directory}/a/b/file; rm -r {phone.directory}/a").text == "x"


def test_reconnecting_ends_what_runs(adbd: Adbd) -> None:
    with closing(connect(adbd.serial)) as remote:
        stream = remote.stream("sleep 1234")
        threads, files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(20):
            remote.reconnect()
        with pytest.raises(DeviceLostError):
            stream.read(PATIENCE)
        assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == (threads, files)
        stream.close()
