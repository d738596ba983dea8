"""Random search, the paper's strategy and the default one on problems whose optimum is known.

    python benchmarks/strategies.py [--seeds N] [--noise SD] [--out FOLDER] [--jobs N]

Every run is a problem of its own seed; the three strategies meet the same problems. P = 100 and S = 25. Limits go from
the tightest to none; budgets are numbers of evaluations. Printed: mean regret (best score there is under the limit
less the true score of the best trial), in standard deviations of the problem's scores, with its 95 % confidence
interval, and p of a paired one-sided Wilcoxon test that the default is better. FOLDER gets strategies.csv and
strategies.png. Random search draws feasible genotypes uniformly, with replacement, as rejection would, only faster.
Where the paper's strategy is stuck for good, the rest of its trials are random ones. The default strategy was tuned on
problems of seeds below 100; none of these is among those of the table.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import wilcoxon

from bpnas.base.randomness import below
from bpnas.search import BlockSpace, StuckError, levonas
from bpnas.search.proposals.known_optima import BlockProblem, cell_problem, fragmented_problem, rugged_problem
from bpnas.tables import LatencyTable

FIRST_SEED = 1000
STRATEGIES = ("random", "paper", "default")
PROBLEMS = ("cell", "rugged", "fragmented", "block")
FEASIBLE = (1, 10, 100, 1000, 0.1, 0.5, math.inf)
"""How many genotypes a limit admits, or which share of them; the last is no limit."""

BUDGETS = (50, 100, 200, 300, 500)

Floats = npt.NDArray[np.float64]


@cache
def space() -> BlockSpace:
    return BlockSpace(LatencyTable.mock_s9(), input_size=32)


def make(kind: str, seed: int) -> Any:
    if kind == "block":
        return BlockProblem(space(), seed)
    return {"cell": cell_problem, "rugged": rugged_problem, "fragmented": fragmented_problem}[kind](seed)


def regrets(task: tuple[str, int, float]) -> Floats:
    """Shape (limits, strategies, trials)."""
    kind, seed, noise = task
    problem = make(kind, seed)
    unit, order = float(problem.scores.std()), np.sort(problem.latencies_ms)
    curves = []
    for feasible in FEASIBLE:
        count = int(min(feasible if feasible >= 1 else feasible * len(order), len(order)))
        limit = math.inf if feasible == math.inf else float(order[count - 1])
        best = [best_so_far(problem, limit, strategy, seed, noise * unit) for strategy in STRATEGIES]
        curves.append((problem.optimum(limit) - np.array(best)) / unit)
    return np.array(curves)


def best_so_far(problem: Any, limit_ms: float, strategy: str, seed: int, noise: float) -> Floats:
    """True score of the trial of the best observed score, after each trial."""
    luck, rng = np.random.default_rng((seed, 5)), random.Random(seed)
    true: list[float] = []
    observed: list[float] = []

    def learn(score: float) -> float:
        true.append(score)
        observed.append(score + noise * luck.standard_normal())
        return observed[-1]

    if strategy != "random":
        trials = max(BUDGETS)
        with suppress(StuckError):
            for _ in levonas(
                problem, lambda g: learn(problem.score(g)), limit_ms=limit_ms, cycles=trials, rng=rng, strategy=strategy
            ):
                pass
    feasible = problem.scores[problem.latencies_ms <= limit_ms]
    while len(true) < max(BUDGETS):
        learn(float(feasible[below(rng, len(feasible))]))
    best = np.maximum.accumulate(observed)
    # The first trial that had the best observed score of its time.
    rises = np.concatenate(([True], best[1:] > best[:-1]))
    return np.array(true)[np.maximum.accumulate(np.where(rises, np.arange(len(best)), 0))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument(
        "--noise", type=float, default=0.0, help="of what is told, in standard deviations of the scores"
    )
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--out", type=Path, default=Path("build/strategies"))
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    tasks = [(kind, seed, arguments.noise) for kind, seed in product(arguments.problems, seeds)]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        found = np.array(list(pool.map(regrets, tasks)))
    found = found.reshape(len(arguments.problems), len(seeds), *found.shape[1:])
    rows = list(compared(arguments.problems, found))
    with (arguments.out / "strategies.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    show(rows)
    plot(arguments.problems, found, arguments.out / "strategies.png")
    print(f"Files: {arguments.out}/strategies.csv, strategies.png")


def compared(problems: list[str], found: Floats) -> Iterator[dict[str, Any]]:
    for (p, problem), (f, feasible), budget in product(enumerate(problems), enumerate(FEASIBLE), BUDGETS):
        regret = dict(zip(STRATEGIES, found[p, :, f, :, budget - 1].T, strict=True))
        row: dict[str, Any] = {"problem": problem, "feasible": feasible, "evaluations": budget}
        for strategy, values in regret.items():
            row[strategy] = float(values.mean())
            row[f"{strategy}_ci95"] = float(1.96 * values.std(ddof=1) / len(values) ** 0.5)
        for other in ("random", "paper"):
            same = np.array_equal(regret["default"], regret[other])
            row[f"p_{other}"] = (
                1.0 if same else float(wilcoxon(regret["default"], regret[other], alternative="less").pvalue)
            )
        yield row


def named(feasible: float) -> str:
    return "all" if feasible == math.inf else f"{feasible:.0f}" if feasible >= 1 else f"{feasible:.0%}"


def show(rows: list[dict[str, Any]]) -> None:
    print("problem     feasible  trials  " + "".join(f"{name:>18s}" for name in STRATEGIES) + "   p(random)  p(paper)")
    for row in rows:
        cells = "".join(f"{row[name]:10.4f} ± {row[f'{name}_ci95']:.3f}" for name in STRATEGIES)
        tests = f"{row['p_random']:12.1e}{row['p_paper']:10.1e}"
        print(f"{row['problem']:11s} {named(row['feasible']):>8s} {row['evaluations']:7d}  {cells}{tests}")
    for other in ("random", "paper"):
        better = sum(row["default"] < row[other] for row in rows)
        ties = sum(row["default"] == row[other] for row in rows)
        tied_at_zero = sum(row["default"] == row[other] == 0 for row in rows)
        surely = sum(row["default"] < row[other] and row[f"p_{other}"] < 0.05 for row in rows)
        print(
            f"default against {other}: better in {better} of {len(rows)} rows ({surely} with p < 0.05), "
            f"equal in {ties} ({tied_at_zero} of them at regret 0), worse in {len(rows) - better - ties}; "
            f"mean regret {np.mean([row['default'] for row in rows]):.4f} against "
            f"{np.mean([row[other] for row in rows]):.4f}"
        )


def plot(problems: list[str], found: Floats, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(problems), len(FEASIBLE), figsize=(2.6 * len(FEASIBLE), 2.3 * len(problems)), sharex=True, squeeze=False
    )
    trials = np.arange(1, found.shape[-1] + 1)
    for (p, problem), (f, feasible) in product(enumerate(problems), enumerate(FEASIBLE)):
        ax = axes[p, f]
        for s, strategy in enumerate(STRATEGIES):
            values = found[p, :, f, s]
            mean, half = values.mean(axis=0), 1.96 * values.std(axis=0, ddof=1) / len(values) ** 0.5
            ax.plot(trials, mean, label=strategy)
            ax.fill_between(trials, mean - half, mean + half, alpha=0.2)
        ax.set_ylim(0, max(0.05, 1.1 * float(found[p, :, f, :, 29].mean(axis=0).max())))
        ax.set_title(f"{problem}, {named(feasible)} feasible", fontsize=8)
    axes[0, -1].legend(fontsize=8)
    figure.supxlabel("evaluations")
    figure.supylabel("mean regret (SD)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
