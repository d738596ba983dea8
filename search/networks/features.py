"""The feature maps inside a network, for what is built upon it: detection, embeddings, segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from bpnas.profiler.backbone import Backbone
from bpnas.profiler.models.modules import Network


@dataclass(frozen=True, slots=True)
class MapPlace:
    """Where a feature map is taken.

    Attributes:
        place: the map is the output of this many blocks, 0 that of the stem.
        stride: pixels of the image per pixel of the map.
        channels: of the map.
    """

    place: int
    stride: int
    channels: int


def map_places(backbone: Backbone) -> tuple[MapPlace, ...]:
    """The last place of every stride, from the stem on."""
    places = [MapPlace(0, backbone.stem_stride, backbone.stem_channels)]
    for number, site in enumerate(backbone.sites, start=1):
        places.append(MapPlace(number, places[-1].stride * site.stride, site.c_out))
    return (*(now for now, after in pairwise(places) if after.stride != now.stride), places[-1])


class FeatureMaps(nn.Module):
    """A network without its head that returns its last feature map at every stride.

    The modules are the network's own: `stem` and `blocks`, under the names that they have there.

    Args:
        network: made by `build_module` or `load_network`.
        backbone: its backbone.

    Attributes:
        strides: pixels of the image per pixel of each map, as in (2, 4, 8, 16, 32).
        channels: of each map.
    """

    def __init__(self, network: Network, backbone: Backbone) -> None:
        super().__init__()
        self.stem, self.blocks = network.stem, network.blocks
        places = map_places(backbone)
        self._places = frozenset(each.place for each in places)
        self.strides = tuple(each.stride for each in places)
        self.channels = tuple(each.channels for each in places)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> one (N, channels[i], H / strides[i], W / strides[i]) per stride, rounded up."""
        x = self.stem(x)
        maps = [x] if 0 in self._places else []
        for place, block in enumerate(self.blocks, start=1):
            x = block(x)
            if place in self._places:
                maps.append(x)
        return maps
