"""Intervals and paired tests, against scipy, enumeration by hand and worked examples."""

import itertools
import statistics

import pytest
from scipy import stats

from bpnas.search.studies.statistics import (
    compare_pairs,
    holm,
    mean_interval,
    rank_correlation,
    sign_flip_p,
    smallest_p,
)

VALUES = [0.61, 0.64, 0.58, 0.66, 0.60, 0.63]


def test_the_t_interval_is_scipys():
    found = mean_interval(VALUES)
    low, high = stats.t.interval(0.95, len(VALUES) - 1, statistics.mean(VALUES), stats.sem(VALUES))
    assert (found.mean, found.low, found.high) == pytest.approx((statistics.mean(VALUES), low, high))
    assert found.count == 6


def test_one_value_has_no_interval_and_equal_ones_a_narrow_one():
    alone = mean_interval([0.5])
    assert (alone.mean, alone.low, alone.high) == (0.5, None, None)
    equal = mean_interval([0.5] * 4)
    assert equal.low == equal.mean == equal.high == 0.5


@pytest.mark.parametrize(
    "differences",
    [[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, -2.0, 3.0], [0.1, 0.1, 0.1, -0.1], [0.0, 2.0, -1.0, 4.0], [-0.3, -0.1]],
)
def test_the_sign_flip_test_counts_all_signs(differences):
    observed = abs(sum(differences))
    flipped = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    assert sign_flip_p(differences) == pytest.approx(sum(total > observed - 1e-9 for total in flipped) / len(flipped))


def test_few_pairs_cannot_give_a_small_p():
    for pairs in range(2, 9):
        assert sign_flip_p([float(n + 1) for n in range(pairs)]) == smallest_p(pairs)
    assert smallest_p(5) == 0.0625
    assert smallest_p(1) == sign_flip_p([3.0]) == 1.0
    assert sign_flip_p([0.0] * 5) == 1.0


def test_many_pairs_are_drawn_from_and_give_the_same_p_each_time():
    differences = [(-1.0) ** n * n for n in range(20)]
    assert sign_flip_p(differences) == sign_flip_p(differences)
    assert sign_flip_p([1.0] * 20) < 1e-3
    assert sign_flip_p(differences) > 0.5


def test_holm_as_in_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]


def test_comparisons_of_a_family_are_adjusted_for_each_other():
    surely, hardly = compare_pairs([[1.0] * 8, [1.0, -1.0] * 4])
    assert surely.p == 2**-7 and surely.p_adjusted == 2**-6
    assert hardly.p_adjusted == 1.0
    assert surely.difference.mean == 1.0 and hardly.difference.mean == 0.0


def test_rank_correlation():
    assert rank_correlation([1.0, 2.0, 3.0], [10.0, 20.0, 90.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert rank_correlation([1.0, 1.0], [1.0, 2.0]) is None
