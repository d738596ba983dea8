"""The space of blocks that a table knows: codes, mutation, latency and exact feasible sets.

A genotype is the block's 23-bit code (BP-NAS, block encoding). Bits of absent paths are silent genes: they change
nothing until the path appears. What is feasible is not estimated but enumerated: a full table has 563,600 distinct
blocks, whose latencies are one outer sum, whatever model the table predicts with (see `bpnas.tables.additivity`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bpnas.android_bench.errors import UsageError
from bpnas.profiler.block import CODE_BITS, Block, BlockPath, Coding, ComplexPath, SimplePath
from bpnas.search.chance import Rng, below, choice
from bpnas.search.errors import InfeasibleLimitError

if TYPE_CHECKING:
    from bpnas.tables import LatencyTable

_SIMPLE_SHIFT, _SECOND_SHIFT, _THIRD_SHIFT = 16, 8, 0
_SIMPLE_WIDTH, _COMPLEX_WIDTH = 4, 8
_USES_SIMPLE, _USES_SECOND, _USES_THIRD = 1 << 22, 1 << 21, 1 << 20


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
        self._total_ms = {path: float(total) for path, total in zip(self.paths, totals, strict=True)}
        # Genes (the bits of one path) that stand for a path of the table.
        self._simple_genes = tuple(Block(path).code(coding) >> _SIMPLE_SHIFT & 15 for path in self._simple)
        self._complex_genes = tuple(Block(None, (path,)).code(coding) >> _SECOND_SHIFT & 255 for path in self._complex)
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
        block = self.block(code)
        try:
            # The order of additions is that of `latencies`, so that both agree to the last bit.
            simple = self._total_ms[block.simple] if block.simple is not None else 0.0
            return self._base_ms + (simple + sum((self._total_ms[path] for path in block.complex), 0.0))
        except KeyError:
            backbone = self.backbone
            return float(self.table.network([block] * len(backbone.sites), backbone.input_size, backbone.classes))

    def random(self, rng: Rng) -> int:
        """A random code: which paths exist, then every gene, absent paths' included, all choices equally likely."""
        uses = choice(rng, self._uses())
        return uses | self._silent(rng)

    def mutate(self, code: int, rng: Rng) -> int:
        """Flip one random bit (BP-NAS, Algorithm 2); whether the result is fast enough is not looked at.

        Where the table has all 272 paths the child differs in just that bit. Where the flip leads to a path that the
        table lacks, one that it has takes its place, the likelier the fewer bits lie between, since otherwise a small
        table would fall into islands [ours]. In a space of a single block the child is the parent.
        """
        flips = [bit for bit in range(CODE_BITS) if self._may_flip(code, bit)]
        if not flips:
            return code
        return self._snap(code ^ 1 << choice(rng, flips), code, rng)

    def latencies(self) -> npt.NDArray[np.float64]:
        """Latencies in ms of all distinct blocks, stacked through the backbone: shape (size,), the order of `at`."""
        complex_ms = np.concatenate(
            ([0.0], self._complex_ms, self._complex_ms[self._first] + self._complex_ms[self._other])
        )
        simple_ms = np.concatenate(([0.0], self._simple_ms))
        total: npt.NDArray[np.float64] = (simple_ms[:, None] + complex_ms[None, :]).reshape(-1)[1:]
        total += self._base_ms
        return total

    def at(self, index: int) -> Block:
        """Distinct block number `index`, 0 <= index < size."""
        if not 0 <= index < self.size:
            raise IndexError(f"block number {index} is outside 0..{self.size - 1}")
        simple, rest = divmod(index + 1, 1 + len(self._complex) + len(self._first))
        paths: tuple[ComplexPath, ...] = ()
        if 0 < rest <= len(self._complex):
            paths = (self._complex[rest - 1],)
        elif rest:
            pair = rest - 1 - len(self._complex)
            paths = (self._complex[self._first[pair]], self._complex[self._other[pair]])
        return Block(self._simple[simple - 1] if simple else None, paths)

    def feasible(self, limit_ms: float) -> FeasibleSet:
        """The distinct blocks whose network takes at most `limit_ms`; may be empty."""
        return FeasibleSet(self, limit_ms)

    def code_of(self, block: Block, rng: Rng) -> int:
        """A code of `block`, one of its equals at random: silent genes and the order of its complex paths are free."""
        code = self._silent(rng)
        if block.simple is not None:
            gene = block.code(self.coding) >> _SIMPLE_SHIFT & 15
            code = _with_gene(code, _SIMPLE_SHIFT, _SIMPLE_WIDTH, gene) | _USES_SIMPLE
        slots = [(_USES_SECOND, _SECOND_SHIFT), (_USES_THIRD, _THIRD_SHIFT)]
        if below(rng, 2):
            slots.reverse()
        for path, (uses, shift) in zip(block.complex, slots, strict=False):
            gene = Block(None, (path,)).code(self.coding) >> _SECOND_SHIFT & 255
            code = _with_gene(code, shift, _COMPLEX_WIDTH, gene) | uses
        return code

    def _uses(self) -> list[int]:
        """The u bits that this table can fill."""
        allowed = (_USES_SIMPLE if self._simple else 0) | (_USES_SECOND | _USES_THIRD if self._complex else 0)
        return [u << 20 for u in range(1, 8) if u << 20 & ~allowed == 0]

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


class FeasibleSet:
    """The distinct blocks of a space that meet a latency limit, known exactly.

    Attributes:
        limit_ms: the limit.
        size: how many distinct blocks meet it; 0 if none does.
        smallest_ms: the smallest latency in the whole space, whether it meets the limit or not.
    """

    def __init__(self, space: BlockSpace, limit_ms: float) -> None:
        latencies = space.latencies()
        self._space = space
        self._members = np.flatnonzero(latencies <= limit_ms)
        self.limit_ms = limit_ms
        self.size = len(self._members)
        self.smallest_ms = float(latencies.min())

    def sample(self, rng: Rng) -> int:
        """The code of a feasible block, all distinct blocks equally likely.

        Raises:
            InfeasibleLimitError: there is none.
        """
        if not self.size:
            raise InfeasibleLimitError(self.limit_ms, self.smallest_ms)
        return self._space.code_of(self._space.at(int(self._members[below(rng, self.size)])), rng)

    def blocks(self) -> Sequence[Block]:
        """All of them; slow for large sets."""
        return [self._space.at(int(index)) for index in self._members]


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
