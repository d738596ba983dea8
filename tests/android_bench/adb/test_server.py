"""Phones behind an adb server: Debian's own, and fakes that say what it would say of phones that are not here."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from bpnas.android_bench.adb.attached import Attached
from bpnas.android_bench.adb.server import ServerConnection, server_address, server_devices
from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.remote import FileToPush
from bpnas.android_bench.serials import connect
from bpnas.base.errors import UsageError
from tests.garbage import collected
from tests.patience import PATIENCE, slowness
from tests.phone.adb_client import AdbServer
from tests.phone.daemon import Adbd, wait_until
from tests.phone.legacy import LegacyDaemon
from tests.phone.scripted import ScriptedServer, receive

FakeServer = Callable[..., None]


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("bpnas.android_bench.adb.server._ANSWER_SECONDS", 2.0 * slowness())
    with collected():
        yield


@pytest.fixture
def server(adb_server: AdbServer, monkeypatch: pytest.MonkeyPatch) -> AdbServer:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))
    return adb_server


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[socket.socket], None]], None]]:
    """Something else listens where the server should."""
    with ExitStack() as stack:

        def start(script: Callable[[socket.socket], None]) -> None:
            made = stack.enter_context(closing(ScriptedServer(script)))
            monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(made.port))

        yield start


@pytest.fixture
def fake_server(listen: Callable[[Callable[[socket.socket], None]], None]) -> FakeServer:
    """A server with one list of devices, and answers to each request, in order: `fake_server(devices, *answers)`."""

    def start(devices: str, *answers: bytes) -> None:
        left = list(answers)

        def script(connection: socket.socket) -> None:
            while True:
                request = receive(connection, int(receive(connection, 4), 16))
                connection.sendall(okay(devices) if request == b"host:devices-l" else left.pop(0))

        listen(script)

    return start


def okay(text: str = "") -> bytes:
    return b"OKAY" + f"{len(text.encode()):04x}{text}".encode() if text else b"OKAY"


def fail(text: str) -> bytes:
    return b"FAIL" + f"{len(text):04x}{text}".encode()


# --- Debian's server


def test_both_ways_lead_to_the_same_files(adbd: Adbd, server: AdbServer, tmp_path: Path) -> None:
    content = random.Random(0).randbytes(3_000_000)
    server.connect(adbd.serial)
    with closing(connect(adbd.serial)) as remote:
        remote.push([FileToPush(content, f"{adbd.directory}/ours", 0o755)])
        server.run("-s", adbd.serial, "pull", f"{adbd.directory}/ours", str(tmp_path / "pulled"))
        assert (tmp_path / "pulled").read_bytes() == content
        (tmp_path / "theirs").write_bytes(content[::-1])
        server.run("-s", adbd.serial, "push", str(tmp_path / "theirs"), f"{adbd.directory}/theirs")
        assert remote.pull(f"{adbd.directory}/theirs", len(content)) == content[::-1]
        command = f"ls {adbd.directory}; echo err >&2; exit 5"
        theirs, ours = server.run("-s", adbd.serial, "shell", command, check=False), remote.shell(command)
        assert (theirs.returncode, theirs.stdout.encode()) == (ours.exit_code, ours.output)


def test_the_server_is_used_for_what_it_owns_and_no_more(adbd: Adbd, server: AdbServer) -> None:
    direct = connect(adbd.serial)
    server.connect(adbd.serial)
    through = connect(adbd.serial)
    with closing(direct), closing(through):
        server.close()
        assert direct.shell("echo on").text == "on"
        with pytest.raises(DeviceLostError, match="the adb server does not answer; start it with 'adb devices'"):
            through.shell("true")
        through.reconnect()  # which finds no server, and goes straight to the daemon
        assert through.shell("echo on").text == "on"


def test_a_phone_that_went_is_offline_or_gone(adbd: Adbd, server: AdbServer) -> None:
    server.connect(adbd.serial)
    assert [(device.serial, device.state, device.via) for device in server_devices()] == [
        (adbd.serial, "device", "adb server")
    ]
    with closing(connect(adbd.serial)) as remote:
        stream = remote.stream("sleep 1234")
        adbd.kill()
        with pytest.raises(DeviceLostError):
            stream.read(PATIENCE)
        with pytest.raises(DeviceLostError, match=r"the adb server says: .*; see 'adb devices'"):
            remote.shell("true")
        with pytest.raises(DeviceError):  # offline at the server, or nobody at that port
            remote.reconnect()
        adbd.restart()
        server.connect(adbd.serial)
        remote.reconnect()
        assert remote.shell("echo back").text == "back"
        stream.close()


def test_a_phone_that_is_silent_behind_the_server_is_given_up(
    adbd: Adbd, server: AdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpnas.android_bench.adb.remote._SILENCE_SECONDS", 0.3 * slowness())
    server.connect(adbd.serial)
    with closing(connect(adbd.serial)) as remote:
        adbd.stop()
        began = time.monotonic()
        with pytest.raises(DeviceLostError):
            remote.shell("true", timeout_seconds=600.0)
        assert time.monotonic() - began < PATIENCE
        adbd.cont()
        assert remote.shell("echo on").text == "on"


def test_no_command_is_so_long_that_the_server_ends_itself(legacy_daemon: LegacyDaemon, server: AdbServer) -> None:
    """It does over a name that does not fit into the phone's packets."""
    server.connect(legacy_daemon.serial)
    with closing(connect(legacy_daemon.serial, legacy_daemon.directory)) as remote:
        for size in (3_900, 4_000, 4_096, 10_000, 70_000):
            assert remote.shell(f"# {'x' * size}\necho on; exit 3").output == b"on\n"
    with closing(ServerConnection(legacy_daemon.serial)) as connection:
        connection.open("shell:" + ":".ljust(4089)).close()
        with pytest.raises(DeviceError, match="a command of 4096 bytes is too long"):
            connection.open("shell:" + ":".ljust(4090))
        connection.open("sync:").close()


