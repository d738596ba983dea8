"""A small stand-in for torchvision's detectors in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Stand(nn.Module):
    """Called as detectors are in training, it draws by chance as they do."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.wrong = 1.0

    def losses(self, images: list[Any], targets: list[dict[str, Any]], seeds: list[int]) -> dict[str, Any]:
        # One batch, as large as its largest image.
        size = [max(image.shape[side] for image in images) for side in (1, 2)]
        padded = [F.pad(image, (0, size[1] - image.shape[2], 0, size[0] - image.shape[1])) for image in images]
        seen = self.head(self.norm(self.conv(torch.stack(padded))).relu().mean((2, 3)))
        classes, boxes = [], []
        for row, target, seed in zip(seen, targets, seeds, strict=True):
            labels = target["labels"].long() % 4
            classes += F.cross_entropy(row.expand(len(labels), 4), labels, reduction="none")
            draw = torch.rand((), generator=torch.Generator().manual_seed(seed % 2**63))
            boxes.append(draw * (row.mean() - target["boxes"].float().mean() / 100) ** 2)
        return {
            "loss_classifier": (torch.stack(classes).mean(), len(classes)),
            "loss_box": (self.wrong * torch.stack(boxes).mean(), len(boxes)),
        }
