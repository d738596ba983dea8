"""What came out when predictions of a table were held against whole networks on its device: values, JSON and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bpnas.base.columns import wrapped
from bpnas.base.plurals import counted
from bpnas.tables.additivity.accuracy import Accuracy


@dataclass(frozen=True, slots=True)
class Miss:
    """One network and how far its prediction was off."""

    network: str
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """Relative to what was measured; negative where the prediction is too low."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True, slots=True)
class PredictorReport:
    """One predictor at one input size.

    Attributes:
        predictor: a model of `MODEL_NAMES`, or a baseline.
        accuracy: on all networks; None where it has no predictions.
        worst: the networks that are furthest off, the worst first.
        note: how a baseline was scaled.
        unavailable: why it has no predictions; empty if it has.
    """

    predictor: str
    accuracy: Accuracy | None = None
    worst: tuple[Miss, ...] = ()
    note: str = ""
    unavailable: str = ""


@dataclass(frozen=True, slots=True)
class SizeReport:
    """All predictors at one input size.

    Attributes:
        input_size: of the images, in pixels.
        networks: how many were timed.
        repeat_error: median relative difference of two sessions of one network: errors much below it are noise, so it
            bounds what can be told of any predictor; None where every network has a single session.
        models, baselines: see `PredictorReport`.
        repetition: half the sessions of each network against the other half, as if they had predicted them.
    """

    input_size: int
    networks: int
    repeat_error: float | None
    models: tuple[PredictorReport, ...]
    baselines: tuple[PredictorReport, ...]
    repetition: PredictorReport


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """A table against its device.

    Attributes:
        table_sha256: of the table that was evaluated.
        device, runtime: of both.
        mock: nothing of it was measured.
        default: the model that the table uses.
        statistic: of the table, by which the networks were summed up, too.
        sizes: one report per input size.
    """

    table_sha256: str
    device: str
    runtime: str
    mock: bool
    default: str
    statistic: str
    sizes: tuple[SizeReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON; errors and shares are fractions."""
        return asdict(self)

    def to_text(self, width: int | None = None) -> str:
        """For people, as a table per input size; `width` of the terminal in characters, which it does not exceed."""
        mock = " (MOCK: computed, not measured)" if self.mock else ""
        statistic = "" if self.statistic == "median" else f", {self.statistic} instead of medians"
        lines = [f"{self.device}, {self.runtime}{mock}{statistic}; the table predicts with {self.default!r}"]
        for size in self.sizes:
            lines += [
                "",
                f"Input size {size.input_size}, {counted(size.networks, 'network')} that nothing was fitted to:",
            ]
            lines += _fitted("", _HEADINGS, "", width)
            for one in (*size.models, *size.baselines, size.repetition):
                lines += _fitted(one.predictor, _figures(one), one.note, width)
            if size.repeat_error is not None:
                lines.append(f"Two sessions of one network differ by {size.repeat_error:.1%} (median)")
            lines += self._worst(size.models)
        return "\n".join(wrapped(lines, width, "  "))

    def _worst(self, models: Sequence[PredictorReport]) -> list[str]:
        used = [one for one in models if one.predictor == self.default and one.worst]
        return [
            line
            for one in used
            for line in (
                f"Furthest off by {one.predictor!r}:",
                *(
                    f"  {miss.error:+.1%}, {miss.predicted_ms:.4g} ms for {miss.measured_ms:.4g} ms: {miss.network}"
                    for miss in one.worst
                ),
            )
        ]


_HEADINGS = f"{'within 5%':>10}{'within 10%':>12}{'MAPE':>8}{'bias':>8}{'Spearman':>10}{'Kendall':>9}"
_INDENT = "  "


def _figures(one: PredictorReport) -> str:
    found = one.accuracy
    if found is None:
        return f"not available: {one.unavailable}"
    ranks = [f"{rank:.3f}" if rank is not None else "-" for rank in (found.spearman, found.kendall)]
    shares = f"{found.within_5:>10.0%}{found.within_10:>12.0%}{found.mape:>8.1%}{found.bias:>+8.1%}"
    return f"{shares}{ranks[0]:>10}{ranks[1]:>9}"


def _fitted(name: str, figures: str, note: str, width: int | None) -> list[str]:
    """A row on one line, or with its note, and where that is too long too, its name on one of their own."""
    row = f"{_INDENT}{name:<12}{figures}"
    whole = f"{row}{_INDENT * bool(note)}{note}"
    if width is None or len(whole) <= width:
        return [whole]
    notes = [f"{_INDENT * 2}{note}"] * bool(note)
    if len(row) <= width:
        return [row, *notes]
    return [*[f"{_INDENT}{name}"] * bool(name), figures if len(figures) <= width else " ".join(figures.split()), *notes]
