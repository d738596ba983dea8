"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from bpnas.base.errors import SpaceError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` through a temporary name next to it, so that no reader ever sees half a file.

    Raises:
        SpaceError: the disk is full; `path` is as it was before.
        OSError: the folder does not exist or may not be written.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
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
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpaceError(f"{path}: no space left on the disk; free some and call the same command again") from error
        raise
