"""Where candidates are evaluated: in this process, on processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from bpnas.base.closing import Closing
from bpnas.base.cores import usable_cores
from bpnas.base.errors import UsageError
from bpnas.profiler.block import Block
from bpnas.search.execution.worker_pool import EvaluatorFactory, LostWorker, Worker

if TYPE_CHECKING:
    from bpnas.search.execution.evaluation import Evaluation

ExecutorKind = Literal["local", "processes", "ray"]


class Executor(Closing, Protocol):
    """Evaluates blocks, several at once where it can.

    Leaving it as a context manager ends what is under way. It serves one search at a time.

    Attributes:
        workers: how many evaluations run at the same time.
    """

    workers: int

    def submit(self, number: int, block: Block, **options: Any) -> None:
        """Have `block` evaluated under a number of the caller's; the evaluator gets `options` as well."""

    def next(self) -> tuple[int, Evaluation]:
        """Wait for the next finished evaluation, of whichever number.

        Raises:
            LookupError: nothing is under way.
            WorkerLostError: an evaluation has lost its worker too often.
            Exception: any that the evaluation raised.
        """
        ...

    def close(self) -> None:
        """End all work at once; what is under way is lost."""


class LocalExecutor(Closing):
    """An `Executor` in this process: one evaluation after the other, in the order in which they came."""

    def __init__(self, make: EvaluatorFactory) -> None:
        self.workers = 1
        self._worker = Worker(make)
        self._queue: deque[tuple[int, Block, dict[str, Any]]] = deque()

    def submit(self, number: int, block: Block, **options: Any) -> None:
        """Have `block` evaluated when its turn has come."""
        self._queue.append((number, block, options))

    def next(self) -> tuple[int, Evaluation]:
        """Evaluate the next block.

        Raises:
            LookupError: nothing is under way.
            Exception: any that the evaluation raised.
        """
        if not self._queue:
            raise LookupError("no evaluation is under way")
        number, block, options = self._queue.popleft()
        return number, self._worker.evaluate(block, options)

    def close(self) -> None:
        """Forget what waits."""
        self._queue.clear()


def check_executor(kind: str, workers: int | None, ray_address: str | None) -> None:
    """Refuse what makes no sense.

    Raises:
        UsageError: it makes none, or Ray is needed and not installed.
    """
    if kind not in get_args(ExecutorKind):
        raise UsageError(f"executor {kind!r} is unknown: use {', '.join(get_args(ExecutorKind))}")
    if kind == "local" and workers is not None:
        raise UsageError("the executor 'local' is one process without workers: leave --workers out or use processes")
    if kind != "ray" and ray_address is not None:
        raise UsageError(f"the executor {kind!r} needs no --ray-address: leave it out or use --executor ray")
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers cannot evaluate anything: use 1 or more")
    if kind == "ray":
        from bpnas.search.execution.ray_executor import require_ray

        require_ray()


def open_executor(
    kind: ExecutorKind,
    make: EvaluatorFactory,
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    on_loss: Callable[[LostWorker], None] = lambda loss: None,
) -> Executor:
    """The executor of that kind.

    Args:
        kind: "local" evaluates in this process, "processes" on spawned ones, "ray" on actors of a cluster.
        make: makes the evaluator of a worker, and must be picklable except for "local".
        workers: evaluations at the same time; None for `default_workers`, or what suits the Ray cluster.
        ray_address: of the cluster, as `ray.init` takes it; None for one on this machine.
        on_loss: is told of every lost worker.

    Raises:
        UsageError: the request makes no sense, or Ray is needed and not installed.
        SearchError: the Ray cluster cannot be reached.
    """
    check_executor(kind, workers, ray_address)
    if kind == "processes":
        from bpnas.search.execution.process_executor import ProcessExecutor

        return ProcessExecutor(make, workers or default_workers(), cuda_devices(), on_loss)
    if kind == "ray":
        from bpnas.search.execution.ray_executor import RayExecutor

        return RayExecutor(make, workers, ray_address, on_loss)
    return LocalExecutor(make)


def default_workers() -> int:
    """Worker processes of this machine when nothing is said: one per GPU, else one per two cores."""
    return len(cuda_devices()) or max(1, usable_cores() // 2)


def cuda_devices() -> tuple[str, ...]:
    """This machine's CUDA devices as CUDA_VISIBLE_DEVICES names them; CUDA itself is not started."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    # Entries behind an invalid one are ignored by CUDA.
    return tuple(named.split(",")[:count]) if named else tuple(map(str, range(count)))


def default_threads(kind: ExecutorKind, workers: int | None) -> int:
    """CPU threads of one training when nothing is said: the cores' share of a worker.

    In this process it is what torch is set to, as far as there are cores; under Ray one, since nodes may differ.
    """
    if kind == "local":
        import torch

        return min(torch.get_num_threads(), usable_cores())
    return max(1, usable_cores() // (workers or default_workers())) if kind == "processes" else 1
