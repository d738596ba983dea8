"""Which device is meant, and which way leads to it."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from bpnas.android_bench.adb.attached import Attached
from bpnas.android_bench.adb.usb import usb_devices, usb_transport
from bpnas.android_bench.errors import DeviceLostError, UnknownSerialError
from bpnas.android_bench.serials import attached_devices, choose_serial, connect
from bpnas.base.errors import UsageError
from tests.phone.adb_client import AdbServer
from tests.phone.daemon import Adbd
from tests.phone.legacy import LegacyDaemon
from tests.phone.usb import FakeUsb


@pytest.fixture
def server(adb_server: AdbServer, monkeypatch: pytest.MonkeyPatch) -> AdbServer:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))
    return adb_server


def plug_in(monkeypatch: pytest.MonkeyPatch, *serials: str, port: int = 1) -> None:
    """Phones on USB, and libusb to see them."""
    found = [(serial, f"\x1b1-{number}", FakeUsb(port)) for number, serial in enumerate(serials)]
    monkeypatch.setattr("bpnas.android_bench.adb.usb._find", lambda: iter(found))


def test_without_any_phone_this_machine_is_meant() -> None:
    assert (attached_devices(), choose_serial()) == ((), "local")


def test_the_variable_says_which_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_SERIAL", " 192.168.1.7:5555 ")
    plug_in(monkeypatch, "one", "two")
    assert choose_serial() == "192.168.1.7:5555"
    monkeypatch.setenv("ANDROID_SERIAL", " ")
    with pytest.raises(UsageError):
        choose_serial()


def test_the_only_phone_is_meant(adbd: Adbd, server: AdbServer) -> None:
    server.connect(adbd.serial)
    assert choose_serial() == adbd.serial


def test_the_only_phone_on_usb_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, "R58M123ABC")
    assert attached_devices() == (Attached("R58M123ABC", "device", "\N{REPLACEMENT CHARACTER}1-0", "usb"),)
    assert choose_serial() == "R58M123ABC"


def test_of_several_phones_none_is_guessed(adbd: Adbd, server: AdbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.connect(adbd.serial)
    plug_in(monkeypatch, "R58M123ABC", adbd.serial)  # the server's own phone is seen on the bus too
    assert [(device.serial, device.via) for device in attached_devices()] == [
        (adbd.serial, "adb server"),
        ("R58M123ABC", "usb"),
    ]
    said = rf"several devices are attached: {adbd.serial} \(.+\), R58M123ABC \(.+\); say which with --serial"
    with pytest.raises(UsageError, match=said):
        choose_serial()


def test_a_phone_on_usb_is_reached_without_a_server(
    legacy_daemon: LegacyDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpnas.android_bench.adb.usb._POLL_SECONDS", 0.05)
    plug_in(monkeypatch, "R58M123ABC", port=legacy_daemon.port)
    with closing(connect("R58M123ABC", legacy_daemon.directory)) as remote:
        assert (remote.serial, remote.shell("echo usb").text) == ("R58M123ABC", "usb")
        plug_in(monkeypatch)
        with pytest.raises(DeviceLostError, match="R58M123ABC: not attached any more; plug it in again"):
            remote.reconnect()
        plug_in(monkeypatch, "R58M123ABC", port=legacy_daemon.port)
        remote.reconnect()
        assert remote.shell("echo usb").text == "usb"


@pytest.mark.parametrize("serial", ["R58", "host:", "host:0", "host:65536", "host:x", "host", "", "a b\x1b[2J"])
def test_a_serial_that_nobody_has_is_named(serial: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"no device answers to serial {serial!r}; attached are: {{}}. Plug it in"
    with pytest.raises(UnknownSerialError, match=re.escape(said.format("nothing"))) as caught:
        connect(serial)
    assert str(caught.value).isprintable()
    plug_in(monkeypatch, "one", "two")
    with pytest.raises(UnknownSerialError, match=re.escape(said.format("one, two"))):
        connect(serial)


@pytest.mark.parametrize("place", ["[::1]", "127.0.0.1", "localhost"])
def test_a_place_at_which_nobody_listens_is_named(place: str, deaf_port: int) -> None:
    with pytest.raises(DeviceLostError, match=rf"^{re.escape(place)}:{deaf_port}: no ADB daemon answers"):
        connect(f"{place}:{deaf_port}")


def test_a_host_that_does_not_exist_is_named() -> None:
    for host in ("x" * 300, "a..b"):  # names that no resolver is asked for
        with pytest.raises(DeviceLostError, match="no ADB daemon answers"):
            connect(f"{host}:5555")


def test_this_machine_is_a_remote_too(tmp_path: Path) -> None:
    with closing(connect("local")) as remote:
        assert (remote.serial, remote.shell("echo here").text) == ("local", "here")


def test_no_test_sees_a_phone_on_usb() -> None:
    assert (usb_devices(), usb_transport("any")) == ((), None)


@pytest.mark.parametrize("serial", ["mock:s9", "mock:nosuch"])
def test_a_computed_device_is_not_looked_for_among_phones(serial: str) -> None:
    with pytest.raises(UnknownSerialError, match=f"'{serial}' is a computed device") as caught:
        connect(serial)
    assert "attached" not in str(caught.value)
