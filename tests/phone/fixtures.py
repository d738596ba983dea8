"""Phones for tests: real daemons on the loopback interface."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.folder_phone import FolderPhone
from tests.phone.adb_client import AdbServer
from tests.phone.arm64 import build_root, start_arm64
from tests.phone.daemon import SHELL_UID, Adbd, free_port, start_native
from tests.phone.legacy import LegacyDaemon
from tests.phone.parts import copy_daemon, phone_parts
from tests.phone.processes import end_orphans

if TYPE_CHECKING:
    from tests.phone.bench import Bench

StartAdbd = Callable[..., Adbd]
StartLegacy = Callable[..., LegacyDaemon]


@pytest.fixture(scope="session")
def phone_scratch() -> Iterator[Path]:
    """A folder that the phones' user can reach, which pytest's own are not."""
    end_orphans()
    prefix = "bpnas-phone-"
    for left_behind in Path(tempfile.gettempdir()).glob(f"{prefix}*-*"):
        owner = left_behind.name.removeprefix(prefix).partition("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            shutil.rmtree(left_behind, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def native_daemon(phone_scratch: Path) -> Path:
    """adbd for this machine, with all that it needs beside it."""
    parts = phone_parts("adbd")
    copy_daemon(parts, "amd64", phone_scratch / "adbd")
    return phone_scratch / "adbd"


@pytest.fixture
def start_adbd(native_daemon: Path, phone_scratch: Path) -> Iterator[StartAdbd]:
    """Start daemons, as many as wanted: `start_adbd(uid=2000, disk_bytes=None, cores=None, mounts=False)`.

    Args of the function:
        uid: of the daemon and its shells, where this process is root; otherwise they run as its own user.
        disk_bytes: so much fits into the daemon's directory; skips the test where nothing can be mounted.
        cores: highest frequency of each core in kHz, see `Identity`.
        mounts: the daemon's /sys must be the one in its identity, and not this machine's; skips the test where nothing
            can be mounted.
    """
    with ExitStack() as stack:

        def start(
            uid: int = SHELL_UID,
            disk_bytes: int | None = None,
            cores: tuple[int, ...] | None = None,
            mounts: bool = False,
        ) -> Adbd:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=phone_scratch)))
            return stack.enter_context(start_native(native_daemon, folder, uid, disk_bytes, cores, mounts))

        yield start


@pytest.fixture
def adbd(start_adbd: StartAdbd) -> Adbd:
    """One real daemon, native and new: it listens, and its `directory` is empty."""
    return start_adbd()


@pytest.fixture(scope="session")
def arm64_phone(phone_scratch: Path) -> Iterator[Adbd]:
    """What passes for a Galaxy S9: ARM64 under qemu, in a chroot. There is one for all tests, so each calls `reset()`
    first, which makes it as new."""
    parts = phone_parts("arm64", "mounts", "emulation")
    identity = build_root(parts, phone_scratch / "arm64")
    with start_arm64(identity, phone_scratch / "arm64.log") as phone:
        yield phone


@pytest.fixture
def adb_server(tmp_path: Path) -> Iterator[AdbServer]:
    """Debian's adb client and a server of its own: `adb_server.connect(adbd.serial)` lets it have a daemon."""
    if shutil.which("adb") is None:
        pytest.skip("no adb client: install the package adb")
    with closing(AdbServer(tmp_path, free_port())) as server:
        yield server


@pytest.fixture
def rooted(tmp_path: Path) -> Iterator[FolderPhone]:
    """A phone that is a folder, on which the shell is root."""
    with closing(FolderPhone(tmp_path, uid=0)) as phone:
        yield phone


@pytest.fixture
def start_legacy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartLegacy]:
    """Start daemons as Android 6 had them: `start_legacy(keys=None, accepts_new_keys=False)`, see `LegacyDaemon`. What
    the client does against the protocol fails the test."""
    daemons = []

    def start(**options: Any) -> LegacyDaemon:
        daemons.append(LegacyDaemon(tmp_path_factory.mktemp("legacy"), **options))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.close()
    assert [error for daemon in daemons for error in daemon.errors] == []


@pytest.fixture
def legacy_daemon(start_legacy: StartLegacy) -> LegacyDaemon:
    """One of them, which trusts everybody."""
    return start_legacy()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent daemon is missed after a second."""
    from tests.phone.chaos import impatience

    for name, seconds in impatience().items():
        monkeypatch.setattr(f"bpnas.android_bench.{name}", seconds)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Small campaigns with the fake runner."""
    from tests.phone.bench import Bench

    with ExitStack() as stack:
        made = Bench(tmp_path, stack)
        monkeypatch.setattr(
            "bpnas.profiler.campaign.model_files.export_part",
            lambda part, runtime: made.contents.get(part.key, "ok").encode(),
        )
        yield made
