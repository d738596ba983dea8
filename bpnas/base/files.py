"""Files that are either whole or not there, and what to say where one cannot be written."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bpnas.base.errors import BpnasError, SpaceError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no space for a file."""
_LEAST_FILES, _MANY_FILES = 16, 1024
_AGAIN = "and call the same command again"


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` through a temporary name next to it, so that no reader ever sees half a file.

    Raises:
        SpaceError: the disk is full, or the file larger than this process may write; `path` is as it was before.
        OSError: the folder does not exist or may not be written.
    """
    path = Path(path)
    with naming(path), _nameless():
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:200]}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp gives 0600, which is not what the user asked for
            temporary.replace(path)
        except BaseException:
            temporary.unlink()
            raise


def append(path: str | Path, content: bytes) -> None:
    """Write `content` at the end of `path` and see it to the disk, whole or not at all.

    Raises:
        SpaceError, OSError: as `write_atomically`.
    """
    path = Path(path)
    with naming(path), path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.truncate(end)
            raise


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Errors of the system that name no file are about `path`: where a write fails they do not.

    Raises:
        SpaceError: there is no room for the file.
    """
    try:
        yield
    except BrokenPipeError:  # who reads a pipe may have enough
        raise
    except OSError as error:
        if error.errno in NO_ROOM:
            raise SpaceError(what_to_do(error, str(path))) from error
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def _nameless() -> Iterator[None]:
    """Nobody knows the temporary name."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename2 = None
        raise


def what_to_do(error: OSError, place: str) -> str:
    """One sentence: what the system says of a file or folder, and the remedy."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"{place}: no space left on the disk; free some {_AGAIN}"
        case errno.EFBIG:
            return f"{place}: {too_large()}"
        case errno.EMFILE | errno.ENFILE:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # no matter which of them is the last one
            return f"more than {limit} files would be open at once; allow more, as with ulimit -n 1024, {_AGAIN}"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{place}: {error.strerror}; see who may read and write it and its folder, or name another place"
        case errno.ENOENT:
            return f"{place}: {error.strerror}; check the name, and create the folder first"
        case errno.ENOTDIR | errno.EEXIST:
            return f"{place}: a part of this path is a file, and no folder ({error.strerror}); name another place"
        case errno.EISDIR:
            return f"{place}: is a folder; name a file"
        case errno.ENAMETOOLONG:
            return f"{place}: the name is too long; choose a shorter one"
    return f"{place}: {error.strerror or error}"


def missing_folder(path: Path) -> str | None:
    """Why `path` has no folder that it could be written to, if it has none."""
    folder = path.absolute().parent
    if folder.is_dir():
        return None
    for above in reversed(path.absolute().parents):
        if above.is_file():
            return f"{path}: {above} is a file, and no folder; name another place"
    return f"{path}: the folder {folder} does not exist; create it first"


def allow_open_files() -> None:
    """Let this process open as many files as bpnas may need, as far as the system allows it.

    Raises:
        BpnasError: it allows too few for anything.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _MANY_FILES:
        return
    most = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < _LEAST_FILES:
        raise BpnasError(
            f"this process may open {most} files at once, and at least {_LEAST_FILES} are needed; allow more, as with "
            f"ulimit -n {_MANY_FILES}, {_AGAIN}"
        )


def too_large() -> str:
    """The end of a sentence about a file that grew beyond the limit for this process."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    most = "the file system takes" if limit == resource.RLIM_INFINITY else f"this process may write ({limit:,} bytes)"
    return f"would be larger than {most}; raise the limit, as with ulimit -f unlimited, {_AGAIN}"
