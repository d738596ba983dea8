"""The torch modules of paths, blocks and networks: the reference for every exported file, and what the search trains.

Every module here runs (`forward`) and describes itself (`emit`) from the same attributes, so that what is trained and
what is exported cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast, overload

import torch
from torch import Tensor, nn

from bpnas.base.plurals import counted
from bpnas.profiler.backbone import IMAGE_CHANNELS, Backbone, BackboneError, Site
from bpnas.profiler.block import Block, BlockPath, ComplexPath, SimplePath
from bpnas.profiler.models.graph import EXPORT_VERSION, Activation, Array, Graph, Shape
from bpnas.profiler.paths import (
    ContextPart,
    HeadPart,
    JoinPart,
    NeighboursPart,
    NetworkPart,
    Part,
    PathPart,
    StemPart,
    head_part,
    network_name,
    stem_part,
)


class Emitter(Protocol):
    """What a module has that can describe itself: it adds its nodes to a graph and returns its output's name."""

    def emit(self, graph: Graph, x: str) -> str: ...


def _emit(module: nn.Module, graph: Graph, x: str) -> str:
    return cast("Emitter", module).emit(graph, x)


class Conv2d(nn.Conv2d):
    """Bias-free convolution with padding k // 2 and He initialisation, as every convolution here has."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")


def _array(values: Tensor) -> Array:
    # Files are float32, regardless of the type and the device that the module was trained in.
    array: Array = values.detach().to("cpu", torch.float32).numpy()
    return array


class ConvUnit(nn.Module):
    """Convolution, batch normalisation, and ReLU where asked for."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, *, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = Conv2d(c_in, c_out, kernel, stride, groups)
        self.norm = nn.BatchNorm2d(c_out)
        self.activation: nn.Module = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.activation(self.norm(self.conv(x)))
        return output

    def emit(self, graph: Graph, x: str) -> str:
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = self.conv.weight * scale[:, None, None, None]
        bias = norm.bias - norm.running_mean * scale
        activation: Activation = "relu" if isinstance(self.activation, nn.ReLU) else "none"
        return graph.conv(x, _array(weight), _array(bias), self.conv.stride[0], self.conv.groups, activation)


class ChannelShuffle(nn.ChannelShuffle):
    """Channel c of group g becomes channel c * groups + g."""

    def emit(self, graph: Graph, x: str) -> str:
        return graph.shuffle(x, self.groups)


class Chain(nn.Sequential):
    """Modules one after the other."""

    def emit(self, graph: Graph, x: str) -> str:
        for module in self:
            x = _emit(module, graph, x)
        return x


