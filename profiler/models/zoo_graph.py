"""Known networks -> graph, with random weights: a latency does not depend on what a network has learnt."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from bpnas.profiler.models.graph import EXPORT_VERSION, Activation, Array, Graph
from bpnas.profiler.models.zoo import (
    CLASSES,
    ConvLayer,
    HiddenLayer,
    InvertedLayer,
    Layer,
    MaxPoolLayer,
    ShuffleLayer,
    ZooPart,
)


@dataclass(frozen=True, slots=True)
class ZooGraph:
    """A network ready to be written.

    Attributes:
        graph: with batch normalisation folded in.
        parameters: as they are published, that is with two for each channel that is normalised.
        macs: multiply-adds of one inference, of convolutions and linear layers.
    """

    graph: Graph
    parameters: int
    macs: int


def zoo_graph(part: ZooPart) -> ZooGraph:
    """The graph of a known network. Its weights depend on nothing but its key, and are scaled so that activations
    neither vanish nor grow from layer to layer (He et al., "Delving Deep into Rectifiers").
    """
    builder = _Builder(part)
    for layer in part.network.layers:
        builder.add(layer)
    return builder.finish()


class _Builder:
    """A graph that grows at its end, `x`."""

    def __init__(self, part: ZooPart) -> None:
        self.part = part
        self.graph = Graph.start(*part.input_shapes)
        self.x = self.graph.inputs[0]
        self.parameters = self.macs = 0
        self._rng = np.random.default_rng(list(hashlib.sha256(part.key.encode()).digest()))

    def add(self, layer: Layer) -> None:
        match layer:
            case ConvLayer():
                self.x = self.conv(self.x, layer.channels, layer.kernel, layer.stride, activation=layer.activation)
            case InvertedLayer():
                self.inverted(layer)
            case ShuffleLayer():
                self.shuffle(layer)
            case MaxPoolLayer():
                self.x = self.graph.max_pool(self.x)
            case HiddenLayer():
                self.x = self.linear(self.graph.global_average_pool(self.x), layer.features)
                self.x = self.graph.apply(self.x, "hard_swish")

    def finish(self) -> ZooGraph:
        graph = self.graph
        if len(graph.shapes[self.x]) == 4:
            self.x = graph.global_average_pool(self.x)
        graph.output = self.linear(self.x, CLASSES)
        graph.metadata = {
            "bpnas.key": self.part.key,
            "bpnas.input_shapes": str([list(shape) for shape in self.part.input_shapes]),
            "bpnas.output_shape": str(list(graph.shapes[graph.output])),
            "bpnas.export_version": str(EXPORT_VERSION),
        }
        return ZooGraph(graph, self.parameters, self.macs)

    def inverted(self, layer: InvertedLayer) -> None:
        source, x = self.x, self.x
        if layer.expanded:
            x = self.conv(x, layer.expanded, groups=layer.groups, activation=layer.activation)
            if layer.groups > 1:
                x = self.graph.shuffle(x, layer.groups)
        x = self.depthwise(x, layer.kernel, layer.stride, layer.activation)
        if layer.squeeze:
            gate = self.graph.global_average_pool(x, keep_map=True)
            gate = self.conv(gate, layer.squeeze, activation="relu", normalised=False)
            gate = self.conv(gate, self.channels(x), normalised=False)
            x = self.graph.scale(x, self.graph.apply(gate, layer.gate))
        x = self.conv(x, layer.channels, groups=layer.groups, activation=layer.last_activation)
        if layer.is_residual and self.graph.shapes[x] == self.graph.shapes[source]:
            x = self.graph.add(x, source)
        self.x = x

    def shuffle(self, layer: ShuffleLayer) -> None:
        half = layer.channels // 2
        if layer.stride == 1:
            passed, x = self.graph.halve(self.x)
        else:
            passed, x = self.conv(self.depthwise(self.x, 3, 2), half, activation="relu"), self.x
        x = self.depthwise(self.conv(x, half, activation="relu"), 3, layer.stride)
        x = self.conv(x, half, activation="relu")
        self.x = self.graph.shuffle(self.graph.concatenate(passed, x), 2)

    def depthwise(self, x: str, kernel: int, stride: int, activation: Activation = "none") -> str:
        channels = self.channels(x)
        return self.conv(x, channels, kernel, stride, channels, activation)

    def conv(
        self,
        x: str,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "none",
        normalised: bool = True,
    ) -> str:
        per_group = self.channels(x) // groups
        gain = 1.0 if activation == "none" else 2.0
        weight = self.random(channels, per_group, kernel, kernel, scale=(gain / (per_group * kernel**2)) ** 0.5)
        y = self.graph.conv(x, weight, self.random(channels, scale=0.1), stride, groups, activation)
        self.parameters += weight.size + (2 if normalised else 1) * channels
        self.macs += weight.size * self.graph.shapes[y][2] * self.graph.shapes[y][3]
        return y

    def linear(self, x: str, features: int) -> str:
        c_in = self.channels(x)
        weight = self.random(features, c_in, scale=c_in**-0.5)
        self.parameters += weight.size + features
        self.macs += weight.size
        return self.graph.linear(x, weight, self.random(features, scale=0.1))

    def channels(self, x: str) -> int:
        return self.graph.shapes[x][1]

    def random(self, *shape: int, scale: float) -> Array:
        return self._rng.standard_normal(shape, np.float32) * np.float32(scale)
