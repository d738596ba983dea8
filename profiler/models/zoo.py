"""Known networks, to be timed next to ours: their layers as data, from their papers.

Where a paper and the implementation that its readers use differ, the implementation is followed (torchvision's or
timm's, mobile-vision's for FBNet), for published latencies and sizes are those of such files; each function names its
source. `zoo_graph` makes a graph of a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpnas.base.errors import UsageError
from bpnas.profiler.backbone import IMAGE_CHANNELS
from bpnas.profiler.paths import Shape

if TYPE_CHECKING:
    from bpnas.profiler.models.graph import Activation, Function

CLASSES = 1000  # of ImageNet, on which all of them were published


@dataclass(frozen=True, slots=True)
class ConvLayer:
    """Dense convolution, batch normalisation, activation."""

    channels: int
    kernel: int = 3
    stride: int = 1
    activation: Activation = "relu"


@dataclass(frozen=True, slots=True)
class InvertedLayer:
    """1x1 convolution to `expanded` channels, k x k depthwise, 1x1 convolution to `channels`; MobileNetV2's block.

    Attributes:
        expanded: channels inside; 0 leaves the first convolution out.
        channels: that leave.
        kernel, stride: of the depthwise convolution.
        activation: after the first two convolutions.
        last_activation: after the third one.
        groups: of both 1x1 convolutions; with more than one, channels are shuffled after the first of them.
        squeeze: channels within the squeeze-and-excitation behind the depthwise convolution; 0: there is none.
        gate: its last function.
        is_residual: an identity is added, where stride is 1 and the channels stay.
    """

    expanded: int
    channels: int
    kernel: int = 3
    stride: int = 1
    activation: Activation = "relu"
    last_activation: Activation = "none"
    groups: int = 1
    squeeze: int = 0
    gate: Function = "sigmoid"
    is_residual: bool = True


@dataclass(frozen=True, slots=True)
class ShuffleLayer:
    """ShuffleNetV2's unit: with stride 1 half of the channels pass by, with stride 2 both branches take all of them."""

    channels: int
    stride: int = 1


@dataclass(frozen=True, slots=True)
class MaxPoolLayer:
    """3x3 with stride 2."""


@dataclass(frozen=True, slots=True)
class HiddenLayer:
    """A linear layer with bias and hard-swish, behind the pool: MobileNetV3's efficient last stage."""

    features: int


Layer = ConvLayer | InvertedLayer | ShuffleLayer | MaxPoolLayer | HiddenLayer


@dataclass(frozen=True, slots=True)
class ZooNetwork:
    """A known network: these layers, global average pool (before a hidden layer, if there is one), linear layer.

    Attributes:
        name: as the command takes it.
        source: paper and implementation.
        layers: in order.
    """

    name: str
    source: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class ZooPart:
    """A known network at one input size, as a part of a campaign."""

    network: ZooNetwork
    input_size: int

    kind = "zoo"

    @property
    def key(self) -> str:
        return f"zoo:{self.network.name}@{self.input_size}"

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((1, IMAGE_CHANNELS, self.input_size, self.input_size),)


def zoo_networks() -> tuple[ZooNetwork, ...]:
    """All of them, in the order of their papers."""
    return (
        _mobilenet_v1(),
        *(_mobilenet_v2(width) for width in (1.0, 1.2, 1.3, 1.4)),
        *(_shufflenet_v2(width, channels) for width, channels in _SHUFFLENET_CHANNELS.items()),
        _mnasnet_b1(),
        _mnasnet_a1(),
        *(_fbnet(letter) for letter in _FBNET_BLOCKS),
        _proxyless_mobile(),
        *(_mobilenet_v3_large(width) for width in (0.75, 1.0)),
    )


def zoo_network(name: str) -> ZooNetwork:
    """The network of that name.

    Raises:
        UsageError: there is none.
    """
    for network in zoo_networks():
        if network.name == name:
            return network
    known = ", ".join(network.name for network in zoo_networks())
    raise UsageError(f"no known network is called {name!r}: use some of {known}")


