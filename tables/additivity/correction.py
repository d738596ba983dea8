"""The model `corrected`: the terms of `additivity`, weighted as whole networks on the same device say.

The sum of parts is low by 5 to 20 %, differently for each runtime and resolution: inside a network convolutions meet
colder caches, additions are fused, layouts change. The weights are found by ridge regression on relative errors, with
the measured values as prior: a weight of 1 for what was measured and 0 for the rest. So a weak or missing hint leaves
the sum as it is. Weights of paths are pulled towards each other more than towards 1, for most of what is wrong with a
sum is one factor. How strong the prior is, that is, how much is put down to noise, cross-validation chooses [ours].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bpnas.profiler.paths import NetworkPart
from bpnas.tables.additivity.models import AS_MEASURED, MEASURED_PATHS, UNITS, EntryTerms

LEAST_NETWORKS = 12
"""Fewer whole networks say too little about that many weights."""

FOLDS = 5

Floats = npt.NDArray[np.float64]
Sound = Callable[[Mapping[str, float]], bool]

# Likely deviations from the prior [ours]: 0.3 for all paths together and 0.1 more for each kind; 0.5 for additions,
# which fusion may make vanish; 3 % of a network for each term that is not in ms.
_TOGETHER = 0.3
_LIKELY = {"simple": 0.1, "complex": 0.1, "simple_k7": 0.1, "complex_k7": 0.1, "joins": 0.5, "residuals": 0.5}
_LIKELY_SHARE = 0.03

# Mean squared relative error that is left to noise, from 100 % to 0.3 %; infinite is the prior itself.
_STRENGTHS = (np.inf, *np.logspace(0, -5, 11))
_PRIOR = np.array([AS_MEASURED[term] for term in UNITS])


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What was fitted.

    Attributes:
        coefficients: weight of every term.
        held_out_ms: prediction of each network by a fit that has not seen it, in ms: shape (networks,).
    """

    coefficients: Mapping[str, float]
    held_out_ms: Floats


def fit_correction(terms: EntryTerms, networks: Sequence[tuple[NetworkPart, float]], sound: Sound) -> Correction:
    """Fit the weights to networks of one input size.

    Held-out predictions come from `FOLDS`-fold cross-validation around the whole fit, the choice of its strength
    included.

    Args:
        terms: of the table.
        networks: at least `LEAST_NETWORKS`, with their measured latencies in ms.
        sound: whether weights give effective latencies that can be used (see `sound_weights`); those that do not are
            passed over for a stronger prior, whose limit, what was measured, always is. Nothing is clipped.

    Raises:
        MissingEntryError: an entry is not in the table.
    """
    data = _Data.of(terms, networks)
    held_out_ms = np.empty(len(networks))
    for train, test in _folds(len(networks)):
        held_out_ms[test] = data.rows(test).predict(_fit(data.rows(train), sound))
    weights = _fit(data, sound)
    return Correction(dict(zip(UNITS, map(float, weights), strict=True)), held_out_ms)


@dataclass(frozen=True, slots=True, eq=False)
class _Data:
    """Networks in rows: `terms` (networks, terms), `fixed_ms` of stem and head and `measured_ms` (networks,)."""

    terms: Floats
    fixed_ms: Floats
    measured_ms: Floats

    @classmethod
    def of(cls, terms: EntryTerms, networks: Sequence[tuple[NetworkPart, float]]) -> _Data:
        rows = [list(terms.network(network.blocks, network.backbone).values()) for network, _ in networks]
        fixed_ms = [terms.fixed_ms(network.backbone) for network, _ in networks]
        return cls(np.array(rows), np.array(fixed_ms), np.array([ms for _, ms in networks]))

    def rows(self, which: npt.NDArray[np.intp]) -> _Data:
        return _Data(self.terms[which], self.fixed_ms[which], self.measured_ms[which])

    def predict(self, weights: Floats) -> Floats:
        predicted: Floats = self.fixed_ms + self.terms @ weights
        return predicted

    def mean_error(self, weights: Floats) -> float:
        return float(np.mean(np.abs(self.predict(weights) / self.measured_ms - 1)))


def _fit(data: _Data, sound: Sound) -> Floats:
    """The weights of the strength that predicts best in cross-validation, of those that are sound."""
    errors = dict.fromkeys(_STRENGTHS, 0.0)
    for train, test in _folds(len(data.measured_ms)):
        training, rest = data.rows(train), data.rows(test)
        for strength in _STRENGTHS:
            errors[strength] += len(test) * rest.mean_error(_ridge(training, strength))
    for strength in sorted(_STRENGTHS, key=errors.__getitem__):
        weights = _ridge(data, strength)
        if sound(dict(zip(UNITS, weights, strict=True))):
            return weights
    return _PRIOR


def _ridge(data: _Data, strength: float) -> Floats:
    if np.isinf(strength):
        return _PRIOR
    shares = data.terms / data.measured_ms[:, None]
    likely = _likely(shares)
    seen = shares @ likely
    missing = 1 - data.predict(_PRIOR) / data.measured_ms
    penalty = strength * len(missing) * np.eye(likely.shape[1])
    weights: Floats = _PRIOR + likely @ np.linalg.solve(seen.T @ seen + penalty, seen.T @ missing)
    return weights


def _likely(shares: Floats) -> Floats:
    """What the weights may do, in columns: deviations from the prior that are equally likely; (terms, columns)."""
    usual = np.sqrt(np.mean(shares**2, axis=0))
    usual[usual == 0] = np.inf  # a term that no network has keeps its prior
    columns = [[_TOGETHER * (term in MEASURED_PATHS) for term in UNITS]]
    for number, (term, unit) in enumerate(UNITS.items()):
        column = [0.0] * len(UNITS)
        column[number] = _LIKELY[term] if unit == "ms/ms" else _LIKELY_SHARE / float(usual[number])
        columns.append(column)
    return np.array(columns).T


def _folds(count: int) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Rows to train on and rows to test on, `FOLDS` times; each row is tested on once."""
    fold = np.random.default_rng(0).permutation(count) % FOLDS  # networks come sorted by name, that is, by block
    return [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(FOLDS)]
