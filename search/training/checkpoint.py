"""Training states on disk: whole or not there, as they were written, and free of pickled code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from bpnas.base.files import write_atomically
from bpnas.search.errors import RunError
from bpnas.search.sealed import opened_archive, sealed_archive
from bpnas.search.training.divergence import is_finite


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to `path`, through a temporary name.

    Raises:
        SpaceError: the disk is full; the previous checkpoint is still there.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, sealed_archive(buffer.getvalue()))


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote; None if there is no such file, or one of a training that has diverged.

    Raises:
        RunError: the file is damaged.
        OSError: it cannot be read.
    """
    if not path.exists():
        return None
    content = path.read_bytes()  # that it cannot be read is no damage
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(opened_archive(content)), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive raises errors of the archive, of the unpickler or of torch
        raise RunError(
            f"{path}: the checkpoint is damaged; restore a copy, or move it away to begin this stage again"
        ) from error
    return state if is_finite(state) else None


def finished_epochs(path: Path) -> int:
    """How many epochs the checkpoint at `path` has behind it; 0 if there is none.

    Raises:
        RunError: the file is damaged.
    """
    state = load_checkpoint(path)
    return 0 if state is None else int(state["epoch"]) + 1
