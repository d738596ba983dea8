"""MobileNetV2 by the zoo's definition as a torch module, the baseline that BP-NAS compares with.

Its weights have torchvision's names, so that a file of `torchvision.models.mobilenet_v2` fits; torchvision itself is
not needed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bpnas.profiler.backbone import IMAGE_CHANNELS
from bpnas.profiler.models.zoo import CLASSES, ConvLayer, InvertedLayer, ZooNetwork, zoo_networks

FAMILY = "mobilenetv2"


def zoo_baselines() -> dict[str, ZooNetwork]:
    """The networks that can be a baseline, by name: `mobilenetv2`, `mobilenetv2-1.2` and so on."""
    return {network.name: network for network in zoo_networks() if network.name.split("-")[0] == FAMILY}


class _Inverted(nn.Module):
    def __init__(self, c_in: int, layer: InvertedLayer) -> None:
        super().__init__()
        wide = layer.expanded or c_in
        layers: list[nn.Module] = [_unit(c_in, wide, 1, 1)] if layer.expanded else []
        layers.append(_unit(wide, wide, layer.kernel, layer.stride, wide))
        layers += [nn.Conv2d(wide, layer.channels, 1, bias=False), nn.BatchNorm2d(layer.channels)]
        self.conv = nn.Sequential(*layers)
        self.is_residual = layer.is_residual and layer.stride == 1 and c_in == layer.channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.is_residual else y


class MobileNetV2(nn.Module):
    """Normalised images (N, 3, H, W) -> (N, 1000)."""

    def __init__(self, network: ZooNetwork) -> None:
        super().__init__()
        layers, c_in = list[nn.Module](), IMAGE_CHANNELS
        for layer in network.layers:
            if isinstance(layer, InvertedLayer):
                layers.append(_Inverted(c_in, layer))
            else:
                assert isinstance(layer, ConvLayer)
                layers.append(_unit(c_in, layer.channels, layer.kernel, layer.stride))
            c_in = layer.channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(c_in, CLASSES))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


class MobileNetMaps(nn.Module):
    """The last feature map at every stride of a `MobileNetV2`, without the last 1x1 convolution; or the map behind it.

    Args:
        network: the layers.
        model: of them.
        whole: only the map behind the last 1x1 convolution.

    Attributes:
        strides, channels: of the maps.
    """

    def __init__(self, network: ZooNetwork, model: MobileNetV2, whole: bool) -> None:
        super().__init__()
        places = list(_places(network))
        self.features = model.features if whole else nn.Sequential(*list(model.features)[:-1])
        last = {stride: (place, channels) for place, stride, channels in (places if whole else places[:-1])}
        kept = list(last.items())[-1:] if whole else list(last.items())
        self.strides = tuple(stride for stride, _ in kept)
        self.channels = tuple(channels for _, (_, channels) in kept)
        self._kept = frozenset(place for _, (place, _) in kept)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> the maps, the largest one first."""
        maps = []
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self._kept:
                maps.append(x)
        return maps


def build_baseline(name: str) -> tuple[ZooNetwork, MobileNetV2]:
    """The network of `zoo_baselines` of that name, with random weights from torch's global generator."""
    network = zoo_baselines()[name]
    return network, MobileNetV2(network)


def baseline_shapes(name: str) -> dict[str, Tensor]:
    """Its state without content."""
    with torch.device("meta"):
        state: dict[str, Tensor] = build_baseline(name)[1].state_dict()
    return state


def _unit(c_in: int, c_out: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU6(inplace=True))


def _places(network: ZooNetwork) -> Iterator[tuple[int, int, int]]:
    """Number, stride and channels of the map behind each layer."""
    stride = 1
    for place, layer in enumerate(network.layers):
        assert isinstance(layer, ConvLayer | InvertedLayer)
        stride *= layer.stride
        yield place, stride, layer.channels
