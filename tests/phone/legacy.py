"""A daemon as Android 6 had it, and as bad as a test wants it.

It is strict: it accepts nothing that the real one of that time would not, and writes down what it was sent against the
protocol.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.patience import PATIENCE
from tests.phone.identity import Identity
from tests.phone.legacy_auth import TOKEN_BYTES, read_public_key, signed_by
from tests.phone.legacy_services import Sync, print_for_ever, run_shell
from tests.phone.legacy_wire import MAX_PAYLOAD, VERSION, Faults, Packet, ProtocolError, Wire
from tests.phone.processes import VARIABLE, end_marked, marked, new_mark

AUTH_TOKEN, AUTH_SIGNATURE, AUTH_PUBLIC_KEY = 1, 2, 3


class LegacyDaemon:
    """One daemon on a port of the loopback interface, in threads of this process.

    Attributes:
        port, serial: where it listens, `127.0.0.1:PORT`.
        directory: where commands start and files may be pushed to.
        identity: what `getprop` and `dumpsys` say.
        faults: of the connections that are made from now on.
        keys: public keys, as in `adbkey.pub`, that it trusts; None: it trusts everybody.
        accepts_new_keys: what its user says to a key that it does not know. If no, then nothing: it does not answer.
        errors: what clients did against the protocol.
        services: what clients asked for, in order.
    """

    def __init__(self, folder: Path, keys: Sequence[bytes] | None = None, accepts_new_keys: bool = False) -> None:
        """`folder`: an empty one, for its files."""
        self.identity = Identity(folder, "armeabi-v7a")
        self.identity.set_property("ro.build.version.release", "6.0.1")
        self.identity.set_property("ro.build.version.sdk", "23")
        self.directory = str(folder / "data/local/tmp")
        Path(self.directory).mkdir(parents=True)
        self.faults = Faults()
        self.keys = None if keys is None else list(keys)
        self.accepts_new_keys = accepts_new_keys
        self.errors: list[str] = []
        self.services: list[str] = []
        self._mark = new_mark()
        self.environment = {
            "PATH": f"{folder}/system/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "TMPDIR": self.directory,
            "HOME": self.directory,
            VARIABLE: self._mark,
        }
        self._connections: list[Connection] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def children(self) -> dict[int, str]:
        """What it started and is alive: command lines by process id."""
        return marked(self._mark)

    def disconnect(self) -> None:
        """Reset all connections; it goes on listening."""
        for connection in self._connections:
            connection.wire.close(reset=True)

    def close(self) -> None:
        """Hang up and end what it started.

        Raises:
            AssertionError: a thread does not end.
        """
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE)
        for connection in self._connections:
            connection.close()
        end_marked(self._mark)
        for thread in [self._thread, *(thread for connection in self._connections for thread in connection.threads)]:
            thread.join(PATIENCE)
            assert not thread.is_alive(), thread

    def next_faults(self) -> Faults:
        """Those of the connection that is being established."""
        faults = self.faults
        if faults.connections is None:
            return faults
        if faults.connections == 0:
            return Faults()
        fields = {name: getattr(faults, name) for name in faults.__slots__}
        self.faults = Faults(**fields | {"connections": faults.connections - 1})
        return faults

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                accepted, _ = self._listener.accept()
                self._connections.append(Connection(self, Wire(accepted)))


class Connection:
    """One client: who it is, and its streams."""

    def __init__(self, daemon: LegacyDaemon, wire: Wire) -> None:
        self.daemon = daemon
        self.wire = wire
        self.threads: list[threading.Thread] = []
        self._streams: dict[int, LegacyStream] = {}
        self._opened = 0
        self._start(self._serve)

    def close(self) -> None:
        self.wire.close()
        for stream in list(self._streams.values()):
            stream.end()

    def forget(self, stream: LegacyStream) -> None:
        self._streams.pop(stream.number, None)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=self._guarded, args=(work, *arguments), daemon=True)
        self.threads.append(thread)
        thread.start()

    def _guarded(self, work: object, *arguments: object) -> None:
        """A protocol error ends the connection and is kept; that the client is gone is no error."""
        assert callable(work)
        try:
            work(*arguments)
        except (EOFError, OSError):
            pass
        except ProtocolError as error:
            self.daemon.errors.append(str(error))
            self.close()

    def _serve(self) -> None:
        try:
            if self._greet():
                while packet := self.wire.receive():
                    self._handle(packet)
        finally:
            self.close()

    def _greet(self) -> bool:
        """Whether the client is one of ours; if not it has hung up."""
        packet = self.wire.receive()
        if packet is None:
            return False
        if packet.command != b"CNXN" or not packet.payload.startswith(b"host::"):
            raise ProtocolError(f"{packet} where a connection must begin")
        if self.daemon.keys is not None and not self._trusts():
            return False
        get = self.daemon.identity.property
        pairs = "".join(f"{name}={get(name)};" for name in ("ro.product.name", "ro.product.model", "ro.product.device"))
        self.wire.send(Packet(b"CNXN", VERSION, MAX_PAYLOAD, b"device::" + pairs.encode() + b"\0"))
        self.wire.establish(self.daemon.next_faults())
        return True

    def _trusts(self) -> bool:
        assert self.daemon.keys is not None
        while True:
            token = secrets.token_bytes(TOKEN_BYTES)
            self.wire.send(Packet(b"AUTH", AUTH_TOKEN, 0, token))
            packet = self.wire.receive()
            if packet is None:
                return False
            if packet.command != b"AUTH" or packet.first not in (AUTH_SIGNATURE, AUTH_PUBLIC_KEY):
                raise ProtocolError(f"{packet} where a signature or a key must come")
            if packet.first == AUTH_SIGNATURE:
                if any(signed_by(read_public_key(key), token, packet.payload) for key in self.daemon.keys):
                    return True
            else:
                read_public_key(packet.payload)
                if self.daemon.accepts_new_keys:
                    self.daemon.keys.append(packet.payload)
                    return True
                while self.wire.receive():  # the phone shows its question until the client gives up
                    pass
                return False

    def _handle(self, packet: Packet) -> None:
        if packet.command == b"OPEN":
            self._open(packet)
        elif packet.command in (b"OKAY", b"WRTE", b"CLSE"):
            # What is for a stream that has just ended crossed its end on the way.
            if stream := self._streams.get(packet.second):
                stream.handle(packet)
        else:
            raise ProtocolError(f"{packet} on a connection that is established")

    def _open(self, packet: Packet) -> None:
        if packet.first == 0 or packet.second != 0 or not packet.payload.endswith(b"\0"):
            raise ProtocolError(f"{packet} opens no stream")
        service = packet.payload[:-1].decode()
        self.daemon.services.append(service)
        kind, colon, command = service.partition(":")
        if (kind, colon) not in (("shell", ":"), ("sync", ":")):
            self.wire.send(Packet(b"CLSE", 0, packet.first))
            return
        self._opened += 1
        stream = LegacyStream(self, self._opened, packet.first)
        self._streams[stream.number] = stream
        self.wire.send(Packet(b"OKAY", stream.number, stream.remote))
        self._start(self._run, stream, kind, command)

    def _run(self, stream: LegacyStream, kind: str, command: str) -> None:
        directory = Path(self.daemon.directory)
        try:
            if kind == "sync":
                Sync(stream, directory).run()
            elif self.wire.faults.endless_output:
                print_for_ever(stream)
            else:
                run_shell(stream, command, directory, self.daemon.environment)
        finally:
            stream.close()


class LegacyStream:
    """One service's bytes. Each side may send one packet, and the next when the other has confirmed it."""

    def __init__(self, connection: Connection, number: int, remote: int) -> None:
        self.number = number
        self.remote = remote
        self._connection = connection
        self._received: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._unconfirmed = False  # the client's last packet
        self._confirmed = threading.Event()  # ours
        self._confirmed.set()
        self._ended = threading.Event()

    def read(self) -> bytes:
        data = self._received.get()
        if data is None:
            raise EOFError
        self._unconfirmed = False
        self._connection.wire.send(Packet(b"OKAY", self.number, self.remote))
        return data

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_PAYLOAD):
            if not self._connection.wire.faults.ignore_flow_control:
                self._confirmed.wait()
            if self._ended.is_set():
                raise EOFError
            self._confirmed.clear()
            piece = data[start : start + MAX_PAYLOAD]
            self._connection.wire.send(Packet(b"WRTE", self.number, self.remote, piece))

    def handle(self, packet: Packet) -> None:
        """What the client sent."""
        if packet.first != self.remote and packet.command != b"CLSE":
            raise ProtocolError(f"{packet} on the stream of {self.remote}")
        if packet.command == b"OKAY":
            # Who sends on without waiting has lost count of what it sent.
            if self._confirmed.is_set() and not self._connection.wire.faults.ignore_flow_control:
                raise ProtocolError(f"{packet} confirms what was not sent")
            self._confirmed.set()
        elif packet.command == b"WRTE":
            if self._unconfirmed:
                raise ProtocolError("a second packet before the first one was confirmed")
            self._unconfirmed = True
            self._received.put(packet.payload)
        else:
            self._confirmed.set()
            self.close()

    def close(self) -> None:
        """End it and tell the client, once it has confirmed what it was sent; calling it twice does no harm."""
        if not self._connection.wire.faults.ignore_flow_control:
            self._confirmed.wait()
        if not self._ended.is_set():
            self.end()
            with contextlib.suppress(OSError):
                self._connection.wire.send(Packet(b"CLSE", self.number, self.remote))

    def end(self) -> None:
        """Wake whoever reads or writes."""
        self._ended.set()
        self._confirmed.set()
        self._received.put(None)
        self._connection.forget(self)
