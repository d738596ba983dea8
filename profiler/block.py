"""The block of BP-NAS: up to three parallel paths, its two 23-bit codings and its text form.

Code, most significant bit first::

    u1 u2 u3 | k1 k1 g1 g1 | k2 k2 g2 g2 e2 e2 e2 e2 | k3 k3 g3 g3 e3 e3 e3 e3

`u_j` says whether path j exists; path 1 is the simple one, paths 2 and 3 are complex. Paths 2 and 3 may be swapped
without changing the block, so a `Block` holds its complex paths sorted: equal blocks are equal objects, and the 2^23
codes name 563,600 of them. Source: BP-NAS, block encoding, and its ablation with Gray codes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from bpnas.base.errors import UsageError

Coding = Literal["binary", "gray"]

KERNELS = (1, 3, 5, 7)
GROUPS = (1, 2, 4, 8)
EXPANSIONS = tuple(range(1, 17))
CODE_BITS = 23


class BlockError(UsageError, ValueError):
    """A code, text or set of paths that is no block."""


@dataclass(frozen=True, slots=True, order=True)
class SimplePath:
    """k x k convolution with groups and the site's stride, batch normalisation, ReLU."""

    kernel: int
    groups: int

    def __post_init__(self) -> None:
        _require("kernel", self.kernel, KERNELS)
        _require("groups", self.groups, GROUPS)

    def __str__(self) -> str:
        return f"K{self.kernel}G{self.groups}"


@dataclass(frozen=True, slots=True, order=True)
class ComplexPath:
    """Inverted bottleneck: grouped 1x1 to `expansion` * c_in channels, k x k depthwise with the site's stride, grouped
    1x1 to c_out without activation.
    """

    kernel: int
    groups: int
    expansion: int

    def __post_init__(self) -> None:
        _require("kernel", self.kernel, KERNELS)
        _require("groups", self.groups, GROUPS)
        _require("expansion", self.expansion, EXPANSIONS)

    def __str__(self) -> str:
        return f"K{self.kernel}E{self.expansion}G{self.groups}"


BlockPath = SimplePath | ComplexPath


def _require(field: str, value: int, allowed: tuple[int, ...]) -> None:
    if value not in allowed:
        raise BlockError(f"{field} {value!r} of a path must be one of {', '.join(map(str, allowed))}")


# Reflected Gray order: value number i is at code i ^ (i >> 1).
def _by_code(values: tuple[int, ...], coding: Coding) -> tuple[int, ...]:
    if coding == "binary":
        return values
    table = [0] * len(values)
    for index, value in enumerate(values):
        table[index ^ (index >> 1)] = value
    return tuple(table)


@dataclass(frozen=True, slots=True)
class _CodeTables:
    """Bits -> path and path -> bits of one coding. Groups are coded in plain binary in both."""

    simple: tuple[SimplePath, ...]
    complex: tuple[ComplexPath, ...]
    simple_bits: dict[SimplePath, int]
    complex_bits: dict[ComplexPath, int]


def _code_tables(coding: Coding) -> _CodeTables:
    kernels, expansions = _by_code(KERNELS, coding), _by_code(EXPANSIONS, coding)
    simple = tuple(SimplePath(kernels[bits >> 2], GROUPS[bits & 3]) for bits in range(16))
    complex_ = tuple(ComplexPath(kernels[b >> 6], GROUPS[b >> 4 & 3], expansions[b & 15]) for b in range(256))
    return _CodeTables(simple, complex_, {p: b for b, p in enumerate(simple)}, {p: b for b, p in enumerate(complex_)})


_TABLES: dict[str, _CodeTables] = {"binary": _code_tables("binary"), "gray": _code_tables("gray")}


def _tables(coding: str) -> _CodeTables:
    try:
        return _TABLES[coding]
    except KeyError:
        raise BlockError(f"coding {coding!r} is unknown: use 'binary' or 'gray'") from None


