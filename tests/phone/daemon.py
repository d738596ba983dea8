"""A real adbd in a process of its own: to talk to, to stop and to kill."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.patience import PATIENCE
from tests.phone.identity import Identity
from tests.phone.parts import cannot_mount, loader
from tests.phone.processes import VARIABLE, end_marked, marked, new_mark

SHELL_UID = 2000
"""Android's user `shell`, which adbd and all that it starts run as."""


class Adbd:
    """One daemon on a port of the loopback interface.

    Attributes:
        port, serial: where it listens, `127.0.0.1:PORT`; kept for life.
        directory: a folder on the device, as the device calls it, that its user may write.
        host_directory: the same folder, as this machine calls it.
        identity: what `getprop`, `dumpsys` and /sys say there, to change.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        directory: str,
        identity: Identity,
        log: Path,
        environment: dict[str, str],
        *,
        host_directory: Path,
        patience_seconds: float = 60.0,
    ) -> None:
        """Start `command`, which must become adbd in the same process. `environment` is all that it gets.
        `host_directory` is what this machine calls `directory`.
        """
        self.directory = directory
        self.identity = identity
        self.host_directory = host_directory
        self._command = [str(word) for word in command]
        self._log = log
        self._mark = new_mark()
        self._environment = environment | {VARIABLE: self._mark}
        self._patience_seconds = patience_seconds
        self.port = free_port()
        try:
            self._start()
        except TimeoutError:  # someone else took the port in between
            self.port = free_port()
            self._start()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def root(self) -> Path:
        """Where the identity's files are on this machine; of a phone in a chroot, its root directory."""
        return self.identity.root

    @property
    def pid(self) -> int:
        """The daemon's process id on this machine."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What the daemon said since it was last started."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, to the daemon alone: what it started goes on, as on a phone. Waits for the end."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """A new daemon on the same port, after a `kill` or in place of the one that runs."""
        self.kill()
        self._start()

    def reset(self) -> None:
        """As it was when new: nothing runs there, the folder is empty, the identity unchanged; a dead daemon is
        started."""
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process.poll() is not None:
            self._start()
        self.cont()
        for path in self.host_directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.identity.reset()

    def children(self) -> dict[int, str]:
        """What the daemon started and is alive, however far down: command lines by process id on this machine."""
        alive = marked(self._mark)
        alive.pop(self.pid, None)
        return alive

    def close(self) -> None:
        """End the daemon and all that it started."""
        self.kill()
        end_marked(self._mark)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd="/",
                env=self._environment | {"ADBD_PORT": str(self.port)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(
                lambda: _listens(self.pid, self.port) or self._process.poll() is not None,
                self._patience_seconds,
            )
        except BaseException:
            self.close()
            raise
        if self._process.returncode is not None:
            raise RuntimeError(f"adbd ended with {self._process.returncode}: {self.log}")


# A mount namespace of its own: what is mounted there is seen by no one else and is gone with the last process in it.
PRIVATE_MOUNTS = ("unshare", "--mount", "--propagation", "private", "sh", "-euc")
NATIVE_MOUNTS = """
mount --bind "$1" /sys
if [ -n "$2" ]; then mount -t tmpfs -o "size=$2,mode=0755,uid=$3,gid=$3" tmpfs "$4"; fi
shift 4
exec "$@"
"""


def start_native(
    daemon: Path,
    folder: Path,
    uid: int = SHELL_UID,
    disk_bytes: int | None = None,
    cores: Sequence[int] | None = None,
    mounts: bool = False,
) -> Adbd:
    """A daemon that runs natively, with its files in `folder`; without root as this user, with this machine's /sys."""
    if (mounts or disk_bytes is not None) and cannot_mount():
        pytest.skip(cannot_mount())
    folder.chmod(0o755)
    directory = folder / "data/local/tmp"
    directory.mkdir(parents=True)
    identity = Identity(folder, "x86_64", cores)
    command: list[str | Path] = ["setpriv", "--pdeathsig", "KILL"]
    if os.geteuid() == 0:
        command += [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        os.chown(directory, uid, uid)
    command += [loader(daemon), "--library-path", daemon, "--preload", daemon / "bindlo.so", daemon / "adbd"]
    if not cannot_mount():
        size = "" if disk_bytes is None else str(disk_bytes)
        command = [*PRIVATE_MOUNTS, NATIVE_MOUNTS, "sh", folder / "sys", size, str(uid), directory, *command]
    path = f"{folder}/system/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    environment = {"PATH": path, "HOME": str(directory), "ANDROID_DATA": f"{folder}/data", "LANG": "C.UTF-8"}
    return Adbd(command, str(directory), identity, folder / "adbd.log", environment, host_directory=directory)


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE, pause_seconds: float = 0.005) -> None:
    """Looks after each pause; raises TimeoutError if it does not hold in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no end of waiting within {seconds} s")
        time.sleep(pause_seconds)


def connections(port: int) -> set[str]:
    """The other ends of what is connected to that port of this machine. They change when a client gives up waiting for
    a daemon that is stopped.
    """
    rows = (line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines())
    return {fields[2] for fields in rows if fields[1].endswith(f":{port:04X}") and fields[3] == "01"}


def free_port() -> int:
    """A port of the loopback interface on which nobody listens (yet)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(pid: int, port: int) -> bool:
    """Whether that process, and not another one, listens on that port."""
    inodes = set()
    with contextlib.suppress(OSError):  # it has ended
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
                    inodes.add(f"socket:[{fields[9]}]")
        return any(str(file.readlink()) in inodes for file in Path(f"/proc/{pid}/fd").iterdir())
    return False
