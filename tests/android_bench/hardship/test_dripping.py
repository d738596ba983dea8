"""Devices and servers that answer drop by drop: every exchange ends, however it is kept alive."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest
from click.testing import Result

from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.phone.device_folder import DeviceFolder
from bpnas.android_bench.phone.facts import read_facts
from bpnas.android_bench.serials import attached_devices, connect
from tests.folder_phone import FolderPhone
from tests.phone.chaos import impatience
from tests.phone.hostile import VERSION, HostileDaemon, packet, shell_frame

Cli = Callable[..., Result]
BANNER = b"device::features=shell_v2"

IMPATIENCE = impatience()
SECOND = IMPATIENCE["adb.connection._IDLE_SECONDS"]
"""Of which every limit is one or half of one here; longer on a busy machine."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"adb.remote._SYNC_SECONDS": SECOND, "adb.server._ANSWER_SECONDS": SECOND}
    for name, seconds in (IMPATIENCE | limits).items():
        monkeypatch.setattr(f"bpnas.android_bench.{name}", seconds)


def drops(data: Iterable[int]) -> Iterator[bytes]:
    for byte in data:
        time.sleep(SECOND / 20)
        yield bytes([byte])


class Server:
    """Sends to everybody who connects, without listening much."""

    def __init__(self, answer: Callable[[], Iterable[bytes]]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            for data in self._answer():
                connection.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:
        yield lambda answer: stack.enter_context(contextlib.closing(Server(answer)))


@pytest.fixture
def daemon() -> Iterator[Callable[..., str]]:
    """A daemon that greets well, and answers services with what it is told to."""
    with contextlib.ExitStack() as stack:
        yield lambda answer: stack.enter_context(contextlib.closing(HostileDaemon(answer))).serial


def long_packet() -> Iterator[bytes]:
    """Of a megabyte, which would take half a day."""
    yield from drops(itertools.chain(packet(b"CNXN", VERSION, 1 << 20, bytes(1 << 20))))


def strays() -> Iterator[bytes]:
    """What is left over from the last connection, as it may be on USB, but without an end."""
    for number in itertools.count():
        yield from drops(packet(b"OKAY", number & 0xFFFF, 1))


def one_byte_in_time() -> Iterator[bytes]:
    """The greeting, good, but later than all that may take."""
    yield from drops(packet(b"CNXN", VERSION, 1 << 20, BANNER))


@pytest.mark.parametrize("greeting", [long_packet, strays, one_byte_in_time])
def test_a_greeting_that_drips_ends_the_doctor(
    greeting: Callable[[], Iterator[bytes]], serve: Callable[..., Server], cli: Cli
) -> None:
    done = cli("profile-device", "doctor", "--serial", f"127.0.0.1:{serve(greeting).port}")
    assert done.exit_code == 1
    assert "no ADB daemon answers" in done.stdout


def test_a_packet_that_drips_later_ends_the_connection(serve: Callable[..., Server]) -> None:
    def well_then_drip() -> Iterator[bytes]:
        yield packet(b"CNXN", VERSION, 1 << 20, BANNER)
        yield from drops(packet(b"OKAY", 1, 1, bytes(1 << 20)))

    serial = f"127.0.0.1:{serve(well_then_drip).port}"
    lost = pytest.raises(DeviceLostError, match=r"stopped in the middle of a packet|no answer for ")
    with contextlib.closing(connect(serial)) as remote, lost:
        remote.shell("true", timeout_seconds=60 * SECOND)


def test_a_shell_that_drips_is_given_up(daemon: Callable[..., str]) -> None:
    serial = daemon(lambda service: (shell_frame(2, drop) for drop in drops(itertools.repeat(46))))
    with contextlib.closing(connect(serial)) as remote, pytest.raises(DeviceLostError, match="no answer within"):
        remote.shell("true", timeout_seconds=SECOND)


def test_a_file_service_that_drips_is_given_up(daemon: Callable[..., str]) -> None:
    data = struct.pack("<4sI", b"DATA", 1 << 16)
    serial = daemon(lambda service: itertools.chain([data], drops(itertools.repeat(46))))
    with contextlib.closing(connect(serial)) as remote, pytest.raises(DeviceLostError, match="no answer within"):
        remote.pull("/x", 1 << 20)


def test_a_file_that_comes_in_small_pieces_for_ever_is_given_up(
    daemon: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = struct.pack("<4sI", b"DATA", 1)
    serial = daemon(lambda service: (piece + drop for drop in drops(itertools.repeat(46))))
    with contextlib.closing(connect(serial)) as remote, pytest.raises(DeviceLostError, match="hardly moves"):
        remote.pull("/x", 1 << 20)


def test_a_device_that_takes_drop_by_drop_is_given_up(serve: Callable[..., Server]) -> None:
    """It greets, and then reads a byte at a time."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    over = threading.Event()

    def take() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(packet(b"CNXN", VERSION, 1 << 20, BANNER))
            with contextlib.suppress(OSError):
                header = connection.recv(24, socket.MSG_WAITALL)
                first, length = struct.unpack_from("<I", header, 4)[0], struct.unpack_from("<I", header, 12)[0]
                connection.recv(length, socket.MSG_WAITALL)
                connection.sendall(packet(b"OKAY", first, first))
                while not over.is_set() and connection.recv(1):
                    time.sleep(SECOND / 20)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        serial = f"127.0.0.1:{listener.getsockname()[1]}"
        with contextlib.closing(connect(serial)) as remote, pytest.raises(DeviceLostError):
            remote._connection.open("sync:").write(bytes(16 << 20))  # type: ignore[attr-defined]
    finally:
        over.set()
        thread.join()
        listener.close()


def test_a_shell_that_drips_its_readiness_is_given_up(rooted: FolderPhone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpnas.android_bench.phone.device_folder._READY_SECONDS", SECOND)
    facts, stream = read_facts(rooted, rooted.base), rooted.stream
    monkeypatch.setattr(rooted, "stream", lambda command: stream("while sleep 0.05; do printf .; done"))
    with pytest.raises(DeviceError, match=r"cannot be used on the device \(\.{3}"):
        DeviceFolder(rooted, facts)


@pytest.mark.parametrize("answer", [b"OKAY", b"OKAYffff" + b"x" * 100_000, b"FAIL"], ids=repr)
def test_an_adb_server_that_drips_is_given_up(
    answer: bytes, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda: drops(itertools.chain(answer, itertools.repeat(ord("f")))))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
    with pytest.raises(DeviceError, match="the adb server"):
        attached_devices()
