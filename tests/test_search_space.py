import random
from collections import Counter
from itertools import combinations_with_replacement

import numpy as np
import pytest

from bpnas.profiler import Block, BlockError, ComplexPath, SimplePath
from bpnas.search import BlockSpace, InfeasibleLimitError
from tests.search_helpers import FormulaTable

SMALL = "K1G1,K3G*,K3E1G1,K3E6G*,K5E12G8"


@pytest.fixture(scope="module")
def full():
    return BlockSpace(FormulaTable.tiny())


@pytest.fixture(scope="module")
def small():
    return BlockSpace(FormulaTable.tiny(SMALL))


def every_block(table):
    simple = [None, *(path for path in table.chosen if isinstance(path, SimplePath))]
    complex_ = [path for path in table.chosen if isinstance(path, ComplexPath)]
    pairs = [(), *((path,) for path in complex_), *combinations_with_replacement(complex_, 2)]
    return [Block(s, p) for s in simple for p in pairs if s or p]


def test_a_full_table_has_563600_distinct_blocks(full):
    assert full.size == len(full.latencies()) == 563_600
    assert full.feasible(float("inf")).size == 563_600


def test_enumeration_is_every_block_once_at_the_latency_of_the_table(small):
    blocks = [small.at(index) for index in range(small.size)]
    expected = every_block(small.table)
    assert len(set(blocks)) == len(blocks) == len(expected) and set(blocks) == set(expected)
    stacked = [small.table.network([block] * 4) for block in blocks]
    assert small.latencies() == pytest.approx(stacked, rel=1e-12)


def test_single_and_vectorised_latency_agree_to_the_last_bit(full):
    latencies, rng = full.latencies(), random.Random(0)
    for index in rng.sample(range(full.size), 2000):
        assert full.latency(full.code_of(full.at(index), rng)) == latencies[index]


@pytest.mark.parametrize("quantile", [0.0, 0.01, 0.3, 1.0])
def test_feasible_set_is_what_brute_force_finds(small, quantile):
    limit = float(np.quantile(small.latencies(), quantile))
    feasible = small.feasible(limit)
    expected = {b for b in every_block(small.table) if small.table.network([b] * 4) <= limit * (1 + 1e-12)}
    assert set(feasible.blocks()) == expected
    assert feasible.size == len(expected)
    rng = random.Random(1)
    assert all(small.block(feasible.sample(rng)) in expected for _ in range(200))


def test_an_empty_feasible_set_names_the_smallest_latency(small):
    feasible = small.feasible(0.001)
    assert feasible.size == 0
    assert feasible.smallest_ms == small.latencies().min()
    with pytest.raises(InfeasibleLimitError) as caught:
        feasible.sample(random.Random(0))
    assert caught.value.smallest_ms == feasible.smallest_ms
    assert small.feasible(feasible.smallest_ms).size >= 1


@pytest.mark.parametrize("rng", [random.Random(3), np.random.default_rng(3)], ids=["random.Random", "numpy"])
def test_samples_are_uniform_over_distinct_blocks(small, rng):
    feasible = small.feasible(float(np.quantile(small.latencies(), 0.1)))
    draws = 400 * feasible.size
    counts = Counter(small.block(feasible.sample(rng)) for _ in range(draws))
    chi2 = sum((counts[block] - 400) ** 2 / 400 for block in feasible.blocks())
    degrees = feasible.size - 1
    assert abs(chi2 - degrees) < 5 * (2 * degrees) ** 0.5


def test_random_and_samples_vary_silent_genes(full):
    rng = random.Random(0)
    codes = {full.code_of(Block.parse("K3G1"), rng) for _ in range(50)}
    assert len(codes) > 40 and {full.block(code) for code in codes} == {Block.parse("K3G1")}


@pytest.mark.parametrize("coding", ["binary", "gray"])
def test_mutation_in_a_full_table_flips_one_bit_and_reaches_every_bit(coding):
    space, rng = BlockSpace(FormulaTable.tiny(), coding=coding), random.Random(0)
    flipped = set()
    for _ in range(600):
        code = space.random(rng)
        child = space.mutate(code, rng)
        assert (code ^ child).bit_count() == 1 and child >> 20
        flipped.add((code ^ child).bit_length())
    assert flipped == set(range(1, 24))


@pytest.mark.parametrize("paths", [SMALL, "K1G1", "K3E1G1,K3E6G1", "K1G1,K3E16G8"])
def test_mutation_in_a_small_table_stays_in_it_and_reaches_all_of_it(paths):
    space, rng = BlockSpace(FormulaTable.tiny(paths)), random.Random(0)
    code = space.random(rng)
    reached = {space.block(code)}
    for _ in range(80_000):
        code = space.mutate(code, rng)
        reached.add(space.block(code))
    assert reached == set(every_block(space.table))


def test_a_code_without_paths_is_rejected(full):
    with pytest.raises(BlockError, match="000"):
        full.latency(0)
