"""From architecture parameters to one network that meets its target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bpnas.android_bench.errors import UsageError
from bpnas.search.errors import InfeasibleLimitError

Floats = npt.NDArray[np.float64]


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
    """The most probable candidate of every site, whatever the latency (BP-NAS, block connection search)."""
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
    Here the trained probabilities decide and the target holds. Exact: dynamic programming over sites that keeps every
    partial assignment which no other beats in both latency and probability.

    Args:
        log_probabilities, latencies_ms: one (candidates,) array per site.
        limit_ms: the target.
        fixed_ms: stem and head.
        exact_ms: the latency of an assignment as it will be checked later; its sum may round differently in the last
            bit than the one here. Default: as summed here.

    Raises:
        InfeasibleLimitError: even the fastest assignment is slower.
        UsageError: the sequences do not fit each other.
    """
    if [len(row) for row in log_probabilities] != [len(row) for row in latencies_ms] or not latencies_ms:
        raise UsageError("log probabilities and latencies must have one row per site and one value per candidate")
    fastest = fastest_blocks(log_probabilities, latencies_ms, fixed_ms)
    measure = exact_ms or (lambda choices: _assignment(choices, log_probabilities, latencies_ms, fixed_ms).latency_ms)
    if measure(fastest.choices) > limit_ms:
        raise InfeasibleLimitError(limit_ms, measure(fastest.choices), "network of these block proposals")
    slack = abs(limit_ms) * 1e-9
    remaining = np.cumsum([0.0, *(row.min() for row in reversed(latencies_ms))])[::-1]
    latency, log_p = np.array([fixed_ms]), np.array([0.0])
    steps: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]] = []
    for site, (log_row, ms_row) in enumerate(zip(log_probabilities, latencies_ms, strict=True)):
        all_ms = (latency[:, None] + ms_row[None, :]).reshape(-1)
        all_p = (log_p[:, None] + log_row[None, :]).reshape(-1)
        reachable = np.flatnonzero(all_ms + remaining[site + 1] <= limit_ms + slack)
        order = reachable[np.lexsort((-all_p[reachable], all_ms[reachable]))]
        best_before = np.concatenate(([-np.inf], np.maximum.accumulate(all_p[order])[:-1]))
        kept = order[all_p[order] > best_before]
        steps.append(np.divmod(kept, len(ms_row)))
        latency, log_p = all_ms[kept], all_p[kept]
    # Latency and probability both rise along the front: the last one is the best, and all but the last few bits of the
    # limit have been seen to. Walk back until the exact latency meets it.
    for last in range(len(latency) - 1, -1, -1):
        choices, place = [], last
        for parents, numbers in reversed(steps):
            choices.append(int(numbers[place]))
            place = int(parents[place])
        chosen = tuple(reversed(choices))
        if measure(chosen) <= limit_ms:
            return Assignment(chosen, float(log_p[last]), measure(chosen))
    return Assignment(fastest.choices, fastest.log_probability, measure(fastest.choices))


def _assignment(
    choices: Sequence[int], log_probabilities: Sequence[Floats], latencies_ms: Sequence[Floats], fixed_ms: float
) -> Assignment:
    log_p = sum(float(row[i]) for row, i in zip(log_probabilities, choices, strict=True))
    latency = fixed_ms + sum(float(row[i]) for row, i in zip(latencies_ms, choices, strict=True))
    return Assignment(tuple(choices), log_p, latency)
