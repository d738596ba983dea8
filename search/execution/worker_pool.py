"""Evaluations dealt out to workers; what a lost worker had in hand is given to a fresh one.

What a worker is made of, and how its answer arrives, is for the pools to say: see `process_executor` and
`ray_executor` next to it.
"""

from __future__ import annotations

import copy
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bpnas.base.closing import Closing
from bpnas.base.errors import UsageError
from bpnas.profiler.block import Block
from bpnas.search.errors import SearchError, WorkerLostError

if TYPE_CHECKING:
    from bpnas.search.execution.evaluation import Evaluation

MAX_ATTEMPTS = 3
"""An evaluation whose worker is lost is repeated until it has been tried this many times."""

EvaluatorFactory = Callable[[], "Callable[..., Evaluation]"]
"""Makes what evaluates blocks. Every worker calls its own copy once: that is where images are loaded."""

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class LostWorker:
    """A worker that ended in the middle of an evaluation.

    Attributes:
        block: that it was evaluating.
        attempt: at this block, from 1 to `MAX_ATTEMPTS`.
        worker: its number, from 0.
        reason: how it ended, as far as known.
    """

    block: Block
    attempt: int
    worker: int
    reason: str


class WorkerGone(Exception):  # noqa: N818 - an answer of a pool, which nobody but `WorkerPool` sees
    """In place of an evaluation: its worker is lost."""


@dataclass(frozen=True, slots=True)
class _Task:
    number: int
    block: Block
    options: Mapping[str, Any]
    attempt: int = 1


class WorkerPool(Closing, ABC, Generic[W]):
    """An `Executor` of several workers. A worker starts when it gets its first block.

    Args:
        workers: how many.
        on_loss: is told of every lost worker.
    """

    def __init__(self, workers: int, on_loss: Callable[[LostWorker], None] = lambda loss: None) -> None:
        if workers < 1:
            raise UsageError(f"{workers} workers cannot evaluate anything: use 1 or more")
        self.workers = workers
        self._on_loss = on_loss
        self._queue: deque[_Task] = deque()
        self._busy: dict[int, _Task] = {}
        self._by_slot: dict[int, W] = {}

    def submit(self, number: int, block: Block, **options: Any) -> None:
        """Have `block` evaluated as soon as a worker is free."""
        self._queue.append(_Task(number, block, options))
        self._deal()

    def next(self) -> tuple[int, Evaluation]:
        """Wait for the next finished evaluation, of whichever number.

        Raises:
            LookupError: nothing is under way.
            WorkerLostError: an evaluation has lost its worker `MAX_ATTEMPTS` times.
            Exception: any that the evaluation raised.
        """
        while self._busy:
            slot, answer = self._wait({slot: self._by_slot[slot] for slot in self._busy})
            task = self._busy.pop(slot)
            if isinstance(answer, WorkerGone) or _is_out_of_memory(answer):
                self._repeat(slot, task, str(answer) if isinstance(answer, WorkerGone) else "out of memory")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                self._deal()
                return task.number, answer
        raise LookupError("no evaluation is under way")

    def close(self) -> None:
        """End all workers at once, even if they are busy."""
        self._queue.clear()
        self._busy.clear()
        stopped, self._by_slot = self._by_slot, {}
        self._dismiss(stopped.values())

    def _deal(self) -> None:
        for slot in range(self.workers):
            if self._queue and slot not in self._busy:
                if slot not in self._by_slot:
                    self._by_slot[slot] = self._hire(slot)
                task = self._busy[slot] = self._queue.popleft()
                self._give(self._by_slot[slot], task.block, task.options)

    def _repeat(self, slot: int, task: _Task, reason: str) -> None:
        self._dismiss([self._by_slot.pop(slot)])
        self._on_loss(LostWorker(task.block, task.attempt, slot, reason))
        if task.attempt == MAX_ATTEMPTS:
            raise WorkerLostError(task.block, MAX_ATTEMPTS, reason)
        self._queue.appendleft(replace(task, attempt=task.attempt + 1))
        self._deal()

    @abstractmethod
    def _hire(self, slot: int) -> W:
        """Start worker number `slot`."""

    @abstractmethod
    def _give(self, worker: W, block: Block, options: Mapping[str, Any]) -> None:
        """Have an idle worker evaluate `block`; if it is gone, `_wait` says so."""

    @abstractmethod
    def _wait(self, busy: Mapping[int, W]) -> tuple[int, Evaluation | BaseException]:
        """Wait until one of these workers has answered, with what it was asked for, `WorkerGone` or what it raised."""

    @abstractmethod
    def _dismiss(self, workers: Iterable[W]) -> None:
        """End these workers at once; they may be gone already."""


class Worker:
    """What runs in a worker. The evaluator is made at the first block: what fails there is answered like all else."""

    def __init__(self, make: EvaluatorFactory) -> None:
        self._make = make
        self._evaluate: Callable[..., Evaluation] | None = None

    def evaluate(self, block: Block, options: Mapping[str, Any]) -> Evaluation:
        """Evaluate, or raise what that raises."""
        if self._evaluate is None:
            self._evaluate = self._make()
        return self._evaluate(block, **options)

    def answer(self, block: Block, options: Mapping[str, Any]) -> Evaluation | Exception:
        """Evaluate, or return what that raised, fit to be sent elsewhere."""
        try:
            return self.evaluate(block, options)
        except Exception as error:
            note = f"In the worker:\n{traceback.format_exc()}"
            try:
                portable = copy.copy(error)  # fails where rebuilding it at the other end would
            except Exception:
                portable = SearchError(f"{type(error).__name__}: {error}")
            portable.add_note(note)
            return portable


def _is_out_of_memory(answer: object) -> bool:
    # By name, for torch is not loaded here. A fresh worker has empty memory, and others may have let go by then.
    return isinstance(answer, MemoryError) or type(answer).__name__ == "OutOfMemoryError"
