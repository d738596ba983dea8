"""What a part costs by counting: multiply-adds, weights and activations. Nothing is timed, and nothing needs torch.

The counts are those of the exported model: batch normalisation is folded, so that every convolution has a bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bpnas.profiler.backbone import IMAGE_CHANNELS, Backbone, Site
from bpnas.profiler.block import Block, BlockPath, SimplePath

_MEGABYTES = 4 / 1e6  # of one float32


@dataclass(frozen=True, slots=True)
class Cost:
    """Counts of one inference at batch 1.

    Attributes:
        macs: multiply-adds.
        weights: parameters, biases included.
        activations: values that its operators read and write.
    """

    macs: int = 0
    weights: int = 0
    activations: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.weights + other.weights, self.activations + other.activations)

    @property
    def weight_mb(self) -> float:
        """Megabytes (10^6) of float32 weights."""
        return self.weights * _MEGABYTES

    @property
    def activation_mb(self) -> float:
        """Megabytes (10^6) of float32 activations."""
        return self.activations * _MEGABYTES


def path_cost(path: BlockPath, site: Site) -> Cost:
    """One path at one site, without its share of the joins."""
    size, output = site.input_size, site.output_size
    if isinstance(path, SimplePath):
        return _conv(site.c_in, site.c_out, path.kernel, path.groups, size, output)
    width = site.c_in * path.expansion
    return (
        _conv(site.c_in, width, 1, path.groups, size, size)
        + _conv(width, width, path.kernel, width, size, output)
        + _conv(width, site.c_out, 1, path.groups, output, output)
    )


def block_cost(block: Block, site: Site) -> Cost:
    """One block at one site: its paths and the additions of their outputs and of the residual."""
    additions = len(block.paths) - 1 + site.is_residual
    joins = Cost(activations=3 * additions * site.c_out * site.output_size**2)
    return sum((path_cost(path, site) for path in block.paths), joins)


def network_cost(blocks: Sequence[Block | None], backbone: Backbone) -> Cost:
    """A whole network; None is Skip, which costs nothing."""
    sites = backbone.sites
    first, last = sites[0], sites[-1]
    pooled, area = backbone.head_channels, last.output_size**2
    fixed = (
        _conv(IMAGE_CHANNELS, first.c_in, 3, 1, backbone.input_size, first.input_size)
        + _conv(last.c_out, pooled, 1, 1, last.output_size, last.output_size)
        + Cost(activations=pooled * (area + 1))  # the average pool
        + _conv(pooled, backbone.classes, 1, 1, 1, 1)
    )
    chosen = [(block, site) for block, site in zip(blocks, sites, strict=True) if block is not None]
    return sum((block_cost(block, site) for block, site in chosen), fixed)


def _conv(c_in: int, c_out: int, kernel: int, groups: int, size: int, output: int) -> Cost:
    weights = c_out * (c_in // groups) * kernel**2
    return Cost(weights * output**2, weights + c_out, c_in * size**2 + c_out * output**2)
