"""Faster R-CNN with a feature pyramid on the maps of a network.

Ren et al., Faster R-CNN, NeurIPS 2015; Lin et al., Feature Pyramid Networks, CVPR 2017; both as torchvision has them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from bpnas.base.errors import UsageError
from bpnas.base.randomness import derived_seed
from bpnas.search.errors import SearchError
from bpnas.search.networks.features import FeatureMaps
from bpnas.search.training.seeded import seeded
from bpnas.search.transfer.detection.settings import DetectionSettings
from bpnas.search.transfer.features import Features

FINEST_STRIDE, COARSEST_STRIDE = 4, 32
_RATIOS = (0.5, 1.0, 2.0)
_POOLED = 7
_RPN_LOSSES = ("loss_objectness", "loss_rpn_box_reg")


class Pyramid(nn.Module):
    """A network's maps from stride 4 on, each at `width` channels and joined from the coarsest to the finest.

    Args:
        features: the network.
        width: channels of each output.
        frozen_norms: its batch normalisation is left as it is.

    Attributes:
        strides: of the outputs; the last is a map of every other pixel of the one before it.
        out_channels: channels of each.

    Raises:
        SearchError: the network has no map of stride 4 or coarser.
    """

    def __init__(self, features: Features, width: int, frozen_norms: bool) -> None:
        super().__init__()
        self.body = features.body
        self._chosen = [place for place, stride in enumerate(features.strides) if stride >= FINEST_STRIDE]
        if not self._chosen:
            raise SearchError(f"the network has feature maps of strides {features.strides} only, none of 4 or more")
        channels = [features.channels[place] for place in self._chosen]
        self.fpn = FeaturePyramidNetwork(channels, width, LastLevelMaxPool())
        strides = [features.strides[place] for place in self._chosen]
        self.strides = (*strides, 2 * strides[-1])
        self.out_channels = width
        norms = [module for module in self.body.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._frozen = norms if frozen_norms else []
        for norm in self._frozen:
            norm.requires_grad_(False)

    def train(self, mode: bool = True) -> Pyramid:
        """As of every module; frozen normalisation stays in evaluation mode."""
        super().train(mode)
        for norm in self._frozen:
            norm.eval()
        return self

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """(N, 3, H, W) -> one (N, out_channels, H / stride, W / stride) per stride, named "0", "1" ... and "pool"."""
        maps = self.body(x)
        chosen = OrderedDict((str(name), maps[place]) for name, place in enumerate(self._chosen))
        found: OrderedDict[str, Tensor] = self.fpn(chosen)
        return found


def detection_features(features: Features) -> tuple[str, ...]:
    """Bring the maps of a network to strides that suit a detector, in place; says in words what was done.

    A network searched on 32 pixels has a stem of stride 1 and ends at stride 16. Its stem gets stride 2 [ours], as in
    the same backbone at 224 pixels: the weights are the same, and so are the maps' sizes relative to each other.
    """
    notes = []
    body = features.body
    if max(features.strides) < COARSEST_STRIDE and isinstance(body, FeatureMaps) and body.strides[0] == 1:
        for module in body.stem.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (2, 2)
        features.strides = body.strides = tuple(2 * stride for stride in body.strides)
        notes.append(
            "the network's stem of stride 1, for small images, gets stride 2 for detection; its predicted latency is "
            "that of the network as it was searched"
        )
    if max(features.strides) < COARSEST_STRIDE:
        notes.append(f"the network's maps end at stride {max(features.strides)}, before 32: large objects suffer")
    return tuple(notes)


class SeededSampler:
    """Draws the anchors, or proposals, of each image that a loss is taken on, from a seed of that image.

    So what is drawn does not depend on which images are in a batch, or in a process, together.

    Attributes:
        seeds: one for each image of the next call.
        count: how many the last call took.
    """

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self.seeds: Sequence[int] = ()
        self.count = 0

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's: labels of each image's candidates -> masks of the positive and of the negative ones."""
        positive, negative = list[Tensor](), list[Tensor]()
        for seed, labels in zip(self.seeds, matched, strict=True):
            (found,), (other,) = seeded(seed, lambda labels=labels: self._sampler([labels]))  # type: ignore[misc]
            positive.append(found)
            negative.append(other)
        self.count = sum(int(mask.sum()) for mask in (*positive, *negative))
        return positive, negative


