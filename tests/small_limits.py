"""Less room than a process needs, as `ulimit` sets it."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited(what: str, limit: int) -> Iterator[None]:
    """This process has no more: `FSIZE`, bytes of any file; `NOFILE`, open files. Nothing else may write meanwhile."""
    number = getattr(resource, f"RLIMIT_{what}")
    soft, hard = resource.getrlimit(number)
    resource.setrlimit(number, (limit, hard))
    caches, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # as a command does that begins like this
    try:
        yield
    finally:
        sys.dont_write_bytecode = caches
        resource.setrlimit(number, (soft, hard))
