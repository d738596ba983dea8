import random
from collections import Counter
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

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


@pytest.mark.parametrize("coding", ["binary", "gray"])
@pytest.mark.parametrize("paths", [SMALL, "K1G1", "K3E1G1,K3E6G1", "K1G1,K3E16G8"])
def test_the_canonical_number_is_the_inverse_of_at(paths, coding):
    space, rng = BlockSpace(FormulaTable.tiny(paths), coding=coding), random.Random(0)
    for index in range(space.size):
        assert {space.canonical(space.code_of(space.at(index), rng)) for _ in range(10)} == {index}
        assert {space.canonical(space.code_at(index, rng)) for _ in range(10)} == {index}
    assert space.blocks(np.arange(space.size)) == [space.at(index) for index in range(space.size)]


def test_latency_is_that_of_the_table_whatever_the_code(full):
    rng = random.Random(1)
    for _ in range(300):
        code = full.random(rng)
        assert full.latency(code) == pytest.approx(full.table.network([full.block(code)] * 4), rel=1e-12)
        assert full.latency(code) == full.latencies()[full.canonical(code)]


@pytest.mark.parametrize("code", [0, 1 << 19, 1 << 23, -1])
def test_latency_of_what_is_no_code(full, code):
    with pytest.raises(BlockError):
        full.latency(code)


def test_latencies_cannot_be_spoilt_by_who_reads_them(full):
    with pytest.raises(ValueError, match="read-only"):
        full.latencies()[0] = 0.0


PATHS = [str(path) for path in FormulaTable.tiny().chosen]


@settings(max_examples=40, deadline=None)
@given(
    paths=st.lists(st.sampled_from(PATHS), min_size=1, max_size=9, unique=True),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 99),
)
def test_a_band_is_exactly_what_lies_in_it(paths, ends, seed):
    space = BlockSpace(FormulaTable.tiny(",".join(paths)))
    stacked = {block: space.table.network([block] * 4) for block in every_block(space.table)}
    # Both ends are latencies of blocks: off the last bits of these, where two ways of adding may differ.
    low, high = np.quantile(list(stacked.values()), sorted(ends)) * [1 - 1e-9, 1 + 1e-9]
    feasible = space.feasible(high, at_least_ms=low)
    expected = {block for block, ms in stacked.items() if low <= ms <= high}
    found = feasible.blocks()
    assert len(found) == feasible.size == len(expected) and set(found) == expected
    assert feasible.smallest_ms == pytest.approx(min(stacked.values()), rel=1e-12)
    if expected:
        codes = feasible.sample_many(np.random.default_rng(seed), 50)
        assert codes.dtype == np.int32
        assert {space.block(int(code)) for code in codes} <= expected
        assert all(low <= space.latency(int(code)) <= high for code in codes)


def test_an_empty_band_names_what_lies_nearest_on_both_sides(small):
    latencies = np.unique(small.latencies())
    gap = int(np.argmax(np.diff(latencies)))
    low, high = latencies[gap] * (1 + 1e-4), latencies[gap + 1] * (1 - 1e-4)
    feasible = small.feasible(high, at_least_ms=low)
    assert feasible.size == 0
    with pytest.raises(
        InfeasibleLimitError, match=r"no block takes .* to .* ms: the nearest latencies are .* and .* ms"
    ):
        feasible.sample_many(np.random.default_rng(0), 3)
    with pytest.raises(InfeasibleLimitError) as caught:
        feasible.sample(random.Random(0))
    assert caught.value.nearest_ms == (latencies[gap], latencies[gap + 1])
    with pytest.raises(InfeasibleLimitError, match=r"nearest latencies are [0-9.]+ ms") as caught:
        small.feasible(2e9, at_least_ms=1e9).sample(random.Random(0))
    assert caught.value.nearest_ms == (latencies[-1], float("inf"))


def test_many_samples_are_uniform_over_distinct_blocks_and_over_their_codes(small):
    feasible = small.feasible(float(np.quantile(small.latencies(), 0.1)))
    codes = feasible.sample_many(np.random.default_rng(3), 400 * feasible.size)
    counts = Counter(small.block(code) for code in codes.tolist())
    assert len(counts) == feasible.size
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_all_codes_of_a_block_are_equally_likely(small):
    block = Block.parse("K3E1G1")
    number = next(number for number in range(small.size) if small.at(number) == block)
    many = small.codes(np.full(60_000, number), np.random.default_rng(4)).tolist()
    rng = random.Random(5)
    one_by_one = [small.code_at(number, rng) for _ in range(60_000)]
    genes = Counter(isinstance(path, SimplePath) for path in small.paths)
    for codes in (many, one_by_one):
        counts = Counter(codes)
        assert {small.block(code) for code in counts} == {block}
        assert len(counts) == 2 * genes[True] * genes[False]  # either place; silent genes of the simple and other place
        assert chisquare(list(counts.values())).pvalue > 1e-3
