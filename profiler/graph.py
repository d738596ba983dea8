"""One small description of an inference graph, from which both file formats are written.

It knows just what the networks here are made of: convolution (bias folded from batch normalisation, optional ReLU),
addition, channel shuffle, global average pool, linear. Shapes are static, tensors NCHW, batch 1, float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

EXPORT_VERSION = 1
"""Raised whenever the same module would be lowered to other operators, since that changes its latency. Records and
tables of different versions never meet."""

Array: TypeAlias = npt.NDArray[np.float32]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Conv:
    """k x k convolution with padding k // 2. `weight` is (O, I / groups, k, k), `bias` is (O,)."""

    x: str
    y: str
    weight: Array
    bias: Array
    stride: int
    groups: int
    relu: bool

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
    """(N, C, H, W) -> (N, C)."""

    x: str
    y: str


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """`weight` is (O, I), `bias` is (O,)."""

    x: str
    y: str
    weight: Array
    bias: Array


Node = Conv | Add | Shuffle | GlobalAveragePool | Linear


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

    def conv(self, x: str, weight: Array, bias: Array, stride: int, groups: int, relu: bool) -> str:
        n, _, height, width = self.shapes[x]
        y = self._tensor((n, weight.shape[0], -(-height // stride), -(-width // stride)))
        self.nodes.append(Conv(x, y, weight, bias, stride, groups, relu))
        return y

    def add(self, a: str, b: str) -> str:
        y = self._tensor(self.shapes[a])
        self.nodes.append(Add(a, b, y))
        return y

    def shuffle(self, x: str, groups: int) -> str:
        y = self._tensor(self.shapes[x])
        self.nodes.append(Shuffle(x, y, groups))
        return y

    def global_average_pool(self, x: str) -> str:
        y = self._tensor(self.shapes[x][:2])
        self.nodes.append(GlobalAveragePool(x, y))
        return y

    def linear(self, x: str, weight: Array, bias: Array) -> str:
        y = self._tensor((self.shapes[x][0], weight.shape[0]))
        self.nodes.append(Linear(x, y, weight, bias))
        return y

    def _tensor(self, shape: Shape) -> str:
        name = f"t{len(self.nodes)}"
        self.shapes[name] = shape
        return name
