"""Augmentation of batches of embeddings' images, on the device, with all chance from one generator of the CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bpnas.search.transfer.embedding.settings import EmbeddingSettings

ERASED_AREA = (0.02, 0.4)
ERASED_ASPECT = (0.3, 1 / 0.3)
_TRIES = 20


def augmented(
    images: Tensor, settings: EmbeddingSettings, generator: torch.Generator, of: tuple[int, slice] | None = None
) -> Tensor:
    """Mirror images, shifted crops and erased rectangles.

    Args:
        images: (N, C, H, W), normalised: 0 is the mean colour.
        settings: how much of it.
        generator: of the CPU.
        of: how many images the whole batch has, for which is drawn, and which of them these are; None for all.

    Returns:
        Of the same shape.
    """
    count, mine = (len(images), slice(None)) if of is None else of
    device = images.device
    mirrored = (torch.rand(count, generator=generator) < 0.5)[mine]
    images = torch.where(mirrored.to(device).view(-1, 1, 1, 1), images.flip(3), images)
    if settings.padding:
        shifts = torch.randint(2 * settings.padding + 1, (2, count), generator=generator)
        images = _shifted(images, shifts[:, mine], settings.padding)
    if settings.erasing:
        height, width = images.shape[2:]
        wanted = torch.rand(count, generator=generator) < settings.erasing
        erased = erased_rectangles(count, height, width, generator) & wanted.view(-1, 1, 1)
        images = images.masked_fill(erased[mine].to(device).unsqueeze(1), 0.0)
    return images


def _shifted(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Crops of the images padded with zeros, by (2, N) rows and columns of the crop's corner."""
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    device = images.device
    rows = (shifts[0].view(-1, 1) + torch.arange(height)).to(device).view(count, 1, height, 1)
    columns = (shifts[1].view(-1, 1) + torch.arange(width)).to(device).view(count, 1, 1, width)
    which = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channels = torch.arange(images.shape[1], device=device).view(1, -1, 1, 1)
    return padded[which, channels, rows, columns]


def erased_rectangles(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """One random rectangle per image: bool (count, height, width). Zhong et al. 2020, "Random Erasing".

    Area and aspect are drawn until the rectangle fits, at most 20 times; then it is cut off at the image's edge.
    """
    draws = (count, _TRIES)
    area = _uniform(draws, ERASED_AREA, generator) * (height * width)
    low, high = (torch.tensor(end).log().item() for end in ERASED_ASPECT)
    aspect = _uniform(draws, (low, high), generator).exp()
    heights = (area * aspect).sqrt().round().clamp_min(1)
    widths = (area / aspect).sqrt().round().clamp_min(1)
    fits = ((heights < height) & (widths < width)).float()
    first = fits.argmax(dim=1, keepdim=True)  # of equal values the first; draw 0 where none fits
    tall, wide = heights.gather(1, first).clamp_max(height), widths.gather(1, first).clamp_max(width)
    top = (torch.rand((count, 1), generator=generator) * (height - tall + 1)).floor()
    left = (torch.rand((count, 1), generator=generator) * (width - wide + 1)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    within_rows = (rows >= top) & (rows < top + tall)
    within_columns = (columns >= left) & (columns < left + wide)
    return within_rows.unsqueeze(2) & within_columns.unsqueeze(1)


def _uniform(shape: tuple[int, int], between: tuple[float, float], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * (between[1] - between[0]) + between[0]
