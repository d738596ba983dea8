"""How fast model files are written, on one core.

    python benchmarks/export.py

Two figures: the time to build, export and write both formats of all 6,528 paths of the default backbone (goal: at most
60 s), and how many times faster one ONNX file is than `torch.onnx.export(dynamo=True)` on the same modules, taken in
turns (goal: at least 500).
"""

from __future__ import annotations

import io
import os
import random
import statistics
import tempfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from time import perf_counter

import torch

from bpnas.profiler import Backbone, build_module, to_onnx, to_tflite
from bpnas.profiler.paths import PathPart, enumerate_parts

COMPARED = 12


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    backbones = [Backbone.load("mobilenetv2", size) for size in (32, 224)]
    parts = [part for part in enumerate_parts(backbones) if isinstance(part, PathPart)]

    written, slowest_s = 0, 0.0
    start = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        onnx_file, tflite_file = Path(folder) / "path.onnx", Path(folder) / "path.tflite"
        for part in parts:
            begin = perf_counter()
            module, shape = build_module(part).eval(), part.input_shapes[0]
            written += onnx_file.write_bytes(to_onnx(module, shape)) + tflite_file.write_bytes(to_tflite(module, shape))
            slowest_s = max(slowest_s, perf_counter() - begin)
    total_s = perf_counter() - start
    print(
        f"both formats of {len(parts)} paths: {total_s:.1f} s, {written / 1e9:.2f} GB, slowest {slowest_s * 1e3:.0f} ms"
    )

    ours_s, torch_s = [], []
    _torch_export(build_module(parts[0]).eval(), parts[0].input_shapes[0])  # its first call loads a lot
    for part in random.Random(0).sample(parts, COMPARED):
        module, shape = build_module(part).eval(), part.input_shapes[0]
        begin = perf_counter()
        to_onnx(module, shape)
        ours_s.append(perf_counter() - begin)
        begin = perf_counter()
        _torch_export(module, shape)
        torch_s.append(perf_counter() - begin)
    ratios = sorted(t / o for t, o in zip(torch_s, ours_s, strict=True))
    print(
        f"one ONNX file, {COMPARED} paths in turns: {statistics.median(ours_s) * 1e3:.2f} ms here, "
        f"{statistics.median(torch_s) * 1e3:.0f} ms with torch.onnx.export(dynamo=True); ratio {ratios[0]:.0f} to "
        f"{ratios[-1]:.0f}, median {statistics.median(ratios):.0f}"
    )


def _torch_export(module: torch.nn.Module, shape: tuple[int, ...]) -> None:
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(shape),), dynamo=True, verbose=False)


if __name__ == "__main__":
    main()
