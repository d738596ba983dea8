"""What is timed: every path at every distinct site, the stem, the head, the additions that join paths; and some whole
networks, to see how much the sum of their parts is off.

The key of a part is the one name that models, records and tables share. It holds the whole geometry, so that equal
geometry is timed once, regardless of the backbone or the resolution it came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from bpnas.base.errors import UsageError
from bpnas.base.plain_text import shown
from bpnas.profiler.backbone import IMAGE_CHANNELS, Backbone, Site
from bpnas.profiler.block import EXPANSIONS, GROUPS, KERNELS, Block, BlockPath, ComplexPath, SimplePath

Shape = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class PathPart:
    """One path at one site."""

    path: BlockPath
    site: Site
    channel_shuffle: bool = False

    kind = "path"

    @property
    def key(self) -> str:
        # Shuffling one group changes nothing, so such paths share the entry without shuffle.
        shuffled = self.channel_shuffle and isinstance(self.path, ComplexPath) and self.path.groups > 1
        mark = "S" if shuffled else ""
        return f"{self.path}{mark}@{self.site}"

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((1, self.site.c_in, self.site.input_size, self.site.input_size),)


@dataclass(frozen=True, slots=True)
class StemPart:
    """The 3x3 convolution in front."""

    channels: int
    stride: int
    input_size: int

    kind = "stem"

    @property
    def key(self) -> str:
        return f"stem@{IMAGE_CHANNELS}-{self.channels}s{self.stride}x{self.input_size}"

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((1, IMAGE_CHANNELS, self.input_size, self.input_size),)


@dataclass(frozen=True, slots=True)
class HeadPart:
    """1x1 convolution, global average pool and linear layer."""

    c_in: int
    channels: int
    classes: int
    input_size: int

    kind = "head"

    @property
    def key(self) -> str:
        return f"head@{self.c_in}-{self.channels}-{self.classes}x{self.input_size}"

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((1, self.c_in, self.input_size, self.input_size),)


@dataclass(frozen=True, slots=True)
class JoinPart:
    """One elementwise addition of two feature maps: a block of n paths has n - 1, its residual adds another."""

    channels: int
    input_size: int

    kind = "join"

    @property
    def key(self) -> str:
        return f"join@{self.channels}x{self.input_size}"

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        shape = (1, self.channels, self.input_size, self.input_size)
        return (shape, shape)


@dataclass(frozen=True, slots=True)
class NetworkPart:
    """A whole network: stem, one block or Skip (None) per site, head."""

    backbone: Backbone
    blocks: tuple[Block | None, ...]

    kind = "network"

    @property
    def key(self) -> str:
        # A backbone's name does not say what it is: two of one name must not share an entry.
        geometry = json.dumps(self.backbone.to_dict(), sort_keys=True)
        return f"{network_name(self.blocks, self.backbone)}/{hashlib.sha256(geometry.encode()).hexdigest()[:8]}"

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((1, IMAGE_CHANNELS, self.backbone.input_size, self.backbone.input_size),)


@dataclass(frozen=True, slots=True)
class NeighboursPart:
    """Two 3x3 depthwise convolutions in a row, as there is one of them on either side of a `ContextPart`.

    Half its latency is what one neighbour adds: so the call itself, paid once in every model, cancels out [ours].
    """

    channels: int
    input_size: int

    kind = "neighbours"

    @property
    def key(self) -> str:
        return f"neighbours@{self.channels}x{self.input_size}"

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((1, self.channels, self.input_size, self.input_size),)


@dataclass(frozen=True, slots=True)
class ContextPart:
    """One path at one site between two neighbours, so that its data come and go as they do inside a network."""

    path: BlockPath
    site: Site
    channel_shuffle: bool = False

    kind = "context"

    @property
    def neighbours(self) -> tuple[NeighboursPart, NeighboursPart]:
        """Of the shapes before and behind the path; half of the latency of each is to be subtracted."""
        site = self.site
        return NeighboursPart(site.c_in, site.input_size), NeighboursPart(site.c_out, site.output_size)

    @property
    def key(self) -> str:
        return f"context/{PathPart(self.path, self.site, self.channel_shuffle).key}"

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return self.neighbours[0].input_shapes


Part = PathPart | StemPart | HeadPart | JoinPart | NetworkPart | NeighboursPart | ContextPart


def network_name(blocks: Sequence[Block | None], backbone: Backbone) -> str:
    """A network as text: `K3G1,skip,K3E6G1@mobilenetv2x224`."""
    return f"{','.join('skip' if b is None else str(b) for b in blocks)}@{backbone.name}x{backbone.input_size}"


def all_paths() -> tuple[BlockPath, ...]:
    """The 16 simple and 256 complex paths, in a fixed order."""
    simple = [SimplePath(kernel, groups) for kernel in KERNELS for groups in GROUPS]
    complex_ = [ComplexPath(k, g, e) for k in KERNELS for g in GROUPS for e in EXPANSIONS]
    return (*simple, *complex_)


def stem_part(backbone: Backbone) -> StemPart:
    """The backbone's stem."""
    return StemPart(backbone.stem_channels, backbone.stem_stride, backbone.input_size)


