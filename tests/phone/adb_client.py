"""Debian's adb client with a server of its own, which sees no phone but those it was told of."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.patience import PATIENCE
from tests.phone.processes import VARIABLE, end_marked, new_mark


class AdbServer:
    """A running adb server.

    Attributes:
        port: of its socket, on the loopback interface.
    """

    def __init__(self, home: Path, port: int) -> None:
        """`home`: where it keeps its keys."""
        self.port = port
        self._mark = new_mark()
        self._environment = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            # It looks for phones in the local network, on USB and among the emulators otherwise.
            "ADB_MDNS": "0",
            "ADB_USB": "0",
            "ADB_EMU": "0",
            VARIABLE: self._mark,
        }
        self.run("start-server")

    def run(
        self, *arguments: str, environment: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """`adb ARGUMENTS`; raises CalledProcessError if it fails and `check` is set.

        Its server outlives the client and may hold the client's output open: that goes to the end of the client alone.
        """
        return subprocess.run(
            ["adb", "-P", str(self.port), *arguments],
            env={**self._environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=check,
            timeout=PATIENCE,
        )

    def connect(self, serial: str) -> None:
        """Take a daemon in; returns when it is ready.

        Raises:
            RuntimeError: the server says that it is not.
        """
        said = self.run("connect", serial).stdout
        if f"connected to {serial}" not in said:
            raise RuntimeError(f"adb connect {serial}: {said}")
        self.run("-s", serial, "wait-for-device")

    def close(self) -> None:
        """End the server, and a client that hangs."""
        end_marked(self._mark)
