"""From architecture parameters to one network that meets its target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from bpnas.base.errors import UsageError
from bpnas.search.errors import InfeasibleLimitError

Floats = npt.NDArray[np.float64]
_MOST_REFUSED = 1000


@dataclass(frozen=True, slots=True)
class Assignment:
    """One candidate per site.

    Attributes:
        choices: its number at every site.
        log_probability: sum of the log probabilities of the chosen candidates.
        latency_ms: of the network.
    """

    choices: tuple[int, ...]
    log_probability: float
    latency_ms: float


def log_softmax(alpha: Sequence[float]) -> Floats:
    """Log P of every candidate of a site without noise, shape (candidates,)."""
    values = np.asarray(alpha, np.float64)
    shifted = values - values.max()
    result: Floats = shifted - np.log(np.exp(shifted).sum())
    return result


def argmax_blocks(
    log_probabilities: Sequence[Floats], latencies_ms: Sequence[Floats], fixed_ms: float = 0.0
) -> Assignment:
    """The most probable candidate of every site, regardless of latency (BP-NAS, block connection search)."""
    choices = [int(np.argmax(row)) for row in log_probabilities]
    return _assignment(choices, log_probabilities, latencies_ms, fixed_ms)


def fastest_blocks(
    log_probabilities: Sequence[Floats], latencies_ms: Sequence[Floats], fixed_ms: float = 0.0
) -> Assignment:
    """The fastest candidate of every site."""
    return _assignment([int(np.argmin(row)) for row in latencies_ms], log_probabilities, latencies_ms, fixed_ms)


def most_probable_blocks(
    log_probabilities: Sequence[Floats],
    latencies_ms: Sequence[Floats],
    limit_ms: float,
    fixed_ms: float = 0.0,
    exact_ms: Callable[[tuple[int, ...]], float] | None = None,
) -> Assignment:
    """The assignment of the highest sum of log P among those whose latency is at most `limit_ms` [ours].

    The paper takes the argmax per site, which a soft latency loss leaves near the target, above it as often as below.
    Here the trained probabilities decide and the target holds. See `k_most_probable_blocks`.
    """
    return k_most_probable_blocks(log_probabilities, latencies_ms, limit_ms, 1, fixed_ms, exact_ms)[0]


def k_most_probable_blocks(
    log_probabilities: Sequence[Floats],
    latencies_ms: Sequence[Floats],
    limit_ms: float,
    k: int,
    fixed_ms: float = 0.0,
    exact_ms: Callable[[tuple[int, ...]], float] | None = None,
) -> tuple[Assignment, ...]:
    """The `k` assignments of the highest sums of log P among those whose latency is at most `limit_ms` [ours].

    Exact: dynamic programming gives, for the last sites from any one on, the best sum within any latency. With it the
    assignments come one after the other in order of probability, each at the cost of one step per site.

    Args:
        log_probabilities, latencies_ms: one (candidates,) array per site.
        limit_ms: the target.
        k: how many at most.
        fixed_ms: stem and head.
        exact_ms: the latency of an assignment as it will be checked later; its sum may round differently in the last
            bit than the one here. Default: as summed here.

    Returns:
        At least one, the most probable first; fewer than `k` where no more meet the limit.

    Raises:
        InfeasibleLimitError: even the fastest assignment is slower.
        UsageError: the sequences do not fit each other, or `k` is below 1.
    """
    if [len(row) for row in log_probabilities] != [len(row) for row in latencies_ms] or not latencies_ms:
        raise UsageError("log probabilities and latencies must have one row per site and one value per candidate")
    if k < 1:
        raise UsageError(f"the number of assignments must be at least 1, not {k}")
    fastest = fastest_blocks(log_probabilities, latencies_ms, fixed_ms)
    measure = exact_ms or (lambda choices: _assignment(choices, log_probabilities, latencies_ms, fixed_ms).latency_ms)
    if measure(fastest.choices) > limit_ms:
        raise InfeasibleLimitError(limit_ms, measure(fastest.choices), "network of these block proposals")
    found: list[Assignment] = []
    # Sums here round differently from the exact ones, which decide in the end: a little more than the limit is looked
    # at, or, where very many assignments are within the last bits of it, a little less.
    for limit_here in (limit_ms + abs(limit_ms) * 1e-9, limit_ms - abs(limit_ms) * 1e-9):
        assignments = _by_probability(log_probabilities, latencies_ms, limit_here, fixed_ms)
        found = []
        for number, (choices, log_p) in enumerate(assignments):
            exact = measure(choices)
            if exact <= limit_ms:
                found.append(Assignment(choices, log_p, exact))
            if len(found) == k or number == k + _MOST_REFUSED:
                break
        else:
            break
        if len(found) == k:
            break
    if not found:
        return (Assignment(fastest.choices, fastest.log_probability, measure(fastest.choices)),)
    return tuple(sorted(found, key=lambda one: (-one.log_probability, one.latency_ms)))


def _by_probability(
    log_probabilities: Sequence[Floats], latencies_ms: Sequence[Floats], limit_ms: float, fixed_ms: float
) -> Iterator[tuple[tuple[int, ...], float]]:
    """All assignments within the limit with their sums of log P, the most probable first.

    They are built site by site, always the one that can become the best of those left.
    """
    endings = _best_endings(log_probabilities, latencies_ms)
    # Smallest first: the negative of the best log P it can become, the deeper, the faster it can then be; the rest is
    # what has been chosen so far, with its sums.
    open_: list[tuple[float, int, float, tuple[int, ...], float, float]] = [(0.0, 0, 0.0, (), 0.0, fixed_ms)]
    while open_:
        bound, _, _, choices, log_p, latency = heappop(open_)
        if len(choices) == len(latencies_ms):
            yield choices, log_p
            continue
        end_ms, end_p = endings[len(choices) + 1]
        all_ms, all_p = latency + latencies_ms[len(choices)], log_p + log_probabilities[len(choices)]
        places = np.searchsorted(end_ms, limit_ms - all_ms, side="right") - 1
        bounds = np.where(places >= 0, -(all_p + end_p[places]), np.inf)
        # The best child is as good as its parent but for the rounding of sums, without which it would wait for all
        # that are equally good: as many as there are assignments, where all are.
        drift = bound - bounds.min()
        bounds += drift if abs(drift) < 1e-9 else 0.0
        for choice in np.flatnonzero(bounds < np.inf):
            ms = float(all_ms[choice])
            end = (ms + end_ms[places[choice]], (*choices, int(choice)), float(all_p[choice]), ms)
            heappush(open_, (float(bounds[choice]), -len(end[1]), *end))


def _best_endings(log_probabilities: Sequence[Floats], latencies_ms: Sequence[Floats]) -> list[tuple[Floats, Floats]]:
    """Of the sites from each one on: the latencies and sums of log P that no other has both of at least as good.

    Both rise along an ending's arrays. The last ending, of no site, is a single 0.
    """
    latency, log_p = np.array([0.0]), np.array([0.0])
    endings = [(latency, log_p)]
    for log_row, ms_row in zip(reversed(log_probabilities), reversed(latencies_ms), strict=True):
        all_ms = (latency[:, None] + ms_row[None, :]).reshape(-1)
        all_p = (log_p[:, None] + log_row[None, :]).reshape(-1)
        order = np.lexsort((-all_p, all_ms))
        best_before = np.concatenate(([-np.inf], np.maximum.accumulate(all_p[order])[:-1]))
        kept = order[all_p[order] > best_before]
        latency, log_p = all_ms[kept], all_p[kept]
        endings.append((latency, log_p))
    return endings[::-1]


def _assignment(
    choices: Sequence[int], log_probabilities: Sequence[Floats], latencies_ms: Sequence[Floats], fixed_ms: float
) -> Assignment:
    log_p = sum(float(row[i]) for row, i in zip(log_probabilities, choices, strict=True))
    latency = fixed_ms + sum(float(row[i]) for row, i in zip(latencies_ms, choices, strict=True))
    return Assignment(tuple(choices), log_p, latency)
