"""What exact feasible sets and the search's own work cost, on the shipped mock table with all 563,600 blocks.

    python benchmarks/feasible_sets.py

Goals: the feasible set of one limit at most 100 ms, 1,000,000 uniform samples at most 1 s, and at most 200 us for each
cycle of `levonas` (P = 100, S = 25, default strategy) outside the evaluation. Medians and ranges.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from time import perf_counter

import numpy as np

from bpnas.search import BlockSpace, levonas
from bpnas.search.proposals.known_optima import BlockProblem
from bpnas.tables import LatencyTable

CYCLES = 1000
QUANTILES = (0.0, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0)


def main() -> None:
    table = LatencyTable.mock_s9()
    spaces = [BlockSpace(table, input_size=32) for _ in range(10)]
    limit = float(np.quantile(BlockSpace(table, input_size=32).latencies(), 0.3))
    show("feasible set of a space's first limit", "ms", [timed(lambda s=s: s.feasible(limit)) * 1e3 for s in spaces])
    space = spaces[0]
    show("feasible set of a further limit", "ms", [timed(lambda: space.feasible(limit)) * 1e3 for _ in range(10)])
    feasible, rng = space.feasible(limit), np.random.default_rng(0)
    show(
        "1,000,000 uniform samples", "ms", [timed(lambda: feasible.sample_many(rng, 1_000_000)) * 1e3 for _ in range(5)]
    )
    codes = feasible.sample_many(rng, 100_000).tolist()
    show("latency of one code", "us", [timed(lambda: list(map(space.latency, codes))) * 10 for _ in range(5)])
    chance = random.Random(0)
    show("one mutation", "us", [timed(lambda: [space.mutate(code, chance) for code in codes]) * 10 for _ in range(5)])

    problem = BlockProblem(space, 0)
    for quantile in QUANTILES:
        limit = float(np.quantile(space.latencies(), quantile))
        size = space.feasible(limit).size
        for strategy in ("default", "paper") if size > 5000 else ("default",):
            figures = [overhead_us(problem, limit, seed, strategy) for seed in range(7)]
            show(f"levonas, {strategy}, {size:,} blocks feasible: one cycle", "us", figures)


def overhead_us(problem: BlockProblem, limit_ms: float, seed: int, strategy: str) -> float:
    """Time of one cycle of a search, less that of the evaluations."""
    evaluating = 0.0

    def evaluate(code: int) -> float:
        nonlocal evaluating
        start = perf_counter()
        score = problem.score(code)
        evaluating += perf_counter() - start
        return score

    def search() -> None:
        rng = random.Random(seed)
        for _ in levonas(problem.space, evaluate, limit_ms=limit_ms, cycles=CYCLES, rng=rng, strategy=strategy):
            pass

    return (timed(search) - evaluating) / CYCLES * 1e6


def timed(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def show(what: str, unit: str, figures: list[float]) -> None:
    low, high = min(figures), max(figures)
    print(f"{what:58s} {statistics.median(figures):9.1f} {unit}, {low:.1f} to {high:.1f} {unit}", flush=True)


if __name__ == "__main__":
    main()
