"""What the paper's tables say of the arms of our studies: BP-NAS, on ImageNet, on a Galaxy S9, with T = 55 ms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """One network of the paper.

    Attributes:
        arm: of our study.
        accuracy: top-1, 0..1.
        latency_ms: at 224 pixels.
    """

    arm: str
    accuracy: float
    latency_ms: float


_FULL, _RANDOM_STAGE2, _BCS_A = (0.740, 52.2), (0.725, 66.7), (0.730, 55.1)

_FIGURES: dict[str, dict[str, tuple[float, float]]] = {
    "ablations": {
        "full": _FULL,
        "rand-stage-1": (0.692, 60.7),
        "rand-stage-2": _RANDOM_STAGE2,
        "bcs-a": _BCS_A,
        "gray": (0.740, 56.3),
    },
    "lambda": {
        "lambda 0": (0.636, 26.0),
        "lambda 0.001": (0.736, 56.2),
        "lambda 0.01": _FULL,
        "lambda 0.05": (0.732, 48.3),
        "lambda 0.5": (0.623, 25.7),
        "lambda 1": (0.524, 16.7),
    },
    "random-stage2": {"searched": _FULL, "random": _RANDOM_STAGE2},
    "fbnet-candidates": {"proposals": _FULL, "fbnet": _BCS_A},
}

LAMBDA_0 = (
    "In the paper lambda 0 collapses like 0.5 and 1 do (26.0 ms for T = 55). By its Eq. 5 nothing pulls below T then: "
    "L_lat is 1. So we expect no collapse, had none on CIFAR-10 (0.75 to 0.93 T), and cannot explain the paper's."
)
"""What is to be told wherever lambda 0 is among the arms."""


def paper_figures(study: str, arms: tuple[str, ...]) -> tuple[PaperFigure, ...]:
    """Those of these arms that the paper has."""
    known = _FIGURES.get(study, {})
    return tuple(PaperFigure(arm, *known[arm]) for arm in arms if arm in known)
