"""CPU threads of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from bpnas.base.cores import usable_cores
from bpnas.base.errors import UsageError
from bpnas.base.plurals import counted


def set_threads(count: int) -> None:
    """CPU threads of torch's operators in this process.

    Raises:
        UsageError: there are fewer cores: torch 2.13 then overwrites memory in the backward pass.
    """
    import torch

    if count > usable_cores():
        raise UsageError(f"--threads {count}: a training here has {counted(usable_cores(), 'core')}, not more")
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


@contextmanager
def threads_kept() -> Iterator[None]:
    """What is trained in this process within must not change how the rest is computed."""
    if find_spec("torch") is None:  # nothing is trained in this process then
        yield
        return
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        # Perhaps more than `set_threads` takes, and not to be refused after all work is done.
        torch.set_num_threads(before)
