"""One small description of an inference graph, from which both file formats are written.

It knows just what the networks here are made of. Our own paths need convolution (bias folded from batch normalisation),
addition, channel shuffle, global average pool and linear; the known networks of `zoo` need the rest. Shapes are static,
tensors NCHW, batch 1, float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

EXPORT_VERSION = 1
"""Raised whenever the same module would be lowered to other operators, since that changes its latency. Records and
tables of different versions never meet."""

Array: TypeAlias = npt.NDArray[np.float32]
Shape = tuple[int, ...]

Activation = Literal["none", "relu", "relu6", "hard_swish"]
"""What may follow a convolution. Hard-swish: x * min(max(x + 3, 0), 6) / 6 (Howard et al., "Searching for
MobileNetV3")."""

Function = Literal["sigmoid", "hard_sigmoid", "hard_swish"]
"""Elementwise functions that stand alone. Hard-sigmoid: min(max(x + 3, 0), 6) / 6."""


@dataclass(frozen=True, slots=True, eq=False)
class Conv:
    """k x k convolution with padding k // 2. `weight` is (O, I / groups, k, k), `bias` is (O,)."""

    x: str
    y: str
    weight: Array
    bias: Array
    stride: int
    groups: int
    activation: Activation

    @property
    def kernel(self) -> int:
        return int(self.weight.shape[2])


@dataclass(frozen=True, slots=True, eq=False)
class Add:
    """Elementwise addition of two tensors of one shape."""

    a: str
    b: str
    y: str


@dataclass(frozen=True, slots=True, eq=False)
class Shuffle:
    """Channel shuffle: channel c of group g becomes channel c * groups + g. Zhang et al., "ShuffleNet"."""

    x: str
    y: str
    groups: int


@dataclass(frozen=True, slots=True, eq=False)
class GlobalAveragePool:
    """(N, C, H, W) -> (N, C), or (N, C, 1, 1) with `keep_map`."""

    x: str
    y: str
    keep_map: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class MaxPool:
    """3x3 with stride 2 and padding 1, of a map that is nowhere negative (so that padding with zeros is the same)."""

    x: str
    y: str


@dataclass(frozen=True, slots=True, eq=False)
class Apply:
    """An elementwise function."""

    x: str
    y: str
    function: Function


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """`x` (N, C, H, W) times `by` (N, C, 1, 1): the gate of squeeze-and-excitation."""

    x: str
    by: str
    y: str


@dataclass(frozen=True, slots=True, eq=False)
class Halve:
    """The first half of the channels as `y`, the second one as `rest`."""

    x: str
    y: str
    rest: str


@dataclass(frozen=True, slots=True, eq=False)
class Concatenate:
    """The channels of `a`, then those of `b`."""

    a: str
    b: str
    y: str


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """`weight` is (O, I), `bias` is (O,)."""

    x: str
    y: str
    weight: Array
    bias: Array


Node = Conv | Add | Shuffle | GlobalAveragePool | MaxPool | Apply | Scale | Halve | Concatenate | Linear


@dataclass(slots=True)
class Graph:
    """Nodes in order of execution, built by the methods below, which return the name of the new tensor.

    Attributes:
        inputs: names of the input tensors.
        shapes: NCHW shape of every tensor by name.
        nodes: in order of execution.
        output: the output tensor, once known.
        metadata: texts that the model file carries.
    """

    inputs: tuple[str, ...]
    shapes: dict[str, Shape]
    nodes: list[Node] = field(default_factory=list)
    output: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    @classmethod
    def start(cls, *input_shapes: Shape) -> Graph:
        """An empty graph with these inputs, called `input` or, if several, `input_0`, `input_1`, ..."""
        names = ("input",) if len(input_shapes) == 1 else tuple(f"input_{i}" for i in range(len(input_shapes)))
        return cls(names, dict(zip(names, input_shapes, strict=True)))

    def conv(self, x: str, weight: Array, bias: Array, stride: int, groups: int, activation: Activation) -> str:
        n, _, height, width = self.shapes[x]
        y = self._tensor((n, weight.shape[0], -(-height // stride), -(-width // stride)))
        self.nodes.append(Conv(x, y, weight, bias, stride, groups, activation))
        return y

    def add(self, a: str, b: str) -> str:
        y = self._tensor(self.shapes[a])
        self.nodes.append(Add(a, b, y))
        return y

    def shuffle(self, x: str, groups: int) -> str:
        y = self._tensor(self.shapes[x])
        self.nodes.append(Shuffle(x, y, groups))
        return y

    def global_average_pool(self, x: str, keep_map: bool = False) -> str:
        y = self._tensor((*self.shapes[x][:2], 1, 1) if keep_map else self.shapes[x][:2])
        self.nodes.append(GlobalAveragePool(x, y, keep_map))
        return y

    def max_pool(self, x: str) -> str:
        before = next((node for node in self.nodes if node.y == x), None)
        if not isinstance(before, Conv) or before.activation not in ("relu", "relu6"):
            raise ValueError("a max pool must follow a convolution with ReLU: it is padded with zeros")
        n, c, height, width = self.shapes[x]
        y = self._tensor((n, c, -(-height // 2), -(-width // 2)))
        self.nodes.append(MaxPool(x, y))
        return y

    def apply(self, x: str, function: Function) -> str:
        y = self._tensor(self.shapes[x])
        self.nodes.append(Apply(x, y, function))
        return y

    def scale(self, x: str, by: str) -> str:
        y = self._tensor(self.shapes[x])
        self.nodes.append(Scale(x, by, y))
        return y

    def halve(self, x: str) -> tuple[str, str]:
        n, c, height, width = self.shapes[x]
        y = self._tensor((n, c // 2, height, width))
        rest = f"{y}_rest"
        self.shapes[rest] = self.shapes[y]
        self.nodes.append(Halve(x, y, rest))
        return y, rest

    def concatenate(self, a: str, b: str) -> str:
        n, c, height, width = self.shapes[a]
        y = self._tensor((n, c + self.shapes[b][1], height, width))
        self.nodes.append(Concatenate(a, b, y))
        return y

    def linear(self, x: str, weight: Array, bias: Array) -> str:
        y = self._tensor((self.shapes[x][0], weight.shape[0]))
        self.nodes.append(Linear(x, y, weight, bias))
        return y

    def _tensor(self, shape: Shape) -> str:
        name = f"t{len(self.nodes)}"
        self.shapes[name] = shape
        return name


class OperatorWriter(Protocol):
    """A file format: a method for each kind of node, which adds the operators that the node becomes there."""

    def conv(self, node: Conv) -> None: ...
    def add(self, node: Add) -> None: ...
    def shuffle(self, node: Shuffle) -> None: ...
    def global_average_pool(self, node: GlobalAveragePool) -> None: ...
    def max_pool(self, node: MaxPool) -> None: ...
    def apply(self, node: Apply) -> None: ...
    def scale(self, node: Scale) -> None: ...
    def halve(self, node: Halve) -> None: ...
    def concatenate(self, node: Concatenate) -> None: ...
    def linear(self, node: Linear) -> None: ...


def write_nodes(graph: Graph, writer: OperatorWriter) -> None:
    """Hand every node of the graph to the writer, in order of execution."""
    for node in graph.nodes:
        match node:
            case Conv():
                writer.conv(node)
            case Add():
                writer.add(node)
            case Shuffle():
                writer.shuffle(node)
            case GlobalAveragePool():
                writer.global_average_pool(node)
            case MaxPool():
                writer.max_pool(node)
            case Apply():
                writer.apply(node)
            case Scale():
                writer.scale(node)
            case Halve():
                writer.halve(node)
            case Concatenate():
                writer.concatenate(node)
            case Linear():
                writer.linear(node)
            case _:
                assert_never(node)
