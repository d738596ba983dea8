"""The space of blocks that a table knows: codes, mutation, latency and exact feasible sets.

A genotype is the block's 23-bit code (BP-NAS, block encoding). Bits of absent paths are silent genes: they change
nothing until the path appears. What is feasible is not estimated but enumerated: a full table has 563,600 distinct
blocks, whose latencies are one outer sum with any model that the table predicts with (see `bpnas.tables.additivity`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bpnas.base.errors import UsageError
from bpnas.base.randomness import Rng, below, choice
from bpnas.profiler.block import CODE_BITS, Block, BlockPath, Coding, ComplexPath, SimplePath
from bpnas.search.proposals.feasible import FeasibleSet

if TYPE_CHECKING:
    from bpnas.tables import LatencyTable

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_SIMPLE_SHIFT, _SECOND_SHIFT, _THIRD_SHIFT = 16, 8, 0
_SIMPLE_WIDTH, _COMPLEX_WIDTH = 4, 8
_USES_SIMPLE, _USES_SECOND, _USES_THIRD = 1 << 22, 1 << 21, 1 << 20
_SLOTS = (
    ((_USES_SECOND, _SECOND_SHIFT), (_USES_THIRD, _THIRD_SHIFT)),
    ((_USES_THIRD, _THIRD_SHIFT), (_USES_SECOND, _SECOND_SHIFT)),
)
_USES = range(1, 8)
"""The first three bits of a code, u, as a number."""


class BlockSpace:
    """All blocks made of the paths that `table` has at every site of one backbone.

    Args:
        table: latencies in ms.
        input_size: picks the table's backbone, in pixels; may be left out where there is just one.
        coding: "binary" or "gray", the code that `mutate` flips bits of.
        classes: picks the backbone too, where the table has several heads at that size.

    Raises:
        TableError: the table has no backbone of that input size, or several and none was named.
        UsageError: the table has no path at every site, or the coding is unknown.
    """

    def __init__(
        self,
        table: LatencyTable,
        input_size: int | None = None,
        coding: Coding = "binary",
        classes: int | None = None,
    ) -> None:
        self.table = table
        self.backbone = table.backbone(input_size, classes)
        self.coding = coding
        self.paths: tuple[BlockPath, ...] = table.paths(input_size, classes)
        self.fixed_ms = float(table.fixed(input_size, classes))
        if not self.paths:
            raise UsageError(
                f"the table has no path at every site of backbone {self.backbone.name}: profile more paths"
            )
        # A block of n paths has n - 1 joins: every path brings one, and each block gives one back.
        join_ms = float(table.join_latencies(input_size, classes).sum())
        once_ms = float(table.once_latencies(input_size, classes).sum())
        self._base_ms = self.fixed_ms + (once_ms - join_ms)
        totals = table.path_latencies(input_size, classes).sum(axis=1) + join_ms
        self._simple = tuple(path for path in self.paths if isinstance(path, SimplePath))
        self._complex = tuple(path for path in self.paths if isinstance(path, ComplexPath))
        self._simple_ms = np.array([t for p, t in zip(self.paths, totals, strict=True) if isinstance(p, SimplePath)])
        self._complex_ms = np.array([t for p, t in zip(self.paths, totals, strict=True) if isinstance(p, ComplexPath)])
        # Genes (the bits of one path) that stand for a path of the table.
        self._simple_genes = tuple(Block(path).code(coding) >> _SIMPLE_SHIFT & 15 for path in self._simple)
        self._complex_genes = tuple(Block(None, (path,)).code(coding) >> _SECOND_SHIFT & 255 for path in self._complex)
        self._simple_gene_ms = dict(zip(self._simple_genes, self._simple_ms.tolist(), strict=True))
        self._complex_gene_ms = dict(zip(self._complex_genes, self._complex_ms.tolist(), strict=True))
        allowed = (_USES_SIMPLE if self._simple else 0) | (_USES_SECOND | _USES_THIRD if self._complex else 0)
        self._uses = [u << 20 for u in _USES if u << 20 & ~allowed == 0]
        self._simple_number = {gene: number for number, gene in enumerate(self._simple_genes)}
        self._complex_number = {gene: number for number, gene in enumerate(self._complex_genes)}
        self._flips = tuple([bit for bit in range(CODE_BITS) if self._may_flip(u << 20, bit)] for u in range(8))
        self._is_full = len(self._simple) == 16 and len(self._complex) == 256
        # Unordered pairs of complex paths, one path twice included.
        self._first, self._other = np.triu_indices(len(self._complex))

    @property
    def size(self) -> int:
        """The number of distinct blocks."""
        return (len(self._simple) + 1) * (1 + len(self._complex) + len(self._first)) - 1

    def block(self, code: int) -> Block:
        """The block that `code` names.

        Raises:
            BlockError: it names none.
        """
        return Block.from_code(code, self.coding)

    def latency(self, code: int) -> float:
        """Latency in ms of the network that has this block at every site (BP-NAS, Eq. 7).

        Raises:
            BlockError: `code` is no block.
            MissingEntryError: the table lacks one of its paths at some site.
        """
        # The order of additions is that of `latencies`, so that both agree to the last bit.
        try:
            if code >> 20 not in _USES:
                raise KeyError(code)
            simple = self._simple_gene_ms[code >> _SIMPLE_SHIFT & 15] if code & _USES_SIMPLE else 0.0
            second = self._complex_gene_ms[code >> _SECOND_SHIFT & 255] if code & _USES_SECOND else 0.0
            third = self._complex_gene_ms[code >> _THIRD_SHIFT & 255] if code & _USES_THIRD else 0.0
            return self._base_ms + (simple + (second + third))
        except KeyError:
            block, backbone = self.block(code), self.backbone
            return float(self.table.network([block] * len(backbone.sites), backbone.input_size, backbone.classes))

    def canonical(self, code: int) -> int:
        """The number of the block that `code` names, as in `at`: the same for all codes of one block.

        Raises:
            KeyError: the block is not in this space.
        """
        simple = self._simple_number[code >> _SIMPLE_SHIFT & 15] if code & _USES_SIMPLE else -1
        second = self._complex_number[code >> _SECOND_SHIFT & 255] if code & _USES_SECOND else -1
        third = self._complex_number[code & 255] if code & _USES_THIRD else -1
        if second > third:
            second, third = third, second
        count = len(self._complex)
        # The inverse of `path_numbers`: `third` is now the only complex path, or the later of two.
        rest = third + 1 if second < 0 else 1 + count + second * count - second * (second - 1) // 2 + third - second
        return (simple + 1) * (1 + count + len(self._first)) + rest - 1

    def random(self, rng: Rng) -> int:
        """A random code: which paths exist, then every gene, absent paths' included, all choices equally likely."""
        return choice(rng, self._uses) | self._silent(rng)

    def mutate(self, code: int, rng: Rng) -> int:
        """Flip one random bit (BP-NAS, Algorithm 2); whether the result is fast enough is not looked at.

        Where the table has all 272 paths the child differs in just that bit. Where the flip leads to a path that the
        table lacks, one that it has takes its place, the likelier the fewer bits are between, since otherwise a small
        table would fall into islands [ours]. In a space of a single block the child is the parent.
        """
        flips = self._flips[code >> 20]
        if not flips:
            return code
        child = code ^ 1 << choice(rng, flips)
        return child if self._is_full else self._snap(child, code, rng)

    def latencies(self) -> Floats:
        """Latencies in ms of all distinct blocks, stacked through the backbone: shape (size,), the order of `at`.

        Computed once, and read-only.
        """
        return self._latencies

    @cached_property
    def _latencies(self) -> Floats:
        complex_ms = np.concatenate(
            ([0.0], self._complex_ms, self._complex_ms[self._first] + self._complex_ms[self._other])
        )
        simple_ms = np.concatenate(([0.0], self._simple_ms))
        total: Floats = (simple_ms[:, None] + complex_ms[None, :]).reshape(-1)[1:]
        total += self._base_ms
        total.setflags(write=False)
        return total

    def at(self, index: int) -> Block:
        """Distinct block number `index`, 0 <= index < size."""
        if not 0 <= index < self.size:
            raise IndexError(f"block number {index} is outside 0..{self.size - 1}")
        return self.blocks(np.array([index]))[0]

    def blocks(self, indices: npt.NDArray[np.int64]) -> list[Block]:
        """The distinct blocks of these numbers."""
        simple, second, third = (numbers.tolist() for numbers in self.path_numbers(indices))
        return [
            Block(
                self._simple[s] if s >= 0 else None,
                () if b < 0 else (self._complex[b],) if c < 0 else (self._complex[b], self._complex[c]),
            )
            for s, b, c in zip(simple, second, third, strict=True)
        ]

    def path_numbers(self, indices: npt.NDArray[np.int64]) -> tuple[Ints, Ints, Ints]:
        """For distinct blocks of these numbers, the places of their paths among the simple and the complex paths.

        Three arrays: the simple path, the first and the second complex one; -1 where a block has none.
        """
        singles = len(self._complex)
        simple, rest = np.divmod(indices + 1, 1 + singles + len(self._first))
        # Number 0 has no complex path, then come the single ones, then the pairs.
        second = np.concatenate((np.arange(-1, singles), self._first))[rest]
        third = np.concatenate((np.full(1 + singles, -1), self._other))[rest]
        return simple - 1, second, third

    def feasible(self, limit_ms: float, at_least_ms: float = 0.0) -> FeasibleSet:
        """The distinct blocks whose network takes `at_least_ms` to `limit_ms`, both included; may be empty."""
        return FeasibleSet(self, limit_ms, at_least_ms)

    def codes(self, indices: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int32]:
        """For each distinct block one of its codes at random, as `code_of` does it."""
        simple, second, third = self.path_numbers(indices)
        swapped = rng.random(len(indices)) < 0.5
        second, third = np.where(swapped, third, second), np.where(swapped, second, third)
        code = np.zeros(len(indices), np.int32)
        for numbers, genes, shift, uses in (
            (simple, self._simple_genes, _SIMPLE_SHIFT, _USES_SIMPLE),
            (second, self._complex_genes, _SECOND_SHIFT, _USES_SECOND),
            (third, self._complex_genes, _THIRD_SHIFT, _USES_THIRD),
        ):
            if genes:
                silent = rng.integers(len(genes), size=len(indices))
                code |= np.array(genes, np.int32)[np.where(numbers < 0, silent, numbers)] << np.int32(shift)
                code |= np.where(numbers < 0, 0, uses).astype(np.int32)
        return code

    def code_of(self, block: Block, rng: Rng) -> int:
        """A code of `block`, one of its equals at random: silent genes and the order of its complex paths are free."""
        code = block.code(self.coding)
        genes = (code >> _SECOND_SHIFT & 255, code & 255)[: len(block.complex)]
        return self._coded(code >> _SIMPLE_SHIFT & 15 if block.simple else None, genes, rng)

    def code_at(self, index: int, rng: Rng) -> int:
        """The same for distinct block number `index`."""
        simple, rest = divmod(index + 1, 1 + len(self._complex) + len(self._first))
        genes: tuple[int, ...] = ()
        if 0 < rest <= len(self._complex):
            genes = (self._complex_genes[rest - 1],)
        elif rest:
            pair = rest - 1 - len(self._complex)
            genes = (self._complex_genes[self._first[pair]], self._complex_genes[self._other[pair]])
        return self._coded(self._simple_genes[simple - 1] if simple else None, genes, rng)

    def _coded(self, simple: int | None, complex_: Sequence[int], rng: Rng) -> int:
        code = self._silent(rng)
        if simple is not None:
            code = _with_gene(code, _SIMPLE_SHIFT, _SIMPLE_WIDTH, simple) | _USES_SIMPLE
        slots = _SLOTS[below(rng, 2)]
        for gene, (uses, shift) in zip(complex_, slots, strict=False):
            code = _with_gene(code, shift, _COMPLEX_WIDTH, gene) | uses
        return code

    def _silent(self, rng: Rng) -> int:
        """Random genes of paths that the table has, with u = 000."""
        code = 0
        if self._simple:
            code |= choice(rng, self._simple_genes) << _SIMPLE_SHIFT
        if self._complex:
            code |= choice(rng, self._complex_genes) << _SECOND_SHIFT
            code |= choice(rng, self._complex_genes) << _THIRD_SHIFT
        return code

    def _may_flip(self, code: int, bit: int) -> bool:
        if bit >= 20:
            has_paths = bool(self._simple) if bit == 22 else bool(self._complex)
            return has_paths and bool((code ^ 1 << bit) >> 20)
        return len(self._simple if bit >= _SIMPLE_SHIFT else self._complex) > 1

    def _snap(self, code: int, parent: int, rng: Rng) -> int:
        """`code` with every gene that stands for no path of the table replaced by one near it that does."""
        for shift, width, genes in (
            (_SIMPLE_SHIFT, _SIMPLE_WIDTH, self._simple_genes),
            (_SECOND_SHIFT, _COMPLEX_WIDTH, self._complex_genes),
            (_THIRD_SHIFT, _COMPLEX_WIDTH, self._complex_genes),
        ):
            mask = (1 << width) - 1
            gene, old = code >> shift & mask, parent >> shift & mask
            if not genes or gene in genes:
                continue
            # Falling back to the parent's own gene would make the mutation void.
            others = [other for other in genes if other != old] or list(genes)
            code = _with_gene(code, shift, width, _near(gene, others, rng))
        return code


def _with_gene(code: int, shift: int, width: int, gene: int) -> int:
    return code & ~((1 << width) - 1 << shift) | gene << shift


def _near(gene: int, others: Sequence[int], rng: Rng) -> int:
    """One of `others`; half as likely for every bit that it differs in from `gene`, so that each can be reached."""
    weights = [2.0 ** -(other ^ gene).bit_count() for other in others]
    rest = rng.random() * sum(weights)
    for other, weight in zip(others, weights, strict=True):
        rest -= weight
        if rest < 0:
            return other
    return others[-1]
