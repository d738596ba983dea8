"""What becomes of a lost worker: those who watch are told, and the run directory keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from bpnas.search.execution.worker_pool import MAX_ATTEMPTS, LostWorker
from bpnas.search.progress import Progress
from bpnas.search.run_directory import RunDirectory


def keep_losses(directory: RunDirectory, progress: Progress) -> Callable[[LostWorker], None]:
    """What tells of a lost worker: the one who watches, and a line of losses.jsonl."""

    def keep(loss: LostWorker) -> None:
        directory.append("losses.jsonl", {**asdict(loss), "block": str(loss.block)})
        then = f"is repeated, attempt {loss.attempt + 1} of {MAX_ATTEMPTS}" if loss.attempt < MAX_ATTEMPTS else "ends"
        progress.note(f"worker {loss.worker} is lost ({loss.reason}); its evaluation of {loss.block} {then}")

    return keep
