"""The packet layer: who answers, whom a phone trusts, and what goes wrong on a connection."""

from __future__ import annotations

import os
import random
import select
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from adb_shell.adb_device import AdbDeviceTcp
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from bpnas.android_bench.adb.connection import MAX_PAYLOAD, MAX_UNREAD, AdbConnection, DirectConnection
from bpnas.android_bench.adb.keys import load_signers
from bpnas.android_bench.adb.transport import HardenedTcpTransport
from bpnas.android_bench.adb.usb import PatientUsbTransport
from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.remote import FileToPush
from bpnas.android_bench.serials import connect
from tests.garbage import collected
from tests.patience import PATIENCE, slowness
from tests.phone.daemon import Adbd, wait_until
from tests.phone.fixtures import StartLegacy
from tests.phone.legacy import LegacyDaemon
from tests.phone.legacy_wire import Faults
from tests.phone.scripted import ScriptedServer, packet, receive_packet
from tests.phone.usb import NO_DEVICE, TIMEOUT, FakeUsb, UsbError, UsbFailedError

Serve = Callable[[Callable[[socket.socket], None]], ScriptedServer]
BANNER = b"device::ro.product.name=x;features=shell_v2,cmd"


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Silence is noticed soon, and no thread and no socket outlives a connection."""
    times = slowness()
    monkeypatch.setattr("bpnas.android_bench.adb.connection._IDLE_SECONDS", 1.0 * times)
    monkeypatch.setattr("bpnas.android_bench.adb.remote._SILENCE_SECONDS", 0.3 * times)
    with collected():
        yield
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("adb ")] == []


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(closing(ScriptedServer(script)))


def direct(port: int, auth_seconds: float = 0.3) -> DirectConnection:
    return DirectConnection("phone", HardenedTcpTransport("127.0.0.1", port), load_signers, auth_seconds)


def greet(connection: socket.socket) -> None:
    """As a daemon that trusts everybody."""
    assert receive_packet(connection)[0] == b"CNXN"
    connection.sendall(packet(b"CNXN", 0x01000001, MAX_PAYLOAD, BANNER))


def open_stream(connection: socket.socket, number: int = 1) -> int:
    """Say yes to the next service; its number at the client."""
    command, client, _, _ = receive_packet(connection)
    assert command == b"OPEN"
    connection.sendall(packet(b"OKAY", number, client))
    return client


def wait_for_end(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


# --- who answers


def test_nobody_is_there(deaf_port: int) -> None:
    with pytest.raises(DeviceLostError, match=r"phone: no ADB daemon answers \(Connection refused\)"):
        direct(deaf_port)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.0 400 Bad request syntax\r\nContent-Type: text/html\r\n\r\n", "no ADB packet"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n" * 3, "no ADB packet"),
        (b"", "closed the connection"),
        (b"CNXN", "closed the connection"),
        (packet(b"CNXN", 0x01000001, 4096, b"device::")[:-3], "closed the connection"),
        (packet(b"CNXN", 0x01000001, 4096)[:12] + b"\xff\xff\xff\xff" + bytes(8), "no ADB packet"),
        (packet(b"SYNC"), "answered the greeting with something else"),
        (packet(b"AUTH", 2, 0, bytes(20)), "answered the greeting with something else"),
        (packet(b"AUTH", 1, 0, bytes(19)), "answered the greeting with something else"),
        (packet(b"WRTE", 1, 1, b"x") * 1000, "answered the greeting with something else"),
    ],
    ids=["http", "ssh", "nothing", "a word", "half a greeting", "4 GB", "sync", "a signature", "a short token", "data"],
)
def test_what_is_no_daemon_is_named(serve: Serve, answer: bytes, reason: str) -> None:
    def script(connection: socket.socket) -> None:
        receive_packet(connection)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        wait_for_end(connection)

    with pytest.raises(DeviceLostError, match=f"phone: no ADB daemon answers .*{reason}"):
        direct(serve(script).port)


def test_a_silent_port_is_given_up(serve: Serve) -> None:
    began = time.monotonic()
    with pytest.raises(DeviceLostError, match="no ADB daemon answers"):
        direct(serve(wait_for_end).port)
    assert time.monotonic() - began < PATIENCE


def test_a_phone_that_speaks_tls_is_left_to_the_adb_server(serve: Serve) -> None:
    def script(connection: socket.socket) -> None:
        receive_packet(connection)
        connection.sendall(packet(b"STLS", 0x01000000))
        wait_for_end(connection)

    with pytest.raises(DeviceError, match="'adb pair', 'adb connect'") as caught:
        direct(serve(script).port)
    assert not isinstance(caught.value, DeviceLostError)


def test_what_the_last_connection_left_behind_is_no_greeting(serve: Serve) -> None:
    """On USB nobody hangs up: what a daemon had on its way when a host died is read by the next one."""

    def script(connection: socket.socket) -> None:
        connection.sendall(packet(b"WRTE", 5, 7, b"x" * 100) + packet(b"CLSE", 5, 7) + packet(b"OKAY", 6, 8))
        greet(connection)
        wait_for_end(connection)

    with closing(direct(serve(script).port)) as connection:
        assert connection.features == {"shell_v2", "cmd"}


@pytest.mark.parametrize(
    ("banner", "features"),
    [
        (b"device::ro.product.name=a;ro.product.model=b;features=shell_v2,cmd,apex", {"shell_v2", "cmd", "apex"}),
        (b"device::features=shell_v2\0", {"shell_v2"}),
        (b"device::ro.product.name=x;\0", set()),
        (b"", set()),
        (b"\xff\xfe" * 3000, set()),
    ],
    ids=["new", "alone", "old", "empty", "noise"],
)
def test_a_banner_says_what_a_daemon_can_do(serve: Serve, banner: bytes, features: set[str]) -> None:
    def script(connection: socket.socket) -> None:
        receive_packet(connection)
        connection.sendall(packet(b"CNXN", 0x01000001, MAX_PAYLOAD, banner))
        wait_for_end(connection)

    with closing(direct(serve(script).port)) as connection:
        assert connection.features == features


# --- whom a phone trusts


def public_key() -> bytes:
    load_signers()
    return (home() / "adbkey.pub").read_bytes()


def home() -> Path:
    return Path(os.environ["ANDROID_USER_HOME"])


def test_a_known_key_is_let_in(start_legacy: StartLegacy) -> None:
    with closing(direct(start_legacy(keys=[public_key()]).port)) as connection:
        assert connection.features == frozenset()


def test_an_unknown_key_is_offered_once_and_then_known(start_legacy: StartLegacy) -> None:
    phone = start_legacy(keys=[], accepts_new_keys=True)
    direct(phone.port).close()
    assert [key.rstrip(b"\0") for key in phone.keys or []] == [public_key()]
    phone.accepts_new_keys = False
    direct(phone.port).close()
    assert len(phone.keys or []) == 1


def test_a_phone_on_which_nobody_says_yes_is_unauthorised(start_legacy: StartLegacy) -> None:
    with pytest.raises(DeviceError, match="unauthorised; unlock the phone, say yes to 'Allow USB debugging") as caught:
        direct(start_legacy(keys=[]).port)
    assert not isinstance(caught.value, DeviceLostError), "to try again at once would ask the person again"


def test_a_phone_that_says_no_is_named(serve: Serve) -> None:
    def script(connection: socket.socket) -> None:
        receive_packet(connection)
        for _ in range(3):
            connection.sendall(packet(b"AUTH", 1, 0, bytes(range(20))))
            receive_packet(connection)

    with pytest.raises(DeviceError, match="refused this computer's key"):
        direct(serve(script).port)


def test_a_signature_is_what_the_key_says(serve: Serve) -> None:
    """Checked with another implementation than the one that signs."""
    token, answers = bytes(range(20)), []

    def script(connection: socket.socket) -> None:
        receive_packet(connection)
        connection.sendall(packet(b"AUTH", 1, 0, token))
        answers.append(receive_packet(connection))
        connection.sendall(packet(b"CNXN", 0x01000001, MAX_PAYLOAD, BANNER))
        wait_for_end(connection)

    direct(serve(script).port).close()
    ((command, kind, _, signature),) = answers
    assert (command, kind) == (b"AUTH", 2)
    key = serialization.load_pem_private_key((home() / "adbkey").read_bytes(), None)
    assert isinstance(key, RSAPrivateKey)
    key.public_key().verify(signature, token, padding.PKCS1v15(), Prehashed(hashes.SHA1()))


def test_a_key_that_cannot_be_used_is_the_reason(start_legacy: StartLegacy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_USER_HOME", "/proc/none")
    with pytest.raises(DeviceError, match="/proc/none/adbkey: the key for ADB cannot be used"):
        direct(start_legacy(keys=[]).port)


# --- what goes wrong on a connection that stood

FAULTS = [
    Faults(reset_after_bytes=0),
    Faults(reset_after_bytes=30),
    Faults(reset_after_bytes=5_000),
    Faults(stall_after_bytes=0),
    Faults(stall_after_bytes=70),
    Faults(stall_after_bytes=5_000),
    Faults(garbage_after_bytes=0),
    Faults(garbage_after_bytes=5_000),
    Faults(wrong_magic=True),
    Faults(wrong_checksum=True),
    Faults(huge_length=True),
]


def name_of(faults: Faults) -> str:
    given = ((name, getattr(faults, name)) for name in faults.__slots__)
    return ",".join(f"{name}={value}" for name, value in given if value not in (None, False))


@pytest.mark.parametrize("faults", FAULTS, ids=name_of)
@pytest.mark.parametrize("work", ["shell", "push", "pull"])
def test_faults_cost_the_connection_and_nothing_else(legacy_daemon: LegacyDaemon, faults: Faults, work: str) -> None:
    legacy_daemon.faults = faults
    content = bytes(20_000)
    with closing(connect(legacy_daemon.serial, legacy_daemon.directory)) as remote:
        Path(legacy_daemon.directory, "there").write_bytes(content)
        works: dict[str, Callable[[], Any]] = {
            "shell": lambda: remote.shell("seq 2000; echo the end", timeout_seconds=3.0 * slowness()),
            "push": lambda: remote.push([FileToPush(content, f"{legacy_daemon.directory}/file")]),
            "pull": lambda: remote.pull(f"{legacy_daemon.directory}/there", 1 << 20),
        }
        began = time.monotonic()
        with pytest.raises(DeviceLostError) as caught:
            works[work]()
        assert time.monotonic() - began < PATIENCE
        assert str(caught.value).startswith(f"{legacy_daemon.serial}: ") and str(caught.value).isprintable()
        assert not Path(legacy_daemon.directory, "file").exists(), "whole or not at all"
        with pytest.raises(DeviceLostError):  # it is known to be gone, and nobody waits again
            works[work]()
        assert time.monotonic() - began < PATIENCE
        legacy_daemon.faults = Faults(piece_bytes=1 if work == "shell" else 7)
        remote.reconnect()
        works[work]()


def test_a_command_that_prints_for_ever_is_stopped(legacy_daemon: LegacyDaemon) -> None:
    for heedless in (False, True):
        legacy_daemon.faults = Faults(endless_output=True, ignore_flow_control=heedless)
        tracemalloc.start()
        with closing(connect(legacy_daemon.serial)) as remote, pytest.raises(DeviceError):
            remote.shell("yes", timeout_seconds=10.0)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_UNREAD
        tracemalloc.stop()


def test_who_ignores_that_nobody_reads_is_cut_off(legacy_daemon: LegacyDaemon) -> None:
    legacy_daemon.faults = Faults(endless_output=True, ignore_flow_control=True)
    with closing(connect(legacy_daemon.serial)) as remote:
        stream = remote.stream("yes")
        wait_until(lambda: not any(thread.name.startswith("adb ") for thread in threading.enumerate()))
        received: list[int] = []

        def read_on() -> None:
            while True:
                received.append(len(stream.read(PATIENCE)))

        with pytest.raises(DeviceLostError, match="sends more than was asked for"):
            read_on()
        assert sum(received) <= 2 * MAX_UNREAD
        stream.close()


def test_a_service_that_a_daemon_does_not_know_is_refused(legacy_daemon: LegacyDaemon, adbd: Adbd) -> None:
    for phone in (legacy_daemon, adbd):
        with closing(direct(phone.port)) as connection:
            with pytest.raises(DeviceError, match="the device refuses 'no-such-service'") as caught:
                connection.open("no-such-service:x")
            assert not isinstance(caught.value, DeviceLostError)
            connection.open("sync:").close()


def test_a_name_too_long_for_the_device_is_not_sent(legacy_daemon: LegacyDaemon) -> None:
    with closing(direct(legacy_daemon.port)) as connection:
        assert connection.max_service_bytes == 4095
        connection.open("shell:" + ":".ljust(4089)).close()
        with pytest.raises(DeviceError, match="a command of 4096 bytes is too long"):
            connection.open("shell:" + ":".ljust(4090))


def test_a_write_that_nobody_confirms_is_given_up(serve: Serve) -> None:
    def script(connection: socket.socket) -> None:
        greet(connection)
        client = open_stream(connection)
        receive_packet(connection)
        connection.sendall(packet(b"OKAY", 1, client))
        wait_for_end(connection)

    with closing(direct(serve(script).port)) as connection:
        stream = connection.open("sync:")
        stream.write(b"confirmed")
        stream.write(b"not confirmed, and nobody asked yet")
        with pytest.raises(DeviceLostError, match=r"took no data for \S+ s"):
            stream.write(b"more")
        with pytest.raises(DeviceLostError):
            connection.open("sync:")


def test_half_a_packet_ends_the_connection(legacy_daemon: LegacyDaemon) -> None:
    """After Ctrl-C in the middle of a packet, whatever is sent would be taken for its other half."""

    class Interrupted(HardenedTcpTransport):
        is_armed = False

        def bulk_write(self, data: bytes | memoryview, transport_timeout_s: float | None = None) -> int:
            if self.is_armed and len(data) > 1000:
                super().bulk_write(data[:500], transport_timeout_s)
                raise KeyboardInterrupt
            return super().bulk_write(data, transport_timeout_s)

    transport = Interrupted("127.0.0.1", legacy_daemon.port)
    with closing(DirectConnection("phone", transport, load_signers)) as connection:
        stream = connection.open("sync:")
        transport.is_armed = True
        with pytest.raises(KeyboardInterrupt):
            stream.write(bytes(2000))
        for use in (lambda: stream.write(b"QUIT\0\0\0\0"), lambda: connection.open("sync:")):
            with pytest.raises(DeviceLostError, match="interrupted in the middle of a packet"):
                use()


def test_a_stream_that_the_device_closes_is_at_its_end(serve: Serve) -> None:
    def script(connection: socket.socket) -> None:
        greet(connection)
        client = open_stream(connection)
        for data in (b"one", b"", b"two"):  # without waiting for a confirmation, as AOSP's daemon at the end
            connection.sendall(packet(b"WRTE", 1, client, data))
        connection.sendall(packet(b"CLSE", 1, client))
        wait_for_end(connection)

    with closing(direct(serve(script).port)) as connection:
        stream = connection.open("shell:x")
        data = b""
        while piece := stream.read(PATIENCE):
            data += piece
        assert (data, stream.read(PATIENCE)) == (b"onetwo", b"")
        stream.write(b"one more, which crossed the end on its way")
        with pytest.raises(DeviceLostError, match="closed the stream"):
            stream.write(b"x")


def test_a_half_open_connection_is_noticed_by_who_waits(serve: Serve) -> None:
    """The phone is out of reach and nothing says so: as after a walk out of the Wi-Fi."""

    def script(connection: socket.socket) -> None:
        greet(connection)
        closed.wait(PATIENCE)

    closed = threading.Event()
    server = serve(script)
    with closing(connect(server.serial)) as remote:
        began = time.monotonic()
        with pytest.raises(DeviceLostError, match="no answer"):
            remote.shell("sleep 600", timeout_seconds=600.0)
        assert time.monotonic() - began < PATIENCE
    closed.set()


def test_stopped_daemons_are_noticed_while_a_command_runs(adbd: Adbd) -> None:
    with closing(connect(adbd.serial)) as remote:
        stream = remote.stream("sleep 600")
        adbd.stop()
        began = time.monotonic()
        with pytest.raises(DeviceLostError, match=r"no answer for \S+ s"):
            remote.shell("sleep 600", timeout_seconds=600.0)
        assert time.monotonic() - began < PATIENCE
        with pytest.raises(DeviceLostError):
            stream.read(PATIENCE)
        adbd.cont()
        remote.reconnect()
        assert remote.shell("echo back").text == "back"


def test_other_streams_go_on_while_one_is_not_read(adbd: Adbd) -> None:
    with closing(connect(adbd.serial)) as remote, closing(remote.stream("yes")):
        time.sleep(0.2)
        content = random.Random(0).randbytes(8 << 20)
        remote.push([FileToPush(content, f"{adbd.directory}/file")])
        assert remote.pull(f"{adbd.directory}/file", len(content)) == content


def test_64_megabytes_arrive(adbd: Adbd, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(random.Random(0).randbytes(64 << 20))
    with closing(connect(adbd.serial)) as remote:
        remote.push([FileToPush(file, f"{adbd.directory}/file")])
    assert (adbd.host_directory / "file").read_bytes() == file.read_bytes()


def test_stock_adb_shell_sees_what_we_see(adbd: Adbd, legacy_daemon: LegacyDaemon) -> None:
    for phone in (adbd, legacy_daemon):
        with (
            closing(AdbDeviceTcp("127.0.0.1", phone.port, default_transport_timeout_s=10)) as stock,
            closing(connect(phone.serial, phone.directory)) as remote,
        ):
            stock.connect()
            remote.push([FileToPush(b"from us", f"{phone.directory}/file")])
            command = f"cat {phone.directory}/file; getprop ro.product.model; seq 3000"
            said = stock.shell(command).replace("\r\n", "\n")
            assert said.encode() == remote.shell(command).output
            assert said.startswith("from us")


def test_closing_while_a_large_file_is_on_its_way(adbd: Adbd) -> None:
    remote = connect(adbd.serial)
    caught: list[BaseException] = []

    def push() -> None:
        try:
            while True:
                remote.push([FileToPush(bytes(32 << 20), f"{adbd.directory}/file")])
        except DeviceError as error:
            caught.append(error)

    thread = threading.Thread(target=push)
    thread.start()
    time.sleep(0.2)
    remote.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert isinstance(caught[0], DeviceLostError)


# --- USB


class ScriptedUsb:
    """Answers each transfer with what comes next: bytes or a number, or an error to raise."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent = b""

    def connect(self, seconds: float | None) -> None:
        self._next()

    def bulk_read(self, count: int, seconds: float | None) -> bytes:
        answer: bytes = self._next()
        return answer

    def bulk_write(self, data: bytes, seconds: float | None) -> int:
        count: int = self._next()
        self.sent += data[:count]
        return count

    def close(self) -> None: ...

    def _next(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def timeout(received: bytes = b"", transferred: int = 0) -> UsbFailedError:
    return UsbFailedError("timed out", UsbError(TIMEOUT, received, transferred))


GONE = UsbFailedError("no device", UsbError(NO_DEVICE))


def test_usb_waits_for_ever_where_asked_to() -> None:
    usb = PatientUsbTransport(ScriptedUsb(timeout(), timeout(), timeout(), b"data"))
    assert usb.bulk_read(24, None) == b"data"


def test_usb_keeps_what_came_before_its_time_was_over() -> None:
    usb = PatientUsbTransport(ScriptedUsb(timeout(), timeout(received=b"half"), b" and half"))
    assert (usb.bulk_read(24, 5.0), usb.bulk_read(24, 5.0)) == (b"half", b" and half")


def test_usb_has_a_time_limit() -> None:
    with pytest.raises(TimeoutError, match=r"no data within 0\.0 s"):
        PatientUsbTransport(ScriptedUsb(timeout())).bulk_read(24, 0.0)
    for answer in (0, timeout()):
        with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
            PatientUsbTransport(ScriptedUsb(answer)).bulk_write(b"data", 0.1)


def test_usb_sends_all_of_it() -> None:
    fake = ScriptedUsb(2, timeout(transferred=3), 1, 4)
    fake_sent = PatientUsbTransport(fake).bulk_write(memoryview(b"0123456789"), 1.0)
    assert (fake_sent, fake.answers) == (10, [])


def test_usb_faults_are_not_taken_for_silence() -> None:
    for error in (GONE, UsbFailedError("closed", None)):
        with pytest.raises(UsbFailedError):
            PatientUsbTransport(ScriptedUsb(error)).bulk_read(24, None)
        with pytest.raises(UsbFailedError):
            PatientUsbTransport(ScriptedUsb(error)).bulk_write(b"data", 1.0)


def test_a_usb_interface_that_another_program_has_is_named() -> None:
    usb = PatientUsbTransport(ScriptedUsb(UsbError(-6)))
    with pytest.raises(DeviceError, match=r"USB interface cannot be opened .*udev rule") as caught:
        DirectConnection("R58", usb, load_signers)
    assert str(caught.value).isprintable()


def test_usb_is_not_closed_under_a_transfer(legacy_daemon: LegacyDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpnas.android_bench.adb.usb._POLL_SECONDS", 0.05)
    fake = FakeUsb(legacy_daemon.port)
    connection = DirectConnection("R58", PatientUsbTransport(fake), load_signers)
    ended: list[BaseException] = []

    def read(connection: AdbConnection) -> None:
        with suppress(TimeoutError):
            try:
                connection.open("shell:sleep 1234").read(PATIENCE)
            except DeviceLostError as error:
                ended.append(error)

    thread = threading.Thread(target=read, args=(connection,))
    thread.start()
    wait_until(lambda: fake.busy == 1)
    connection.close()
    connection.close()
    thread.join(PATIENCE)
    assert (thread.is_alive(), len(ended), fake.crashed) == (False, 1, False)


def test_a_usb_cable_that_is_pulled_is_a_loss(legacy_daemon: LegacyDaemon) -> None:
    with closing(DirectConnection("R58", PatientUsbTransport(FakeUsb(legacy_daemon.port)), load_signers)) as connection:
        stream = connection.open("shell:sleep 1234")
        legacy_daemon.disconnect()
        with pytest.raises(DeviceLostError, match="R58: Could not receive data"):
            stream.read(PATIENCE)


def test_a_reader_about_to_wait_is_not_left_with_another_connections_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    about_to_wait = threading.Event()

    class SlowPoll:
        def __init__(self) -> None:
            self._poll = real_poll()
            self.register = self._poll.register

        def poll(self, milliseconds: float | None) -> list[tuple[int, int]]:
            about_to_wait.set()
            time.sleep(0.2)
            return self._poll.poll(milliseconds)

    real_poll = select.poll
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = HardenedTcpTransport("127.0.0.1", listener.getsockname()[1])
        transport.connect()
        accepted, _ = listener.accept()
        with accepted:
            monkeypatch.setattr(select, "poll", SlowPoll)

            def read() -> None:
                with suppress(OSError):
                    transport.bulk_read(1)
                ended.set()

            threading.Thread(target=read, daemon=True).start()
            assert about_to_wait.wait(PATIENCE)
            transport.close()
            left, right = socket.socketpair()  # gets the number that has become free, and nothing ever comes on it
            with left, right:
                assert ended.wait(PATIENCE)