def head_part(backbone: Backbone) -> HeadPart:
    """The backbone's head."""
    last = backbone.sites[-1]
    return HeadPart(last.c_out, backbone.head_channels, backbone.classes, last.output_size)


HEAD_CLASSES = (10, 100, 1000)
"""Heads of these numbers of classes are in every campaign: what lies between them can be interpolated."""


def head_parts(backbone: Backbone, classes: Iterable[int]) -> tuple[HeadPart, ...]:
    """Heads of the backbone with other numbers of classes."""
    return tuple(head_part(replace(backbone, classes=count)) for count in classes)


def network_parts(backbone: Backbone) -> tuple[Part, ...]:
    """What a network on this backbone has in addition to paths: stem, head and one join per distinct output shape."""
    shapes = dict.fromkeys((site.c_out, site.output_size) for site in backbone.sites)
    return (stem_part(backbone), head_part(backbone), *(JoinPart(*shape) for shape in shapes))


def enumerate_parts(backbones: Iterable[Backbone], paths: Sequence[BlockPath] | None = None) -> tuple[Part, ...]:
    """All parts of these backbones, each geometry once.

    Args:
        backbones: at any number of input sizes.
        paths: the paths to put at every site; default all 272.
    """
    chosen = all_paths() if paths is None else tuple(paths)
    parts: dict[str, Part] = {}
    for backbone in backbones:
        for part in network_parts(backbone):
            parts.setdefault(part.key, part)
        for site in dict.fromkeys(backbone.sites):
            for path in chosen:
                part = PathPart(path, site, backbone.channel_shuffle)
                parts.setdefault(part.key, part)
    return tuple(parts.values())


def context_parts(backbones: Iterable[Backbone], paths: Sequence[BlockPath]) -> tuple[Part, ...]:
    """These paths in context at every site of these backbones, and the neighbours, each geometry once."""
    parts: dict[str, Part] = {}
    for backbone in backbones:
        for site in dict.fromkeys(backbone.sites):
            for path in paths:
                part = ContextPart(path, site, backbone.channel_shuffle)
                for each in (*part.neighbours, part):
                    parts.setdefault(each.key, each)
    return tuple(parts.values())


def select_paths(patterns: str) -> tuple[BlockPath, ...]:
    """The paths that match a filter: comma-separated path names or shell patterns, as in `K3G1,K[35]E6G*`.

    Raises:
        UsageError: a pattern matches no path.
    """
    chosen: set[BlockPath] = set()
    for pattern in (text.strip() for text in patterns.split(",")):
        matches = [path for path in all_paths() if fnmatchcase(str(path), pattern)]
        if not matches:
            raise UsageError(
                f"path filter {shown(pattern)} matches none of the 272 paths; write for example K3G1 or K3E6G*"
            )
        chosen.update(matches)
    return tuple(path for path in all_paths() if path in chosen)
