"""How the latency of a network is put together from the entries of a table.

With every model, the latency of a network is additive over sites, as BP-NAS needs it (Eq. 7 and 8)::

    network_ms = constant_ms + sum over sites of block_ms
    block_ms   = sum of path_ms + (number of paths - 1) * join_ms + once_ms        Skip: 0

so that exact feasible sets, the differentiable latency and the choice of connections hold for each of them. What a
model decides is what these *effective* values are. All models here are weighted sums of the same few terms:

=============  =====================================================================================  ==========
term           what is added up                                                                       as measured
=============  =====================================================================================  ==========
simple         ms of simple paths, measured alone, but for kernel 7                                   1
complex        ms of complex paths, likewise                                                          1
simple_k7      ms of simple paths of kernel 7, which some runtimes handle in another way              1
complex_k7     ms of complex paths of kernel 7                                                        1
weights        megabytes of weights of paths: alone they stay in the cache, inside a network they don't   0
activations    megabytes that the operators of paths read and write                                   0
joins          ms of the additions that join the paths of a block                                     1
residuals      ms of the additions of residuals                                                       1
blocks         number of blocks                                                                       0
constant       one per network                                                                        0
=============  =====================================================================================  ==========

`sum` (the paper's, Eq. 7) weighs the paths with 1 and nothing else. `sum+joins` has the column above. `context` has it
too, but a path's ms is what it adds between two neighbours (`ContextPart`) [ours]. `corrected` has weights that were
fitted to whole networks on the same device (`correction`) [ours]. Stem and head are always added as measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bpnas.profiler.backbone import Backbone, Site
from bpnas.profiler.block import Block, BlockPath, SimplePath
from bpnas.profiler.cost import path_cost
from bpnas.profiler.paths import ContextPart, JoinPart, Part, PathPart, head_part, stem_part
from bpnas.tables.errors import TableError

UNITS = {
    "simple": "ms/ms",
    "complex": "ms/ms",
    "simple_k7": "ms/ms",
    "complex_k7": "ms/ms",
    "weights": "ms/MB",
    "activations": "ms/MB",
    "joins": "ms/ms",
    "residuals": "ms/ms",
    "blocks": "ms",
    "constant": "ms",
}
"""The terms, in order, and the unit of the weight of each."""

PATH_TERMS = tuple(UNITS)[:6]
"""Those that a single path has."""

MEASURED_PATHS = PATH_TERMS[:4]
"""Those that are ms of paths."""

AS_MEASURED: Mapping[str, float] = {term: float(unit == "ms/ms") for term, unit in UNITS.items()}
"""What was measured counts once, and nothing else does."""

PLAIN_SUM: Mapping[str, float] = {**AS_MEASURED, "joins": 0.0, "residuals": 0.0}


@dataclass(frozen=True, slots=True, eq=False)
class EntryTerms:
    """Values of the terms, from the entries of a table.

    Attributes:
        entry: latency of a part in ms; raises MissingEntryError.
        channel_shuffle: of the backbone.
        in_context: take paths between neighbours, not alone.
    """

    entry: Callable[[Part], float]
    channel_shuffle: bool = False
    in_context: bool = False

    def part(self, path: BlockPath, site: Site) -> PathPart | ContextPart:
        """The part whose entry a path's latency comes from."""
        kind = ContextPart if self.in_context else PathPart
        return kind(path, site, self.channel_shuffle)

    def path_ms(self, path: BlockPath, site: Site) -> float:
        """Latency of a path as measured, in ms.

        Raises:
            MissingEntryError: an entry is not in the table.
            TableError: in context it is not slower than its neighbours alone.
        """
        part = self.part(path, site)
        if isinstance(part, PathPart):
            return self.entry(part)
        together, alone = self.entry(part), sum(map(self.entry, part.neighbours)) / 2
        if together <= alone:
            raise TableError(
                f"entry {part.key!r} ({together:.4g} ms) is not above its neighbours alone ({alone:.4g} ms), so model "
                "'context' has no latency for that path; measure more sessions, or use another --additivity"
            )
        return together - alone

    def path(self, path: BlockPath, site: Site) -> dict[str, float]:
        """Terms of one path at one site; those that are not named are 0."""
        kind = "simple" if isinstance(path, SimplePath) else "complex"
        cost = path_cost(path, site)
        return {
            f"{kind}_k7" if path.kernel == 7 else kind: self.path_ms(path, site),
            "weights": cost.weight_mb,
            "activations": cost.activation_mb,
        }

    def join_ms(self, site: Site) -> float:
        """One addition at the output of a site, in ms. Raises MissingEntryError."""
        return self.entry(JoinPart(site.c_out, site.output_size))

    def fixed_ms(self, backbone: Backbone) -> float:
        """Stem and head, in ms. Raises MissingEntryError."""
        return self.entry(stem_part(backbone)) + self.entry(head_part(backbone))

    def network(self, blocks: Sequence[Block | None], backbone: Backbone) -> dict[str, float]:
        """All terms of a whole network."""
        totals = {**dict.fromkeys(UNITS, 0.0), "constant": 1.0}
        for block, site in zip(blocks, backbone.sites, strict=True):
            if block is None:
                continue
            for path in block.paths:
                for term, value in self.path(path, site).items():
                    totals[term] += value
            join_ms = self.join_ms(site)
            totals["joins"] += (len(block.paths) - 1) * join_ms
            totals["residuals"] += join_ms * site.is_residual
            totals["blocks"] += 1
        return totals


@dataclass(frozen=True, slots=True, eq=False)
class AdditiveModel:
    """Effective latencies: the terms, weighted.

    Attributes:
        terms: where the values come from.
        coefficients: one per term of `UNITS`.
    """

    terms: EntryTerms
    coefficients: Mapping[str, float]

    def path_ms(self, path: BlockPath, site: Site) -> float:
        """Effective latency of a path at a site, in ms. Raises MissingEntryError, TableError."""
        return sum(self.coefficients[term] * value for term, value in self.terms.path(path, site).items())

    def join_ms(self, site: Site) -> float:
        """What every path of a block beyond the first one adds, in ms. Raises MissingEntryError."""
        return self._weighted_join("joins", site)

    def once_ms(self, site: Site) -> float:
        """What a block adds once, however many paths it has, in ms. Raises MissingEntryError."""
        residual_ms = self._weighted_join("residuals", site) if site.is_residual else 0.0
        return residual_ms + self.coefficients["blocks"]

    def constant_ms(self, backbone: Backbone) -> float:
        """What every network of a backbone has, in ms. Raises MissingEntryError."""
        return self.terms.fixed_ms(backbone) + self.coefficients["constant"]

    def block_ms(self, block: Block, site: Site) -> float:
        """Effective latency of a block at a site, in ms. Raises MissingEntryError, TableError."""
        paths_ms = sum(self.path_ms(path, site) for path in block.paths)
        return paths_ms + (len(block.paths) - 1) * self.join_ms(site) + self.once_ms(site)

    def _weighted_join(self, term: str, site: Site) -> float:
        # A table without joins is good enough for a model that does not count them.
        coefficient = self.coefficients[term]
        return coefficient * self.terms.join_ms(site) if coefficient else 0.0
