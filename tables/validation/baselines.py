"""Predictors that know next to nothing, against which those of a table must show what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from bpnas.base.plurals import counted
from bpnas.profiler.cost import Cost, network_cost
from bpnas.profiler.paths import NetworkPart
from bpnas.tables.errors import TableError
from bpnas.tables.latency_table import LatencyTable

Floats = npt.NDArray[np.float64]
Timed = Sequence[tuple[NetworkPart, float]]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a baseline predicts.

    Attributes:
        name: `MACs`, `parameters` or `nearest`.
        predicted_ms: one per network; empty where it can predict none.
        note: what it was scaled or fitted with.
        unavailable: why it predicts nothing.
    """

    name: str
    predicted_ms: tuple[float, ...] = ()
    note: str = ""
    unavailable: str = ""


def baselines(table: LatencyTable, known: Timed, asked: Timed) -> Iterator[Baseline]:
    """Predict networks by their multiply-adds, by their parameters, and by the most similar one that is known.

    Args:
        table: whose path latencies say which networks are similar.
        known: networks with latencies in ms that may be fitted to, of the same input size; may be empty, and then the
            scale of each prediction comes from the other networks that are asked for.
        asked: what to predict, with the measured latencies.
    """
    yield _proportional("MACs", lambda cost: cost.macs, known, asked)
    yield _proportional("parameters", lambda cost: cost.weights, known, asked)
    yield _nearest(table, known, asked)


def _proportional(name: str, count: Callable[[Cost], int], known: Timed, asked: Timed) -> Baseline:
    counts = _counts(count, asked)
    if known:
        scale = float(np.median(_latencies(known) / _counts(count, known)))
        return Baseline(
            name, tuple((scale * counts).tolist()), f"scale: median of {counted(len(known), 'network')} of the table"
        )
    if len(asked) < 2:
        return Baseline(name, unavailable="a single network gives no scale to predict it with")
    ratios = _latencies(asked) / counts
    scales = np.array([np.median(np.delete(ratios, number)) for number in range(len(asked))])
    return Baseline(name, tuple((scales * counts).tolist()), "scale: median of the other networks here")


def _nearest(table: LatencyTable, known: Timed, asked: Timed) -> Baseline:
    if not known:
        return Baseline("nearest", unavailable="the table holds no whole networks")
    plain = table.with_additivity("sum")
    try:
        places = np.array([_site_latencies(plain, network) for network, _ in known])
        predicted = [
            known[int(np.argmin(np.linalg.norm(places - _site_latencies(plain, network), axis=1)))][1]
            for network, _ in asked
        ]
    except TableError as error:
        return Baseline("nearest", unavailable=str(error))
    return Baseline(
        "nearest", tuple(predicted), f"latency of the most similar of {counted(len(known), 'network')} of the table"
    )


def _site_latencies(plain: LatencyTable, network: NetworkPart) -> Floats:
    """The latency of each block of a network in ms, stem and head last."""
    backbone = network.backbone
    pairs = zip(network.blocks, backbone.sites, strict=True)
    blocks_ms = (0.0 if block is None else plain.block(block, site) for block, site in pairs)
    return np.array([*chain(blocks_ms, [plain.fixed(backbone.input_size, backbone.classes)])])


def _counts(count: Callable[[Cost], int], networks: Timed) -> Floats:
    return np.array([count(network_cost(network.blocks, network.backbone)) for network, _ in networks], np.float64)


def _latencies(networks: Timed) -> Floats:
    return np.array([ms for _, ms in networks])
