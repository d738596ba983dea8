"""What every `Remote` does alike: a phone, one behind an adb server, an old one, one on USB, this machine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpnas.android_bench.adb.connection import DirectConnection
from bpnas.android_bench.adb.remote import AdbRemote
from bpnas.android_bench.adb.usb import PatientUsbTransport
from bpnas.android_bench.errors import DeviceError, DeviceLostError, DeviceSpaceError
from bpnas.android_bench.remote import MAX_ERROR_BYTES, MAX_SHELL_OUTPUT_BYTES, FileToPush, Remote, ShellStream, quote
from bpnas.android_bench.serials import connect
from bpnas.base.errors import UsageError
from bpnas.base.plain_text import printable
from tests.patience import PATIENCE
from tests.phone.daemon import wait_until
from tests.phone.fixtures import StartAdbd
from tests.phone.usb import FakeUsb

WAYS = ("adbd", "server", "legacy", "usb", "local")


class Place:
    """A remote machine, and a folder there that this machine sees too."""

    def __init__(self, way: str, remote: Remote, folder: str) -> None:
        self.way = way
        self.remote = remote
        self.folder = folder

    @property
    def files(self) -> list[str]:
        """Names of all that is in the folder, however deep, but for folders."""
        return sorted(str(path.relative_to(self.folder)) for path in Path(self.folder).rglob("*") if not path.is_dir())

    def read(self, name: str) -> bytes:
        return Path(self.folder, name).read_bytes()


def legacy_over_usb(port: int, folder: str) -> Remote:
    return AdbRemote("usb", lambda: DirectConnection("usb", PatientUsbTransport(FakeUsb(port)), tuple), folder)


@pytest.fixture(params=WAYS)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    way: str = request.param
    monkeypatch.setattr("bpnas.android_bench.adb.usb._POLL_SECONDS", 0.02)  # closing waits for the transfer under way
    if way == "local":
        remote, folder = connect("local"), str(tmp_path / "device")
        Path(folder).mkdir()
    else:
        phone = request.getfixturevalue("legacy_daemon" if way in ("legacy", "usb") else "adbd")
        folder = phone.directory
        if way == "server":
            server = request.getfixturevalue("adb_server")
            monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
            server.connect(phone.serial)
        remote = legacy_over_usb(phone.port, folder) if way == "usb" else connect(phone.serial, folder)
    with closing(remote):
        yield Place(way, remote, folder)
    alive = [thread.name for thread in threading.enumerate() if thread.name.startswith("adb ")]
    assert alive == [], "closing ends the threads"


def only(*ways: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", ways, indirect=True)


# --- commands


COMMANDS = [
    ("echo out", 0, b"out\n"),
    ("printf 'no line end'", 0, b"no line end"),
    ("true", 0, b""),
    ("exit 3", 3, b""),
    ("echo before; exit 255", 255, b"before\n"),
    ("false # a comment", 1, b""),
    ("true; false", 1, b""),
    ("echo one\necho two", 0, b"one\ntwo\n"),
    ("no-such-command-anywhere 2>/dev/null", 127, b""),
    ("""printf '%s' "it's \\"$((6 * 7))\\" \\$HOME *" """, 0, b'it\'s "42" $HOME *'),
    ("printf 'a\\r\\nb\\rc\\n' | tr -d '\\r'", 0, b"a\nbc\n"),
    ("echo __bpnas_0123456789abcdef=0", 0, b"__bpnas_0123456789abcdef=0\n"),
    ("printf '__bpnas_'; printf '\\r'; exit 9", 9, b"__bpnas_\r"),
    ("cat /proc/$$/cmdline >/dev/null; echo $?", 0, b"0\n"),
    ("echo 'gr\u00fc\u00dfe'", 0, "gr\u00fc\u00dfe\n".encode()),
    ("cat </dev/null; exit 4", 4, b""),
]


def test_a_command_has_an_exit_code_and_an_output(place: Place) -> None:
    for command, code, output in COMMANDS:
        result = place.remote.shell(command)
        assert (result.exit_code, result.output) == (code, output), command


def test_a_command_that_is_killed_ends_with_its_signal(place: Place) -> None:
    for name in ("KILL", "SEGV", "ABRT"):
        code = place.remote.shell(f"ulimit -c 0; sh -c 'kill -{name} $$'; exit $?").exit_code
        assert code == 128 + getattr(signal, f"SIG{name}")
    if place.way not in ("legacy", "usb"):  # there the shell that would say so is gone itself
        assert place.remote.shell("kill -9 $$").exit_code == 128 + signal.SIGKILL
    else:
        with pytest.raises(DeviceLostError, match="ended before the command did"):
            place.remote.shell("kill -9 $$")
    assert place.remote.shell("echo on").text == "on"


def test_errors_are_apart_from_the_output_where_the_daemon_can(place: Place) -> None:
    result = place.remote.shell("echo out; echo err >&2; exit 5")
    if place.way in ("legacy", "usb"):
        assert (result.exit_code, sorted(result.output.split()), result.errors) == (5, [b"err", b"out"], b"")
    else:
        assert (result.exit_code, result.output, result.errors) == (5, b"out\n", b"err\n")


def test_a_command_may_show_its_own_command_line(place: Place) -> None:
    """As `ps` does: what marks the end of a command must not be found in it."""
    result = place.remote.shell("tr '\\0' ' ' < /proc/$$/cmdline; tr '\\0' ' ' < /proc/$PPID/cmdline; echo; exit 6")
    assert result.exit_code == 6
    assert b"exit 6" in result.output


def test_a_long_command_is_a_command(place: Place) -> None:
    for size in (3_000, 5_000, 70_000, 1_200_000):
        if place.way == "local" and size > 100_000:
            return  # no program takes a longer argument on this machine
        words = [f"w{number:05d}" for number in range(size // 7)]
        result = place.remote.shell(f"exit_code=7\nset -- {' '.join(words)}\necho $# $1; exit $exit_code  # the end")
        assert (result.exit_code, result.text) == (7, f"{len(words)} w00000")
        assert place.files == [], "the script that it may have become is gone"


def test_a_large_output_comes_whole(place: Place) -> None:
    result = place.remote.shell("seq 100000")
    assert result.output == b"".join(b"%d\n" % number for number in range(1, 100_001))


def test_a_command_that_prints_without_end_is_given_up(place: Place) -> None:
    began = time.monotonic()
    with pytest.raises(DeviceError, match=f"printed more than {MAX_SHELL_OUTPUT_BYTES} bytes"):
        place.remote.shell("yes")
    assert time.monotonic() - began < PATIENCE
    assert place.remote.shell("echo on").text == "on"


@only("adbd", "server", "local")
def test_of_errors_the_end_is_kept(place: Place) -> None:
    result = place.remote.shell("seq 50000 >&2; echo last >&2")
    assert len(result.errors) == MAX_ERROR_BYTES
    assert result.errors.endswith(b"\n50000\nlast\n")


def test_a_command_that_does_not_end_is_given_up(place: Place) -> None:
    began = time.monotonic()
    with pytest.raises(DeviceLostError, match=r"no answer within 0\.3 s to sleep 1234"):
        place.remote.shell("sleep 1234", timeout_seconds=0.3)
    with pytest.raises(DeviceLostError, match=r"no answer within 0\.3 s"):
        place.remote.shell("while :; do echo; sleep 0.05; done", timeout_seconds=0.3)
    with pytest.raises(DeviceLostError, match=r"no answer within 0\.3 s"):
        place.remote.shell("exec >&- 2>&-; sleep 1234", timeout_seconds=0.3)
    assert time.monotonic() - began < PATIENCE
    assert place.remote.shell("echo on").text == "on"


# --- streams


def read_until(stream: ShellStream, mark: bytes, seconds: float = PATIENCE) -> bytes:
    data, deadline = b"", time.monotonic() + seconds
    while mark not in data and time.monotonic() < deadline:
        with suppress(TimeoutError):
            data += stream.read(0.2)
    return data


def test_a_stream_hands_out_what_comes_as_it_comes(place: Place) -> None:
    go = Path(place.folder, "go")
    with closing(
        place.remote.stream(f"echo first; until [ -e {go} ]; do sleep 0.02; done; echo second; exit 3")
    ) as stream:
        assert read_until(stream, b"first\n") == b"first\n"
        with pytest.raises(TimeoutError):
            stream.read(0.05)
        with pytest.raises(TimeoutError):
            stream.read(0.0)
        assert stream.exit_code is None
        go.touch()
        assert read_until(stream, b"second\n") == b"second\n"
        while stream.exit_code is None:
            assert stream.read(PATIENCE) == b""
        assert (stream.exit_code, stream.read(PATIENCE)) == (3, b"")


def test_closing_a_stream_ends_its_command(place: Place) -> None:
    stream = place.remote.stream(f"echo $$ > {place.folder}/pid; echo up; while :; do echo on; sleep 0.02; done")
    read_until(stream, b"up")
    pid = int(place.read("pid"))
    assert Path(f"/proc/{pid}").exists()
    stream.close()
    stream.close()
    wait_until(lambda: not running(pid))


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_closing_a_stream_wakes_who_reads_it(place: Place) -> None:
    stream = place.remote.stream("sleep 1234")
    ended: list[object] = []

    def read() -> None:
        try:
            ended.append(stream.read(PATIENCE))
        except DeviceError as error:
            ended.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.1)
    stream.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert isinstance(ended[0], DeviceLostError) or ended == [b""], ended
    assert stream.exit_code is None or place.way == "local"


@only("adbd", "server", "legacy", "usb")
def test_closing_the_remote_wakes_who_reads(place: Place) -> None:
    stream = place.remote.stream("sleep 1234")
    with ThreadPoolExecutor(2) as pool:
        read, asked = pool.submit(stream.read, 60.0), pool.submit(place.remote.shell, "sleep 1234")
        time.sleep(0.1)
        place.remote.close()
        place.remote.close()
        for waiting in (read, asked):
            with pytest.raises(DeviceLostError):
                waiting.result(PATIENCE)
    with pytest.raises(DeviceLostError, match="not connected"):
        place.remote.shell("true")
    place.remote.reconnect()
    assert place.remote.shell("echo on").text == "on"
    stream.close()


@only("adbd", "legacy", "usb")
def test_what_has_arrived_is_read_though_the_connection_is_lost(place: Place, request: pytest.FixtureRequest) -> None:
    """No record lost: the runner's last line may lie here when the cable is pulled."""
    stream = place.remote.stream(f"echo precious; touch {place.folder}/said; sleep 1234")
    wait_until(Path(place.folder, "said").exists)
    assert place.remote.shell("echo on").text == "on", "what was said before is here too"
    if place.way == "adbd":
        request.getfixturevalue("adbd").kill()
    else:
        request.getfixturevalue("legacy_daemon").disconnect()
    time.sleep(0.2)
    assert read_until(stream, b"\n") == b"precious\n"
    with pytest.raises(DeviceLostError):
        stream.read(PATIENCE)
    stream.close()


