"""Models on their way to a device: a batch of files with the list that the runner reads."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from bpnas.android_bench.measurement import Failure, FailureKind, Feed, RunRequest, read_model
from bpnas.android_bench.remote import FileToPush, Remote

_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")

MAX_BYTES = 48 << 20
"""A batch ends with the model that makes it longer; two of them are on a device at a time."""


@dataclass(slots=True)
class ModelBatch:
    """Requests whose files are on the device, or should be.

    Attributes:
        number: of the batch; names its folder.
        suffix: of the model files.
        requests: those that can be timed.
        contents: their model files.
        failures: of requests whose file on this machine cannot be used, with the place before which they come.
        place: the folder on the device where they were put; empty before.
    """

    number: int
    suffix: str
    requests: list[RunRequest] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    failures: list[tuple[int, Failure]] = field(default_factory=list)
    place: str = ""

    @classmethod
    def take(
        cls,
        source: Iterator[RunRequest],
        most: int,
        number: int,
        suffix: str,
        why_not: Callable[[RunRequest], str] = lambda request: "",
    ) -> ModelBatch | None:
        """The next requests, at most `most`; None if there is none. `why_not` tells of those that cannot be timed."""
        batch, size = cls(number, suffix), 0
        for request in islice(source, most):
            try:
                if reason := why_not(request):
                    raise ValueError(reason)
                content = read_model(request.path, request.sha256)
                size += sum(path.stat().st_size for path in request.paths)
            except (OSError, ValueError) as error:
                batch.failures.append((len(batch.requests), failure_of(request, "refused", str(error))))
                continue
            batch.requests.append(request)
            batch.contents.append(content)
            if size > MAX_BYTES:
                break
        return batch if batch.requests or batch.failures else None

    def file(self, index: int) -> str:
        """Name of a model's file in the batch's folder; one with others beside it has a folder of its own."""
        request = self.requests[index]
        if not request.data:
            return f"{index}{self.suffix}"
        return f"{index}/{request.path.name if _PLAIN.fullmatch(request.path.name) else f'model{self.suffix}'}"

    def push(self, remote: Remote, place: str) -> None:
        """Put files and list into the folder `place`; raises what `Remote.push` raises."""
        files = [FileToPush(content, f"{place}/{self.file(index)}") for index, content in enumerate(self.contents)]
        listed = "".join(map(self._line, range(len(files))))
        files += [
            FileToPush(request.path.parent / name, f"{place}/{index}/{name}")
            for index, request in enumerate(self.requests)
            for name in request.data
        ]
        remote.push([*files, FileToPush(listed.encode(), f"{place}/list")])
        self.place = place

    def _line(self, index: int) -> str:
        """A model's line in the list."""
        feeds = self.requests[index].feeds
        told = "\t" + ";".join(map(_feed_text, feeds)) if feeds else ""
        return f"{index}\t0\t0\t{self.file(index)}{told}\n"


def _feed_text(feed: Feed) -> str:
    """As docs/native.md says: `1x3x224x224`, `1x8=0,1`."""
    values = f"={','.join(map(repr, feed.values))}" if feed.values else ""
    return "x".join(map(str, feed.shape)) + values


def failure_of(request: RunRequest, kind: FailureKind, message: str) -> Failure:
    """What becomes of a request that gives no samples, now."""
    return Failure(request.key, request.session, request.sha256, kind, " ".join(message.split()), time.time())
