"""What int8 costs a network in accuracy, by how and with how many images the ranges of its feature maps are found.

    python benchmarks/int8.py RUN [--calibration-images 32,256,1024] [--test-images N]

RUN is the directory of a finished search. All numbers are of the same test images, through the runtimes' interpreters.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import get_args

from bpnas.search.data.dataset import load_data
from bpnas.search.networks.export import accuracy_of, normal_images
from bpnas.search.networks.int8_onnx import Calibration, quantize_onnx
from bpnas.search.networks.int8_tflite import quantize_tflite
from bpnas.search.networks.network_file import NetworkFile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--calibration-images", default="32,256,1024")
    parser.add_argument("--test-images", type=int)
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.calibration_images.split(",")]

    network = NetworkFile.load(arguments.run)
    source = json.loads(network.path.read_text(encoding="utf-8"))["data"]
    loaded = load_data(source, network.backbone.input_size, max(counts))
    dataset = replace(loaded, mean=network.mean, std=network.std)
    test = dataset.test.first(arguments.test_images)
    onnx, tflite = (network.path.with_suffix(suffix).read_bytes() for suffix in (".onnx", ".tflite"))

    reference = accuracy_of(onnx, dataset, test)
    error = sqrt(reference * (1 - reference) / len(test))
    print(f"float32: accuracy {reference:.2%} +- {error:.2%} (standard error, {len(test)} test images)", flush=True)

    def report(name: str, count: int, content: bytes) -> None:
        accuracy = accuracy_of(content, dataset, test)
        loss = (reference - accuracy) * 100
        print(f"{name:16s} {count:5d} images: accuracy {accuracy:.2%}, a loss of {loss:.2f} points", flush=True)

    for count in counts:
        images = normal_images(dataset, dataset.train.first(count))
        for calibration in get_args(Calibration):
            report(f"ONNX, {calibration}", count, quantize_onnx(onnx, images, calibration))
        report("TFLite", count, quantize_tflite(tflite, images.transpose(0, 2, 3, 1)))


if __name__ == "__main__":
    main()
