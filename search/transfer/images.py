"""Image files as batches of bytes, decoded by threads ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bpnas.base.cores import usable_cores
from bpnas.search.data.decoding import decoded
from bpnas.search.data.image_files import one_line
from bpnas.search.errors import DataError

T = TypeVar("T")

_BATCHES_AHEAD = 3


def decode(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """One image as uint8 of shape (3, height, width), resized bilinearly where a `size` is given, (height, width).

    Raises:
        DataError: it cannot be read.
    """
    try:
        image = decoded(path.read_bytes())
        pixels = np.array(image if size is None else image.resize(size[::-1], Image.Resampling.BILINEAR))
    except Exception as error:  # Pillow's decoders raise almost anything
        raise DataError(f"{path}: the image cannot be decoded ({one_line(error)})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def decoded_batches(
    paths: Sequence[Path], batches: Iterable[Sequence[int]], height: int, width: int
) -> Iterator[Tensor]:
    """The images of each batch of indices into `paths`, in order: uint8 (N, 3, height, width).

    Raises:
        DataError: an image cannot be read.
    """
    for images in loaded_batches(batches, lambda index: decode(paths[index], (height, width))):
        yield torch.stack(images)


def loaded_batches(batches: Iterable[Sequence[T]], load: Callable[[T], Tensor]) -> Iterator[list[Tensor]]:
    """What `load` makes of the items of each batch, in order; its errors come when the batch's turn has come."""
    pool = ThreadPoolExecutor(usable_cores())  # Pillow lets go of the interpreter while it decodes and resizes
    ahead: deque[list[Future[Tensor]]] = deque()
    try:
        for batch in batches:
            ahead.append([pool.submit(load, item) for item in batch])
            if len(ahead) > _BATCHES_AHEAD:
                yield [image.result() for image in ahead.popleft()]
        while ahead:
            yield [image.result() for image in ahead.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
