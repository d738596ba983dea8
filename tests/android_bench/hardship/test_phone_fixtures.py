"""The phones that the other tests talk to are what they claim to be: seen through adb-shell as it comes, and Debian's
adb client."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from adb_shell.adb_device import AdbDeviceTcp
from adb_shell.auth.keygen import keygen
from adb_shell.auth.sign_pythonrsa import PythonRSASigner
from adb_shell.exceptions import AdbCommandFailureException, TcpTimeoutException

from tests.phone.adb_client import AdbServer
from tests.phone.daemon import Adbd, wait_until
from tests.phone.fixtures import StartAdbd, StartLegacy
from tests.phone.identity import BIG_KHZ, LITTLE_KHZ
from tests.phone.legacy import LegacyDaemon
from tests.phone.legacy_wire import HEADER, Faults


@contextmanager
def stock(phone: Adbd | LegacyDaemon) -> Iterator[AdbDeviceTcp]:
    """adb-shell as it comes."""
    with closing(AdbDeviceTcp("127.0.0.1", phone.port, default_transport_timeout_s=10)) as device:
        device.connect()
        yield device


# --- the native daemon


def test_a_daemon_runs_commands_and_takes_files(adbd: Adbd) -> None:
    content = os.urandom(300_000)
    with stock(adbd) as device:
        device.push(BytesIO(content), f"{adbd.directory}/file", st_mode=0o640)
        assert device.shell(f"wc -c <{adbd.directory}/file").strip() == "300000"
        back = BytesIO()
        device.pull(f"{adbd.directory}/file", back)
    assert back.getvalue() == content


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be someone else")
def test_a_daemon_is_an_ordinary_user_unless_asked(adbd: Adbd, start_adbd: StartAdbd) -> None:
    with stock(adbd) as device, stock(start_adbd(uid=0)) as rooted:
        assert device.shell("id -u").strip() == "2000"
        assert rooted.shell("id -u").strip() == "0"


def test_a_daemon_has_the_identity_that_a_test_gives_it(adbd: Adbd) -> None:
    with stock(adbd) as device:
        assert device.shell("getprop ro.board.platform").strip() == "sdm845"
        assert "[ro.product.model]: [SM-G960U]" in device.shell("getprop").splitlines()
        adbd.identity.set_property("ro.product.model", "it's = $(odd)")
        assert device.shell("getprop ro.product.model").strip() == "it's = $(odd)"
        adbd.identity.set_service("battery", "level: 12\n")
        assert device.shell("dumpsys battery").strip() == "level: 12"
        adbd.identity.reset()
        assert "level: 85" in device.shell("dumpsys battery")


def test_a_daemon_sees_the_cores_and_temperatures_of_a_test(start_adbd: StartAdbd) -> None:
    phone = start_adbd(cores=(LITTLE_KHZ, BIG_KHZ), mounts=True)
    with stock(phone) as device:
        read = "cd /sys/devices/system/cpu; cat cpu*/cpufreq/cpuinfo_max_freq"
        assert device.shell(read).split() == [str(LITTLE_KHZ), str(BIG_KHZ)]
        phone.identity.set_sys("class/thermal/thermal_zone1/temp", "81000")
        assert device.shell("cat /sys/class/thermal/thermal_zone1/temp").strip() == "81000"


def test_a_small_disk_is_full_soon(start_adbd: StartAdbd) -> None:
    phone = start_adbd(disk_bytes=1 << 20)
    with stock(phone) as device:
        said = device.shell(f"head -c 2097152 /dev/zero >{phone.directory}/large; wc -c <{phone.directory}/large")
    assert "No space left" in said
    assert said.split()[-1] == str(1 << 20)


def test_a_daemon_comes_back_on_its_port(adbd: Adbd) -> None:
    serial, first = adbd.serial, adbd.pid
    with stock(adbd):
        adbd.kill()
        with pytest.raises(ConnectionRefusedError), stock(adbd):
            pass
        adbd.restart()
    assert (adbd.serial, adbd.pid != first) == (serial, True)
    with stock(adbd) as device:
        assert device.shell("echo again").strip() == "again"


def test_nothing_that_a_daemon_started_survives_it(adbd: Adbd) -> None:
    with stock(adbd) as device:
        # Its own session, no terminal, ignores the hang-up: what a lost runner may look like.
        device.shell("trap '' HUP; setsid sleep 1234 </dev/null >/dev/null 2>&1 &")
        wait_until(lambda: "sleep 1234" in adbd.children().values())
        (pid,) = [pid for pid, command in adbd.children().items() if command == "sleep 1234"]
    adbd.kill()
    assert Path(f"/proc/{pid}").exists()  # as on a phone
    adbd.close()
    assert not Path(f"/proc/{pid}").exists() or "zombie" in Path(f"/proc/{pid}/status").read_text()
    assert adbd.children() == {}


def test_daemons_listen_on_the_loopback_interface_only(adbd: Adbd) -> None:
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if int(port, 16) == adbd.port and fields[3] == "0A":
                addresses.add(address)
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"} and addresses


# --- the ARM64 phone


def test_the_phone_is_an_arm64_galaxy_s9(arm64_phone: Adbd) -> None:
    arm64_phone.reset()
    with stock(arm64_phone) as device:
        assert device.shell("uname -m; id -u; getprop ro.product.model; getprop ro.product.cpu.abi").split() == [
            "aarch64",
            "2000",
            "SM-G960U",
            "arm64-v8a",
        ]
        assert "SDM845" in device.shell("cat /proc/cpuinfo")
        assert device.shell("echo $((1 + 1)) >/dev/null && head -c 8 /dev/urandom | wc -c").strip() == "8"
        assert device.shell(f"df {arm64_phone.directory}").split()[-1] == "/"
        assert device.shell("tty").startswith("/dev/pts/")
        assert device.shell("ls /lib").strip().endswith("No such file or directory")


def test_the_phone_lets_a_program_run_on_its_big_cores(arm64_phone: Adbd) -> None:
    with stock(arm64_phone) as device:
        frequencies = device.shell("cat /sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq").split()
        big = sum(1 << core for core, khz in enumerate(frequencies) if khz == str(BIG_KHZ))
        assert big
        assert device.shell(f"taskset {big:x} sh -c 'taskset -p $$'").strip().endswith(f" {big:x}")


def test_the_phone_takes_files_and_is_as_new_after_a_reset(arm64_phone: Adbd) -> None:
    content = os.urandom(300_000)
    with stock(arm64_phone) as device:
        device.push(BytesIO(content), f"{arm64_phone.directory}/folder/file")
        assert (arm64_phone.host_directory / "folder/file").read_bytes() == content
        arm64_phone.identity.set_sys("class/thermal/thermal_zone1/temp", "90000")
        assert device.shell("cat /sys/class/thermal/thermal_zone1/temp").strip() == "90000"
    arm64_phone.kill()
    arm64_phone.reset()
    with stock(arm64_phone) as device:
        assert device.shell("cat /sys/class/thermal/thermal_zone1/temp").strip() != "90000"
        assert device.shell(f"ls {arm64_phone.directory}").strip() == ""


def test_nothing_is_mounted_where_this_machine_sees_it(arm64_phone: Adbd) -> None:
    assert str(arm64_phone.root) not in Path("/proc/self/mountinfo").read_text()
    assert str(arm64_phone.root) in Path(f"/proc/{arm64_phone.pid}/mountinfo").read_text()


# --- the adb client


def test_the_client_and_adb_shell_see_the_same_files(adbd: Adbd, adb_server: AdbServer, tmp_path: Path) -> None:
    adb_server.connect(adbd.serial)
    with stock(adbd) as device:
        device.push(BytesIO(b"from adb-shell"), f"{adbd.directory}/one")
        assert adb_server.run("-s", adbd.serial, "shell", f"cat {adbd.directory}/one").stdout == "from adb-shell"
        (tmp_path / "two").write_text("from the client")
        adb_server.run("-s", adbd.serial, "push", str(tmp_path / "two"), f"{adbd.directory}/two")
        assert device.shell(f"cat {adbd.directory}/two") == "from the client"


def test_the_client_knows_no_other_phone(adb_server: AdbServer) -> None:
    assert adb_server.run("devices").stdout.split("\n", 1)[1].strip() == ""


# --- the old daemon


def test_an_old_daemon_mixes_outputs_and_ends_lines_as_a_terminal_does(legacy_daemon: LegacyDaemon) -> None:
    with stock(legacy_daemon) as device:
        said = device.shell("echo out; echo err >&2; pwd; getprop ro.build.version.sdk; exit 3", decode=False)
    assert said == f"out\r\nerr\r\n{legacy_daemon.directory}\r\n23\r\n".encode()


def test_an_old_daemon_takes_and_gives_files(legacy_daemon: LegacyDaemon) -> None:
    content = os.urandom(20_000)
    with stock(legacy_daemon) as device:
        device.push(BytesIO(content), f"{legacy_daemon.directory}/deep/file", st_mode=0o100750, mtime=1_000_000_000)
        assert device.stat(f"{legacy_daemon.directory}/deep/file") == (0o100750, 20_000, 1_000_000_000)
        assert device.stat(f"{legacy_daemon.directory}/none") == (0, 0, 0)
        back = BytesIO()
        device.pull(f"{legacy_daemon.directory}/deep/file", back)
        with pytest.raises(AdbCommandFailureException, match="No such file"):
            device.pull(f"{legacy_daemon.directory}/none", BytesIO())
    assert back.getvalue() == content


def test_an_old_daemon_serves_the_adb_client(
    legacy_daemon: LegacyDaemon, adb_server: AdbServer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(20_000))
    adb_server.connect(legacy_daemon.serial)
    here = ("-s", legacy_daemon.serial)
    adb_server.run(*here, "push", str(tmp_path / "file"), f"{legacy_daemon.directory}/file")
    assert adb_server.run(*here, "shell", f"wc -c <{legacy_daemon.directory}/file").stdout == "20000\n"
    assert legacy_daemon.services[-1].startswith("shell:")  # and not the second version of it


def test_an_old_daemon_knows_no_newer_services(legacy_daemon: LegacyDaemon) -> None:
    with raw(legacy_daemon) as connection:
        connection.sendall(message(b"OPEN", 1, 0, b"shell,v2,raw:true\0"))
        assert receive(connection, 24) == message(b"CLSE", 0, 1)
    assert legacy_daemon.services == ["shell,v2,raw:true"]


def test_what_an_old_daemon_runs_ends_when_the_client_hangs_up(legacy_daemon: LegacyDaemon) -> None:
    with stock(legacy_daemon) as device:
        lines = device.streaming_shell("echo started; sleep 1234")
        assert next(iter(lines)).strip() == "started"
        wait_until(lambda: "sleep 1234" in legacy_daemon.children().values())
    wait_until(lambda: not legacy_daemon.children())


def test_an_old_daemon_checks_the_client(start_legacy: StartLegacy, tmp_path: Path) -> None:
    signers = []
    for name in ("one", "two"):
        keygen(str(tmp_path / name))
        public = (tmp_path / f"{name}.pub").read_bytes()
        signers.append(PythonRSASigner(public.decode(), (tmp_path / name).read_text()))
    first = (tmp_path / "one.pub").read_bytes()
    phone = start_legacy(keys=[first])

    def connect(*rsa_keys: PythonRSASigner) -> None:
        with closing(AdbDeviceTcp("127.0.0.1", phone.port, default_transport_timeout_s=10)) as device:
            device.connect(rsa_keys=list(rsa_keys), auth_timeout_s=0.3)
            assert device.shell("echo in").strip() == "in"

    connect(signers[0])
    connect(signers[1], signers[0])
    with pytest.raises(TcpTimeoutException):
        connect(signers[1])  # nobody taps on `allow`
    phone.accepts_new_keys = True
    connect(signers[1])
    phone.accepts_new_keys = False
    connect(signers[1])
    assert len(phone.keys or []) == 2


def raw(phone: LegacyDaemon) -> socket.socket:
    """A connection that is established."""
    connection = socket.create_connection(("127.0.0.1", phone.port), timeout=5)
    connection.sendall(message(b"CNXN", 0x01000000, 4096, b"host::\0"))
    receive(connection, HEADER.unpack(receive(connection, 24))[3])
    return connection


def receive(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count and (piece := connection.recv(count - len(received))):
        received += piece
    return received


def message(command: bytes, first: int, second: int, payload: bytes = b"", sum_error: int = 0) -> bytes:
    magic = int.from_bytes(command, "little") ^ 0xFFFFFFFF
    return HEADER.pack(command, first, second, len(payload), sum(payload) + sum_error, magic) + payload


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"X" * 24, "no command"),
        (message(b"OPEN", 1, 0, b"shell:true\0", sum_error=1), "checksum"),
        (message(b"OPEN", 1, 0, b"shell:" + b":" * 5000 + b"\0"), "more than 4096"),
        (message(b"OPEN", 1, 0, b"shell:true"), "opens no stream"),
        (message(b"CNXN", 0x01000000, 4096, b"host::\0"), "established"),
        (message(b"OPEN", 7, 0, b"sync:\0") + message(b"OKAY", 7, 1), "was not sent"),
        (message(b"OPEN", 7, 0, b"shell:cat\0") + message(b"WRTE", 8, 1, b"x"), "on the stream of 7"),
        (message(b"OPEN", 7, 0, b"sync:\0") + message(b"WRTE", 7, 1, b"JUNK\0\0\0\0"), "no request"),
    ],
)
def test_an_old_daemon_notes_what_is_against_the_protocol(legacy_daemon: LegacyDaemon, sent: bytes, error: str) -> None:
    with raw(legacy_daemon) as connection:
        connection.sendall(sent)
        wait_until(lambda: bool(legacy_daemon.errors))
    assert error in legacy_daemon.errors.pop()


def test_an_old_daemon_fails_as_it_is_told(legacy_daemon: LegacyDaemon) -> None:
    def answer(faults: Faults, count: int, timeout_seconds: float = 5.0) -> bytes:
        """The first `count` bytes after a request of 41, which count too."""
        legacy_daemon.faults = faults
        with raw(legacy_daemon) as connection:
            connection.settimeout(timeout_seconds)
            connection.sendall(message(b"OPEN", 1, 0, b"shell:echo hello\0"))
            return receive(connection, count)

    good = message(b"OKAY", 1, 1) + message(b"WRTE", 1, 1, b"hello\r\n")
    assert answer(Faults(), len(good)) == answer(Faults(piece_bytes=1), len(good)) == good
    assert answer(Faults(wrong_magic=True), 24)[20:] != good[20:24]
    assert answer(Faults(wrong_checksum=True), 24)[16:20] != good[16:20]
    assert answer(Faults(huge_length=True), 24)[12:16] == b"\xff" * 4
    garbage = answer(Faults(garbage_after_bytes=70), len(good))
    assert garbage[:24] == good[:24] and garbage[24:48] != good[24:48]
    assert answer(Faults(stall_after_bytes=70), 29) == good[:29]
    with pytest.raises(TimeoutError):
        answer(Faults(stall_after_bytes=70), 30, timeout_seconds=0.3)
    with pytest.raises(TimeoutError):  # for want of a confirmation
        answer(Faults(endless_output=True), 100_000, timeout_seconds=0.3)
    assert len(answer(Faults(endless_output=True, ignore_flow_control=True), 100_000)) == 100_000
    with pytest.raises(ConnectionResetError):
        answer(Faults(reset_after_bytes=60, connections=1), 41)
    assert legacy_daemon.faults.connections == 0
    with raw(legacy_daemon) as connection:  # the next one is good again
        connection.sendall(message(b"OPEN", 1, 0, b"shell:echo hello\0"))
        assert receive(connection, len(good)) == good
        legacy_daemon.disconnect()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