def test_what_a_phone_does_not_know_is_refused(legacy_daemon: LegacyDaemon, server: AdbServer) -> None:
    server.connect(legacy_daemon.serial)
    with closing(ServerConnection(legacy_daemon.serial)) as connection:
        with pytest.raises(DeviceError, match=r"the adb server says: .*; see 'adb devices'"):
            connection.open("no-such-service:x")
        connection.open("sync:").close()


def test_a_phone_that_the_server_does_not_know_is_named(server: AdbServer) -> None:
    with pytest.raises(DeviceLostError, match=r"the adb server says: device 'R58' not found; see 'adb devices'"):
        ServerConnection("R58")


# --- what a server may say


def test_odd_lists_of_devices(fake_server: FakeServer) -> None:
    fake_server(
        "R58M123ABC             device usb:1-2 product:starqltesq model:SM_G960U device:starqltesq transport_id:1\n"
        "192.168.1.7:5555       offline product:x\n"
        "R58M123ABD             unauthorized usb:1-3\n"
        "R58M123ABE             no permissions (user in plugdev group; are your udev rules wrong?); see [link]\n"
        "\n   \nlonely\n"
        "evil\x1b[2J              de\x07vice model:\x1b]0;x\n"
    )
    assert server_devices() == (
        Attached("R58M123ABC", "device", "SM_G960U", "adb server", "1"),
        Attached("192.168.1.7:5555", "offline", "", "adb server"),
        Attached("R58M123ABD", "unauthorized", "", "adb server"),
        Attached("R58M123ABE", "no permissions", "", "adb server"),
        Attached(r"evil\x1b[2J", r"de\x07vice", r"\x1b]0;x", "adb server"),
    )


MDNS = "adb-R58M123ABC-vWgJpq (2)._adb-tls-connect._tcp"
NAMELESS = "(no serial number)"


def test_serials_with_spaces_are_whole(fake_server: FakeServer) -> None:
    fake_server(
        f"{MDNS} device product:starqltesq model:SM_G960U device:starqltesq transport_id:7\n"
        f"{MDNS}b\tdevice\n"
        f"{NAMELESS}     device usb:1-2 product:x model:Y device:z transport_id:8\n"
        f"{NAMELESS}     no permissions (user in plugdev group; are your udev rules wrong?); see [http://x.y] usb:1-2\n"
        "my device of old       offline transport_id:9\n"
        "a device               unauthorized usb:1-3\n"
    )
    assert server_devices() == (
        Attached(MDNS, "device", "SM_G960U", "adb server", "7"),
        Attached(f"{MDNS}b", "device", "", "adb server"),
        Attached(NAMELESS, "device", "Y", "adb server", "8"),
        Attached(NAMELESS, "no permissions", "", "adb server"),
        Attached("my device of old", "offline", "", "adb server", "9"),
        Attached("a device", "unauthorized", "", "adb server"),
    )