class Detector(FasterRCNN):  # type: ignore[misc]
    """torchvision's Faster R-CNN; its losses also say over how many samples each is a mean."""

    def seed_samplers(self) -> None:
        """Have the losses drawn by `SeededSampler`."""
        self._anchors = self.rpn.fg_bg_sampler = SeededSampler(self.rpn.fg_bg_sampler)
        self._proposals = self.roi_heads.fg_bg_sampler = SeededSampler(self.roi_heads.fg_bg_sampler)

    def losses(
        self, images: list[Tensor], targets: list[dict[str, Tensor]], seeds: Sequence[int]
    ) -> dict[str, tuple[Tensor, int]]:
        """What the detector is trained on, in training mode.

        Args:
            images: (3, H, W) each, on the scale 0..1.
            targets: `boxes` and `labels` of each.
            seeds: of each; the samples are drawn from it.

        Returns:
            Mean loss and number of samples, by name.
        """
        self._anchors.seeds = [derived_seed(seed, "anchors") for seed in seeds]
        self._proposals.seeds = [derived_seed(seed, "proposals") for seed in seeds]
        losses: dict[str, Tensor] = self(images, targets)
        counts = {name: self._anchors.count if name in _RPN_LOSSES else self._proposals.count for name in losses}
        return {name: (losses[name], counts[name]) for name in sorted(losses)}


def build_detector(features: Features, classes: int, settings: DetectionSettings) -> Detector:
    """A detector with random weights in addition to those of `features`, drawn from torch's global generator.

    Args:
        features: see `detection_features`. The detector takes images of scale 0..1 and normalises them itself.
        classes: categories, without the background.

    Returns:
        torchvision's model with `losses` to train it by; in evaluation a list of images (3, H, W) -> a list of
        {"boxes", "labels", "scores"} in pixels of the image.

    Raises:
        UsageError: a network with random weights shall keep its batch normalisation.
    """
    pyramid = Pyramid(features, settings.fpn_channels, settings.frozen_norms)
    if settings.frozen_norms and features.origin["weights"] is None:
        raise UsageError(
            "batch normalisation can stay frozen in a trained network only: give its --weights, or --norms trained"
        )
    sizes = tuple((round(settings.anchor_scale * stride),) for stride in pyramid.strides)
    levels = [str(level) for level in range(len(pyramid.strides) - 1)]
    pool = MultiScaleRoIAlign(
        levels, _POOLED, sampling_ratio=2, canonical_scale=round(28 * settings.anchor_scale), canonical_level=4
    )
    model = Detector(
        pyramid,
        min_size=settings.shorter_side,
        max_size=settings.longer_side,
        image_mean=list(features.mean),
        image_std=list(features.std),
        rpn_anchor_generator=AnchorGenerator(sizes, (_RATIOS,) * len(sizes)),
        rpn_pre_nms_top_n_train=settings.proposals,
        rpn_pre_nms_top_n_test=settings.proposals // 2,
        rpn_post_nms_top_n_train=settings.proposals,
        rpn_post_nms_top_n_test=settings.proposals // 2,
        rpn_batch_size_per_image=settings.rpn_samples,
        box_roi_pool=pool,
        box_head=TwoMLPHead(settings.fpn_channels * _POOLED**2, settings.head_width),
        box_predictor=FastRCNNPredictor(settings.head_width, classes + 1),
        box_batch_size_per_image=settings.box_samples,
    )
    model.seed_samplers()
    return model
