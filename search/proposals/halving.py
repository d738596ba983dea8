"""Successive halving: most of a training is spent on the candidates that look best early. [ours; off in BP-NAS]

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA), 2020, in its variant that stops instead of
promoting: a candidate is never taken up again, so that nothing waits and no training state is kept.
"""

from __future__ import annotations

from collections.abc import Iterable

from bpnas.base.errors import UsageError

Rungs = tuple[tuple[int, float], ...]


def rung_epochs(epochs: int, eta: int) -> tuple[int, ...]:
    """The epochs after which a training of `epochs` may end early: epochs / eta^k, rounded down, at least 1.

    Raises:
        UsageError: `epochs` is below 1 or `eta` below 2.
    """
    if epochs < 1 or eta < 2:
        raise UsageError(f"successive halving needs 1 epoch and a factor of 2 at least, not {epochs} and {eta}")
    rungs = []
    while (epochs := epochs // eta) >= 1:
        rungs.append(epochs)
    return tuple(reversed(rungs))


class SuccessiveHalving:
    """Which accuracy a candidate needs at each rung so as to be trained on.

    It depends on what was observed and on nothing else: no clock, no chance, no order.

    Args:
        epochs: of a whole training.
        eta: of all candidates seen at a rung, the best 1/eta continue.

    Attributes:
        rungs: see `rung_epochs`; none if `epochs` is below `eta`.

    Raises:
        UsageError: see `rung_epochs`.
    """

    def __init__(self, epochs: int, eta: int) -> None:
        self.rungs = rung_epochs(epochs, eta)
        self._eta = eta
        self._seen: dict[int, list[float]] = {rung: [] for rung in self.rungs}

    def observe(self, rungs: Iterable[tuple[int, float]]) -> None:
        """Take note of the (epochs, accuracy) of one candidate, `Evaluation.rungs`; other epochs are passed over."""
        for epochs, accuracy in rungs:
            if epochs in self._seen:
                self._seen[epochs].append(accuracy)

    def stop_below(self) -> Rungs:
        """(epochs, accuracy) for `CandidateEvaluator`: below that accuracy at that rung, a training ends.

        The accuracy of the last among the best 1/eta. A rung that fewer than eta candidates have reached asks for none.
        """
        thresholds = []
        for epochs, seen in self._seen.items():
            if best := len(seen) // self._eta:
                thresholds.append((epochs, sorted(seen, reverse=True)[best - 1]))
        return tuple(thresholds)
