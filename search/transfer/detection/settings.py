"""Recipes of the detector. BP-NAS names Faster R-CNN with FPN on COCO and gives no recipe: all numbers are [ours].

`paper` is the usual one-fold ("1x") schedule of Faster R-CNN (Lin et al., Feature Pyramid Networks, CVPR 2017, as
torchvision and Detectron train it); `tiny` shows on a CPU that the program works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bpnas.base.errors import UsageError
from bpnas.search.presets import check_rate


@dataclass(frozen=True, slots=True)
class DetectionSettings:
    """How a detector is built and trained.

    Attributes:
        epochs, batch: passes over the images, images a step. 0 epochs evaluate the detector as it is.
        learning_rate, momentum, weight_decay: of SGD.
        warmup_steps: first steps, in which the rate rises in a straight line.
        decay_at: shares of the epochs after which the rate falls to a tenth: 8 and 11 of 12.
        short_side, long_side: pixels; an image is scaled to the one unless its longer side would pass the other.
        anchor_scale: side of the anchors of a feature map, in its pixels. They come in three shapes, 1:2, 1:1 and 2:1.
        frozen_norms: batch normalisation of the backbone keeps the statistics, weights and biases that it comes with.
        fpn_channels: width of the pyramid.
        head_width: width of the two linear layers that classify a proposal.
        rpn_samples, box_samples: anchors, and proposals, of an image that the losses are taken on.
        proposals: of an image that go to the second stage in training; half of them in evaluation.
    """

    epochs: int
    batch: int
    learning_rate: float
    warmup_steps: int
    short_side: int
    long_side: int
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_at: tuple[float, ...] = (8 / 12, 11 / 12)
    anchor_scale: float = 8.0
    frozen_norms: bool = True
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
        """A copy with single values changed.

        Raises:
            UsageError: one of them is out of range.
        """
        changed = replace(self, **values)
        for field, smallest in (("epochs", 0), ("batch", 1), ("short_side", 32), ("warmup_steps", 0)):
            if getattr(changed, field) < smallest:
                raise UsageError(f"{field} must be at least {smallest}, not {getattr(changed, field)}")
        check_rate(changed.learning_rate)
        if changed.long_side < changed.short_side:
            raise UsageError(f"the longer side of {changed.long_side} is below the shorter one, {changed.short_side}")
        return changed

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0 over all epochs of `steps` steps each."""
        rate = self.learning_rate * 0.1 ** sum(step >= round(share * self.epochs) * steps for share in self.decay_at)
        return rate * min(1.0, (step + 1) / (self.warmup_steps + 1))


PAPER = DetectionSettings(epochs=12, batch=16, learning_rate=0.02, warmup_steps=500, short_side=800, long_side=1333)
TINY = DetectionSettings(
    epochs=20,
    batch=4,
    learning_rate=0.01,
    warmup_steps=10,
    short_side=128,
    long_side=213,
    anchor_scale=4.0,
    frozen_norms=False,
    fpn_channels=64,
    head_width=128,
    rpn_samples=64,
    box_samples=64,
    proposals=200,
)
PRESETS = {"paper": PAPER, "tiny": TINY}
