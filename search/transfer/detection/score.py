"""Average precision of a detector, as COCO counts it, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bpnas.search.training.distributed import lists_of_all, my_share
from bpnas.search.transfer.detection.coco import CocoImage, CocoSet
from bpnas.search.transfer.detection.images import read_image
from bpnas.search.transfer.images import loaded_batches

METRICS = ("AP", "AP50", "AP75", "APS", "APM", "APL")
"""In pycocotools' order: over IoU 0.5 to 0.95, at 0.5, at 0.75; of small, medium and large objects. 0..1."""

Detections = list[dict[str, Any]]


@torch.no_grad()
def detect(model: nn.Module, found: CocoSet, *, batch: int) -> Detections:
    """What `model` sees on all images of a set, in COCO's result format: boxes of [left, top, width, height].

    Args:
        model: see `build_detector`.
        batch: images at a time.

    Processes of torchrun call this together and share the images; each gets all that is seen, in the images' order.

    Raises:
        DataError: an image is damaged.
    """
    model.eval()
    device = next(model.parameters()).device
    images_here = found.images[my_share(len(found.images))]
    batches = [images_here[start : start + batch] for start in range(0, len(images_here), batch)]
    detections: Detections = []
    for images, pixels in zip(batches, loaded_batches(batches, read_image), strict=True):
        for image, seen in zip(images, model([each.to(device).float() / 255 for each in pixels]), strict=True):
            detections += _as_coco(image, seen, found.category_ids)
    return [detection for part in lists_of_all(detections) for detection in part]


def _as_coco(image: CocoImage, seen: dict[str, torch.Tensor], category_ids: Sequence[int]) -> Detections:
    boxes = seen["boxes"].double()
    boxes[:, 2:] -= boxes[:, :2]
    # Four decimals, as much as matters, keep the file of COCO's 5000 images small.
    return [
        {
            "image_id": image.id,
            "category_id": category_ids[label - 1],
            "bbox": [round(value, 4) for value in box],
            "score": round(score, 6),
        }
        for box, label, score in zip(boxes.tolist(), seen["labels"].tolist(), seen["scores"].tolist(), strict=True)
    ]


def coco_metrics(found: CocoSet, detections: Detections) -> dict[str, float | None]:
    """`METRICS` of detections in COCO's result format; None where the set holds no object of that size."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # It speaks on standard output, which is the command's.
    with contextlib.redirect_stdout(io.StringIO()):
        truth, seen = COCO(), COCO()
        truth.dataset = found.dataset
        truth.createIndex()
        if detections:
            # loadRes adds fields to what it is given.
            seen = truth.loadRes([dict(detection) for detection in detections])
        else:
            seen.dataset = {**found.dataset, "annotations": []}
            seen.createIndex()
        score = COCOeval(truth, seen, "bbox")
        score.evaluate()
        score.accumulate()
        score.summarize()
    # It says -1 where there is nothing to find.
    return {name: None if value < 0 else float(value) for name, value in zip(METRICS, score.stats, strict=False)}
