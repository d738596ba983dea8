import random
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from bpnas.base.errors import UsageError
from bpnas.search import BlockSpace, InfeasibleLimitError, RunError, SearchError, StuckError, Trial, levonas
from bpnas.search.proposals.evolution import Evolution
from tests.search_helpers import FormulaTable

RNGS = {"random.Random": random.Random, "numpy": np.random.default_rng}


class Numbers:
    """Genotypes are 0..1023, the latency is the number itself; a step flips one of ten bits."""

    def random(self, rng):
        return int(rng.random() * 1024)

    def mutate(self, genotype, rng):
        return genotype ^ 1 << int(rng.random() * 10)

    def latency(self, genotype):
        return float(genotype)


class Only:
    """A space with `random()` as its sole source of chance would fail with anything else."""

    def __init__(self, seed):
        self._rng = random.Random(seed)

    def random(self):
        return self._rng.random()


@pytest.fixture(scope="module")
def blocks():
    return BlockSpace(FormulaTable.tiny())


BLOCKS = BlockSpace(FormulaTable.tiny())


def score(genotype):
    """Higher for more expensive blocks, so that the limit presses."""
    return BLOCKS.latency(genotype)


@pytest.mark.parametrize("make_rng", RNGS.values(), ids=RNGS)
@pytest.mark.parametrize("strategy", ["default", "paper"])
@pytest.mark.parametrize("space", [Numbers(), BLOCKS], ids=["generic", "blocks"])
def test_limit_count_and_order(space, strategy, make_rng):
    limit = 300.0 if isinstance(space, Numbers) else float(np.quantile(space.latencies(), 0.05))
    trials = list(
        levonas(space, space.latency, limit_ms=limit, population=20, sample=5, cycles=120, rng=make_rng(7),
                strategy=strategy)
    )  # fmt: skip
    assert [trial.index for trial in trials] == list(range(120))
    assert all(trial.latency_ms == space.latency(trial.genotype) <= limit for trial in trials)
    assert all(trial.score == trial.latency_ms for trial in trials)
    children = [trial for trial in trials if trial.parent is not None]
    assert len(children) >= 80
    for trial in children:
        # The population is a queue: a parent is one of the twenty before, and not worse than some of them: than those
        # that it beat in the tournament, less the two that the default strategy may prefer.
        assert trial.index - 20 <= trial.parent < trial.index
        window = sorted(other.score for other in trials[max(trial.index - 20, 0) : trial.index])
        assert trials[trial.parent].score >= window[4 if strategy == "paper" else min(2, len(window) - 1)]


def test_the_paper_fills_the_population_at_random_and_then_mutates_just_once():
    trials = list(
        levonas(Numbers(), float, limit_ms=700, population=20, sample=5, cycles=200, rng=random.Random(3),
                strategy="paper")
    )  # fmt: skip
    assert [trial.parent is None for trial in trials] == [True] * 20 + [False] * 180
    assert all((t.genotype ^ trials[t.parent].genotype).bit_count() == 1 for t in trials[20:])
    assert len({trial.genotype for trial in trials}) < 200  # it does not mind what was evaluated before


def test_the_paper_chooses_the_best_of_its_sample():
    """With a sample of the whole population there is no chance in it."""
    trials = list(
        levonas(Numbers(), float, limit_ms=700, population=10, sample=10, cycles=200, rng=random.Random(3),
                strategy="paper")
    )  # fmt: skip
    for trial in trials[10:]:
        assert trials[trial.parent].score == max(other.score for other in trials[trial.index - 10 : trial.index])


@pytest.mark.parametrize(("population", "sample", "at_random"), [(8, 2, 8), (5, 2, 5), (20, 2, 8), (100, 25, 13)])
def test_by_default_evolution_begins_after_a_few_random_trials(population, sample, at_random):
    trials = levonas(
        Numbers(),
        evaluate=float,
        limit_ms=2000,
        population=population,
        sample=sample,
        cycles=at_random + 30,
        rng=random.Random(3),
    )
    parents = [trial.parent for trial in trials]
    assert parents[:at_random] == [None] * at_random
    assert sum(parent is None for parent in parents[at_random:]) < 10


