"""Which models a table has, how far off each is on whole networks, and which one is the default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bpnas.android_bench.errors import UsageError
from bpnas.profiler.paths import NetworkPart, all_paths
from bpnas.tables.accuracy import accuracy
from bpnas.tables.additivity import PATH_TERMS, Terms
from bpnas.tables.correction import LEAST_NETWORKS, fit_correction
from bpnas.tables.errors import BuildError, TableError
from bpnas.tables.latency_table import LatencyTable
from bpnas.tables.model_record import MODEL_NAMES, ModelRecord, TableModels

LEAST_SHARE = 0.5
"""No fitted latency of a path may fall below this share of what was measured: a search runs straight to whatever a
regression made nearly free [ours]."""

Networks = Sequence[tuple[NetworkPart, float]]


def choose_models(table: LatencyTable, wanted: str | None = None) -> TableModels:
    """Judge every model on the whole networks of a table that may be fitted to, and choose the default.

    The models without weights of their own are judged on the same networks as `corrected`, each of which its fit has
    not seen. The default is the one with the smallest mean error, averaged over input sizes; the simpler one of equals.
    It must be available at every size, and networks must have been measured at each; else it is `sum`.

    Args:
        table: whose entries and networks count; the models that it names do not.
        wanted: the default, where the user has chosen.

    Raises:
        UsageError: there is no such model.
        BuildError: the wanted model is not available.
    """
    if wanted is not None and wanted not in MODEL_NAMES:
        raise UsageError(f"no model is called {wanted!r}: use one of {', '.join(MODEL_NAMES)}")
    networks = {size: _covered(table, size) for size in table.input_sizes}
    count = sum(map(len, networks.values()))
    if not count and wanted is None:
        return TableModels()
    records = tuple(_judge(table, name, size, networks[size]) for size in networks for name in MODEL_NAMES)
    lacking = {record.name: record for record in records if record.unavailable}
    if wanted in lacking:
        record = lacking[wanted]
        raise BuildError(f"model {wanted!r} is not available at input size {record.input_size}: {record.unavailable}")
    if wanted is not None:
        return TableModels(wanted, "it was asked for", records if count else ())
    without = [str(size) for size, measured in networks.items() if not measured]
    if without:
        return TableModels("sum", f"no whole networks were measured at input size {' and '.join(without)}", records)
    means = {
        name: float(np.mean([record.error.mape for record in records if record.name == name and record.error]))
        for name in MODEL_NAMES
        if name not in lacking
    }
    if not means:
        return TableModels("sum", "no model has all the entries that it takes", records)
    best = min(means, key=means.__getitem__)
    return TableModels(best, f"smallest mean error on {count} whole networks that it has not seen", records)


def _covered(table: LatencyTable, input_size: int) -> Networks:
    """The networks to fit to, but for those with a path that a table with holes lacks."""
    terms = _terms(table)

    def has_all(network: NetworkPart) -> bool:
        pairs = zip(network.blocks, network.backbone.sites, strict=True)
        return all(terms.part(path, site) in table for block, site in pairs if block for path in block.paths)

    return [(network, ms) for network, ms in table.networks(input_size, "fit") if has_all(network)]


def _judge(table: LatencyTable, name: str, input_size: int, networks: Networks) -> ModelRecord:
    if name == "corrected" and len(networks) < LEAST_NETWORKS:
        found = f"{len(networks)} {'is' if len(networks) == 1 else 'are'} there"
        return ModelRecord(name, input_size, unavailable=f"it takes {LEAST_NETWORKS} whole networks, and {found}")
    measured = [ms for _, ms in networks]
    try:
        # The model corrected takes the entries that the sum with joins takes.
        model = table.with_additivity("sum+joins" if name == "corrected" else name)
        predicted = _try_out(model, input_size, networks)
    except TableError as error:
        return ModelRecord(name, input_size, unavailable=str(error))
    if name == "corrected":
        fitted = fit_correction(_terms(table), networks, SoundWeights.of(table, input_size))
        held_out = accuracy(fitted.held_out_ms.tolist(), measured)
        return ModelRecord(name, input_size, held_out, tuple(fitted.coefficients.items()))
    return ModelRecord(name, input_size, accuracy(predicted, measured) if networks else None)


def _try_out(model: LatencyTable, input_size: int, networks: Networks) -> list[float]:
    """Predict these networks, and look up all that a search might want beside.

    Raises:
        TableError: something is not there.
    """
    for backbone in model.meta.backbones:
        if backbone.input_size == input_size:
            for values in (model.fixed, model.path_latencies, model.join_latencies, model.once_latencies):
                values(input_size, backbone.classes)
    return [model.network(network.blocks, input_size, network.backbone.classes) for network, _ in networks]


def _terms(table: LatencyTable) -> Terms:
    return Terms(table.entry, table.meta.backbones[0].channel_shuffle)


@dataclass(frozen=True, slots=True, eq=False)
class SoundWeights:
    """Says of weights of the terms whether they give latencies that a search can use.

    They do if no path, alone or as the only one of its block, falls below `LEAST_SHARE` of what was measured, if no
    further path makes a block faster, and if a positive rest is left beside the blocks. Then every block takes longer
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
    def of(cls, table: LatencyTable, input_size: int, least_share: float = LEAST_SHARE) -> SoundWeights:
        """For all entries of a table at an input size. Raises MissingEntryError."""
        terms = _terms(table)
        backbones = [backbone for backbone in table.meta.backbones if backbone.input_size == input_size]
        sites = dict.fromkeys(backbones[0].sites)
        entries = [(path, site) for site in sites for path in all_paths() if terms.part(path, site) in table]
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
