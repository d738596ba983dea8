"""What is left to measure, and who has taken which part of it: nothing is lost, nothing is done twice."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Self

from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.measurement import Outcome, RunRequest
from bpnas.android_bench.model_file import remove_files
from bpnas.base.plurals import counted
from bpnas.profiler.campaign.model_files import ModelFiles
from bpnas.profiler.campaign.sentinel import SentinelTasks, is_sentinel
from bpnas.profiler.campaign.session import Task


class WorkQueue:
    """Tasks in their order. Safe for use from several threads.

    Args:
        tasks: to do.
        models: where their files come from.
        sharers: devices that will take from it, until each of them calls `leave`.
        sentinels: who is to time the sentinel when, in addition to the tasks; None for nobody.
    """

    def __init__(
        self, tasks: Iterable[Task], models: ModelFiles, sharers: int = 1, sentinels: SentinelTasks | None = None
    ) -> None:
        self._left = deque(tasks)
        self._sharers = sharers
        self._sentinels = sentinels
        self._unanswered = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._models = models

    def share(self, device: str = "") -> Share:
        """A device's way to take work, for one call of its `run`."""
        return Share(self, self._models, device)

    def wait(self, device: str = "") -> bool:
        """Block until there is work to take; False if there never will be, for all is answered or the queue stopped.

        What others have taken may come back, so that an empty queue alone is not the end.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._left or not self._unanswered or self._stopped)
            lacks_last = self._sentinels is not None and self._sentinels.lacks_last(device)
            return (bool(self._left) or lacks_last) and not self._stopped

    def stop(self) -> None:
        """Give out no more work."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def leave(self) -> None:
        """One device less to share with."""
        with self._changed:
            self._sharers -= 1

    def take(self, held: int, device: str = "") -> Task | None:
        """The next task for a device that has `held` unanswered ones; None if there is none for it right now.

        Who takes far ahead would leave the others idle towards the end, so nobody may hold more than an equal part.
        """
        with self._changed:
            equal_part = (len(self._left) + self._unanswered) / max(1, self._sharers)
            if self._stopped or (self._left and held >= equal_part):
                return None
            task = self._sentinels.due(device, last=not self._left) if self._sentinels else None
            if task is None and self._left:
                task = self._left.popleft()
                if self._sentinels:
                    self._sentinels.note(device)
            self._unanswered += task is not None
            return task

    def upcoming(self, most: int) -> list[Task]:
        """What will be taken next."""
        with self._changed:
            return list(islice(self._left, most))

    def drop(self, key: str) -> list[Task]:
        """Forget what is left to do of one part, and say what that was."""
        with self._changed:
            dropped = [task for task in self._left if task[0] == key]
            self._left = deque(task for task in self._left if task[0] != key)
            self._changed.notify_all()
            return dropped

    def answered(self) -> None:
        """One of the taken tasks is done."""
        with self._changed:
            self._unanswered -= 1
            self._changed.notify_all()

    def give_back(self, tasks: list[Task]) -> None:
        """Put taken tasks back to the front, where they were; a sentinel was meant for that device alone."""
        with self._changed:
            self._unanswered -= len(tasks)
            self._left.extendleft(task for task in reversed(tasks) if not is_sentinel(task[0]))
            self._changed.notify_all()


class Share(Iterator[RunRequest]):
    """The requests that one device takes in one run, with their model files; closing it gives back what is unanswered.

    It may be iterated from another thread than the one that brings the answers. It ends when there is nothing to take
    right now, although there may be later: a device that waited for more would sit on what it has taken, for which
    others may be waiting. It ends too when a model cannot be written, and `check` says why, so that the device still
    answers what it has.
    """

    def __init__(self, queue: WorkQueue, models: ModelFiles, device: str) -> None:
        self._queue, self._models, self._device = queue, models, device
        self._taken: dict[Task, RunRequest | None] = {}  # None: its file is still being written
        self._open, self._ended = True, False
        self._error: Exception | None = None
        self._lock = threading.Lock()

    def __next__(self) -> RunRequest:
        with self._lock:
            task = None if self._ended else self._queue.take(len(self._taken), self._device)
            if task is None:
                self._ended = True  # for good: an iterator must not begin again
                raise StopIteration
            self._taken[task] = None
        try:
            request = self._models.write(task, self._queue.upcoming)
        except Exception as error:
            with self._lock:
                self._ended, self._error = True, error
            raise StopIteration from None
        with self._lock:
            if self._open:
                self._taken[task] = request
                return request
        remove_files(request)
        raise StopIteration

    def answered(self, outcome: Outcome) -> None:
        """Take a device's answer; its model file is deleted.

        Raises:
            DeviceError: this was not asked, or is answered already.
        """
        task = (outcome.key, outcome.session)
        with self._lock:
            request = self._taken.get(task)
            if request is None:
                raise DeviceError(
                    f"the device answered for a model that it was not asked for, {outcome.key!r:.200} in session "
                    f"{outcome.session!r:.20}; restart it and call the same command again"
                )
            del self._taken[task]
        self._queue.answered()
        remove_files(request)

    def check(self) -> None:
        """To be called when the device is done.

        Raises:
            Exception: any that kept a model from being written.
            DeviceError: it did not answer all that it took.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._taken:
                (key, session), *others = self._taken
                raise DeviceError(
                    f"the device ended without an answer for {key} in session {session} and "
                    f"{counted(len(others), 'other')}; restart it and call the same command again"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._open, self._ended = False, True
            taken, self._taken = self._taken, {}
        for request in taken.values():
            if request is not None:
                remove_files(request)
        self._queue.give_back(list(taken))