_PATH_TEXT = re.compile(r"K(\d{1,4})(?:E(\d{1,4}))?G(\d{1,4})", re.ASCII)


@lru_cache(maxsize=1024)  # there are 272
def parse_path(text: str) -> BlockPath:
    """The path written as `K3G1` (simple) or `K3E7G1` (complex).

    Raises:
        BlockError: `text` is no path.
    """
    match = _PATH_TEXT.fullmatch(text)
    if match is None:
        raise BlockError(f"{text!r} is no path: write K3G1 for a simple path, K3E7G1 for a complex one")
    kernel, expansion, groups = match.groups()
    if expansion is None:
        return SimplePath(int(kernel), int(groups))
    return ComplexPath(int(kernel), int(groups), int(expansion))


@dataclass(frozen=True, slots=True)
class Block:
    """Up to three parallel paths on one input, whose outputs are added.

    Attributes:
        simple: path 1, or None.
        complex: up to two complex paths, kept sorted (their order has no meaning).

    Raises:
        BlockError: there is no path at all, or there are more than two complex ones.
    """

    simple: SimplePath | None = None
    complex: tuple[ComplexPath, ...] = ()

    def __post_init__(self) -> None:
        if len(self.complex) > 2:
            raise BlockError(f"a block has at most two complex paths, not {len(self.complex)}")
        if self.simple is None and not self.complex:
            raise BlockError("a block needs at least one path (u = 000 is no block)")
        if len(self.complex) == 2 and self.complex[1] < self.complex[0]:
            object.__setattr__(self, "complex", (self.complex[1], self.complex[0]))

    @property
    def paths(self) -> tuple[BlockPath, ...]:
        """The one to three paths, the simple one first."""
        return self.complex if self.simple is None else (self.simple, *self.complex)

    @classmethod
    def from_code(cls, code: int, coding: Coding = "binary") -> Block:
        """The block that a 23-bit code names; bits of absent paths are ignored.

        Raises:
            BlockError: `code` is outside 0..2^23-1, or its u bits are 000.
        """
        tables = _tables(coding)
        if not 0 <= code < 1 << CODE_BITS:
            raise BlockError(f"code {code} is outside 0..{(1 << CODE_BITS) - 1}: a block has {CODE_BITS} bits")
        if not code >> 20:
            raise BlockError(f"code {code:023b} is no block: its first three bits (u) are 000, so it has no path")
        simple = tables.simple[code >> 16 & 15] if code >> 22 else None
        second = (tables.complex[code >> 8 & 255],) if code >> 21 & 1 else ()
        third = (tables.complex[code & 255],) if code >> 20 & 1 else ()
        return cls(simple, second + third)

    def code(self, coding: Coding = "binary") -> int:
        """The block's 23-bit code: bits of absent paths are 0, a single complex path is path 2."""
        tables = _tables(coding)
        code = 0
        if self.simple is not None:
            code |= 1 << 22 | tables.simple_bits[self.simple] << 16
        for index, path in enumerate(self.complex):
            code |= 1 << (21 - index) | tables.complex_bits[path] << (8 - 8 * index)
        return code

    @classmethod
    def parse(cls, text: str) -> Block:
        """The block written as `K1G1+K3E7G1`: at most one simple and two complex paths, in any order.

        Raises:
            BlockError: `text` is no block.
        """
        paths = [parse_path(part) for part in text.strip().split("+")]
        simple = [path for path in paths if isinstance(path, SimplePath)]
        if len(simple) > 1:
            raise BlockError(f"block {text!r} has {len(simple)} simple paths; at most one is allowed")
        return cls(simple[0] if simple else None, tuple(path for path in paths if isinstance(path, ComplexPath)))

    def __str__(self) -> str:
        return "+".join(map(str, self.paths))


Blocks = tuple[Block | None, ...]
"""Of a network: one for each site, None where the site is skipped."""
