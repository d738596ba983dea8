"""What a training step of the detector costs on a searched network, beside MobileNetV2.

    python benchmarks/transfer_detection.py --network runs/mock_s9-seed0/network.json

`run-search transfer detection --preset tiny`: batches of four images of 128x128 pixels of noise with two boxes each,
random weights, batch normalisation in training. The two take steps in turns, so that other work on the machine meets
both; processor time is counted, of one thread. It needs torchvision and timm.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from time import process_time
from typing import Any

import torch

from bpnas.search.transfer.backbones import load_features
from bpnas.search.transfer.detection.model import build_detector, detection_features
from bpnas.search.transfer.detection.settings import DetectionSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, required=True, help="network.json of a search")
    parser.add_argument("--baseline", default="mobilenetv2", help="as --model of run-search transfer")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = DetectionSettings.load("tiny")
    detectors, seconds = {}, dict[str, list[float]]()
    for name, network in (("bpnas", arguments.network), (arguments.baseline, None)):
        features = load_features(name, network=network, pretrained=False)
        detection_features(features)
        detectors[name], seconds[name] = build_detector(features, 3, settings).train(), []
        body = sum(parameter.numel() for parameter in features.parameters())
        whole = sum(parameter.numel() for parameter in detectors[name].parameters())
        print(f"{name:16} {body / 1e6:.2f} M parameters, the whole detector {whole / 1e6:.2f} M")
    images = [torch.rand(3, settings.shorter_side, settings.shorter_side) for _ in range(settings.batch)]
    boxes = torch.tensor([[10.0, 20.0, 50.0, 60.0], [64.0, 64.0, 120.0, 100.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _ in images]
    for step in range(arguments.steps + 1):
        for name, detector in detectors.items():
            took = step_seconds(detector, images, targets)
            if step:  # the first one does not count
                seconds[name].append(took)
    ours, theirs = (statistics.median(values) for values in seconds.values())
    for name, values in seconds.items():
        print(f"{name:16} {statistics.median(values):.3f} s a step ({min(values):.3f} to {max(values):.3f})")
    print(f"ratio of the medians: {ours / theirs:.2f}")


def step_seconds(detector: Any, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]) -> float:
    start = process_time()
    detector.zero_grad(set_to_none=True)
    sum(loss for loss, _ in detector.losses(images, targets, range(len(images))).values()).backward()
    return process_time() - start


if __name__ == "__main__":
    main()
