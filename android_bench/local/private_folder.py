"""Folders on this machine that nobody but this user can write to: what is found there was put there by this user."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bpnas.android_bench.errors import DeviceError


def cache_folder() -> Path:
    """Where bpnas keeps its own things on this machine: `bpnas` in $XDG_CACHE_HOME or ~/.cache.

    Raises:
        DeviceError: neither XDG_CACHE_HOME nor HOME is set, and the user has no home.
    """
    place = os.environ.get("XDG_CACHE_HOME", "")
    if Path(place).is_absolute():  # the XDG Base Directory Specification says to ignore any other
        return Path(place) / "bpnas"
    try:
        home = Path.home()
    except RuntimeError:
        home = Path()
    if os.environ.get("HOME") == "" or not home.is_absolute():  # Python takes an empty HOME for the root folder
        raise DeviceError("this user has no home folder: set HOME or XDG_CACHE_HOME to a folder of yours")
    return home / ".cache" / "bpnas"


def private_folder(path: str | Path | None = None) -> Path:
    """A folder to work in on this machine, made if it is not there.

    Args:
        path: absolute; None takes `local` in `cache_folder`.

    Raises:
        DeviceError: it cannot be made, is no folder, belongs to somebody else, or others may write to it or exchange
            it; nothing in it was touched.
    """
    folder = cache_folder() / "local" if path is None else Path(path)
    try:
        for new in [each for each in (*reversed(folder.parents), folder) if not each.exists()]:
            new.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        raise DeviceError(f"local: {folder} is no folder; {_REMEDY}") from None
    except OSError as error:
        raise DeviceError(f"local: {folder} cannot be made ({error.strerror}); {_REMEDY}") from error
    refuse_others(folder, stat.S_IWGRP | stat.S_IWOTH)
    return folder


def refuse_others(folder: Path, forbidden: int = stat.S_IWOTH) -> None:
    """Refuse a folder that programs are run from, but others may have put them there.

    Args:
        folder: that is there.
        forbidden: bits of its mode.

    Raises:
        DeviceError: it belongs to somebody else, or others may write to it or exchange it.
    """
    try:
        found = folder.lstat()
        above = [(parent, parent.stat()) for parent in folder.resolve(strict=True).parents]
    except OSError as error:
        raise DeviceError(f"local: {folder} cannot be used as a folder ({error.strerror}); {_REMEDY}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise DeviceError(f"local: {folder} is no folder but a {'link' if folder.is_symlink() else 'file'}; {_REMEDY}")
    if found.st_uid != os.geteuid():
        raise DeviceError(f"local: the folder {folder} belongs to another user (number {found.st_uid}); {_REMEDY}")
    if found.st_mode & forbidden:
        raise DeviceError(
            f"local: others may write to the folder {folder}, where programs are run from; look into it, then "
            f"`chmod 700 {folder}`, or {_REMEDY}"
        )
    for parent, facts in above:
        is_open = facts.st_mode & stat.S_IWOTH and not facts.st_mode & stat.S_ISVTX
        if is_open or facts.st_uid not in (0, os.geteuid()):
            raise DeviceError(f"local: others may exchange the folder {folder}, for {parent} is theirs too; {_REMEDY}")


_REMEDY = "name a folder of yours with --directory, or with XDG_CACHE_HOME"
