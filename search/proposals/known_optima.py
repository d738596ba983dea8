"""Small search problems whose every optimum is known, to evaluate search strategies without training anything [ours].

Each is seeded, has the `random`, `mutate` and `latency` that `levonas` asks for and a `score`, and can be
enumerated, so that the best score under any latency limit is exact. Milliseconds and accuracies are invented; what is
meant to be real is the shape: a cell of operators, a rugged landscape, a feasible set in fragments, and the blocks of
BP-NAS on a latency table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bpnas.base.randomness import Rng, below
from bpnas.profiler.block import BlockPath, ComplexPath, SimplePath

if TYPE_CHECKING:
    from bpnas.search.proposals.space import BlockSpace

Floats = npt.NDArray[np.float64]
Genes = tuple[int, ...]

_CELL_MS = (0.0, 0.05, 0.45, 1.9, 3.4)
"""Nothing, identity, pooling, 1x1 and 3x3 convolution: two slow operators, a cheap one and two that are almost free."""

_CELL_QUALITY = (0.0, 0.45, 0.35, 0.8, 1.0)

_CELL_PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))
"""Ways from the input (node 0) to the output (node 3) along the edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A table of all genotypes. A genotype is a tuple: for each gene the number of its option.

    Attributes:
        name: of the kind of problem.
        options: the number of options of each gene.
        latencies_ms, scores: of all genotypes, shape (product of options,), the last gene changing fastest.
    """

    name: str
    options: Genes
    latencies_ms: Floats
    scores: Floats

    def random(self, rng: Rng) -> Genes:
        """Every genotype is equally likely."""
        return tuple(below(rng, count) for count in self.options)

    def mutate(self, genotype: Genes, rng: Rng) -> Genes:
        """One random gene takes another option."""
        gene = below(rng, len(self.options))
        option = below(rng, self.options[gene] - 1)
        return (*genotype[:gene], option + (option >= genotype[gene]), *genotype[gene + 1 :])

    def latency(self, genotype: Genes) -> float:
        """In ms."""
        return float(self.latencies_ms[self._index(genotype)])

    def score(self, genotype: Genes) -> float:
        """Higher is better."""
        return float(self.scores[self._index(genotype)])

    def optimum(self, limit_ms: float) -> float:
        """The best score of all genotypes within the limit. Raises ValueError if there is none."""
        return float(self.scores[self.latencies_ms <= limit_ms].max())

    def _index(self, genotype: Genes) -> int:
        index = 0
        for option, count in zip(genotype, self.options, strict=True):
            index = index * count + option
        return index


def cell_problem(seed: int) -> Problem:
    """A cell of six edges with one of five operators each, 15,625 in all.

    Accuracy grows with the operators' quality and saturates; pairs of operators interact; every cell has its own luck;
    a cell without a way from input to output has learnt nothing. Latency is additive and goes with quality.
    """
    rng = np.random.default_rng((seed, 1))
    edges, operators = 6, 5
    genes = _all_genes((operators,) * edges)
    speed = rng.lognormal(0.0, 0.08, edges)[:, None] * np.array(_CELL_MS) + rng.uniform(0.0, 0.02, (edges, operators))
    quality = np.array(_CELL_QUALITY) + rng.normal(0.0, 0.1, (edges, operators))
    main = _additive(genes, rng.lognormal(0.0, 0.4, edges)[:, None] * quality)
    pairs = sum(
        rng.normal(0.0, 0.12, (operators, operators))[genes[:, a], genes[:, b]]
        for a in range(edges)
        for b in range(a + 1, edges)
    )
    latent = 0.7 * main + pairs + rng.normal(0.0, 0.12, len(genes))
    connected = reduce(np.logical_or, ((genes[:, list(path)] > 0).all(axis=1) for path in _CELL_PATHS))
    accuracy = np.where(connected, 0.95 - 0.5 * np.exp(-latent), 0.1)
    return Problem("cell", (operators,) * edges, 2.0 + _additive(genes, speed), accuracy)


def rugged_problem(seed: int, bits: int = 14, neighbours: int = 4) -> Problem:
    """An NK landscape (Kauffman): the worth of each bit depends on `neighbours` others. Latency is additive."""
    rng = np.random.default_rng((seed, 2))
    genes = _all_genes((2,) * bits)
    score = np.zeros(len(genes))
    for bit in range(bits):
        others = rng.choice([other for other in range(bits) if other != bit], neighbours, replace=False)
        index = genes[:, [bit, *others]] @ (1 << np.arange(neighbours + 1))
        score += rng.random(2 << neighbours)[index] / bits
    speed = np.stack([np.zeros(bits), rng.lognormal(0.0, 0.6, bits)], axis=1)
    return Problem("rugged", (2,) * bits, 1.0 + _additive(genes, speed), score)


def fragmented_problem(seed: int, pairs: int = 4, operators: int = 4) -> Problem:
    """Genes work in pairs, and only a matching pair is fast: under a tight limit no single mutation stays feasible."""
    rng = np.random.default_rng((seed, 3))
    options = (operators,) * (2 * pairs)
    genes = _all_genes(options)
    latency, score = np.full(len(genes), 1.0), np.zeros(len(genes))
    for pair in range(pairs):
        pair_ms = rng.uniform(6.0, 9.0, (operators, operators))
        pair_ms[np.arange(operators), rng.permutation(operators)] = rng.uniform(0.2, 1.2, operators)
        latency += pair_ms[genes[:, 2 * pair], genes[:, 2 * pair + 1]]
        score += rng.normal(0.0, 1.0, (operators, operators))[genes[:, 2 * pair], genes[:, 2 * pair + 1]]
    for gene in range(2 * pairs):  # neighbouring genes of different pairs interact, more weakly
        other = rng.normal(0.0, 0.5, (operators, operators))
        score += other[genes[:, gene], genes[:, (gene + 1) % (2 * pairs)]]
    return Problem("fragmented", options, latency, score + rng.normal(0.0, 0.2, len(genes)))


class BlockProblem:
    """The blocks of a `BlockSpace` with an invented accuracy.

    Accuracy saturates in the capacity of the paths; kernels, groups and expansions are liked and disliked, together and
    each for itself; every block has its own luck.

    Args:
        space: gives everything but the score.
        seed: of the accuracy.

    Attributes:
        latencies_ms, scores: of all distinct blocks, in the order of `BlockSpace.at`.
    """

    name = "block"

    def __init__(self, space: BlockSpace, seed: int) -> None:
        self.space = space
        self.random, self.mutate, self.latency = space.random, space.mutate, space.latency
        self.feasible, self.canonical = space.feasible, space.canonical
        rng = np.random.default_rng((seed, 4))
        # By kernel, groups and expansion, of which 0 is the simple path's.
        taste = rng.normal(0.0, 0.25, (8, 9, 1)) + rng.normal(0.0, 0.2, (8, 1, 17)) + rng.normal(0.0, 0.1, (1, 9, 17))

        def worth(path: BlockPath) -> float:
            expansion = path.expansion if isinstance(path, ComplexPath) else 0
            capacity = max(expansion, 1) * (1 + 0.3 * path.kernel) / path.groups**0.5
            return 0.35 * float(np.log2(1 + capacity)) + float(taste[path.kernel, path.groups, expansion])

        simple = np.array([worth(path) for path in space.paths if isinstance(path, SimplePath)] + [0.0])
        complex_ = np.array([worth(path) for path in space.paths if isinstance(path, ComplexPath)] + [0.0])
        # Number -1, no path, is the 0 at the end.
        first, second, third = space.path_numbers(np.arange(space.size))
        both = np.maximum(complex_[second], complex_[third]) + 0.4 * np.minimum(complex_[second], complex_[third])
        latent = 0.5 * simple[first] + both + rng.normal(0.0, 0.1, space.size)
        self.latencies_ms = space.latencies()
        self.scores: Floats = 0.95 - 0.5 * np.exp(-latent)

    def score(self, genotype: int) -> float:
        """Higher is better."""
        return float(self.scores[self.canonical(genotype)])

    def optimum(self, limit_ms: float) -> float:
        """The best score of all blocks within the limit. Raises ValueError if there is none."""
        return float(self.scores[self.latencies_ms <= limit_ms].max())


def _all_genes(options: Genes) -> npt.NDArray[np.int64]:
    """Shape (product of options, genes)."""
    return np.stack(np.unravel_index(np.arange(np.prod(options)), options), axis=1)


def _additive(genes: npt.NDArray[np.int64], values: Floats) -> Floats:
    """Sum over genes of values[gene, option]."""
    total: Floats = values[np.arange(genes.shape[1]), genes].sum(axis=1)
    return total
