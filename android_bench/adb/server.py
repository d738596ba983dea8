"""A way to a device through a running adb server: shared USB, wireless debugging, emulators.

Source: AOSP, packages/modules/adb/SERVICES.TXT and OVERVIEW.TXT ("smart sockets"). Every stream is a connection to the
server of its own. A server is never started here: `adb devices` does that.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time

from bpnas.android_bench.adb.attached import Attached
from bpnas.android_bench.adb.transport import hang_up
from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.base.errors import UsageError
from bpnas.base.plain_text import as_text, printable

_DEFAULT_PORT = 5037
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 20.0
_CHUNK_BYTES = 1 << 18
_OLD_PAYLOAD_BYTES = 4096
_MAX_REQUEST_BYTES = 0xFFFF  # four hexadecimal digits say how long a request is
# A serial may hold spaces, as those that mDNS gives to phones on Wi-Fi do; behind the state there are facts, or advice
# with a link. AOSP, packages/modules/adb/transport.cpp and adb.cpp, `to_string(ConnectionState)`.
_STATES = (
    "device|offline|unauthorized|authorizing|connecting|no permissions|bootloader|recovery|rescue|sideload|host|"
    "detached|unknown"
)
_DEVICE = re.compile(rf"(?P<serial>\S.*?)\s+(?P<state>{_STATES})(?P<facts>| \(.*| ?;.*|(\s+[\w-]+:\S*)+)\s*")
_ANY_DEVICE = re.compile(r"(?P<serial>\S+)\s+(?P<state>\S+)(?P<facts>.*)")  # in a state that is not known here
NO_SERIAL = "(no serial number)"
"""What the server lists in the place of a serial that is empty."""

_LENGTH = re.compile(rb"[0-9a-fA-F]{4}")


def server_address() -> tuple[str, int]:
    """Where the server listens: `ADB_SERVER_SOCKET` (tcp:HOST:PORT), `ANDROID_ADB_SERVER_ADDRESS` and
    `ANDROID_ADB_SERVER_PORT`, else 127.0.0.1:5037, as adb itself has it.

    Raises:
        UsageError: a variable makes no sense.
    """
    place = os.environ.get("ADB_SERVER_SOCKET", "")
    if place:
        scheme, _, rest = place.partition(":")
        host, _, port = rest.rpartition(":")
        name = "ADB_SERVER_SOCKET"
        if scheme != "tcp":
            raise UsageError(f"{name}={place}: only tcp:HOST:PORT is supported")
    else:
        host = os.environ.get("ANDROID_ADB_SERVER_ADDRESS", "")
        name, port = "ANDROID_ADB_SERVER_PORT", os.environ.get("ANDROID_ADB_SERVER_PORT", "") or str(_DEFAULT_PORT)
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{name}: {port!r} is no port; set a number from 1 to 65535, or unset it")
    return host.strip("[]") or "127.0.0.1", int(port)


def server_devices() -> tuple[Attached, ...]:
    """What the server lists; nothing where none runs.

    Raises:
        DeviceError: what answers at its address is no adb server.
    """
    try:
        connection = socket.create_connection(server_address(), _CONNECT_SECONDS)
    except OSError:
        return ()
    with connection:
        _request(connection, "host:devices-l")
        lines = _read_text(connection).splitlines()
    found = []
    for line in lines:
        match = _DEVICE.fullmatch(line) or _ANY_DEVICE.fullmatch(line)
        if match:
            facts = dict(fact.split(":", 1) for fact in match["facts"].split() if ":" in fact)
            serial, state, model = (as_text(text) for text in (match["serial"], match["state"], facts.get("model", "")))
            found.append(Attached(serial, state, model, "adb server", facts.get("transport_id", "")))
    return tuple(found)


class ServerConnection:
    """The services of one device of the server's.

    Args:
        serial: as the server lists it.
        transport_id: the server's own number of it, to ask for it by that.

    Raises:
        DeviceLostError: the server or the device is gone.
        DeviceError: the server says no.
    """

    def __init__(self, serial: str, transport_id: str = "") -> None:
        self.name = serial
        self._transport = f"host:transport-id:{transport_id}" if transport_id else f"host:transport:{serial}"
        features = f"host-transport-id:{transport_id}" if transport_id else f"host-serial:{serial}"
        self._lock = threading.Lock()
        self._streams: set[_SocketStream] = set()
        self._is_closed = False
        with self._connect() as connection:
            _request(connection, f"{features}:features")
            self._features = frozenset(_read_text(connection).strip().split(","))

    @property
    def features(self) -> frozenset[str]:
        return self._features

    @property
    def max_service_bytes(self) -> int:
        # The server ends itself over a name longer than the device's packets, 4096 bytes before Android 7.
        return _MAX_REQUEST_BYTES if "shell_v2" in self._features else _OLD_PAYLOAD_BYTES - 1

    def open(self, service: str) -> _SocketStream:
        if (size := len(service.encode())) > self.max_service_bytes:
            raise DeviceError(f"{self.name}: a command of {size} bytes is too long for this device")
        connection = self._connect()
        try:
            _request(connection, self._transport)
            _request(connection, service)
        except BaseException:
            connection.close()
            raise
        stream = _SocketStream(self.name, connection)
        with self._lock:
            if self._is_closed:
                stream.close()
                raise DeviceLostError(f"{self.name}: the connection was closed on this side")
            self._streams = {each for each in self._streams if not each.is_closed} | {stream}
        return stream

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            streams, self._streams = self._streams, set()
        for stream in streams:
            stream.close()

    def _connect(self) -> socket.socket:
        try:
            connection = socket.create_connection(server_address(), _CONNECT_SECONDS)
        except OSError as error:
            raise DeviceLostError(
                f"{self.name}: the adb server does not answer; start it with 'adb devices'"
            ) from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


class _SocketStream:
    def __init__(self, name: str, connection: socket.socket) -> None:
        self._name = name
        self._connection = connection
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self.is_closed = False

    def read(self, timeout_seconds: float) -> bytes:
        try:
            with self._reading:
                self._connection.settimeout(max(timeout_seconds, 0.001))
                data = self._connection.recv(_CHUNK_BYTES)
        except TimeoutError:
            raise
        except OSError as error:
            raise self._lost(error) from error
        if self.is_closed:
            raise self._lost()
        return data

    def write(self, data: bytes) -> None:
        try:
            with self._writing:
                self._connection.settimeout(_ANSWER_SECONDS)
                self._connection.sendall(data)
        except OSError as error:
            raise self._lost(error) from error

    def close(self) -> None:
        self.is_closed = True
        hang_up(self._connection, self._reading, self._writing)

    def _lost(self, error: OSError | None = None) -> DeviceLostError:
        if error is None or self.is_closed:
            return DeviceLostError(f"{self._name}: the stream was closed on this side")
        return DeviceLostError(f"{self._name}: {error.strerror or error}")


def _request(connection: socket.socket, text: str) -> None:
    content = text.encode()
    try:
        connection.settimeout(_ANSWER_SECONDS)
        connection.sendall(f"{len(content):04x}".encode() + content)
    except OSError as error:
        raise _silence(error) from error
    status = _read_exactly(connection, 4)
    if status == b"OKAY":
        return
    if status != b"FAIL":
        place = ":".join(map(str, server_address()))
        raise DeviceError(f"what listens at {place} is no adb server; end it, or set ANDROID_ADB_SERVER_PORT")
    reason = printable(_read_text(connection)) or "no reason given"
    lost = ("not found", "offline", "closed", "no devices", "no device with")
    remedy = (
        "unlock the phone and say yes to 'Allow USB debugging?'" if "unauthorized" in reason else "see 'adb devices'"
    )
    raise (DeviceLostError if any(word in reason for word in lost) else DeviceError)(
        f"the adb server says: {reason}; {remedy}"
    )


def _read_text(connection: socket.socket) -> str:
    digits = _read_exactly(connection, 4)
    if not _LENGTH.fullmatch(digits):
        raise DeviceError("the adb server's answer makes no sense; restart it with 'adb kill-server'")
    return _read_exactly(connection, int(digits, 16)).decode(errors="replace")


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data, deadline = b"", time.monotonic() + _ANSWER_SECONDS
    try:
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            connection.settimeout(left)
            chunk = connection.recv(size - len(data))
            if not chunk:
                raise ConnectionResetError("it closed the connection")
            data += chunk
    except OSError as error:
        raise _silence(error) from error
    return data


def _silence(error: OSError) -> DeviceLostError:
    return DeviceLostError(
        f"the adb server does not answer ({error.strerror or error}); restart it with 'adb kill-server'"
    )