def test_it_climbs_to_the_limit():
    trials = list(levonas(Numbers(), float, limit_ms=700, population=20, sample=10, cycles=400, rng=random.Random(0)))
    assert max(trial.score for trial in trials) == 700


def test_only_random_is_asked_of_the_rng(blocks):
    limit = float(np.quantile(blocks.latencies(), 0.1))
    arguments = {"limit_ms": limit, "population": 5, "sample": 3, "cycles": 30}
    trials = list(levonas(blocks, score, rng=Only(1), **arguments))
    assert trials == list(levonas(blocks, score, rng=random.Random(1), **arguments))


@pytest.mark.parametrize("strategy", ["default", "paper"])
def test_an_infeasible_limit_is_refused_at_once_with_the_exact_smallest(blocks, strategy):
    with pytest.raises(InfeasibleLimitError, match="smallest feasible latency is") as caught:
        levonas(blocks, score, limit_ms=0.001, rng=random.Random(0), strategy=strategy)
    assert caught.value.smallest_ms == blocks.latencies().min()


def test_an_infeasible_limit_of_a_generic_space_is_refused_at_once():
    class Slow(Numbers):
        def latency(self, genotype):
            return genotype + 5.0

    with pytest.raises(InfeasibleLimitError, match="smallest latency seen is 5 ms"):
        levonas(Slow(), float, limit_ms=2, rng=random.Random(0))


def test_the_tightest_limit_still_runs_by_default(blocks):
    limit = float(blocks.latencies().min())
    trials = list(levonas(blocks, score, limit_ms=limit, population=4, sample=2, cycles=40, rng=random.Random(0)))
    assert {blocks.block(trial.genotype) for trial in trials} == set(blocks.feasible(limit).blocks())
    assert len(trials) == 40


def test_paper_strategy_is_bounded_where_no_single_mutation_fits():
    class Islands(Numbers):
        def latency(self, genotype):
            return 0.0 if genotype in (0b0000000011, 0b1100000000) else 9.0

    with pytest.raises(StuckError):
        list(levonas(Islands(), float, limit_ms=1, population=1, sample=1, cycles=3, rng=random.Random(0),
                     strategy="paper"))  # fmt: skip
    trials = list(levonas(Islands(), float, limit_ms=1, population=1, sample=1, cycles=9, rng=random.Random(0)))
    assert len(trials) == 9


@pytest.mark.parametrize("done", [0, 1, 7, 8, 25, 40])
def test_a_replayed_history_continues_the_same_trajectory(blocks, done):
    arguments = {"limit_ms": float(np.quantile(blocks.latencies(), 0.02)), "population": 8, "sample": 3, "cycles": 40}
    whole = list(levonas(blocks, score, rng=random.Random(5), **arguments))
    asked = []

    def counting(genotype):
        asked.append(genotype)
        return score(genotype)

    again = list(levonas(blocks, counting, rng=random.Random(5), history=whole[:done], **arguments))
    assert again == whole
    assert asked == [trial.genotype for trial in whole[done:]]


def test_a_history_of_another_search_is_refused(blocks):
    arguments = {"limit_ms": 1e9, "population": 4, "sample": 2, "cycles": 9}
    whole = list(levonas(blocks, score, rng=random.Random(5), **arguments))
    with pytest.raises(RunError, match="another seed"):
        list(levonas(blocks, score, rng=random.Random(6), history=whole, **arguments))
    wrong = [whole[0], replace(whole[1], genotype=whole[1].genotype ^ 1)]
    with pytest.raises(RunError, match="trial 1"):
        list(levonas(blocks, score, rng=random.Random(5), history=wrong, **arguments))


