"""A phone that is a folder: this machine's shell, with the properties, services and sysfs of `tests.phone.identity`.

For tests of scripts, which need neither a daemon nor mounts: the few absolute paths in them are sent to the folder.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bpnas.android_bench.errors import DeviceLostError
from bpnas.android_bench.local.remote import LocalRemote
from bpnas.android_bench.phone.facts import PhoneFacts, read_facts
from bpnas.android_bench.phone.governor import Preparation, prepare
from bpnas.android_bench.remote import FileToPush, Remote, ShellResult, ShellStream
from tests.phone.identity import BIG_KHZ, LITTLE_KHZ, Identity

S9_CORES = (LITTLE_KHZ,) * 4 + (BIG_KHZ,) * 4
SNAPDRAGON_855_CORES = (1_785_600,) * 4 + (2_419_200,) * 3 + (2_841_600,)
_PATHS = re.compile(r"(?<![\w/.@-])(/sys/|/proc/(?=cpuinfo|device-tree|\[)|/etc/os-release|/system/bin/sh)")


class FolderPhone(LocalRemote):
    """Commands see `identity`'s files; `uid` is what `id -u` says, and no rights."""

    def __init__(self, root: Path, cores: Sequence[int] = S9_CORES, uid: int = 2000) -> None:
        self.identity = Identity(root, "arm64-v8a", cores)
        self.identity.set_property("ro.boot.qemu", None)  # nothing is timed on it: it passes for the phone itself
        self.root = root
        self.base = str(root / "data/local/tmp/bpnas")
        (root / "proc").mkdir()
        (root / "data/local/tmp").mkdir(parents=True, exist_ok=True)
        self.commands: list[str] = []
        self.lost = False
        self.streams: list[ShellStream] = []
        self.has_shell_v2 = True
        self.add_tool("su", "exit 1")  # this machine's own might say yes
        self.add_tool("id", f'echo "${{AS_UID:-{uid}}}"')

    @property
    def serial(self) -> str:
        return "folder"

    def add_tool(self, name: str, script: str) -> None:
        """A program of the phone's."""
        path = self.root / "system/bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def add_su(self) -> None:
        """As Magisk's: `su -c COMMAND`."""
        self.add_tool("su", '[ "$1" = -c ] || exit 1\nAS_UID=0 sh -c "$2"')

    def add_process(self, pid: int) -> None:
        """One of this machine's as one of the phone's, where only its own shells are otherwise."""
        (self.root / "proc" / str(pid)).symlink_to(f"/proc/{pid}")

    def governors(self) -> list[str]:
        """Of each core."""
        cpus = sorted((self.root / "sys/devices/system/cpu").glob("cpu[0-9]*"))
        return [(cpu / "cpufreq/scaling_governor").read_text().strip() for cpu in cpus]

    def set_governors(self, *names: str) -> None:
        for number, name in enumerate(names):
            self.identity.set_sys(f"devices/system/cpu/cpu{number}/cpufreq/scaling_governor", name)

    def shell(self, command: str, timeout_seconds: float = 30.0) -> ShellResult:
        self._check(command)
        result = super().shell(self._translate(command), timeout_seconds)
        return result if self.has_shell_v2 else ShellResult(result.exit_code, result.output + result.errors)

    def stream(self, command: str) -> ShellStream:
        self._check(command)
        stream = super().stream(self._translate(command))
        self.streams.append(stream)
        return stream

    def cut(self) -> None:
        """The cable is out: standard input ends, and hang-up is signalled, as adbd does it."""
        self.lost = True
        for stream in self.streams:
            process = stream._process  # type: ignore[attr-defined]
            if process.stdin.closed:
                continue
            os.kill(process.pid, signal.SIGHUP)
            process.stdin.close()

    def hold(self, cores: Iterable[int], patience_seconds: float | None) -> bool:
        return False

    def close(self) -> None:
        """End what still runs there."""
        for stream in self.streams:
            stream.close()

    def push(self, files: Sequence[FileToPush]) -> None:
        self._check("push")
        for file in files:
            assert isinstance(file.source, bytes)
            super().push([replace(file, source=self._send(file.source.decode()).encode())])

    def _check(self, command: str) -> None:
        self.commands.append(command)
        if self.lost:
            raise DeviceLostError("folder: the connection is gone")

    def _translate(self, command: str) -> str:
        here = f"PATH={self.root}/system/bin:$PATH; ANDROID_DATA={self.root}/data; export PATH ANDROID_DATA\n"
        here += f"ln -sfn /proc/$$ {self.root}/proc/$$\n"
        return here + self._send(command)

    def _send(self, command: str) -> str:
        return _PATHS.sub(lambda found: f"{self.root}{found[0]}", command)


def facts_of(phone: FolderPhone) -> PhoneFacts:
    """What it says of itself."""
    return read_facts(phone, phone.base)


@contextmanager
def prepared_phone(
    remote: Remote, facts: PhoneFacts, token: str, keep_governor: bool = False, affinity: str | None = None
) -> Iterator[Preparation]:
    """A phone made ready, and restored at the end of the block."""
    prepared = prepare(remote, facts, token, keep_governor, affinity)
    try:
        yield prepared
    finally:
        prepared.restore()
