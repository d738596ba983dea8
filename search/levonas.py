"""LEvoNAS, one genotype after the other. BP-NAS, Algorithm 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bpnas.search.chance import Rng
from bpnas.search.errors import RunError
from bpnas.search.evolution import Evolution, G, Space, Strategy, Trial


def levonas(
    space: Space[G],
    evaluate: Callable[[G], float],
    *,
    limit_ms: float,
    at_least_ms: float = 0.0,
    population: int = 100,
    sample: int = 25,
    cycles: int = 300,
    rng: Rng,
    strategy: Strategy = "default",
    history: Sequence[Trial[G]] = (),
) -> Iterator[Trial[G]]:
    """Search `space` for the genotype of the highest score whose latency is at most `limit_ms`.

    The population is a queue. It is filled with `population` random feasible genotypes; then, until `cycles` trials
    exist, the best of `sample` members is mutated to a feasible child, which joins on the right while the oldest
    leaves on the left. The best of all trials, not of the last population, is the result:
    `max(trials, key=lambda trial: trial.score)`.

    Args:
        space: any object with `random`, `mutate` and `latency` (see `Space`).
        evaluate: genotype -> score, higher is better.
        limit_ms: latency limit in ms.
        population, sample: P and S of the paper.
        cycles: C, the number of trials in all, the initial ones included.
        rng: `random.Random`, `numpy.random.Generator` or anything else with `random()`; the sole source of chance.
        strategy: "paper" draws at random and mutates once, again and again until feasible, as Algorithm 2 has it;
            "default" uses the space's exact feasible set where there is one, and walks further when all single
            mutations of a parent are too slow. Both are bounded.
        history: the first trials of an earlier call with the same arguments and seed: they are not evaluated again but
            replayed, so that the search goes on as if it had never stopped.

    Returns:
        An iterator over all `cycles` trials in order, replayed ones included. Each is evaluated when it is asked for.

    Raises:
        InfeasibleLimitError: at once, if nothing meets the limit; without an exact set, if nothing of `MAX_TRIES`
            random genotypes does.
        UsageError: an argument is out of range.
        StuckError: "paper" found no feasible child (while iterating).
        RunError: `history` is not of this search (while iterating).
    """
    evolution = Evolution(
        space,
        limit_ms=limit_ms,
        at_least_ms=at_least_ms,
        population=population,
        sample=sample,
        cycles=cycles,
        rng=rng,
        strategy=strategy,
    )
    return _trials(evolution, evaluate, tuple(history))


def _trials(
    evolution: Evolution[G], evaluate: Callable[[G], float], history: tuple[Trial[G], ...]
) -> Iterator[Trial[G]]:
    for index in range(evolution.cycles):
        genotype = evolution.ask().genotype
        known = index < len(history)
        score = replayed(history[index], index, genotype) if known else float(evaluate(genotype))
        yield evolution.tell(index, score)


def replayed(trial: Trial[G], index: int, genotype: G) -> float:
    """The score of an earlier history's trial `index`, at which this search has arrived at `genotype`.

    Raises:
        RunError: they differ.
    """
    if trial.genotype != genotype:
        raise RunError(
            f"trial {index} of the earlier history is {trial.genotype}, but this search arrives at {genotype}: "
            "it has another seed, table or setting"
        )
    return trial.score
