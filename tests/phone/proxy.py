"""A way to a daemon that can be cut."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

_DROP_SECONDS = 0.05  # far below what a silent daemon is given


class Proxy:
    """Stands between a host and a daemon, and resets what goes through, or lets it drip, when it is told to."""

    def __init__(self, port: int) -> None:
        """`port`: of the daemon."""
        self._target = port
        self._drips = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def reset(self) -> None:
        """Reset every connection, in both directions; new ones are let through."""
        pairs, self._pairs = self._pairs, []
        for end in (end for pair in pairs for end in pair):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RD)  # wakes the thread that receives
            end.close()

    def drip(self, seconds: float) -> None:
        """Let what comes from the daemon through byte by byte for so long; returns afterwards."""
        self._drips.set()
        time.sleep(seconds)
        self._drips.clear()

    def close(self) -> None:
        """End all connections, and listen no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        self.reset()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                ours, _ = self._listener.accept()
                try:
                    theirs = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    ours.close()
                    continue
                self._pairs.append((ours, theirs))
                for source, sink, drips in ((ours, theirs, None), (theirs, ours, self._drips)):
                    thread = threading.Thread(target=_forward, args=(source, sink, drips))
                    self._threads.append(thread)
                    thread.start()


def _forward(source: socket.socket, sink: socket.socket, drips: threading.Event | None) -> None:
    with contextlib.suppress(OSError):
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := source.recv(1 << 18):
            while drips is not None and drips.is_set() and data:
                sink.sendall(data[:1])
                data = data[1:]
                time.sleep(_DROP_SECONDS)
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
