import random
from statistics import fmean

import numpy as np
import pytest

from bpnas.search import BlockSpace, levonas
from bpnas.search.proposals.known_optima import BlockProblem, cell_problem, fragmented_problem, rugged_problem
from tests.search_helpers import FormulaTable

SPACE = BlockSpace(FormulaTable.tiny("K1G*,K3G*,K3E*G1,K5E*G2"))
MAKERS = {
    "cell": cell_problem,
    "rugged": rugged_problem,
    "fragmented": fragmented_problem,
    "block": lambda seed: BlockProblem(SPACE, seed),
}


def limit_of(problem, count):
    return float(np.sort(problem.latencies_ms)[count - 1])


@pytest.mark.parametrize("name", MAKERS)
def test_a_problem_is_its_tables(name):
    problem, rng = MAKERS[name](0), random.Random(0)
    assert problem.name == name
    genotype = problem.random(rng)
    found = {}
    for _ in range(3000):
        genotype = problem.mutate(genotype, rng)
        found[problem.latency(genotype)] = problem.score(genotype)
    assert set(found) <= set(problem.latencies_ms.tolist())
    assert set(found.values()) <= set(problem.scores.tolist())
    limit = limit_of(problem, 500)
    best = max(score for ms, score in zip(problem.latencies_ms, problem.scores, strict=True) if ms <= limit)
    assert problem.optimum(limit) == best < problem.optimum(float("inf")) == problem.scores.max()


@pytest.mark.parametrize("name", MAKERS)
def test_problems_follow_from_their_seeds(name):
    one, same, other = (MAKERS[name](seed) for seed in (1, 1, 2))
    assert np.array_equal(one.scores, same.scores) and not np.array_equal(one.scores, other.scores)
    assert np.array_equal(one.latencies_ms, same.latencies_ms)


@pytest.mark.parametrize("make", [cell_problem, rugged_problem, fragmented_problem])
def test_one_gene_changes_in_a_mutation(make):
    problem, rng = make(0), random.Random(0)
    for _ in range(500):
        parent = problem.random(rng)
        child = problem.mutate(parent, rng)
        assert sum(a != b for a, b in zip(parent, child, strict=True)) == 1
        assert all(0 <= option < count for option, count in zip(child, problem.options, strict=True))


def test_no_single_mutation_leads_from_one_fast_genotype_of_the_fragmented_problem_to_another():
    problem, rng = fragmented_problem(3), random.Random(0)
    limit = limit_of(problem, 256)
    fast = [trial.genotype for trial in levonas(problem, problem.score, limit_ms=limit, cycles=20, rng=rng)]
    assert not any(problem.latency(problem.mutate(genotype, rng)) <= limit for genotype in fast for _ in range(200))


def regret(problem, limit, strategy, seed, cycles, noise=0.0):
    rng, luck = random.Random(seed), random.Random(seed)
    if strategy == "random":
        feasible = problem.scores[problem.latencies_ms <= limit]
        told = [
            (s + noise * luck.gauss(0, 1), s) for s in (feasible[rng.randrange(len(feasible))] for _ in range(cycles))
        ]
        return problem.optimum(limit) - max(told)[1]
    trials = levonas(
        problem,
        lambda genotype: problem.score(genotype) + noise * luck.gauss(0, 1),
        limit_ms=limit, cycles=cycles, rng=rng, strategy=strategy,
    )  # fmt: skip
    best = max(trials, key=lambda trial: trial.score)
    return problem.optimum(limit) - problem.score(best.genotype)


@pytest.mark.parametrize(("noise", "counts"), [(0.0, (20, 1000, None)), (0.1, (1000, None))], ids=["exact", "noisy"])
@pytest.mark.parametrize("name", MAKERS)
def test_the_default_beats_random_search_at_every_limit(name, noise, counts):
    problems = [MAKERS[name](seed) for seed in range(300, 312)]
    for count in (count or len(problems[0].scores) for count in counts):
        mean = {
            strategy: fmean(
                regret(p, limit_of(p, count), strategy, seed, 60, noise * float(p.scores.std()))
                for seed, p in enumerate(problems)
            )
            for strategy in ("random", "default")
        }
        assert mean["default"] < mean["random"] or mean["default"] == 0, count