# --- files


def test_files_arrive_whole_under_their_names_and_modes(place: Place, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(random.Random(0).randbytes(3_000_001))
    place.remote.push(
        [
            FileToPush(b"", f"{place.folder}/empty"),
            FileToPush(b"\0\r\n\xff" * 5, f"{place.folder}/deep/er/bytes", 0o600),
            FileToPush(large, f"{place.folder}/large", 0o755),
        ]
    )
    assert place.files == ["deep/er/bytes", "empty", "large"]
    assert (place.read("empty"), place.read("deep/er/bytes")) == (b"", b"\0\r\n\xff" * 5)
    assert place.read("large") == large.read_bytes()
    modes = place.remote.shell(f"cd {place.folder}; stat -c %a empty deep/er/bytes large").text.split()
    assert modes == ["644", "600", "755"]
    assert place.remote.pull(f"{place.folder}/large", 3_000_001) == large.read_bytes()
    place.remote.push([FileToPush(b"new", f"{place.folder}/large")])
    assert (place.files, place.read("large")) == (["deep/er/bytes", "empty", "large"], b"new")


def test_no_files_are_pushed_at_once(place: Place) -> None:
    place.remote.push([])
    assert place.files == []


def test_names_are_taken_as_they_are(place: Place) -> None:
    names = ["with space", "it's", 'quo"te', "$HOME", "`id`", "a;b", "-rf", "back\\slash", "gr\u00fcn", "*"]
    for name in names:
        path = f"{place.folder}/{name}/{name}"
        place.remote.push([FileToPush(name.encode(), path), FileToPush(b"plain", f"{place.folder}/plain")])
        assert place.remote.pull(path, 100) == name.encode()
        assert place.remote.shell(f"cat {quote(path)}").output == name.encode()
    assert place.files == sorted([*(f"{name}/{name}" for name in names), "plain"])


def test_a_file_that_cannot_be_read_is_named(place: Place) -> None:
    for name in ("none", "."):
        with pytest.raises(DeviceError, match=f"{place.folder}/{name}".replace(".", "[.]")):
            place.remote.pull(f"{place.folder}/{name}", 100)
    assert place.remote.shell("echo on").text == "on"


def test_a_file_is_not_longer_than_expected(place: Place) -> None:
    place.remote.push([FileToPush(bytes(300_000), f"{place.folder}/file")])
    assert len(place.remote.pull(f"{place.folder}/file", 300_000)) == 300_000
    for limit in (0, 299_999):
        with pytest.raises(DeviceError, match=f"longer than the {limit} bytes"):
            place.remote.pull(f"{place.folder}/file", limit)
    assert len(place.remote.pull(f"{place.folder}/file", 1 << 40)) == 300_000


@pytest.mark.parametrize("name", ["file/in-a-file", "f" * 300])
def test_a_place_that_cannot_be_written_is_named(place: Place, name: str) -> None:
    place.remote.push([FileToPush(b"", f"{place.folder}/file")])
    with pytest.raises(DeviceError, match=f"{place.folder}/f") as caught:
        place.remote.push([FileToPush(b"x", f"{place.folder}/good"), FileToPush(b"x", f"{place.folder}/{name}")])
    assert not isinstance(caught.value, DeviceLostError)
    assert [file for file in place.files if file not in ("file", "good")] == [], "nothing half there"
    place.remote.push([FileToPush(b"y", f"{place.folder}/good")])
    assert place.read("good") == b"y"


@pytest.mark.skipif(os.geteuid() != 0, reason="the folder is root's")
@only("adbd", "server")
def test_a_folder_of_someone_else_is_named(place: Place) -> None:
    folder = Path(place.folder, "of-root")
    folder.mkdir(mode=0o755)
    for path in (f"{folder}/file", f"{folder}/new/file"):
        with pytest.raises(DeviceError, match=r"of-root.*Permission denied"):
            place.remote.push([FileToPush(b"x", path)])
    folder.rmdir()  # nothing is in it


def test_a_source_that_is_gone_is_named(place: Place, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"source.*No such file"):
        place.remote.push([FileToPush(tmp_path / "source", f"{place.folder}/file")])
    assert place.files == []
    assert place.remote.shell("echo on").text == "on"


# --- at the same time


def test_many_threads_share_it(place: Place) -> None:
    """Commands, files in both directions and a long stream, all at once; every one gets its own answer."""
    count = 8

    def work(number: int) -> None:
        rng = random.Random(number)
        for turn in range(5):
            content = rng.randbytes(rng.choice((0, 1, 4096, 65536, 300_000)))
            path = f"{place.folder}/{number}/{turn}"
            token = f"{number}-{turn}-{rng.random()}"
            assert place.remote.shell(f"echo {token}; exit {number}").text == token
            place.remote.push([FileToPush(content, path), FileToPush(token.encode(), f"{path}.token")])
            assert place.remote.pull(path, len(content)) == content
            assert place.remote.shell(f"cat {path}.token; wc -c < {path}").text.startswith(token)

    numbers = b"".join(b"%d\n" % number for number in range(1, 200_001))
    with closing(place.remote.stream("seq 200000")) as stream, ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(work, number) for number in range(count)]
        received = bytearray()
        while piece := stream.read(PATIENCE):
            received += piece
        for future in futures:
            future.result(PATIENCE)
    assert bytes(received) == numbers
    assert stream.exit_code == 0
    assert len(place.files) == 2 * 5 * count


