"""Predictions of a table against whole networks that were timed on its device: a pure comparison, without a device."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from bpnas.base.errors import UsageError
from bpnas.profiler.campaign.estimate import of_sessions
from bpnas.profiler.campaign.session import Statistic
from bpnas.profiler.networks import fold_of
from bpnas.profiler.paths import NetworkPart
from bpnas.tables.additivity.accuracy import accuracy
from bpnas.tables.additivity.model_record import MODEL_NAMES
from bpnas.tables.errors import TableError
from bpnas.tables.latency_table import LatencyTable
from bpnas.tables.validation.baselines import baselines
from bpnas.tables.validation.validation_report import Miss, PredictorReport, SizeReport, ValidationReport

_WORST = 5


@dataclass(frozen=True, slots=True)
class TimedNetwork:
    """A whole network as it was timed.

    Attributes:
        network: which.
        sessions_ms: latency of each fresh session, in ms.
        statistic: of the sessions that stands for the network.
    """

    network: NetworkPart
    sessions_ms: tuple[float, ...]
    statistic: Statistic = "median"

    @property
    def latency_ms(self) -> float:
        """As in a table."""
        return of_sessions(self.sessions_ms, self.statistic)


def validate(table: LatencyTable, timed: Sequence[TimedNetwork]) -> ValidationReport:
    """Evaluate every model that a table has, next to the baselines, on networks of its device.

    Args:
        table: whichever model it was loaded with.
        timed: networks of the fold `test`, on backbones of the table.

    Raises:
        UsageError: there is no network, or one that may have been fitted to.
    """
    if not timed:
        raise UsageError("no network was timed, so there is nothing to compare the table with")
    for each in timed:
        if fold_of(each.network.key) != "test":
            raise UsageError(f"network {each.network.key!r} may be fitted to, so it cannot evaluate what was fitted")
    sizes = sorted({each.network.backbone.input_size for each in timed})
    reports = tuple(
        _size_report(table, size, [each for each in timed if each.network.backbone.input_size == size])
        for size in sizes
    )
    meta = table.meta
    return ValidationReport(
        table_sha256=table.sha256,
        device=meta.device_name,
        runtime=meta.runtime,
        mock=meta.mock,
        default=meta.models.default,
        statistic=meta.statistic,
        sizes=reports,
    )


def _size_report(table: LatencyTable, input_size: int, timed: Sequence[TimedNetwork]) -> SizeReport:
    asked = [(each.network, each.latency_ms) for each in timed]
    models = tuple(_evaluate_model(table, name, timed) for name in MODEL_NAMES)
    others = tuple(
        PredictorReport(found.name, unavailable=found.unavailable)
        if found.unavailable
        else _evaluate(found.name, found.predicted_ms, timed, found.note)
        for found in baselines(table, table.networks(input_size, "fit"), asked)
    )
    return SizeReport(input_size, len(timed), _repeat_error(timed), models, others, _evaluate_repetition(timed))


def _evaluate_model(table: LatencyTable, name: str, timed: Sequence[TimedNetwork]) -> PredictorReport:
    try:
        model = table.with_additivity(name)
        networks = [each.network for each in timed]
        predicted = [model.network(n.blocks, n.backbone.input_size, n.backbone.classes) for n in networks]
    except TableError as error:
        return PredictorReport(name, unavailable=str(error))
    return _evaluate(name, predicted, timed)


def _evaluate(
    name: str, predicted_ms: Sequence[float], timed: Sequence[TimedNetwork], note: str = ""
) -> PredictorReport:
    misses = [Miss(t.network.key, ms, t.latency_ms) for ms, t in zip(predicted_ms, timed, strict=True)]
    worst = sorted(misses, key=lambda miss: (-abs(miss.error), miss.network))[:_WORST]
    return PredictorReport(name, accuracy(predicted_ms, [each.latency_ms for each in timed]), tuple(worst), note)


def _evaluate_repetition(timed: Sequence[TimedNetwork]) -> PredictorReport:
    """The same networks measured twice: what is left to a predictor that knows everything but the noise.

    Every other session predicts what the ones between them measured.
    """
    if any(len(each.sessions_ms) < 2 for each in timed):
        return PredictorReport("A/A", unavailable="not every network has two sessions")
    predicted, measured = (
        [of_sessions(each.sessions_ms[first::2], each.statistic) for each in timed] for first in (0, 1)
    )
    counts = [len(each.sessions_ms) for each in timed]
    sessions = " to ".join(map(str, dict.fromkeys((min(counts), max(counts)))))
    note = f"half of the {sessions} sessions of each network against the other half"
    return PredictorReport("A/A", accuracy(predicted, measured), note=note)


def _repeat_error(timed: Sequence[TimedNetwork]) -> float | None:
    pairs = [pair for each in timed for pair in combinations(each.sessions_ms, 2)]
    return statistics.median(abs(a - b) / ((a + b) / 2) for a, b in pairs) if pairs else None
