"""Batches for training: the images stay on the device as bytes, and a batch is cut out of them there.

Nothing is decoded, moved or drawn at random image by image, and no index of a pixel is computed; except where images
stay on disk (see `bpnas.search.data.disk_images`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from bpnas.search.data.dataset import Dataset, Split
from bpnas.search.data.disk_images import DiskSplit, RandomCrops, read_images

AnySplit = Split | DiskSplit


def pick_device() -> torch.device:
    """The first CUDA device that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpus() -> int:
    """How many GPUs this process trains on: 1, or 0 for the CPU."""
    return int(pick_device().type == "cuda")


def on_device(split: AnySplit, device: torch.device) -> AnySplit:
    """`split` where the training runs, channels last in memory.

    Images that would take more than half of a GPU's free memory stay in the computer's, and those on disk there;
    batches then move one by one.
    """
    if isinstance(split, DiskSplit):
        return split
    if device.type == "cuda" and split.images.device != device:
        free, _ = torch.cuda.mem_get_info(device)
        if split.images.numel() > free // 2:
            device = split.images.device
    images = split.images.to(device, memory_format=torch.channels_last)
    return Split(images, split.labels.to(device))


def batch_count(images: int, batch: int, processes: int = 1) -> int:
    """How many batches `batches` makes of `images` images."""
    return images // batch + (1 if images % batch >= max(2, processes) else 0)


def batches(
    dataset: Dataset,
    split: AnySplit,
    batch: int,
    generator: torch.Generator,
    device: torch.device,
    first: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented, normalised batches of one epoch in random order: (N, 3, S, S) float32 and (N,) int64 on `device`.

    A last batch of a single image is left out: batch normalisation has no variance to offer there. So is one that has
    fewer images than there are processes.

    Args:
        split: on `device` already (see `on_device`), or not.
        generator: the sole source of chance, of the CPU. All chance of the epoch is drawn at its start, so that
            nothing waits for it later, and an epoch can be resumed in its middle. Images on disk draw theirs from
            a seed that is drawn here, and their number.
        first: number of the batch to begin with.
        share: (rank, processes): of every batch, only the images number rank, rank + processes ...
    """
    count = len(split)
    order = torch.randperm(count, generator=generator)
    rank, processes = share
    starts = range(first * batch, batch_count(count, batch, processes) * batch, batch)
    parts = [slice(start + rank, start + batch, processes) for start in starts]
    if isinstance(split, DiskSplit):
        crops = RandomCrops(int(torch.randint(2**62, (), generator=generator)), dataset.flip)
        for images, labels in read_images(split, [order[part] for part in parts], device, crops):
            yield dataset.normalized(images), labels
        return
    where = split.images.device
    reach = 2 * _padding(dataset.input_size) + 1
    shifts = torch.randint(reach, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5 if dataset.flip else torch.zeros(count, dtype=torch.bool)
    order, shifts, mirrored = order.to(where), shifts.to(where), mirrored.to(where)
    for part in parts:
        index = order[part]
        images = augmented(split.images.index_select(0, index), shifts[:, part], mirrored[part]).to(device)
        yield dataset.normalized(images), split.labels.index_select(0, index).to(device)


def in_order(
    split: AnySplit, batch: int, device: torch.device, share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches as the images are and in their order, for an evaluation: (N, 3, S, S) uint8 and (N,) int64 on `device`.

    Args:
        share: (rank, processes): of every batch, only the images number rank, rank + processes ...; none of a batch
            that has no such image.
    """
    rank, processes = share
    parts = [slice(start + rank, start + batch, processes) for start in range(0, len(split) - rank, batch)]
    if isinstance(split, DiskSplit):
        numbers = torch.arange(len(split))
        yield from read_images(split, [numbers[part] for part in parts], device)
        return
    for part in parts:
        yield split.images[part].to(device), split.labels[part].to(device)


def augmented(images: Tensor, shifts: Tensor, mirrored: Tensor) -> Tensor:
    """Crops after padding with zeros by an eighth of the size (4 pixels at 32), and mirror images.

    Args:
        images: (N, 3, S, S), channels last in memory.
        shifts: (2, N), rows and columns of the crop's corner in the padded image, 0 to twice the padding.
        mirrored: (N,) bool.

    Returns:
        Of the same shape, type and memory format.
    """
    count, channels, size, _ = images.shape
    padding = _padding(size)
    width = size + 2 * padding
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, *(padding,) * 4)).contiguous()
    # A view of every possible crop, so that one gather copies whole rows and no index of a pixel is computed.
    row = width * channels
    places = (count * width - size) * width + 2 * padding + 1
    crops = padded.as_strided((places, size, size * channels), (channels, row, 1))
    corners = torch.arange(count, device=images.device) * width**2 + shifts[0] * width + shifts[1]
    cut = crops.index_select(0, corners).view(count, size, size, channels)
    return torch.where(mirrored.view(-1, 1, 1, 1), cut.flip(2), cut).permute(0, 3, 1, 2)


def _padding(size: int) -> int:
    return size // 8
