import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpnas.base.errors import UsageError
from bpnas.profiler import Block
from bpnas.search import levonas
from bpnas.search.errors import SearchError
from bpnas.search.execution.executor import LocalExecutor
from bpnas.search.proposals.evolution import Evolution
from bpnas.search.proposals.schedules import evaluate_trials
from bpnas.search.proposals.space import BlockSpace
from tests.search_helpers import FormulaTable
from tests.stubs.stub_evaluator import Evaluated, score_of

SPACE = BlockSpace(FormulaTable.tiny("K1G1,K3G1,K3G4,K3E1G1,K3E3G2,K5E2G1"))
SETTINGS = {"limit_ms": 0.8, "population": 5, "sample": 3, "cycles": 40, "strategy": "default"}


class Shuffled:
    """An executor that finishes what is under way in an order drawn by `rng`, and remembers what it was asked for."""

    def __init__(self, rng=None, workers=1):
        self.workers, self.rng = workers, rng or random.Random(0)
        self.under_way, self.submitted, self.most = {}, [], 0

    def submit(self, number, block, **options):
        self.under_way[number] = block
        self.submitted.append((block, options))
        self.most = max(self.most, len(self.under_way))

    def next(self):
        number = self.rng.choice(sorted(self.under_way))
        return number, Evaluated(score_of(self.under_way.pop(number)))


def evolution(seed=0, **changes):
    return Evolution(SPACE, rng=random.Random(seed), **{**SETTINGS, **changes})


def trials(executor, window, **arguments):
    return list(evaluate_trials(evolution(), executor, SPACE.block, window=window, **arguments))


def sequential(seed=0):
    return list(levonas(SPACE, lambda code: score_of(SPACE.block(code)), rng=random.Random(seed), **SETTINGS))


def test_a_window_of_one_is_the_sequential_algorithm():
    assert trials(Shuffled(), 1) == sequential()
    assert trials(LocalExecutor(lambda: lambda block: Evaluated(score_of(block))), 1) == sequential()


@given(window=st.integers(1, 12), first=st.randoms(), second=st.randoms())
def test_the_order_of_completion_does_not_matter(window, first, second):
    one = trials(Shuffled(first), window)
    assert one == trials(Shuffled(second), window)
    assert [trial.index for trial in one] == list(range(SETTINGS["cycles"]))


def test_the_window_matters():
    assert trials(Shuffled(), 4) != trials(Shuffled(), 1)


@pytest.mark.parametrize("asynchronous", [False, True])
@given(window=st.integers(1, 12), rng=st.randoms())
def test_no_block_is_trained_twice_and_the_window_is_kept(asynchronous, window, rng):
    executor = Shuffled(rng)
    found = trials(executor, window, asynchronous=asynchronous)
    assert len(found) == SETTINGS["cycles"] == len({trial.index for trial in found})
    assert max(Counter(block for block, _ in executor.submitted).values()) == 1
    assert {block for block, _ in executor.submitted} == {SPACE.block(trial.genotype) for trial in found}
    assert executor.most <= window
    assert all(trial.score == score_of(SPACE.block(trial.genotype)) for trial in found)


def test_a_candidate_is_proposed_as_soon_as_the_window_allows():
    executor = Shuffled()
    running = evaluate_trials(evolution(), executor, SPACE.block, window=4)
    next(running)
    assert executor.most == len({block for block, _ in executor.submitted}) == 4


def test_a_duplicate_waits_for_the_evaluation_that_is_under_way():
    lone = BlockSpace(FormulaTable.tiny("K1G1"))
    executor, kept = Shuffled(), []
    search = Evolution(lone, rng=random.Random(0), **{**SETTINGS, "cycles": 9})
    found = list(
        evaluate_trials(search, executor, lone.block, window=4, on_evaluation=lambda block, e: kept.append((block, e)))
    )
    assert [trial.score for trial in found] == [score_of(Block.parse("K1G1"))] * 9
    assert kept == [(Block.parse("K1G1"), Evaluated(found[0].score))]
    assert len(executor.submitted) == 1


@given(stop=st.integers(0, 39), window=st.integers(1, 8), first=st.randoms(), second=st.randoms())
def test_an_ordered_search_that_stopped_goes_on_as_if_it_had_not(stop, window, first, second):
    whole = trials(Shuffled(), window)
    known, executor = {}, Shuffled(first)
    running = evaluate_trials(evolution(), executor, SPACE.block, window=window, known=known)
    for _ in range(stop):
        next(running)
    before = set(known)
    later = Shuffled(second)
    assert trials(later, window, known=known) == whole
    assert before.isdisjoint(block for block, _ in later.submitted)


@given(stop=st.integers(1, 39), window=st.integers(1, 8), rng=st.randoms())
def test_an_asynchronous_search_that_stopped_keeps_its_trials(stop, window, rng):
    known, executor = {}, Shuffled(rng)
    running = evaluate_trials(evolution(), executor, SPACE.block, window=window, asynchronous=True, known=known)
    before = [next(running) for _ in range(stop)]
    again = evolution(seed=1)
    again.restore(before)
    after = list(evaluate_trials(again, Shuffled(rng), SPACE.block, window=window, asynchronous=True, known=known))
    assert len(before + after) == SETTINGS["cycles"]
    indices = [trial.index for trial in before + after]
    assert len(set(indices)) == len(indices)
    assert all(trial.parent is None or trial.parent in indices for trial in after)


def test_a_restored_population_has_children():
    before = sequential()[:8]
    again = evolution(seed=1, strategy="paper")
    again.restore(before)
    candidate = again.ask()
    assert candidate.index == 8 and candidate.parent in [trial.index for trial in before[-5:]]


def test_what_was_evaluated_before_a_restoration_is_not_proposed_again():
    before = sequential()[:8]
    again = evolution(seed=1)
    again.restore(before)
    blocks = {SPACE.block(trial.genotype) for trial in before}
    assert blocks.isdisjoint(SPACE.block(again.ask().genotype) for _ in range(6))


def test_options_may_depend_on_the_trials_told():
    search, executor = evolution(), Shuffled()
    list(evaluate_trials(search, executor, SPACE.block, window=3, options=lambda block: {"told": search.told}))
    assert [options["told"] for _, options in executor.submitted[:3]] == [0, 0, 0]
    assert executor.submitted[3][1]["told"] == 1


def test_what_cannot_be_driven():
    with pytest.raises(UsageError, match="window of 0"):
        trials(Shuffled(), 0)
    nan = LocalExecutor(lambda: lambda block: Evaluated(float("nan")))
    with pytest.raises(SearchError, match="not a number"):
        trials(nan, 1)
