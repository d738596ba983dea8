"""What can go wrong in a search; the tree continues `bpnas.android_bench.errors`.

SearchError
├── InfeasibleLimitError   no block, or no network, meets a latency limit (exit code 2)
├── StuckError             the paper's mutation found no feasible child in a bounded number of tries
├── DataError              images that are missing or cannot be read
├── WorkerLostError        an evaluation that lost its worker again and again
└── RunError               a run directory that belongs to another run, or is damaged
"""

from __future__ import annotations

import math

from bpnas.android_bench.errors import BpnasError, UsageError


class SearchError(BpnasError):
    """A search cannot go on."""


class InfeasibleLimitError(SearchError, UsageError):
    """Nothing meets the latency limit.

    Attributes:
        limit_ms: what was asked for.
        smallest_ms: the smallest latency that can be had, as far as known.
    """

    exit_code = 2

    def __init__(self, limit_ms: float, smallest_ms: float, what: str = "block", exact: bool = True) -> None:
        known = "the smallest feasible latency is" if exact else "the smallest latency seen is"
        super().__init__(f"no {what} meets the latency limit of {_ms(limit_ms)} ms: {known} {_ms_up(smallest_ms)} ms")
        self.limit_ms = limit_ms
        self.smallest_ms = smallest_ms


class StuckError(SearchError):
    """The paper's mutation found no feasible child in a bounded number of tries."""


class DataError(SearchError):
    """Images or labels that are missing or cannot be read."""


class WorkerLostError(SearchError):
    """An evaluation that lost its worker again and again, and is not tried any more."""

    def __init__(self, block: object, attempts: int, reason: str) -> None:
        super().__init__(
            f"the evaluation of block {block} lost its worker {attempts} times, at last {reason}; if memory is short, "
            "use fewer --workers, then call the same command again to go on"
        )


class RunError(SearchError):
    """A run directory that belongs to another run, is in use, or is damaged."""


def _ms(value: float) -> str:
    return f"{value:.6g}"


def _ms_up(value: float) -> str:
    """Rounded up to six digits, so that a user who types the number back in has a feasible limit."""
    if not math.isfinite(value) or value <= 0:
        return _ms(value)
    unit = 10.0 ** (math.floor(math.log10(value)) - 5)
    return _ms(math.ceil(value / unit) * unit)
