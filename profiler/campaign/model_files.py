"""Model files of parts: written when a device asks for them, deleted once it has answered."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import TracebackType
from typing import Self

from bpnas.android_bench.device import MODEL_SUFFIX
from bpnas.android_bench.measurement import RunRequest
from bpnas.base.errors import BpnasError
from bpnas.base.files import naming
from bpnas.profiler.campaign.other_models import AnyPart, FilePart
from bpnas.profiler.campaign.session import Task
from bpnas.profiler.models.graph import Graph
from bpnas.profiler.models.zoo import ZooPart
from bpnas.profiler.models.zoo_graph import zoo_graph
from bpnas.profiler.paths import Part

_Order = tuple[Task, AnyPart, Path, str]

_AHEAD_OF_NEED = 8  # models per process at a time: enough to keep it busy, few enough to keep as files
_torch_generator = threading.Lock()


class ModelFiles:
    """A folder of model files; use it as a context manager. Safe for use from several threads.

    Args:
        folder: made, and removed with all that is in it.
        parts: by key; one part may have several, as the sentinel and the path that it is.
        runtime: one of `RUNTIMES`.
        processes: that write; 1 means the caller's thread. They work only while a device waits for a model, so that
            they take no processor from models that are timed on this machine.
    """

    def __init__(self, folder: Path, parts: Mapping[str, AnyPart], runtime: str, processes: int = 1) -> None:
        self._folder, self._parts, self._runtime, self._processes = folder, parts, runtime, processes
        self._pool: ProcessPoolExecutor | None = None
        self._ready: dict[Task, RunRequest] = {}
        self._refill = threading.Lock()
        # One path, one writer: what was given back by one device may be written again for another.
        self._numbers = count()

    def write(self, task: Task, upcoming: Callable[[int], Iterable[Task]] = lambda most: ()) -> RunRequest:
        """The file of one task; `upcoming` names tasks, at most as many as it is asked for, that come next.

        Raises:
            OSError: it cannot be written.
            BpnasError: a process that writes models died.
        """
        if self._pool is None:
            return _write(*self._order(task))
        with self._refill:
            if task not in self._ready:
                # Asked for in here: what others take from now on, they find in `_ready`.
                tasks = [task, *upcoming(self._processes * _AHEAD_OF_NEED - 1)]
                orders = [self._order(each) for each in tasks if each not in self._ready]
                try:
                    requests = _map(self._pool, orders)
                except BrokenProcessPool:
                    raise BpnasError(
                        "a process that writes models died; call the same command again with fewer --jobs"
                    ) from None
                self._ready.update(((each.key, each.session), each) for each in requests)
            return self._ready.pop(task)

    def _order(self, task: Task) -> _Order:
        return task, self._parts[task[0]], self._folder / f"{next(self._numbers)}", self._runtime

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)  # of a call that was killed
        self._folder.mkdir()
        if self._processes > 1:
            self._pool = ProcessPoolExecutor(
                self._processes, mp_context=get_context("spawn"), initializer=_start_exporter
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


def export_part(part: AnyPart, runtime: str) -> bytes:
    """The model file of a part, with weights that depend on nothing but its key; somebody's own file as it is."""
    if isinstance(part, FilePart):
        return part.read()
    graph = zoo_graph(part).graph if isinstance(part, ZooPart) else _graph_of(part)
    if runtime == "onnxruntime":
        from bpnas.profiler.models.onnx_export import write_onnx

        return write_onnx(graph)
    from bpnas.profiler.models.tflite_export import write_tflite

    return write_tflite(graph)


def _graph_of(part: Part) -> Graph:
    import torch

    from bpnas.profiler.models.modules import build_module, to_graph

    seed = int.from_bytes(hashlib.sha256(part.key.encode()).digest()[:8], "big") >> 1
    # Torch's generator, which the weights come from, belongs to the whole process. `torch.manual_seed` would seed those
    # of all accelerators too, and note for each of them where it was called: that takes a tenth of an export.
    with _torch_generator, torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        module = build_module(part).eval()
    return to_graph(module, part.input_shapes[0])


def _write(task: Task, part: AnyPart, stem: Path, runtime: str) -> RunRequest:
    if isinstance(part, FilePart):
        return part.file.request(*task, stem)
    content = export_part(part, runtime)
    path = stem.with_suffix(MODEL_SUFFIX[runtime])
    with naming(path):
        path.write_bytes(content)
    return RunRequest(*task, path, hashlib.sha256(content).hexdigest())


def _map(pool: ProcessPoolExecutor, orders: Iterable[_Order]) -> list[RunRequest]:
    # Ctrl-C reaches every process on the terminal, but is the campaign's to handle: exporters start with it blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        requests = pool.map(_write, *zip(*orders, strict=True), chunksize=4)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return list(requests)


def _start_exporter() -> None:
    threading.Thread(target=_end_with_campaign, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _end_with_campaign() -> None:
    # An idle exporter would otherwise outlive a campaign that was killed, and wait for ever.
    campaign = parent_process()
    assert campaign is not None
    campaign.join()
    os._exit(1)
