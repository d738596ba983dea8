"""Requests on their way to a device: while the runner works on one batch, the next one is taken and pushed."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import count

from bpnas.android_bench.device import MODEL_SUFFIX
from bpnas.android_bench.errors import DeviceError, DeviceLostError, DeviceSpaceError
from bpnas.android_bench.measurement import RunRequest
from bpnas.android_bench.runner.batch import ModelBatch
from bpnas.android_bench.runner.held_device import HeldDevice

BATCH_MODELS = 64
"""At most these go over together; see also `batch.MAX_BYTES`."""

_FIRST_BATCH_MODELS = 8  # nothing runs while the first one is written and pushed
_MAX_PUSHES = 5  # of one batch, if the device is lost each time


class BatchFeed:
    """Batches of models for a device. Requests are taken, and files pushed, in a thread of its own."""

    def __init__(self, device: HeldDevice) -> None:
        self._device = device
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"push {device.remote.serial}")
        self._numbers = count()

    def batches(self, requests: Iterable[RunRequest]) -> Generator[ModelBatch]:
        """Each batch once it is on the device; it is removed there when the next one is asked for.

        Raises:
            DeviceError: a batch cannot be brought there.
        """
        source = iter(requests)
        coming = self._pool.submit(self._load, source, _FIRST_BATCH_MODELS)
        try:
            while (batch := self._arrived(coming)) is not None:
                coming = self._pool.submit(self._load, source, BATCH_MODELS)
                yield batch
                self.remove(batch)
        finally:
            coming.cancel()

    def take(self, source: Iterator[RunRequest], most: int) -> ModelBatch | None:
        """The next requests, at most `most`, as a batch that is not pushed yet; None if there is none."""
        suffix, runner = MODEL_SUFFIX[self._device.runtime], self._device.runner
        return ModelBatch.take(source, most, next(self._numbers), suffix, runner.why_not)

    def push(self, batch: ModelBatch) -> None:
        """Put a batch into the folder that the device has now; raises what `Remote.push` raises."""
        batch.push(self._device.remote, self._place(batch))

    def keep(self, batch: ModelBatch) -> None:
        """Push a batch that was pushed just while the connection was made again; raises what `push` raises."""
        if batch.place != self._place(batch):
            self.push(batch)

    def push_again(self, batch: ModelBatch, error: DeviceError) -> None:
        """Push a batch where that failed with `error`, for as long as there is hope.

        Raises:
            DeviceError: there is none.
        """
        for _ in range(_MAX_PUSHES):
            # Where space was missing it is tried once more: now the batch before it is gone; and a device that was lost
            # may be back already, if it was missed in the other thread too.
            if not isinstance(error, DeviceLostError | DeviceSpaceError):
                break
            try:
                self.push(batch)
                return
            except DeviceLostError as loss:
                error = loss
                self._device.come_back(loss)
            except DeviceSpaceError as full:
                if isinstance(error, DeviceSpaceError):
                    raise
                error = full
        raise error

    def remove(self, batch: ModelBatch) -> None:
        """Forget the models of a batch, here and on the device."""
        batch.contents.clear()
        with suppress(DeviceLostError):  # then the device does it; the next push will notice
            self._device.folder.remove(batch.place)

    def close(self) -> None:
        """Wait for the push at work, and begin no other."""
        self._pool.shutdown(cancel_futures=True)

    def _load(self, source: Iterator[RunRequest], most: int) -> tuple[ModelBatch | None, DeviceError | None]:
        """Take the next batch and push it. What goes wrong with the device comes back next to the batch: the requests
        are taken, and must not get lost.
        """
        batch = self.take(source, most)
        try:
            if batch is not None:
                self.push(batch)
        except DeviceError as error:
            return batch, error
        return batch, None

    def _arrived(self, coming: Future[tuple[ModelBatch | None, DeviceError | None]]) -> ModelBatch | None:
        batch, error = coming.result()
        if batch is not None and error is not None:
            self.push_again(batch, error)
        return batch

    def _place(self, batch: ModelBatch) -> str:
        return f"{self._device.folder.run}/{batch.number}"
