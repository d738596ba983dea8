"""Images and boxes as a detector takes them, and the order in which it does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bpnas.search.errors import DataError
from bpnas.search.transfer.detection.coco import CocoImage
from bpnas.search.transfer.images import decode

Targets = dict[str, Tensor]


def read_image(image: CocoImage) -> Tensor:
    """The image as uint8 of (3, height, width).

    Raises:
        DataError: it is damaged, or of another size than its annotations say.
    """
    pixels = decode(image.path)
    height, width = pixels.shape[1:]
    if (width, height) != (image.width, image.height):
        raise DataError(
            f"{image.path}: is of {width}x{height} pixels, its annotations are for {image.width}x{image.height}"
        )
    return pixels


def epoch_order(
    images: Sequence[CocoImage], batch: int, generator: torch.Generator, processes: int = 1
) -> list[list[int]]:
    """Numbers of the images of every batch of an epoch, in random order.

    Wide and tall images go into batches of their own, for a batch is as wide and as high as its largest image; what is
    left of both shares the last ones made. One that has fewer images than there are processes is left out.
    """
    order = torch.randperm(len(images), generator=generator).tolist()
    wide = [number for number in order if images[number].width >= images[number].height]
    tall = [number for number in order if images[number].width < images[number].height]
    parts = [part[start : start + batch] for part in (wide, tall) for start in range(0, len(part), batch)]
    whole = [part for part in parts if len(part) == batch]
    rest = [number for part in parts if len(part) < batch for number in part]
    shared = [rest[start : start + batch] for start in range(0, len(rest), batch)]
    whole += [part for part in shared if len(part) >= processes]
    return [whole[number] for number in torch.randperm(len(whole), generator=generator).tolist()]


def example(pixels: Tensor, image: CocoImage, mirrored: bool, device: torch.device) -> tuple[Tensor, Targets]:
    """What torchvision's detectors train on, on `device`: the image on the scale 0..1 and its boxes and labels."""
    boxes, labels = torch.from_numpy(image.boxes), torch.from_numpy(image.labels)
    scaled = pixels.to(device).float() / 255
    if mirrored:
        scaled = scaled.flip(2)
        boxes = torch.stack([image.width - boxes[:, 2], boxes[:, 1], image.width - boxes[:, 0], boxes[:, 3]], dim=1)
    return scaled, {"boxes": boxes.to(device), "labels": labels.to(device)}
