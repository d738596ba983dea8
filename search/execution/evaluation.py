"""What the training of one candidate gave."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the training of one candidate gave.

    Attributes:
        score: accuracy on held-out training images at the end, 0..1; 0 of one that diverged, which puts no image into
            the right class.
        images: trained, over all epochs.
        seconds: that took, measuring the accuracy included; after a resumption, since then.
        epochs: trained; fewer than asked for if the training ended early.
        rungs: (epochs, accuracy) at every rung reached, those of `stop_below` and of the setting `halving`; none of one
            that diverged.
        judged_on: how many held-out images the accuracies are of; 0 where an earlier bpnas did not note it.
        diverged: where and how the training came to numbers that are not finite; None if it did not.
        gpus: it was trained on, 0 or 1.
    """

    score: float
    images: int
    seconds: float
    epochs: int = 0
    rungs: tuple[tuple[int, float], ...] = ()
    judged_on: int = 0
    diverged: str | None = None
    gpus: int = 0
