"""Candidates whose training diverged are trials like others, unless no candidate can be trained at all."""

from __future__ import annotations

from collections.abc import Iterable

from bpnas.search.errors import DivergedError

HOPELESS = 8
"""A search ends once this many candidates were trained, the first ones, and every one of them has diverged."""

_RETRY = "start another search with a smaller --proposal-rate and another --out"


class Survivors:
    """Counts the candidates of a search in the order of its trials, which no interruption changes."""

    def __init__(self) -> None:
        self._told, self._survived = 0, False

    def tell(self, diverged: str | None) -> None:
        """One more candidate was trained; `diverged` says how that failed, None that it did not.

        Raises:
            DivergedError: as all those before it, it has diverged, and there were `HOPELESS`.
        """
        self._told += 1
        self._survived |= diverged is None
        if not self._survived and self._told >= HOPELESS and diverged is not None:
            raise _all_diverged(f"each of the first {self._told} candidates", diverged)


def check_survivor(diverged: Iterable[str | None], limit_ms: float) -> None:
    """Refuse to name a winner where every candidate under a limit has diverged.

    Raises:
        DivergedError: it has.
    """
    last = None
    for last in diverged:
        if last is None:
            return
    if last is not None:
        raise _all_diverged(f"each candidate under the limit of {limit_ms:g} ms", last)


def _all_diverged(which: str, last: str) -> DivergedError:
    return DivergedError(f"(the last one {last})", f"the training of {which}", _RETRY)