def test_trials_are_evaluated_when_asked_for(blocks):
    asked = []

    def counting(genotype):
        asked.append(genotype)
        return 0.0

    trials = levonas(blocks, counting, limit_ms=1e9, population=4, sample=2, cycles=1000, rng=random.Random(0))
    assert not asked
    assert len(list(islice(trials, 6))) == len(asked) == 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"population": 0},
        {"sample": 0},
        {"sample": 101},
        {"cycles": 0},
        {"strategy": "best"},
        {"limit_ms": float("nan")},
        {"at_least_ms": float("nan")},
        {"at_least_ms": 2e9},
    ],
)
def test_arguments_out_of_range(blocks, wrong):
    with pytest.raises(UsageError):
        levonas(blocks, score, **{"limit_ms": 1e9, "rng": random.Random(0), **wrong})


def test_a_score_that_is_no_number_is_refused(blocks):
    with pytest.raises(SearchError, match="not a number"):
        list(levonas(blocks, lambda genotype: float("nan"), limit_ms=1e9, rng=random.Random(0)))


def test_a_trial_is_a_value():
    assert Trial(0, 5, 1.0, 0.5) == Trial(0, 5, 1.0, 0.5)


class Needle(Numbers):
    """Random draws practically never hit what is feasible; latency leads there."""

    def random(self, rng):
        return int(rng.random() * 2**40)

    def mutate(self, genotype, rng):
        return genotype ^ 1 << int(rng.random() * 40)


def test_feasible_genotypes_are_found_where_random_draws_never_hit_one():
    trials = list(levonas(Needle(), float, limit_ms=7, population=20, sample=5, cycles=30, rng=random.Random(0)))
    assert {trial.genotype for trial in trials} == set(range(8))
    assert len({trial.genotype for trial in trials[:8]}) == 8
    with pytest.raises(StuckError, match="though something exists"):
        levonas(Needle(), float, limit_ms=7, rng=random.Random(0), strategy="paper")


def test_where_nothing_is_found_the_smallest_latency_seen_is_named():
    class Slow(Needle):
        def latency(self, genotype):
            return genotype + 5.0

    for strategy in ("default", "paper"):
        with pytest.raises(InfeasibleLimitError, match=r"no genotype meets .* the smallest latency seen is 5 ms"):
            levonas(Slow(), float, limit_ms=2, rng=random.Random(0), strategy=strategy)


@pytest.mark.parametrize("strategy", ["default", "paper"])
@pytest.mark.parametrize("space", [Numbers(), BLOCKS], ids=["generic", "blocks"])
def test_a_band_is_respected(space, strategy):
    low, high = (300.0, 420.0) if isinstance(space, Numbers) else np.quantile(space.latencies(), [0.4, 0.5])
    arguments = {"population": 20, "sample": 5, "cycles": 150, "rng": random.Random(2), "strategy": strategy}
    trials = list(levonas(space, space.latency, limit_ms=high, at_least_ms=low, **arguments))
    assert len(trials) == 150
    assert all(low <= trial.latency_ms == space.latency(trial.genotype) <= high for trial in trials)


def test_an_empty_band_names_what_lies_nearest():
    class Even(Numbers):
        def latency(self, genotype):
            return float(genotype & ~1)

    with pytest.raises(InfeasibleLimitError, match=r"takes 6\.5 to 7\.5 ms: the nearest latencies seen are 6 and 8 ms"):
        levonas(Even(), float, limit_ms=7.5, at_least_ms=6.5, rng=random.Random(0))
    with pytest.raises(InfeasibleLimitError, match=r"the nearest latencies are [0-9.]+ ms"):
        levonas(BLOCKS, score, limit_ms=1e9, at_least_ms=1e8, rng=random.Random(0))


@pytest.mark.parametrize("limit", [15, 99, 400, float("inf")])
def test_nothing_is_evaluated_twice_while_there_is_something_new(limit):
    space, cycles = Numbers(), 300
    trials = list(levonas(space, float, limit_ms=limit, cycles=cycles, rng=random.Random(1)))
    assert len(trials) == cycles
    feasible = min(int(min(limit, 1023)) + 1, cycles)
    assert len({trial.genotype for trial in trials[:feasible]}) == feasible