def _rounded(channels: float) -> int:
    """To a multiple of 8, and not down by more than a tenth: the rule of the MobileNet papers' own code."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _titled(name: str, width: float) -> str:
    return name if width == 1.0 else f"{name}-{width}"


Row = tuple[float, int, int, int, int, float]
"""Expansion, channels, blocks, stride of the first block, kernel, and the squeeze's share of the block's input."""


def _inverted(c_in: int, rows: tuple[Row, ...], activation: Activation) -> Iterator[InvertedLayer]:
    for expansion, channels, blocks, stride, kernel, squeeze in rows:
        for number in range(blocks):
            expanded = 0 if expansion == 1 else round(c_in * expansion)
            yield InvertedLayer(
                expanded, channels, kernel, 1 if number else stride, activation, squeeze=round(c_in * squeeze)
            )
            c_in = channels


def _mobilenet_v1() -> ZooNetwork:
    """Howard et al., "MobileNets", table 1; timm `mobilenetv1_100`."""
    stages = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
    separable = [
        InvertedLayer(0, channels, 3, stride, "relu6", "relu6", is_residual=False) for channels, stride in stages
    ]
    return ZooNetwork("mobilenetv1", "arXiv 1704.04861, as timm", (ConvLayer(32, 3, 2, "relu6"), *separable))


def _mobilenet_v2(width: float) -> ZooNetwork:
    """Sandler et al., "MobileNetV2", table 2; torchvision `mobilenet_v2(width_mult=...)`."""
    stem = _rounded(32 * width)
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    rows = tuple((t, _rounded(c * width), n, s, 3, 0.0) for t, c, n, s in table)
    layers: tuple[Layer, ...] = (
        ConvLayer(stem, 3, 2, "relu6"),
        *_inverted(stem, rows, "relu6"),
        ConvLayer(_rounded(1280 * max(1.0, width)), 1, 1, "relu6"),
    )
    return ZooNetwork(_titled("mobilenetv2", width), "arXiv 1801.04381, as torchvision", layers)


_SHUFFLENET_CHANNELS = {1.5: (176, 352, 704, 1024), 2.0: (244, 488, 976, 2048)}


def _shufflenet_v2(width: float, channels: tuple[int, ...]) -> ZooNetwork:
    """Ma et al., "ShuffleNet V2", table 5; torchvision `shufflenet_v2_x1_5`, `shufflenet_v2_x2_0`."""
    stages = zip(channels, (4, 8, 4), strict=False)
    units = [ShuffleLayer(wide, 1 if number else 2) for wide, units in stages for number in range(units)]
    layers: tuple[Layer, ...] = (ConvLayer(24, 3, 2), MaxPoolLayer(), *units, ConvLayer(channels[-1], 1))
    return ZooNetwork(f"shufflenetv2-{width}", "arXiv 1807.11164, as torchvision", layers)


def _mnasnet_b1() -> ZooNetwork:
    """Tan et al., "MnasNet"; the network without squeeze-and-excitation. timm `mnasnet_100`."""
    rows: tuple[Row, ...] = (
        (1, 16, 1, 1, 3, 0),
        (3, 24, 3, 2, 3, 0),
        (3, 40, 3, 2, 5, 0),
        (6, 80, 3, 2, 5, 0),
        (6, 96, 2, 1, 3, 0),
        (6, 192, 4, 2, 5, 0),
        (6, 320, 1, 1, 3, 0),
    )
    layers: tuple[Layer, ...] = (ConvLayer(32, 3, 2), *_inverted(32, rows, "relu"), ConvLayer(1280, 1))
    return ZooNetwork("mnasnet-b1", "arXiv 1807.11626, as timm", layers)


def _mnasnet_a1() -> ZooNetwork:
    """Tan et al., "MnasNet", figure 7. timm `semnasnet_100`."""
    rows: tuple[Row, ...] = (
        (1, 16, 1, 1, 3, 0),
        (6, 24, 2, 2, 3, 0),
        (3, 40, 3, 2, 5, 0.25),
        (6, 80, 4, 2, 3, 0),
        (6, 112, 2, 1, 3, 0.25),
        (6, 160, 3, 2, 5, 0.25),
        (6, 320, 1, 1, 3, 0),
    )
    layers: tuple[Layer, ...] = (ConvLayer(32, 3, 2), *_inverted(32, rows, "relu"), ConvLayer(1280, 1))
    return ZooNetwork("mnasnet-a1", "arXiv 1807.11626, as timm", layers)


_FBNET_STAGES = ((16, 1), (24, 2), (32, 2), (64, 2), (112, 1), (184, 2), (352, 1))
# Kernel and expansion of each block, stage by stage; g2: the 1x1 convolutions in two groups.
_FBNET_BLOCKS = {
    "a": (
        "skip",
        "k3e3 k3e1 skip skip",
        "k5e6 k3e3 k5e1 k3e3",
        "k5e6 k5e3 k5e1g2 k5e6",
        "k3e6 k5e1g2 k5e3 k3e1g2",
        "k5e6 k5e6 k5e3 k5e6",
        "k5e6",
    ),
    "b": (
        "k3e1",
        "k3e6 k5e1 k3e1 k3e1",
        "k5e6 k5e3 k3e6 k5e6",
        "k5e6 k5e6 skip k5e3",
        "k5e6 k3e1 k5e1 k5e3",
        "k5e6 k5e1 k5e6 k5e6",
        "k3e6",
    ),
    "c": (
        "k3e1",
        "k3e6 skip k3e1 k3e1",
        "k5e6 k5e3 k5e6 k3e6",
        "k5e6 k5e3 k5e6 k5e6",
        "k5e6 k5e6 k5e6 k5e3",
        "k5e6 k5e6 k5e6 k5e6",
        "k3e6",
    ),
}


def _fbnet(letter: str) -> ZooNetwork:
    """Wu et al., "FBNet", figure 4 and table 1; blocks as mobile-vision `fbnet_a`, `fbnet_b`, `fbnet_c` has them.

    With expansion 1 there still is a first 1x1 convolution, as in the paper and in timm `fbnetc_100`.
    """
    layers: list[Layer] = [ConvLayer(16, 3, 2)]
    c_in = 16
    for (channels, stride), blocks in zip(_FBNET_STAGES, _FBNET_BLOCKS[letter], strict=True):
        for number, block in enumerate(blocks.split()):
            if block != "skip":
                kernel, expansion, groups = int(block[1]), int(block[3]), int(block[5:] or 1)
                once = 1 if number else stride
                layers.append(InvertedLayer(c_in * expansion, channels, kernel, once, groups=groups))
                c_in = channels
    layers.append(ConvLayer(1504 if letter == "a" else 1984, 1))
    return ZooNetwork(f"fbnet-{letter}", "arXiv 1812.03443, as mobile-vision", tuple(layers))


_PROXYLESS_STAGES = ((16, 1), (32, 2), (40, 2), (80, 2), (96, 1), (192, 2), (320, 1))
_PROXYLESS_BLOCKS = (
    "k3e1",
    "k5e3 k3e3",
    "k7e3 k3e3 k5e3 k5e3",
    "k7e6 k5e3 k5e3 k5e3",
    "k5e6 k5e3 k5e3 k5e3",
    "k7e6 k7e6 k7e3 k7e3",
    "k7e6",
)


def _proxyless_mobile() -> ZooNetwork:
    """Cai et al., "ProxylessNAS", figure 4 (mobile); the authors' `proxyless_mobile`."""
    rows = [
        (int(block[3]), channels, 1, 1 if number else stride, int(block[1]), 0.0)
        for (channels, stride), blocks in zip(_PROXYLESS_STAGES, _PROXYLESS_BLOCKS, strict=True)
        for number, block in enumerate(blocks.split())
    ]
    layers: tuple[Layer, ...] = (
        ConvLayer(32, 3, 2, "relu6"),
        *_inverted(32, tuple(rows), "relu6"),
        ConvLayer(1280, 1, 1, "relu6"),
    )
    return ZooNetwork("proxylessnas-mobile", "arXiv 1812.00332, as its authors' code", layers)


