"""Devices that do one queue of work: a single one in the caller's thread, several in a thread each."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from bpnas.android_bench.device import Device
from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.measurement import Failure, Outcome, RunSettings
from bpnas.profiler.campaign.sentinel import is_sentinel
from bpnas.profiler.campaign.work_queue import WorkQueue

MAX_FAILURES_IN_A_ROW = 25
"""When this many models in a row fail on one device it is the device's fault, not theirs."""

_PATIENCE_SECONDS = 15.0  # for what devices are at when the work is stopped


@dataclass(frozen=True, slots=True)
class _End:
    name: str
    error: BaseException | None


class DeviceWorkers:
    """Devices at work from entering the context to leaving it.

    A device that fails with a `DeviceError` is out, and what it took and did not answer goes back to the queue for the
    others. A device is used from one thread only; it hears of the end of the work with its next outcome.

    Args:
        devices: open, by the name that they have in messages.
        queue: what to do.
        settings: how.
        lost: takes one sentence for each device that is out while others continue, by its name.
        strangers: the models are anybody's files, so that it is no fault of a device's if it refuses many in a row.
    """

    def __init__(
        self,
        devices: Mapping[str, Device],
        queue: WorkQueue,
        settings: RunSettings,
        lost: dict[str, str],
        strangers: bool = False,
    ) -> None:
        self._lost = lost
        self._queue = queue
        self._work = {name: _serve(name, device, queue, settings, strangers) for name, device in devices.items()}
        self._events: SimpleQueue[tuple[str, Outcome] | _End] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._working = len(devices)
        self._errors: list[BaseException] = []
        self._give_up_at: float | None = None

    def outcomes(self) -> Iterator[tuple[str, Outcome]]:
        """The name of a device and what it answered, as it comes, to the end of the work.

        Once the queue was stopped, what the devices are at still comes, if it comes soon. To be called again after it
        was interrupted.

        Raises:
            DeviceError: no device is left.
            BaseException: anything else that came out of a device; the others were stopped.
        """
        if not self._threads:
            for name, work in self._work.items():
                yield from ((name, outcome) for outcome in work)
            return
        while self._working:
            try:
                event = self._events.get(timeout=self._patience())
            except Empty:
                break
            if not isinstance(event, _End):
                yield event
                continue
            self._working -= 1
            if event.error is not None:
                self._errors.append(event.error)
                if isinstance(event.error, DeviceError):
                    text = str(event.error)
                    self._lost[event.name] = text if event.name in text else f"{event.name}: {text}"
                else:
                    self._queue.stop()
        for error in self._errors:
            if not isinstance(error, DeviceError):
                raise error
        if len(self._errors) == len(self._work):
            raise self._errors[-1]

    def _patience(self) -> float | None:
        """Seconds to wait for the devices; None as long as they are to work."""
        if not self._queue.stopped:
            return None
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + _PATIENCE_SECONDS
        return max(0.0, self._give_up_at - time.monotonic())

    def _run(self, name: str, work: Iterator[Outcome]) -> None:
        error: BaseException | None = None
        try:
            for outcome in work:
                self._events.put((name, outcome))
        except BaseException as caught:  # it is raised where the outcomes are taken
            error = caught
        self._events.put(_End(name, error))

    def __enter__(self) -> Self:
        if len(self._work) > 1:
            for name, work in self._work.items():
                # A daemon: a device that never answers again must not keep the program from ending.
                thread = threading.Thread(target=self._run, args=(name, work), name=f"bpnas {name}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.stop()
        if not self._threads:
            for work in self._work.values():
                work.close()
        for thread in self._threads:
            thread.join(self._patience())


def _serve(
    name: str, device: Device, queue: WorkQueue, settings: RunSettings, strangers: bool
) -> Generator[Outcome, None, None]:
    """What one device answers until no work is left, nor can come back from others, or until the queue is stopped.

    Raises:
        DeviceError: the device is of no more use; what it did not answer is back in the queue.
    """
    in_a_row = 0
    try:
        while queue.wait(name):
            with queue.share(name) as share, closing(_delegate(device.run(share, settings))) as outcomes:
                for outcome in outcomes:
                    share.answered(outcome)
                    if isinstance(outcome, Failure):
                        in_a_row += not (strangers and outcome.kind == "refused")
                    elif not is_sentinel(outcome.key):  # that one says nothing of the others
                        in_a_row = 0
                    yield outcome
                    if queue.stopped:
                        return
                    if isinstance(outcome, Failure) and in_a_row == MAX_FAILURES_IN_A_ROW:
                        raise DeviceError(
                            f"{in_a_row} models in a row failed, the last one, {outcome.key}, with {outcome.kind}: "
                            f"{outcome.message}; mend the device or its runtime and call the same command again"
                        )
                share.check()
    finally:
        queue.leave()


def _delegate(outcomes: Iterator[Outcome]) -> Generator[Outcome, None, None]:
    yield from outcomes  # and closing this closes them, if they can be closed
