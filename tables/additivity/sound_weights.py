"""Whether the weights of a corrected sum give latencies that a search can use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bpnas.profiler.backbone import Backbone
from bpnas.profiler.paths import Part, all_paths
from bpnas.tables.additivity.models import PATH_TERMS, EntryTerms

LEAST_SHARE = 0.5
"""No fitted latency of a path may fall below this share of what was measured: a search runs straight to anything that a
regression made nearly free [ours]."""


@dataclass(frozen=True, slots=True, eq=False)
class SoundWeights:
    """Says of weights of the terms whether they give latencies that a search can use.

    They do if no path, alone or as the only one of its block, falls below `LEAST_SHARE` of what was measured, if no
    further path makes a block faster, and if a positive rest is left besides the blocks. Then every block takes longer
    than Skip, at every site.

    Attributes:
        values: path terms of every entry: shape (entries, path terms).
        measured_ms, residual_ms: of the same entries: the path, and the addition of its site's residual.
        fixed_ms: stem and head, the smallest of all backbones.
        least_share: see `LEAST_SHARE`; 0 asks for no more than that nothing is negative.
    """

    values: npt.NDArray[np.float64]
    measured_ms: npt.NDArray[np.float64]
    residual_ms: npt.NDArray[np.float64]
    fixed_ms: float
    least_share: float = LEAST_SHARE

    @classmethod
    def of(
        cls,
        terms: EntryTerms,
        backbones: Sequence[Backbone],
        measured: Callable[[Part], bool],
        least_share: float = LEAST_SHARE,
    ) -> SoundWeights:
        """For all entries of a table at one input size.

        Args:
            terms: of the table.
            backbones: those of that input size; their sites are the same.
            measured: whether the table has an entry for a part.
            least_share: see there.

        Raises:
            MissingEntryError: a site that has paths lacks an entry of another kind.
        """
        sites = dict.fromkeys(backbones[0].sites)
        entries = [(path, site) for site in sites for path in all_paths() if measured(terms.part(path, site))]
        rows = [terms.path(path, site) for path, site in entries]
        return cls(
            np.array([[row.get(term, 0.0) for term in PATH_TERMS] for row in rows]).reshape(-1, len(PATH_TERMS)),
            np.array([terms.path_ms(path, site) for path, site in entries]),
            np.array([terms.join_ms(site) * site.is_residual for _, site in entries]),
            min(map(terms.fixed_ms, backbones)),
            least_share,
        )

    def __call__(self, weights: Mapping[str, float]) -> bool:
        path_ms = self.values @ np.array([weights[term] for term in PATH_TERMS])
        once_ms = weights["residuals"] * self.residual_ms + weights["blocks"]
        least_ms = self.least_share * self.measured_ms
        return (
            bool(np.all(np.minimum(path_ms, path_ms + once_ms) >= least_ms))
            and weights["joins"] >= 0
            and self.fixed_ms + weights["constant"] > 0
        )
