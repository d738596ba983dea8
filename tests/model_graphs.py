"""Small model files for tests that need no torch: graphs written out by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from bpnas.android_bench.device import MODEL_SUFFIX
from bpnas.android_bench.measurement import RunRequest
from bpnas.profiler.models.graph import Array, Graph
from bpnas.profiler.models.onnx_export import write_onnx
from bpnas.profiler.models.tflite_export import write_tflite

FORMATS = ("onnxruntime", "tflite")


def random_weights(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def convolution(
    c_in: int = 8,
    c_out: int = 16,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    size: int = 8,
    relu: bool = True,
    seed: int = 0,
) -> Graph:
    """One convolution."""
    graph = Graph.start((1, c_in, size, size))
    weight = random_weights(c_out, c_in // groups, kernel, kernel, seed=seed)
    graph.output = graph.conv(
        "input", weight, random_weights(c_out, seed=seed + 1), stride, groups, "relu" if relu else "none"
    )
    return graph


def one_of_each(size: int = 9) -> Graph:
    """Every operator there is: an inverted bottleneck with shuffle and stride 2, an addition, a pool, a linear."""
    graph = Graph.start((1, 8, size, size))
    x = graph.conv("input", random_weights(16, 2, 1, 1), random_weights(16), 1, 4, "relu")
    x = graph.shuffle(x, 4)
    x = graph.conv(x, random_weights(16, 1, 3, 3), random_weights(16), 2, 16, "relu")
    x = graph.conv(x, random_weights(8, 16, 1, 1), random_weights(8), 1, 1, "none")
    x = graph.add(x, x)
    graph.output = graph.linear(graph.global_average_pool(x), random_weights(10, 8), random_weights(10))
    return graph


def write_graph(graph: Graph, runtime: str) -> bytes:
    return write_onnx(graph) if runtime == "onnxruntime" else write_tflite(graph)


def request_for(content: bytes, folder: Path, runtime: str, key: str = "model", session: int = 0) -> RunRequest:
    """A file in `folder` and the request to time it."""
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{digest}-{session}{MODEL_SUFFIX[runtime]}"
    path.write_bytes(content)
    return RunRequest(key, session, path, digest)