@pytest.mark.parametrize(
    ("serial", "asked"),
    [
        (MDNS, [f"host-serial:{MDNS}:features", f"host:transport:{MDNS}"]),
        (NAMELESS, ["host-transport-id:8:features", "host:transport-id:8"]),
    ],
)
def test_a_phone_with_an_odd_serial_is_reached(
    serial: str, asked: list[str], listen: Callable[[Callable[[socket.socket], None]], None]
) -> None:
    heard = []

    def script(connection: socket.socket) -> None:
        while True:
            request = receive(connection, int(receive(connection, 4), 16)).decode()
            if request == "host:devices-l":
                connection.sendall(okay(f"{serial} device product:x transport_id:8\n"))
                continue
            heard.append(request)
            connection.sendall(okay("shell_v2") if request.endswith("features") else okay())

    listen(script)
    with closing(connect(serial)) as remote:
        remote.stream("true").close()
    assert heard == [*asked, "shell,v2,raw:true"]


def test_of_two_phones_with_one_serial_none_is_guessed(fake_server: FakeServer) -> None:
    fake_server(f"{NAMELESS} device transport_id:1\n{NAMELESS} device transport_id:2\n")
    with pytest.raises(UsageError, match="2 devices have the serial '\\(no serial number\\)': unplug all but one"):
        connect(NAMELESS)


def test_a_list_without_devices_is_one(fake_server: FakeServer) -> None:
    fake_server("\n")
    assert server_devices() == ()


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        ("unauthorized", "unlock the phone and say yes"),
        ("offline", "unplug it and plug it in again"),
        ("no permissions", "add a udev rule"),
        ("recovery", "see 'adb devices'"),
    ],
)
def test_a_phone_that_is_not_ready_is_named_with_what_to_do(fake_server: FakeServer, state: str, remedy: str) -> None:
    fake_server(f"R58M123ABC   {state} usb:1-2\n")
    with pytest.raises(DeviceError, match=f"R58M123ABC: {state}; .*{remedy}") as caught:
        connect("R58M123ABC")
    assert not isinstance(caught.value, DeviceLostError)


READY = "R58M123ABC  device\n"


def test_a_phone_that_became_unauthorised_in_between(fake_server: FakeServer) -> None:
    fake_server(READY, fail("device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set"))
    with pytest.raises(DeviceError, match="unlock the phone and say yes to 'Allow USB debugging") as caught:
        connect("R58M123ABC")
    assert not isinstance(caught.value, DeviceLostError)


@pytest.mark.parametrize(
    "reason",
    [
        "no device with transport id '7'",
        "device offline",
        "device 'R58M123ABC' not found",
        "closed",
        "no devices/emulators found",
    ],
)
def test_a_phone_that_went_in_between_is_lost(fake_server: FakeServer, reason: str) -> None:
    fake_server(READY, okay("shell_v2,cmd"), okay(), fail(reason))
    with closing(connect("R58M123ABC")) as remote, pytest.raises(DeviceLostError, match=f"says: {reason}"):
        remote.shell("true")


