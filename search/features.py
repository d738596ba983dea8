"""The feature maps inside a network, for what is built upon it: detection, embeddings, segmentation."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from bpnas.profiler.backbone import Backbone
from bpnas.profiler.modules import Network


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
        stride, channels = backbone.stem_stride, backbone.stem_channels
        strides, widths = [stride], [channels]
        for site in backbone.sites:
            stride *= site.stride
            strides.append(stride)
            widths.append(site.c_out)
        # Place 0 is the stem; a map is taken where the next place halves it, and at the end.
        places = [place for place, (now, after) in enumerate(pairwise(strides)) if after != now] + [len(strides) - 1]
        self._places = frozenset(places)
        self.strides = tuple(strides[place] for place in places)
        self.channels = tuple(widths[place] for place in places)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> one (N, channels[i], H / strides[i], W / strides[i]) per stride, rounded up."""
        x = self.stem(x)
        maps = [x] if 0 in self._places else []
        for place, block in enumerate(self.blocks, start=1):
            x = block(x)
            if place in self._places:
                maps.append(x)
        return maps
