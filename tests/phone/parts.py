"""What `prepare.py` fetched, or why it is not there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

HOW_TO_GET_THEM = (
    "no parts of a phone: run `python tests/phone/prepare.py DIR` and set BPNAS_PHONE_PARTS=DIR (tox does both)"
)


def phone_parts(*needed: str) -> Path:
    """The folder of the parts; skips the test, with the reason, where one of those needed is missing.

    `adbd`: the daemon for this machine. `arm64`: for ARM64, with busybox. `wheels`: the runtimes' wheels. `emulation`:
    ARM64 programs run here. `mounts`: this process may mount.
    """
    folder, missing = _parts()
    for part in needed:
        if part in missing:
            pytest.skip(missing[part])
    return folder


def cannot_mount() -> str:
    """Why this process cannot mount anything; empty if it can."""
    return _parts()[1].get("mounts", "")


def _parts() -> tuple[Path, dict[str, str]]:
    value = os.environ.get("BPNAS_PHONE_PARTS")
    if not value:
        pytest.skip(HOW_TO_GET_THEM)
    folder = Path(value)
    if not (folder / "missing.json").is_file():
        pytest.skip(f"{folder} holds no parts of a phone: run `python tests/phone/prepare.py {folder}`")
    missing = json.loads((folder / "missing.json").read_text())
    if os.geteuid() != 0:  # whoever prepared the parts may have been
        missing.setdefault("mounts", "only root may mount what the tests' phones need")
    return folder, missing


def copy_daemon(parts: Path, arch: str, target: Path) -> None:
    """adbd, its libraries, its loader and the shim, flat in `target`, which anyone may read: the parts may lie where
    only root can look."""
    target.mkdir(parents=True)
    unpacked = parts / arch
    (libraries,) = (unpacked / "usr/lib").glob("*-linux-gnu")
    files = [unpacked / "usr/lib/android-sdk/platform-tools/adbd", unpacked / "bindlo.so"]
    files += [file for folder in (libraries, libraries / "android") for file in folder.glob("*.so*") if file.is_file()]
    # Under the name that programs ask for; the longer names, to which those links lead, are not needed.
    for file in files:
        shutil.copy(file, target / file.name)
        (target / file.name).chmod(0o755)


def loader(folder: Path) -> Path:
    """The dynamic loader among those files."""
    (found,) = folder.glob("ld-linux-*.so.*")
    return found
