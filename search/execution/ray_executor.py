"""Evaluations on a Ray cluster, or on one that is started on this machine for the time being."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from bpnas.base.cores import usable_cores
from bpnas.base.errors import UsageError
from bpnas.profiler.block import Block
from bpnas.search.errors import SearchError
from bpnas.search.execution.worker_pool import EvaluatorFactory, LostWorker, Worker, WorkerGone, WorkerPool

if TYPE_CHECKING:
    from bpnas.search.execution.evaluation import Evaluation

_OBJECT_STORE_BYTES = 100 * 2**20
"""For a cluster of our own: only blocks and scores go through it, where Ray would take a third of the memory."""

_CONNECT_S = 10.0
_NO_ANSWER = "Ray at {} does not answer ({}): start it, or leave --ray-address out for a cluster on this machine"


def require_ray() -> None:
    """See that Ray is there, without loading it.

    Raises:
        UsageError: it is not installed.
    """
    if find_spec("ray") is None:
        raise UsageError("the executor 'ray' needs Ray, which is not installed: pip install 'bpnas[ray]'")


class RayExecutor(WorkerPool[Any]):
    """An `Executor` of Ray actors.

    An actor takes one CPU, and on a cluster with GPUs one of them, or an equal share where there are fewer GPUs than
    workers. What `make` reads must be at the same place on every node. Ray that runs already in this process is used,
    and left running.

    Args:
        make: makes the evaluator of one actor; it is sent there.
        workers: how many actors; None for one per GPU of the cluster, else one per two CPUs.
        address: of the cluster, as `ray.init` takes it; None for RAY_ADDRESS, else a cluster of this machine alone,
            which ends with this executor.
        on_loss: is told of every lost worker.

    Raises:
        UsageError: Ray is not installed, or the cluster has fewer CPUs than workers.
        SearchError: the cluster cannot be reached.
    """

    def __init__(
        self,
        make: EvaluatorFactory,
        workers: int | None = None,
        address: str | None = None,
        on_loss: Callable[[LostWorker], None] = lambda loss: None,
    ) -> None:
        require_ray()
        self._owned = _connect(address, workers)
        import ray

        self._ray: Any = ray
        self._answers: dict[Any, Any] = {}
        try:
            resources: Mapping[str, float] = self._ray.cluster_resources()
            cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
            super().__init__(workers or gpus or max(1, cpus // 2), on_loss)
            if self.workers > cpus:
                raise UsageError(
                    f"the Ray cluster has {cpus} CPUs, too few for {self.workers} workers: fewer --workers"
                )
        except BaseException:
            self._disconnect()
            raise
        # Equal shares that fit on whole GPUs: 3 workers on 2 GPUs get a half each, not two thirds.
        share = 1 / math.ceil(self.workers / gpus) if gpus else 0
        # SPREAD: a full node would otherwise be filled before the next one gets a worker.
        self._actor = ray.remote(num_cpus=1, num_gpus=share, max_restarts=0, scheduling_strategy="SPREAD")(Worker)
        self._make = make

    def close(self) -> None:
        """End all workers at once, and the cluster if it is our own."""
        super().close()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._owned:
            self._ray.shutdown()
            self._owned = False

    def _hire(self, slot: int) -> Any:
        return self._actor.remote(self._make)

    def _give(self, worker: Any, block: Block, options: Mapping[str, Any]) -> None:
        self._answers[worker] = worker.answer.remote(block, dict(options))

    def _wait(self, busy: Mapping[int, Any]) -> tuple[int, Evaluation | BaseException]:
        slots = {self._answers[worker]: slot for slot, worker in busy.items()}
        (ready, *_), _ = self._ray.wait(list(slots), num_returns=1)
        slot = slots[ready]
        del self._answers[busy[slot]]
        try:
            answer: Evaluation | BaseException = self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            # `Worker.answer` raises nothing itself. Of the many lines, the last one says what happened, and at length.
            detail = str(error).strip().splitlines() or [""]
            return slot, WorkerGone(f"{type(error).__name__}: {detail[-1].partition('. ')[0].strip()}")
        return slot, answer

    def _dismiss(self, workers: Iterable[Any]) -> None:
        for worker in workers:
            self._answers.pop(worker, None)
            self._ray.kill(worker)


def _connect(address: str | None, workers: int | None) -> bool:
    """Whether a connection was made that must be ended."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray's own next default, without which it warns.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return False
    _see_that_somebody_listens(address)
    own: dict[str, Any] = {}
    if address == "local":
        cores = max(usable_cores(), workers or 0)
        own = {"num_cpus": cores, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    with _signals_kept():
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
            raise SearchError(_NO_ANSWER.format(address, error)) from error
    return True


def _see_that_somebody_listens(address: str) -> None:
    # Ray itself tries for minutes, and then ends the process.
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        except OSError as error:
            raise SearchError(_NO_ANSWER.format(address, error)) from error


@contextmanager
def _signals_kept() -> Iterator[None]:
    # Ray puts a handler of its own in the place of the command's, which ends a search in good order.
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
