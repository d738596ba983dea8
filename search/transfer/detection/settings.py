"""Recipes of the detector. `paper` is BP-NAS's own; what the paper does not give is marked [ours] in PAPER.

`tiny` [ours] shows on a CPU that the program works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bpnas.base.errors import UsageError
from bpnas.search.transfer.recipe import Recipe, overridden

_SMALLEST = {
    "shorter_side": 64,  # below, the coarsest map of an image may be one pixel, which has no variance
    "fpn_channels": 1,
    "head_width": 1,
    "rpn_samples": 2,
    "box_samples": 2,
    "proposals": 2,
}
_LARGEST = 65_536  # of what takes memory in proportion


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionSettings(Recipe):
    """How a detector is built and trained.

    Attributes:
        shorter_side, longer_side: pixels; an image is scaled to the one unless its longer side would pass the other.
        anchor_scale: side of the anchors of a feature map, in its pixels. They come in three shapes, 1:2, 1:1 and 2:1.
        frozen_norms: batch normalisation of the backbone keeps the statistics, weights and biases that it comes with.
        fpn_channels: width of the pyramid.
        head_width: width of the two linear layers that classify a proposal.
        rpn_samples, box_samples: anchors, and proposals, of an image that the losses are taken on.
        proposals: of an image that go to the second stage in training; half of them in evaluation.
    """

    shorter_side: int
    longer_side: int
    anchor_scale: float = 8.0
    frozen_norms: bool = False
    fpn_channels: int = 256
    head_width: int = 1024
    rpn_samples: int = 256
    box_samples: int = 512
    proposals: int = 2000

    @classmethod
    def load(cls, name: str) -> DetectionSettings:
        """The preset `paper` or `tiny`.

        Raises:
            UsageError: there is no such preset.
        """
        try:
            return PRESETS[name]
        except KeyError:
            raise UsageError(f"no preset of detection is called {name!r}: use one of {', '.join(PRESETS)}") from None

    def override(self, values: Mapping[str, Any]) -> DetectionSettings:
        """A copy with single values changed, see `overridden`.

        Raises:
            UsageError: one of them is out of range.
        """
        changed = overridden(self, values)
        for field, smallest in _SMALLEST.items():
            value = getattr(changed, field)
            if not smallest <= value <= _LARGEST:
                name = {"fpn_channels": "pyramid channels"}.get(field, field.replace("_", " "))
                raise UsageError(f"{name} must be at least {smallest} and at most {_LARGEST:,}, not {value:,}")
        if not 1 <= changed.anchor_scale <= 1000:
            raise UsageError(f"anchor scale must be from 1 to 1000, not {changed.anchor_scale:g}")
        if changed.longer_side < changed.shorter_side:
            raise UsageError(
                f"the longer side of {changed.longer_side} is below the shorter one, {changed.shorter_side}"
            )
        return changed


PAPER = DetectionSettings(
    iterations=90_000,
    milestones=(60_000, 80_000),
    batch=32,  # of 8 GPUs with 4 images each
    learning_rate=0.04,
    momentum=0.9,
    weight_decay=1e-4,
    shorter_side=800,
    longer_side=1333,  # [ours], as Detectron
    warmup_iterations=500,  # [ours], as Detectron
)
TINY = DetectionSettings(
    epochs=20,
    batch=4,
    learning_rate=0.01,
    warmup_iterations=10,
    milestones=(13, 18),
    shorter_side=128,
    longer_side=213,
    anchor_scale=4.0,
    fpn_channels=64,
    head_width=128,
    rpn_samples=64,
    box_samples=64,
    proposals=200,
)
PRESETS = {"paper": PAPER, "tiny": TINY}
