from itertools import product

import numpy as np
import pytest

from bpnas.base.errors import UsageError
from bpnas.search import InfeasibleLimitError, argmax_blocks, k_most_probable_blocks, most_probable_blocks
from bpnas.search.connections.derive import log_softmax


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


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("k", [2, 5, 1000])
def test_the_k_most_probable_are_those_of_an_enumeration(seed, k):
    log_p, latencies = problem(seed, ties=seed % 3 == 0)
    if seed % 6 == 0:  # ties in both
        log_p = [np.round(row) for row in log_p]
    everything = list(product(*(range(len(row)) for row in latencies)))
    ms = [0.5 + sum(row[c] for row, c in zip(latencies, choices, strict=True)) for choices in everything]
    values = [sum(row[c] for row, c in zip(log_p, choices, strict=True)) for choices in everything]
    for share in (0.0, 0.1, 0.4, 0.8, 1.0):
        limit = min(ms) + share * (max(ms) - min(ms)) + 1e-9
        expected = sorted((value for value, latency in zip(values, ms, strict=True) if latency <= limit), reverse=True)
        found = k_most_probable_blocks(log_p, latencies, limit, k, 0.5)
        assert [one.log_probability for one in found] == pytest.approx(expected[:k], abs=1e-12)
        assert len({one.choices for one in found}) == len(found)
        assert all(one.latency_ms <= limit for one in found)
        for one in found:
            place = everything.index(one.choices)
            assert (one.log_probability, one.latency_ms) == pytest.approx((values[place], ms[place]), abs=1e-12)
        assert found[0] == most_probable_blocks(log_p, latencies, limit, 0.5)


def test_equally_probable_ones_come_fastest_first():
    found = k_most_probable_blocks([np.zeros(4)], [np.array([3.0, 1.0, 2.0, 9.0])], 5.0, 4)
    assert [one.latency_ms for one in found] == [1.0, 2.0, 3.0]


def test_no_assignment_is_none():
    with pytest.raises(UsageError, match="at least 1"):
        k_most_probable_blocks([np.zeros(2)], [np.zeros(2)], 1.0, 0)


@pytest.mark.parametrize("same_latencies", [True, False])
def test_where_all_are_equally_probable_not_all_are_looked_at(same_latencies):
    log_p = [log_softmax(np.zeros(6))] * 22  # 6^22 assignments whose sums round alike or not
    latencies = [np.full(6, 0.1) if same_latencies else 0.1 * np.arange(1.0, 7.0)] * 22
    found = k_most_probable_blocks(log_p, latencies, 6.7, 50, 0.3)
    assert len({one.choices for one in found}) == 50
    assert all(one.log_probability == pytest.approx(-22 * np.log(6)) and one.latency_ms <= 6.7 for one in found)


def test_very_many_in_the_last_bits_above_the_limit_are_not_all_refused_one_by_one():
    log_p = [log_softmax(np.zeros(3))] * 22
    latencies = [np.array([0.1, 0.2, 0.3])] * 22

    def exact_ms(choices):  # what sums to the limit is above it by a bit, 5 * 10^9 assignments
        return 0.1 * sum(choices) + 2.2 + 1e-12

    found = most_probable_blocks(log_p, latencies, 4.4, exact_ms=exact_ms)
    assert exact_ms(found.choices) == found.latency_ms <= 4.4