@pytest.mark.parametrize("size", [1, 40, 250, 2000])
def test_no_block_is_evaluated_twice_while_there_is_a_new_one(blocks, size):
    limit = float(np.sort(blocks.latencies())[size - 1])
    trials = list(levonas(blocks, score, limit_ms=limit, cycles=300, rng=random.Random(1)))
    first = min(blocks.feasible(limit).size, 300)
    assert len({blocks.block(trial.genotype) for trial in trials[:first]}) == first
    assert len(trials) == 300


def test_the_search_for_something_new_is_bounded_where_nothing_is_left():
    class Counting(Numbers):
        calls = 0

        def latency(self, genotype):
            self.calls += 1
            return super().latency(genotype)

    space = Counting()
    assert len(list(levonas(space, float, limit_ms=2, cycles=1000, rng=random.Random(0)))) == 1000
    assert space.calls < 1_000_000


MAKERS = {
    "list": lambda number: [number >> 5, number & 31],
    "array": lambda number: np.array([number >> 5, number & 31]),
    "text": str,
    "nested": lambda number: {"a": [number >> 5, np.array(number & 31)]},
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_genotypes_may_be_anything(make):
    """They need not be hashable, nor comparable to one truth value."""
    as_number = {str(make(number)): number for number in range(1024)}

    class Wrapped(Numbers):
        def random(self, rng):
            return make(super().random(rng))

        def mutate(self, genotype, rng):
            return make(super().mutate(as_number[str(genotype)], rng))

        def latency(self, genotype):
            return float(as_number[str(genotype)])

    space = Wrapped()
    arguments = {"limit_ms": 200, "population": 10, "sample": 5, "cycles": 60}
    trials = list(levonas(space, space.latency, rng=random.Random(4), **arguments))
    assert [as_number[str(trial.genotype)] for trial in trials] == [
        trial.genotype for trial in levonas(Numbers(), float, rng=random.Random(4), **arguments)
    ]
    replayed = list(levonas(space, space.latency, rng=random.Random(4), history=trials[:30], **arguments))
    assert [str(trial) for trial in replayed] == [str(trial) for trial in trials]


@pytest.mark.parametrize("space", [Numbers(), BLOCKS], ids=["generic", "blocks"])
def test_asks_ahead_of_tells_are_feasible_new_and_repeatable(space):
    limit = 300.0 if isinstance(space, Numbers) else float(np.quantile(space.latencies(), 0.01))

    def search(seed):
        evolution = Evolution(
            space, limit_ms=limit, population=20, sample=5, cycles=100, rng=random.Random(seed), strategy="default"
        )
        order, waiting, trials = random.Random(9), [], []
        while len(trials) < 100:
            while len(waiting) < 4 and evolution.asked < 100:
                waiting.append(evolution.ask())
            candidate = waiting.pop(order.randrange(len(waiting)))
            trials.append(evolution.tell(candidate.index, space.latency(candidate.genotype)))
        return trials

    trials = search(1)
    assert trials == search(1) != search(2)
    assert len({trial.genotype for trial in trials}) == 100
    assert all(trial.latency_ms <= limit for trial in trials)
    assert sum(trial.parent is not None for trial in trials) > 70


def test_a_search_of_more_cycles_starts_as_the_shorter_one():
    arguments = {"limit_ms": 300, "population": 20, "sample": 10}
    short = list(levonas(Numbers(), float, cycles=40, rng=random.Random(5), **arguments))
    assert list(levonas(Numbers(), float, cycles=90, rng=random.Random(5), history=short, **arguments))[:40] == short


def test_a_lucky_score_is_forgotten():
    """The population ages: a parent is never older than `population` trials, however good it seemed."""
    rng = random.Random(0)
    trials = list(
        levonas(Numbers(), lambda genotype: 1e9 if rng.random() < 0.01 else genotype, limit_ms=900, population=15,
                sample=15, cycles=400, rng=random.Random(1))
    )  # fmt: skip
    assert all(trial.parent is None or trial.index - trial.parent <= 15 for trial in trials)
