"""A network that turns an image into an embedding: feature maps, global average pooling, BNNeck."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpnas.search.errors import DivergedError
from bpnas.search.training.distributed import rank, sum_over_ranks, world_size
from bpnas.search.transfer.features import Features
from bpnas.search.transfer.images import decoded_batches

EVALUATION_BATCH = 128


class Embedder(nn.Module):
    """The last feature map's mean, projected to `size` numbers where one is given, and its batch normalisation.

    The last step is the BNNeck of Luo et al. 2019: a batch normalisation without shift, so that distances may be
    learnt on its input and angles on its output.

    Args:
        features: of `load_features`.
        size: of the embedding; None for the channels of the last map.
        neck: without it, what enters the neck is the embedding.
    """

    def __init__(self, features: Features, size: int | None, neck: bool = True) -> None:
        super().__init__()
        width = features.channels[-1]
        self.features = features
        self.size = width if size is None else size
        self.project = nn.Identity() if size is None else nn.Linear(width, size, bias=False)
        self.neck: nn.Module = nn.Identity()
        if neck:
            self.neck = nn.BatchNorm1d(self.size)
            self.neck.bias.requires_grad_(False)

    def normalized(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) -> float32 of the same shape, as the network wants it."""
        scale = (self.features.mean, self.features.std)
        mean, std = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in scale)
        return (images.float() / 255 - mean) / std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (N, 3, H, W) -> what enters the neck and what leaves it, each (N, size)."""
        plain = self.plain(x)
        return plain, self.neck(plain)

    def plain(self, x: Tensor) -> Tensor:
        """The same -> what enters the neck."""
        plain: Tensor = self.project(self.features(x)[-1].mean(dim=(2, 3)))
        return plain


@torch.no_grad()
def embed(model: Embedder, paths: Sequence[Path], height: int, width: int) -> Tensor:
    """Embeddings of image files, of length 1, on the CPU: (len(paths), size).

    Processes of torchrun call this together and share the images.

    Raises:
        DataError: an image cannot be read.
        DivergedError: an embedding is not finite.
    """
    model.eval()
    device = next(model.parameters()).device
    batches = [
        range(start, min(start + EVALUATION_BATCH, len(paths))) for start in range(0, len(paths), EVALUATION_BATCH)
    ][rank() :: world_size()]
    found = torch.zeros(len(paths), model.size)
    for batch, images in zip(batches, decoded_batches(paths, batches, height, width), strict=True):
        found[batch.start : batch.stop] = F.normalize(model(model.normalized(images.to(device)))[1]).cpu()
    found = sum_over_ranks(found.to(device)).cpu() if world_size() > 1 else found
    if not found.isfinite().all():
        raise DivergedError("by its end: the embedding of an image is not finite")
    return found
