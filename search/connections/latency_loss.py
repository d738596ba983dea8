"""The differentiable latency of a supernet and the loss factor made of it. BP-NAS, Eq. 4 to 8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bpnas.base.errors import UsageError
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block
from bpnas.search.connections.supernet import site_candidates
from bpnas.search.errors import SearchError
from bpnas.search.presets import check_lambda
from bpnas.search.proposals.limits import check_latency_ms

if TYPE_CHECKING:
    from bpnas.tables import LatencyTable

Floats = npt.NDArray[np.float64]


def candidate_latencies(table: LatencyTable, backbone: Backbone, proposals: Sequence[Block]) -> tuple[Floats, ...]:
    """Latency in ms of every candidate at every site, in the order of `site_candidates`; Skip is 0.

    Raises:
        MissingEntryError: the table lacks a path of a proposal at some site.
    """
    rows = []
    for site in backbone.sites:
        candidates = site_candidates(proposals, site)
        rows.append(np.array([0.0 if b is None else table.block(b, site, backbone.input_size) for b in candidates]))
    return tuple(rows)


class SupernetLatency:
    """LAT = fixed + sum over sites l and candidates i of P(i; l) * latency(i; l) (Eq. 8), as one dot product.

    Args:
        latencies_ms: one (candidates,) array per site; see `candidate_latencies`.
        fixed_ms: what every network has in addition to its blocks.
    """

    def __init__(self, latencies_ms: Sequence[Floats], fixed_ms: float = 0.0) -> None:
        self.fixed_ms = fixed_ms
        self._widths = [len(row) for row in latencies_ms]
        self._all_ms = torch.from_numpy(np.concatenate(latencies_ms).astype(np.float64))
        self._kept: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    @classmethod
    def of_table(cls, table: LatencyTable, backbone: Backbone, proposals: Sequence[Block]) -> SupernetLatency:
        """As `table` predicts, with any model of additivity, for a supernet of `proposals` on `backbone`.

        Raises:
            MissingEntryError: the table lacks a path of a proposal at some site.
            SearchError: this predictor's networks are not the sums of their blocks, so that no expectation follows
                from blocks. All models of `LatencyTable` are.
        """
        rows = candidate_latencies(table, backbone, proposals)
        fixed_ms = table.fixed(backbone.input_size, backbone.classes)
        candidates = [site_candidates(proposals, site) for site in backbone.sites]
        for choices in ([0] * len(rows), [len(row) - 1 for row in rows]):
            blocks = [options[choice] for options, choice in zip(candidates, choices, strict=True)]
            whole = table.network(blocks, backbone.input_size, backbone.classes)
            summed = fixed_ms + sum(float(row[choice]) for row, choice in zip(rows, choices, strict=True))
            if not math.isclose(whole, summed, rel_tol=1e-9):
                raise SearchError(
                    f"the table's model {table.additivity!r} gives a network {whole:.6g} ms, but its blocks "
                    f"{summed:.6g} ms: use another --additivity, one that is a sum over sites"
                )
        return cls(rows, fixed_ms)

    def __call__(self, probabilities: Sequence[Tensor]) -> Tensor:
        """One P of shape (candidates,) per site -> latency in ms, a differentiable scalar.

        With a one in every P it is the latency of that network by table.

        Raises:
            UsageError: the shapes are not those of the latencies.
        """
        if [len(p) for p in probabilities] != self._widths:
            raise UsageError("probabilities and latencies must have one row per site and one value per candidate")
        flat = torch.cat(list(probabilities))
        key = (flat.device, flat.dtype)
        if key not in self._kept:
            self._kept[key] = self._all_ms.to(flat.device, flat.dtype)
        return torch.dot(flat, self._kept[key]) + self.fixed_ms


@dataclass(frozen=True, slots=True)
class LatencyLoss:
    """L_lat = lambda * (LAT / T - 1) + 1, with lambda = 1 where LAT >= T and `lambda_below` elsewhere (Eq. 5, 6).

    The cross-entropy is multiplied by it (Eq. 4). It is 1 at the target, rises with the full slope above, and hardly
    falls below, so that a network that is fast enough gains nothing from being faster.

    Attributes:
        target_ms: T.
        lambda_below: lambda below T; 0.01 in the paper.
        latency: gives LAT for the probabilities of a supernet (Eq. 8); without it, the caller does. See `of_table`.

    Raises:
        UsageError: the target is not positive, or lambda is not in 0..1.
    """

    target_ms: float
    lambda_below: float = 0.01
    latency: SupernetLatency | None = None

    def __post_init__(self) -> None:
        check_latency_ms(self.target_ms, "latency target")
        check_lambda(self.lambda_below)

    @classmethod
    def of_table(
        cls,
        table: LatencyTable,
        backbone: Backbone,
        proposals: Sequence[Block],
        target_ms: float,
        lambda_below: float = 0.01,
    ) -> LatencyLoss:
        """Eq. 5 to 8 in one: the factor for the probabilities of a supernet, with the latencies that `table` predicts.

        Raises:
            UsageError, MissingEntryError, SearchError: as of this class and `SupernetLatency.of_table`.
        """
        return cls(target_ms, lambda_below, SupernetLatency.of_table(table, backbone, proposals))

    def __call__(self, latency_ms: Tensor | float | Sequence[Tensor]) -> Tensor:
        """The factor, differentiable, with slope lambda / T in the latency.

        Args:
            latency_ms: latencies in ms, whose shape the factor then has; or one P of shape (candidates,) per site.
        """
        if isinstance(latency_ms, Tensor):
            latency = latency_ms
        elif isinstance(latency_ms, Sequence):
            if self.latency is None:
                raise UsageError("a LatencyLoss without a table takes latencies; make it with LatencyLoss.of_table")
            latency = self.latency(latency_ms)
        else:
            latency = torch.tensor(latency_ms, dtype=torch.float64)
        excess = latency / self.target_ms - 1
        return torch.where(excess >= 0, excess, self.lambda_below * excess) + 1


def expected_latency(probabilities: Sequence[Tensor], latencies_ms: Sequence[Tensor], fixed_ms: float = 0.0) -> Tensor:
    """LAT of Eq. 8 for latencies that are tensors already; see `SupernetLatency`.

    Args:
        probabilities: one (candidates,) tensor per site.
        latencies_ms: the same shapes, from the table, with any model that it predicts with; Skip is 0.
        fixed_ms: what every network has in addition to its blocks.
    """
    pairs = zip(probabilities, latencies_ms, strict=True)
    return torch.stack([(p * ms.to(p.device)).sum() for p, ms in pairs]).sum() + fixed_ms
