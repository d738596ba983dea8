"""Which devices there are, and which one is meant."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from bpnas.android_bench.errors import DeviceError, UnknownSerialError
from bpnas.base.errors import UsageError

if TYPE_CHECKING:
    from bpnas.android_bench.adb.attached import Attached
    from bpnas.android_bench.adb.connection import AdbConnection
    from bpnas.android_bench.remote import Remote

_REMEDY = "unplug it and plug it in again, and see 'adb devices'"
_REMEDIES = {
    "unauthorized": "unlock the phone and say yes to 'Allow USB debugging?'",
    "no permissions": "this user may not use the USB device: add a udev rule, or join the group plugdev",
}


def attached_devices() -> tuple[Attached, ...]:
    """Everything attached: what a running adb server lists, then phones on USB that it does not own.

    No server is started. A daemon that listens on TCP shows up only once `adb connect` told the server of it.
    """
    from bpnas.android_bench.adb.server import server_devices
    from bpnas.android_bench.adb.usb import usb_devices

    served = server_devices()
    known = {device.serial for device in served}
    return (*served, *(device for device in usb_devices() if device.serial not in known))


def choose_serial() -> str:
    """The serial meant where none is given: `ANDROID_SERIAL`, else the one attached device, else `local`.

    Raises:
        UsageError: several are attached; the message lists them.
    """
    serial = os.environ.get("ANDROID_SERIAL", "").strip()
    if serial:
        return serial
    devices = attached_devices()
    if len(devices) > 1:
        listed = ", ".join(f"{device.serial} ({device.model or device.state})" for device in devices)
        raise UsageError(f"several devices are attached: {listed}; say which with --serial, or set ANDROID_SERIAL")
    return devices[0].serial if devices else "local"


def connect(serial: str, scratch: str = "/data/local/tmp") -> Remote:
    """The machine with that serial: `local`, a USB serial or `HOST:PORT`.

    A device that a running adb server owns is reached through the server, everything else directly.

    Args:
        serial: of the device.
        scratch: a folder there in which files may be made.

    Raises:
        UnknownSerialError: there is no such device.
        DeviceLostError: it does not answer.
        DeviceError: it refuses this computer.
    """
    if serial == "local":
        from bpnas.android_bench.local.remote import LocalRemote

        return LocalRemote()
    if serial.startswith("mock:"):
        raise UnknownSerialError(
            f"{serial!r} is a computed device, on which nothing runs: give a phone's serial, or 'local'"
        )
    from bpnas.android_bench.adb.remote import AdbRemote

    return AdbRemote(serial, partial(_connect_adb, serial), scratch)


def _connect_adb(serial: str) -> AdbConnection:
    # Again at every connection: an adb server may have been started, or a cable plugged in, since the last one.
    from bpnas.android_bench.adb.connection import DirectConnection
    from bpnas.android_bench.adb.keys import load_signers
    from bpnas.android_bench.adb.server import NO_SERIAL, ServerConnection, server_devices
    from bpnas.android_bench.adb.transport import HardenedTcpTransport
    from bpnas.android_bench.adb.usb import usb_transport

    served = [device for device in server_devices() if device.serial == serial]
    if len(served) > 1:
        raise UsageError(f"{len(served)} devices have the serial {serial!r}: unplug all but one of them")
    for device in served:
        if device.state != "device":
            raise DeviceError(f"{serial}: {device.state}; {_REMEDIES.get(device.state, _REMEDY)}")
        # A phone that has no serial number cannot be asked for by it.
        return ServerConnection(serial, device.transport_id if serial == NO_SERIAL else "")
    host, colon, port = serial.rpartition(":")
    if colon and port.isdecimal() and 0 < int(port) < 65536:
        return DirectConnection(serial, HardenedTcpTransport(host.strip("[]"), int(port)), load_signers)
    transport = usb_transport(serial)
    if transport is not None:
        return DirectConnection(serial, transport, load_signers)
    listed = ", ".join(device.serial for device in attached_devices()) or "nothing"
    raise UnknownSerialError(
        f"no device answers to serial {serial!r}; attached are: {listed}. Plug it in, switch USB debugging on, and see "
        "'profile-device devices'; 'local' is this machine, 'mock:s9' a computed Galaxy S9"
    )