def test_a_server_may_fail_without_a_reason(fake_server: FakeServer) -> None:
    fake_server(READY, fail(""))
    with pytest.raises(DeviceError, match="the adb server says: no reason"):
        connect("R58M123ABC")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.0 400 Bad request\r\n\r\n", "no adb server; end it, or set ANDROID_ADB_SERVER_PORT"),
        (b"OKAYzzzz", "answer makes no sense"),
        (b"OKAY-001", "answer makes no sense"),
        (b"OKAY0x1f", "answer makes no sense"),
        (b"OKAYffffxxx", "does not answer .*closed the connection"),
        (b"OKAY", "does not answer .*closed the connection"),
        (b"OK", "does not answer .*closed the connection"),
        (b"", "does not answer .*closed the connection"),
        (b"FAIL0009half", "does not answer .*closed the connection"),
    ],
    ids=["http", "letters", "negative", "prefix", "half a list", "no list", "half a word", "nothing", "half a reason"],
)
def test_what_is_no_server_is_named(
    listen: Callable[[Callable[[socket.socket], None]], None], answer: bytes, error: str
) -> None:
    def script(connection: socket.socket) -> None:
        receive(connection, int(receive(connection, 4), 16))
        connection.sendall(answer)

    listen(script)
    for attempt in (server_devices, lambda: ServerConnection("R58"), lambda: connect("127.0.0.1:5555")):
        with pytest.raises(DeviceError, match=error) as caught:
            attempt()
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("drop", [b"", b"0"], ids=["silence", "drops"])
def test_a_server_that_is_silent_or_slow_is_given_up(
    listen: Callable[[Callable[[socket.socket], None]], None], monkeypatch: pytest.MonkeyPatch, drop: bytes
) -> None:
    def script(connection: socket.socket) -> None:
        receive(connection, int(receive(connection, 4), 16))
        connection.sendall(b"OKAYffff")
        while True:
            time.sleep(0.1)
            connection.sendall(drop)
            if not drop and not connection.recv(1):
                return

    monkeypatch.setattr("bpnas.android_bench.adb.server._ANSWER_SECONDS", 0.5)
    listen(script)
    began = time.monotonic()
    with pytest.raises(DeviceLostError, match=r"the adb server does not answer \(timed out\); restart it"):
        server_devices()
    assert time.monotonic() - began < PATIENCE


def test_no_server_owns_nothing(deaf_port: int) -> None:
    assert server_devices() == ()
    with pytest.raises(DeviceLostError, match="R58: the adb server does not answer; start it with 'adb devices'"):
        ServerConnection("R58")


def test_streams_of_a_closed_connection_are_closed(adbd: Adbd, server: AdbServer) -> None:
    server.connect(adbd.serial)
    connection = ServerConnection(adbd.serial)
    stream = connection.open("shell:sleep 1234")
    wait_until(lambda: any("1234" in command for command in adbd.children().values()))
    connection.close()
    connection.close()
    for use in (lambda: stream.read(PATIENCE), lambda: stream.write(b"x"), lambda: connection.open("sync:")):
        with pytest.raises(DeviceLostError, match="closed on this side"):
            use()
    wait_until(lambda: not adbd.children())


# --- where it listens


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, ("127.0.0.1", 5037)),
        ({"ANDROID_ADB_SERVER_PORT": "6000"}, ("127.0.0.1", 6000)),
        ({"ANDROID_ADB_SERVER_PORT": ""}, ("127.0.0.1", 5037)),
        ({"ANDROID_ADB_SERVER_ADDRESS": "host"}, ("host", 5037)),
        ({"ANDROID_ADB_SERVER_ADDRESS": "host", "ANDROID_ADB_SERVER_PORT": "1"}, ("host", 1)),
        ({"ADB_SERVER_SOCKET": "tcp:host:65535", "ANDROID_ADB_SERVER_PORT": "1"}, ("host", 65535)),
        ({"ADB_SERVER_SOCKET": "tcp:6000"}, ("127.0.0.1", 6000)),
        ({"ADB_SERVER_SOCKET": "tcp:[::1]:6000"}, ("::1", 6000)),
    ],
)
def test_variables_say_where_the_server_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], address: tuple[str, int]
) -> None:
    monkeypatch.delenv("ANDROID_ADB_SERVER_PORT")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert server_address() == address


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ANDROID_ADB_SERVER_PORT", "0"),
        ("ANDROID_ADB_SERVER_PORT", "65536"),
        ("ANDROID_ADB_SERVER_PORT", "-1"),
        ("ANDROID_ADB_SERVER_PORT", "x"),
        ("ANDROID_ADB_SERVER_PORT", "²"),
        ("ADB_SERVER_SOCKET", "tcp:host:"),
        ("ADB_SERVER_SOCKET", "tcp:host:x"),
        ("ADB_SERVER_SOCKET", "localfilesystem:/run/adb"),
        ("ADB_SERVER_SOCKET", "x"),
    ],
)
def test_variables_that_make_no_sense_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=name):
        server_address()
    with pytest.raises(UsageError, match=name):
        connect("127.0.0.1:5555")


def test_the_server_is_found_where_a_variable_says(
    adbd: Adbd, server: AdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.connect(adbd.serial)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")
    monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:localhost:{server.port}")
    assert [device.serial for device in server_devices()] == [adbd.serial]