# --- a full disk


@pytest.mark.parametrize("through_server", [False, True])
def test_a_full_disk_is_named_and_left_clean(
    start_adbd: StartAdbd, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, through_server: bool
) -> None:
    phone = start_adbd(disk_bytes=4 << 20)
    if through_server:
        server = request.getfixturevalue("adb_server")
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        server.connect(phone.serial)
    with closing(connect(phone.serial)) as remote:
        file = FileToPush(random.Random(0).randbytes(3 << 20), f"{phone.directory}/file")
        with pytest.raises(DeviceSpaceError, match="no space left on the device"):
            remote.push([file, FileToPush(bytes(20 << 20), f"{phone.directory}/other")])
        assert remote.shell(f"find {phone.directory} -type f").text == ""
        remote.push([file])
        assert remote.shell(f"wc -c < {phone.directory}/file").text == str(3 << 20)


# --- words


@given(st.text(st.characters(exclude_categories=("C", "Zl", "Zp", "Zs")) | st.just(" ")))
def test_a_quoted_text_is_one_word(text: str) -> None:
    said = subprocess.run(["sh", "-c", f"printf '%s/' x {quote(text)}"], capture_output=True, check=True).stdout
    assert said.decode() == f"x/{text}/"


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "\x1b[2J", "\r", "\u202e", "\ud800"])
def test_what_must_not_reach_a_shell_does_not(text: str) -> None:
    with pytest.raises(ValueError, match="must not reach a shell"):
        quote(text)


@given(st.text() | st.binary(), st.integers(1, 300))
def test_whatever_a_device_says_is_one_short_line(said: str | bytes, limit: int) -> None:
    shown = printable(said, limit)
    assert shown.isprintable() and len(shown) <= limit
    assert printable(shown, limit) == shown or "\N{REPLACEMENT CHARACTER}" in shown


def test_a_text_is_shown_as_it_is_but_for_what_would_harm() -> None:
    assert printable("  two\n words ") == "two words"
    assert printable(b"gr\xc3\xbcn \xff") == "gr\u00fcn \N{REPLACEMENT CHARACTER}"
    assert printable("x" * 10, 5) == "xxxx…"
    assert printable("\x1b[2J") == "\N{REPLACEMENT CHARACTER}[2J"
    assert printable(b"x" * (1 << 26), 10) == "x" * 9 + "…"
