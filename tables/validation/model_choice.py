"""Which models a table has, how far off each is on whole networks, and which one is the default."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bpnas.base.errors import UsageError
from bpnas.profiler.paths import NetworkPart
from bpnas.tables.additivity.accuracy import accuracy
from bpnas.tables.additivity.correction import LEAST_NETWORKS, fit_correction
from bpnas.tables.additivity.model_record import MODEL_NAMES, ModelRecord, TableModels
from bpnas.tables.additivity.models import EntryTerms
from bpnas.tables.additivity.sound_weights import SoundWeights
from bpnas.tables.errors import BuildError, TableError
from bpnas.tables.latency_table import LatencyTable

Networks = Sequence[tuple[NetworkPart, float]]


def choose_models(table: LatencyTable, wanted: str | None = None) -> TableModels:
    """Evaluate every model on the whole networks of a table that may be fitted to, and choose the default.

    The models without weights of their own are evaluated on the same networks as `corrected`, each of which its fit has
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
    records = tuple(_evaluate(table, name, size, networks[size]) for size in networks for name in MODEL_NAMES)
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


def _evaluate(table: LatencyTable, name: str, input_size: int, networks: Networks) -> ModelRecord:
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
        terms, backbones = _terms(table), [each for each in table.meta.backbones if each.input_size == input_size]
        fitted = fit_correction(terms, networks, SoundWeights.of(terms, backbones, table.__contains__))
        held_out = accuracy(fitted.held_out_ms.tolist(), measured)
        return ModelRecord(name, input_size, held_out, tuple(fitted.coefficients.items()))
    return ModelRecord(name, input_size, accuracy(predicted, measured) if networks else None)


def _try_out(model: LatencyTable, input_size: int, networks: Networks) -> list[float]:
    """Predict these networks, and look up all that a search might also want.

    Raises:
        TableError: something is not there.
    """
    for backbone in model.meta.backbones:
        if backbone.input_size == input_size:
            for values in (model.fixed, model.path_latencies, model.join_latencies, model.once_latencies):
                values(input_size, backbone.classes)
    return [model.network(network.blocks, input_size, network.backbone.classes) for network, _ in networks]


def _terms(table: LatencyTable) -> EntryTerms:
    return EntryTerms(table.entry, table.meta.backbones[0].channel_shuffle)
