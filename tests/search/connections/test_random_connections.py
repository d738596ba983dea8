"""Random connections near a limit, held against counting them all."""

import random
from collections import Counter
from itertools import product

import numpy as np
import pytest

from bpnas.search.connections.random_connections import RandomConnections
from bpnas.search.errors import InfeasibleLimitError

ROWS = [np.array(row) for row in ([0.3, 0.7, 1.1], [0.2, 0.0], [0.5, 0.9, 0.4, 0.0], [0.31, 0.62])]


def within(low, high, fixed=0.25):
    return {
        choices
        for choices in product(*(range(len(row)) for row in ROWS))
        if low <= fixed + sum(float(row[i]) for row, i in zip(ROWS, choices, strict=True)) <= high
    }


@pytest.mark.parametrize(("low", "high"), [(1.5, 2.0), (0.0, 1.2), (2.4, 9.0), (1.86, 1.87)])
def test_all_in_the_window_are_equally_likely_and_nothing_else_is_drawn(low, high):
    expected = within(low, high)
    drawn = RandomConnections(ROWS, high, low, 0.25)
    rng, draws = random.Random(1), 400 * len(expected)
    counts = Counter(drawn.sample(rng) for _ in range(draws))
    assert set(counts) == expected
    assert all(abs(count - 400) < 5 * 400**0.5 for count in counts.values())


def test_draws_follow_the_generator_alone():
    drawn = RandomConnections(ROWS, 2.0, 1.5, 0.25)
    first, second = random.Random(3), random.Random(3)
    assert [drawn.sample(first) for _ in range(5)] == [drawn.sample(second) for _ in range(5)]


def test_the_exact_latency_decides_at_the_limit():
    refused = next(iter(within(1.5, 2.0)))
    drawn = RandomConnections(ROWS, 2.0, 1.5, 0.25, lambda choices: 2.1 if choices == refused else 1.8)
    rng = random.Random(0)
    assert refused not in {drawn.sample(rng) for _ in range(2000)}


def test_many_sites_are_no_trouble():
    rng = np.random.default_rng(0)
    rows = [rng.uniform(0.5, 3, 6) for _ in range(22)]
    drawn = RandomConnections(rows, 30.0, 27.0)
    for _ in range(50):
        choices = drawn.sample(random.Random(5))
        assert 27 <= sum(float(row[i]) for row, i in zip(rows, choices, strict=True)) <= 30


def test_an_empty_window_says_what_there_is():
    with pytest.raises(InfeasibleLimitError, match=r"the smallest feasible latency is 0\.86 ms"):
        RandomConnections(ROWS, 0.8, 0.7, 0.25)
    with pytest.raises(InfeasibleLimitError, match=r"no network of these block proposals takes 9 to 10 ms"):
        RandomConnections(ROWS, 10.0, 9.0, 0.25)