# Expansion, channels, stride, kernel, whether squeezed, activation.
_V3_LARGE: tuple[tuple[float, int, int, int, bool, Activation], ...] = (
    (1, 16, 1, 3, False, "relu"),
    (4, 24, 2, 3, False, "relu"),
    (3, 24, 1, 3, False, "relu"),
    (3, 40, 2, 5, True, "relu"),
    (3, 40, 1, 5, True, "relu"),
    (3, 40, 1, 5, True, "relu"),
    (6, 80, 2, 3, False, "hard_swish"),
    (2.5, 80, 1, 3, False, "hard_swish"),
    (2.3, 80, 1, 3, False, "hard_swish"),
    (2.3, 80, 1, 3, False, "hard_swish"),
    (6, 112, 1, 3, True, "hard_swish"),
    (6, 112, 1, 3, True, "hard_swish"),
    (6, 160, 2, 5, True, "hard_swish"),
    (6, 160, 1, 5, True, "hard_swish"),
    (6, 160, 1, 5, True, "hard_swish"),
)


def _mobilenet_v3_large(width: float) -> ZooNetwork:
    """Howard et al., "Searching for MobileNetV3", table 1; timm `mobilenetv3_large_100`, `mobilenetv3_large_075`.

    The width multiplies channels but for the 1280 features at the end, as in the paper's own code.
    """
    c_in = _rounded(16 * width)
    layers: list[Layer] = [ConvLayer(c_in, 3, 2, "hard_swish")]
    for expansion, unscaled, stride, kernel, squeezed, activation in _V3_LARGE:
        inside, channels = _rounded(c_in * expansion), _rounded(unscaled * width)
        squeeze = _rounded(inside / 4) if squeezed else 0
        expanded = 0 if expansion == 1 else inside
        layers.append(
            InvertedLayer(expanded, channels, kernel, stride, activation, squeeze=squeeze, gate="hard_sigmoid")
        )
        c_in = channels
    layers += [ConvLayer(_rounded(960 * width), 1, 1, "hard_swish"), HiddenLayer(1280)]
    return ZooNetwork(_titled("mobilenetv3-large", width), "arXiv 1905.02244, as timm", tuple(layers))
