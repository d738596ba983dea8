"""Images that do not fit into memory: read and decoded by worker processes while a training runs.

What a batch holds depends on the seed and the epoch alone, not on how many processes decode, nor where an earlier run
was stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Items

from bpnas.base.cores import usable_cores
from bpnas.base.errors import UsageError
from bpnas.base.randomness import derived_seed
from bpnas.search.data.decoding import centre_crop, decoded, random_crop
from bpnas.search.data.image_files import ImageStore, one_line
from bpnas.search.errors import DataError

# Images that a process decodes at a time. Whole batches of 2,048 would fill the memory that processes share, 64 MB in a
# container, and let the first one wait for a single process.
CHUNK = 32
_MOST_WORKERS = 16
_EVALUATION_MARGIN = 256 / 224
_WORKERS_VARIABLE = "BPNAS_DECODE_WORKERS"


@dataclass(frozen=True, slots=True, eq=False)
class DiskSplit:
    """Images on disk, as `bpnas.search.data.dataset.Split` holds them in memory.

    Attributes:
        store: what holds them.
        rows: (N,), where they are in the store.
        labels: int64 of shape (N,).
        input_size: height and width S that they are scaled to, in pixels.
    """

    store: ImageStore
    rows: Tensor
    labels: Tensor
    input_size: int

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> DiskSplit:
        """The first `count` images; all if None or if there are fewer."""
        return self._part(slice(count))

    def parted(self, share: float) -> tuple[DiskSplit, DiskSplit]:
        """The first `share` of the images and the rest, each at least one image.

        Raises:
            DataError: there are fewer than two images.
        """
        if len(self) < 2:
            raise DataError(f"{len(self)} training images cannot be parted in two")
        cut = min(max(round(len(self) * share), 1), len(self) - 1)
        return self._part(slice(cut)), self._part(slice(cut, None))

    def _part(self, part: slice) -> DiskSplit:
        return DiskSplit(self.store, self.rows[part], self.labels[part], self.input_size)


@dataclass(frozen=True, slots=True)
class RandomCrops:
    """How images are cut for a training (see `random_crop`): each draws its chance from `seed` and its number."""

    seed: int
    mirror: bool


def read_images(
    split: DiskSplit, groups: Sequence[Tensor], device: torch.device, crops: RandomCrops | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Groups of images of `split`: (N, 3, S, S) uint8, channels last in memory, and (N,) int64, on `device`.

    Args:
        groups: numbers of images in `split`, at least one each.
        crops: for a training; None for the middle, cut out of 8/7 of its size as is usual.

    Raises:
        UsageError: the variable BPNAS_DECODE_WORKERS is no number.
        DataError: an image cannot be decoded, or a decoding process was lost.
    """
    chunks = [group[start : start + CHUNK].tolist() for group in groups for start in range(0, len(group), CHUNK)]
    loader = DataLoader(
        _Decoder(split, crops),
        batch_size=None,
        sampler=chunks,
        num_workers=max(0, min(decode_workers(), len(chunks) - 1)),  # one chunk is soonest decoded here
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # otherwise it would draw from the global one
    )
    with _losses_told():
        pieces = iter(loader)
    for group in groups:
        images = []
        for _ in range(0, len(group), CHUNK):
            with _losses_told():
                pixels, fault = next(pieces)
            if fault:
                raise DataError(fault)
            images.append(pixels.to(device, non_blocking=True))
        yield torch.cat(images).permute(0, 3, 1, 2), split.labels[group].to(device)


def decode_workers() -> int:
    """How many processes decode images for this one.

    BPNAS_DECODE_WORKERS if it is set; else this machine's cores, shared by the processes of torchrun, at most 16. None
    within a worker of a search, which may not start processes: there, images are decoded between the steps.

    Raises:
        UsageError: BPNAS_DECODE_WORKERS is no number.
    """
    asked = os.environ.get(_WORKERS_VARIABLE)
    if asked is not None and not asked.isdecimal():
        raise UsageError(f"{_WORKERS_VARIABLE}={asked!r}: give the number of processes that decode images, or unset it")
    if multiprocessing.current_process().daemon:
        return 0
    if asked is not None:
        return int(asked)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(usable_cores() // processes, _MOST_WORKERS))


@contextmanager
def _losses_told() -> Iterator[None]:
    """Turn what torch raises about a lost worker, which may be while the next one is started, into a DataError."""
    try:
        yield
    except RuntimeError as error:
        raise DataError(
            f"a process that decodes images was lost ({one_line(error)}); with less memory for each, set "
            f"{_WORKERS_VARIABLE} to fewer"
        ) from error


class _Decoder(Items[tuple[Tensor, str]]):
    """[numbers of images] -> their pixels (N, S, S, 3), or what is wrong: torch would make a page of an exception."""

    def __init__(self, split: DiskSplit, crops: RandomCrops | None) -> None:
        self._store, self._rows, self._size, self._crops = split.store, split.rows.numpy(), split.input_size, crops

    def __getitem__(self, numbers: list[int]) -> tuple[Tensor, str]:
        pixels = np.empty((len(numbers), self._size, self._size, 3), np.uint8)
        for place, number in enumerate(numbers):
            row = int(self._rows[number])
            try:
                picture = decoded(self._store.read(row))
                if self._crops is None:
                    pixels[place] = centre_crop(picture, self._size, round(self._size * _EVALUATION_MARGIN))
                else:
                    rng = random.Random(derived_seed(self._crops.seed, number))
                    pixels[place] = random_crop(picture, self._size, rng, self._crops.mirror)
            except Exception as error:  # Pillow's decoders raise almost anything
                return torch.empty(0), f"{self._store.name(row)} cannot be decoded ({one_line(error)})"
        return torch.from_numpy(pixels), ""