class Join(nn.Module):
    """Elementwise addition of two feature maps."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def emit(self, graph: Graph, a: str, b: str) -> str:
        return graph.add(a, b)


class BlockModule(nn.Module):
    """The sum of the block's paths, plus the identity where the site's input and output have one shape."""

    def __init__(self, block: Block, site: Site, channel_shuffle: bool = False) -> None:
        super().__init__()
        self.key = f"{block}@{site}"
        self.paths = nn.ModuleList(_path(path, site, channel_shuffle) for path in block.paths)
        self.is_residual = site.is_residual

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.paths[0](x)
        for path in self.paths[1:]:
            output = output + path(x)
        return output + x if self.is_residual else output

    def emit(self, graph: Graph, x: str) -> str:
        outputs = [_emit(path, graph, x) for path in self.paths]
        y = outputs[0]
        for other in outputs[1:]:
            y = graph.add(y, other)
        return graph.add(y, x) if self.is_residual else y


class Skip(nn.Identity):
    """The site is left out."""

    def emit(self, graph: Graph, x: str) -> str:
        return x


class Head(nn.Module):
    """1x1 convolution, global average pool, linear: (N, c_in, H, W) -> (N, classes)."""

    def __init__(self, c_in: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvUnit(c_in, channels, 1)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(self.conv(x).mean(dim=(2, 3)))
        return output

    def emit(self, graph: Graph, x: str) -> str:
        pooled = graph.global_average_pool(self.conv.emit(graph, x))
        return graph.linear(pooled, _array(self.linear.weight), _array(self.linear.bias))


class Network(nn.Module):
    """Stem, one block or Skip per site, head: (N, 3, H, W) -> (N, classes)."""

    def __init__(self, blocks: Sequence[Block | None], backbone: Backbone) -> None:
        super().__init__()
        sites = backbone.sites
        if len(blocks) != len(sites):
            raise BackboneError(
                f"backbone {backbone.name} has {counted(len(sites), 'site')}, but {len(blocks)} blocks were given"
            )
        for number, (block, site) in enumerate(zip(blocks, sites, strict=True)):
            if block is None and not site.is_residual:
                raise BackboneError(f"site {number} of {backbone.name} changes the shape, so it cannot be Skip")
        self.key = network_name(blocks, backbone)
        self.stem = _part(stem_part(backbone))
        self.blocks = nn.ModuleList(
            Skip() if block is None else BlockModule(block, site, backbone.channel_shuffle)
            for block, site in zip(blocks, sites, strict=True)
        )
        self.head = _part(head_part(backbone))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.head(x)
        return output

    def emit(self, graph: Graph, x: str) -> str:
        for module in (self.stem, *self.blocks, self.head):
            x = _emit(module, graph, x)
        return x


@overload
def build_module(what: Part) -> nn.Module: ...
@overload
def build_module(what: BlockPath | Block, where: Site, channel_shuffle: bool = ...) -> nn.Module: ...
@overload
def build_module(what: Sequence[Block | None], where: Backbone) -> Network: ...
def build_module(what: Any, where: Site | Backbone | None = None, channel_shuffle: bool = False) -> nn.Module:
    """The torch module of a path, block, part or whole network, with random weights from torch's generator.

    Args:
        what: a path or a `Block` (with a `Site`), a `Part` (alone), or one `Block` or None (Skip) per site (with a
            `Backbone`).
        where: the site or the backbone.
        channel_shuffle: shuffle after the first grouped 1x1 convolution; a network takes it from its backbone.

    Returns:
        A module on (N, c_in, H, W) float32 tensors; a `JoinPart` takes two.

    Raises:
        BackboneError: the blocks do not fit the backbone.
        TypeError: there is no module for `what`.
    """
    if isinstance(what, Part):
        return _part(what)
    if isinstance(what, SimplePath | ComplexPath) and isinstance(where, Site):
        return _part(PathPart(what, where, channel_shuffle))
    if isinstance(what, Block) and isinstance(where, Site):
        return BlockModule(what, where, channel_shuffle)
    if isinstance(what, Sequence) and isinstance(where, Backbone):
        return Network(what, where)
    raise TypeError(f"no module for {type(what).__name__} with {type(where).__name__}")


def _part(part: Part) -> nn.Module:
    module: nn.Module
    match part:
        case PathPart():
            module = _path(part.path, part.site, part.channel_shuffle)
        case StemPart():
            module = ConvUnit(IMAGE_CHANNELS, part.channels, 3, part.stride)
        case HeadPart():
            module = Head(part.c_in, part.channels, part.classes)
        case JoinPart():
            module = Join()
        case NetworkPart():
            module = Network(part.blocks, part.backbone)
        case NeighboursPart():
            module = Chain(_neighbour(part), _neighbour(part))
        case ContextPart():
            before, after = part.neighbours
            path = _path(part.path, part.site, part.channel_shuffle)
            module = Chain(_neighbour(before), path, _neighbour(after))
    module.key = part.key  # type: ignore[assignment]
    return module


def _neighbour(part: NeighboursPart) -> ConvUnit:
    return ConvUnit(part.channels, part.channels, 3, groups=part.channels)


def _path(path: BlockPath, site: Site, channel_shuffle: bool) -> nn.Module:
    if isinstance(path, SimplePath):
        return ConvUnit(site.c_in, site.c_out, path.kernel, site.stride, path.groups)
    width = site.c_in * path.expansion
    shuffle = [ChannelShuffle(path.groups)] if channel_shuffle and path.groups > 1 else []
    return Chain(
        ConvUnit(site.c_in, width, 1, groups=path.groups),
        *shuffle,
        ConvUnit(width, width, path.kernel, site.stride, groups=width),
        ConvUnit(width, site.c_out, 1, groups=path.groups, relu=False),
    )


def to_graph(module: nn.Module, input_shape: Shape) -> Graph:
    """The inference graph of a module made by `build_module`, with its weights and batch normalisation folded in.

    Args:
        input_shape: (1, C, H, W); a join takes two inputs of that shape.

    Raises:
        TypeError: the module does not describe itself.
    """
    if not hasattr(module, "emit"):
        raise TypeError(f"{type(module).__name__} cannot be exported: only modules made by build_module can")
    graph = Graph.start(*[tuple(input_shape)] * (2 if isinstance(module, Join) else 1))
    with torch.no_grad():
        if isinstance(module, Join):
            graph.output = module.emit(graph, *graph.inputs)
        else:
            graph.output = _emit(module, graph, *graph.inputs)
    graph.metadata = {
        "bpnas.key": str(getattr(module, "key", "")),
        "bpnas.input_shapes": str([list(graph.shapes[name]) for name in graph.inputs]),
        "bpnas.output_shape": str(list(graph.shapes[graph.output])),
        "bpnas.export_version": str(EXPORT_VERSION),
    }
    return graph
