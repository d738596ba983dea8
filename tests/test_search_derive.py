from itertools import product

import numpy as np
import pytest

from bpnas.android_bench.errors import UsageError
from bpnas.search import InfeasibleLimitError, argmax_blocks, most_probable_blocks
from bpnas.search.derive import log_softmax


def problem(seed, sites=5, ties=False):
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 5, sites)
    latencies = [rng.integers(0, 4, w).astype(float) if ties else rng.gamma(2.0, 1.0, w) for w in widths]
    return [log_softmax(rng.normal(0, 2, w)) for w in widths], latencies


def brute_force(log_p, latencies, limit, fixed):
    best = None
    for choices in product(*(range(len(row)) for row in latencies)):
        latency = fixed + sum(row[c] for row, c in zip(latencies, choices, strict=True))
        value = sum(row[c] for row, c in zip(log_p, choices, strict=True))
        if latency <= limit and (best is None or value > best):
            best = value
    return best


@pytest.mark.parametrize("seed", range(25))
def test_it_finds_what_enumeration_finds(seed):
    log_p, latencies = problem(seed, ties=seed % 3 == 0)
    low = 0.5 + sum(row.min() for row in latencies)
    high = 0.5 + sum(row.max() for row in latencies)
    for share in (0.0, 0.1, 0.4, 0.8, 1.0):
        limit = low + share * (high - low) + 1e-9
        found = most_probable_blocks(log_p, latencies, limit, 0.5)
        assert found.latency_ms <= limit
        assert found.log_probability == pytest.approx(brute_force(log_p, latencies, limit, 0.5), abs=1e-12)
        assert found.latency_ms == pytest.approx(
            0.5 + sum(row[c] for row, c in zip(latencies, found.choices, strict=True))
        )


def test_a_loose_limit_gives_the_papers_argmax():
    log_p, latencies = problem(3)
    assert most_probable_blocks(log_p, latencies, 1e9).choices == argmax_blocks(log_p, latencies).choices


def test_an_infeasible_limit_names_the_smallest_latency():
    log_p, latencies = problem(4)
    smallest = 2.0 + sum(float(row.min()) for row in latencies)
    with pytest.raises(InfeasibleLimitError) as caught:
        most_probable_blocks(log_p, latencies, smallest * 0.99, 2.0)
    assert caught.value.smallest_ms == pytest.approx(smallest)
    # Whatever the rounding, the named latency is one that can be had.
    assert most_probable_blocks(log_p, latencies, caught.value.smallest_ms, 2.0).latency_ms <= caught.value.smallest_ms


def test_the_exact_latency_decides_in_the_last_bit():
    log_p = [np.log([0.9, 0.1])]
    latencies = [np.array([1.0, 0.5])]
    found = most_probable_blocks(
        log_p, latencies, 1.0, exact_ms=lambda choices: (1.0000000000000002, 0.5)[choices[0]]
    )  # fmt: skip
    assert found.choices == (1,)


def test_22_sites_of_six_candidates():
    rng = np.random.default_rng(0)
    log_p = [log_softmax(rng.normal(0, 1, 6)) for _ in range(22)]
    latencies = [rng.gamma(2.0, 1.0, 6) for _ in range(22)]
    limit = sum(float(np.median(row)) for row in latencies)
    assert most_probable_blocks(log_p, latencies, limit).latency_ms <= limit


def test_rows_must_fit():
    with pytest.raises(UsageError):
        most_probable_blocks([np.zeros(2)], [np.zeros(3)], 1.0)
