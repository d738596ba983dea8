"""Evaluations on processes of this machine, each with its own images and, where there are several, its own GPU."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker, set_start_method
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from bpnas.profiler.block import Block
from bpnas.search.execution.worker_pool import EvaluatorFactory, LostWorker, Worker, WorkerGone, WorkerPool

if TYPE_CHECKING:
    from bpnas.search.execution.evaluation import Evaluation


@dataclass(frozen=True, slots=True)
class _Child:
    process: BaseProcess
    connection: Connection[Any, Any]


class ProcessExecutor(WorkerPool[_Child]):
    """An `Executor` of spawned processes.

    Not of a `ProcessPoolExecutor`, in which one lost process breaks all. As with every spawned process, a program that
    uses this must be importable: its own code must be below `if __name__ == "__main__":`.

    Args:
        make: makes the evaluator of one process; it is sent there.
        workers: how many processes.
        devices: CUDA devices, as in CUDA_VISIBLE_DEVICES; worker i sees number i modulo their count. None if empty.
        on_loss: is told of every lost worker.
    """

    def __init__(
        self,
        make: EvaluatorFactory,
        workers: int,
        devices: Sequence[str] = (),
        on_loss: Callable[[LostWorker], None] = lambda loss: None,
    ) -> None:
        super().__init__(workers, on_loss)
        self._make, self._devices = make, tuple(devices)

    def _hire(self, slot: int) -> _Child:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        device = self._devices[slot % len(self._devices)] if self._devices else None
        process = context.Process(target=_work, args=(theirs, self._make, device), daemon=True)
        # Ctrl-C reaches every process on the terminal, but is the search's to handle: workers start with it blocked.
        # The first process to start would start multiprocessing's resource tracker, and that unblocks it (Python 3.11).
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # the child's end must be the only one, or its death would not show
        return _Child(process, ours)

    def _give(self, worker: _Child, block: Block, options: Mapping[str, Any]) -> None:
        with suppress(OSError):  # it has ended, which `_wait` finds out
            worker.connection.send((block, dict(options)))

    def _wait(self, busy: Mapping[int, _Child]) -> tuple[int, Evaluation | BaseException]:
        ready = wait([worker.connection for worker in busy.values()])
        slot, worker = next((slot, worker) for slot, worker in busy.items() if worker.connection in ready)
        try:
            answer: Evaluation | BaseException = worker.connection.recv()
        except (EOFError, OSError):
            return slot, WorkerGone(_end(worker.process))
        return slot, answer

    def _dismiss(self, workers: Iterable[_Child]) -> None:
        workers = list(workers)
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.process.close()
            worker.connection.close()


def _end(process: BaseProcess) -> str:
    process.join(10)
    code = process.exitcode
    return f"killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"


def _work(connection: Connection[Any, Any], make: EvaluatorFactory, device: str | None) -> None:
    """What a worker does as long as there are blocks."""
    threading.Thread(target=_end_with_search, daemon=True).start()
    # Locks that libraries make here have names under "spawn", and are missed when this process is killed.
    set_start_method("fork", force=True)
    # Both must be known before torch loads, or starts CUDA.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    worker = Worker(make)
    while True:
        try:
            block, options = connection.recv()
            answer = worker.answer(block, options)
            connection.send(answer)
        except (EOFError, ConnectionError):  # the search is gone: nobody is left to be told
            return


def _end_with_search() -> None:
    # A worker would otherwise outlive a search that was killed, and train on.
    search = parent_process()
    assert search is not None
    search.join()
    os._exit(1)
