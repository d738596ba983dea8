"""What can go wrong in a search; the tree continues `bpnas.android_bench.errors`.

SearchError
├── InfeasibleLimitError   no block, or no network, meets a latency limit (exit code 2)
├── AboveLimitError        a network with the head that is asked for is above its latency limit (exit code 2)
├── StuckError             the paper's mutation found no feasible child in a bounded number of tries
├── DataError              images that are missing or cannot be read
├── WorkerLostError        an evaluation that lost its worker again and again
├── DivergedError          a training whose numbers are not finite any more
└── RunError               a run directory that belongs to another run, or is damaged
"""

from __future__ import annotations

import math
from collections.abc import Callable

from bpnas.base.errors import BpnasError, UsageError


class SearchError(BpnasError):
    """A search cannot continue."""


class InfeasibleLimitError(SearchError, UsageError):
    """Nothing meets the latency limit, or nothing is within a latency band.

    Attributes:
        limit_ms, at_least_ms: what was asked for; no lower end at 0.
        smallest_ms: the smallest latency that can be had, as far as known.
        nearest_ms: for a band, the nearest latencies below and above it, as far as known; infinite if there is none.
    """

    exit_code = 2

    def __init__(
        self,
        limit_ms: float,
        smallest_ms: float,
        what: str = "block",
        exact: bool = True,
        at_least_ms: float = 0.0,
        nearest_ms: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        if at_least_ms > 0:
            known = "latencies are" if exact else "latencies seen are"
            sides = [_ms_down(nearest_ms[0])] * (nearest_ms[0] > -math.inf)
            sides += [_ms_up(nearest_ms[1])] * (nearest_ms[1] < math.inf)
            message = f"no {what} takes {_ms(at_least_ms)} to {_ms(limit_ms)} ms: "
            message += f"the nearest {known} {' and '.join(sides) or 'unknown'} ms"
        else:
            known = "the smallest feasible latency is" if exact else "the smallest latency seen is"
            message = f"no {what} meets the latency limit of {_ms(limit_ms)} ms: {known} {_ms_up(smallest_ms)} ms"
        super().__init__(message)
        self.limit_ms, self.at_least_ms = limit_ms, at_least_ms
        self.smallest_ms, self.nearest_ms = smallest_ms, nearest_ms


class AboveLimitError(SearchError, UsageError):
    """A network with the head that is asked for would be above its latency limit, or nobody knows whether it would."""

    exit_code = 2


class StuckError(SearchError):
    """The paper's mutation found no feasible child in a bounded number of tries."""


class DataError(SearchError):
    """Images or labels that are missing or cannot be read."""


class WorkerLostError(SearchError):
    """An evaluation that lost its worker again and again, and is not tried any more."""

    def __init__(self, block: object, attempts: int, reason: str) -> None:
        super().__init__(
            f"the evaluation of block {block} lost its worker {attempts} times, at last {reason}; if memory is short, "
            "use fewer --workers, then call the same command again to resume"
        )


class DivergedError(SearchError):
    """A training came to numbers that are not finite: it was stopped, and nothing was written of it.

    Attributes:
        stage: of what.
        seen: where that was, what, and the learning rate there, as it follows upon "diverged".
        epoch: the epoch in which it happened, from 0.
    """

    def __init__(
        self, seen: str, stage: str = "the training", retry: str = "use a smaller learning rate", epoch: int = 0
    ) -> None:
        super().__init__(seen, stage, retry, epoch)  # what a copy in another process is made of
        self.stage, self.seen, self.epoch = stage, seen, epoch
        self._text = f"{stage} diverged {seen}; {retry}"

    def __str__(self) -> str:
        return self._text

    def of(self, stage: str, retry: str) -> DivergedError:
        """The same error of a training that is known by name.

        Args:
            stage: its name.
            retry: what is kept and what the user may do, as the end of the sentence.
        """
        return DivergedError(self.seen, stage, retry, self.epoch)


class RunError(SearchError):
    """A run directory that belongs to another run, is in use, or is damaged."""


def _ms(value: float) -> str:
    return f"{value:.6g}"


def _ms_up(value: float) -> str:
    """Rounded up to six digits, so that a user who types the number back in has a feasible limit."""
    return _rounded(value, math.ceil)


def _ms_down(value: float) -> str:
    """Rounded down, for the lower end of a band."""
    return _rounded(value, math.floor)


def _rounded(value: float, direction: Callable[[float], int]) -> str:
    if not math.isfinite(value) or value <= 0:
        return _ms(value)
    unit = 10.0 ** (math.floor(math.log10(value)) - 5)
    return _ms(direction(value / unit) * unit)
