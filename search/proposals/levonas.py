"""LEvoNAS, one genotype after the other. BP-NAS, Algorithm 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bpnas.base.randomness import Rng
from bpnas.search.errors import RunError
from bpnas.search.proposals.evolution import Evolution, G, Space, Strategy, Trial
from bpnas.search.proposals.feasible_sampling import hashable


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

    Strategy "paper" is exactly Algorithm 2, but bounded: a queue is filled with `population` random feasible
    genotypes; then, until `cycles` trials exist, the best of `sample` members is mutated once, again and again until
    the child is feasible; it joins on the right, and the oldest leaves on the left.

    "default" differs in what it proposes [ours]. Nothing is evaluated twice as long as anything new can be found. It
    evolves after `sample` / 2 random trials, and the oldest leaves once there are more than `population`; a twentieth
    of the later trials is random too. A child is a new feasible mutation of one of the three best of `sample` members;
    if there is none, one some mutations away from the best, through infeasible genotypes too; if there is none either,
    a random one. Random ones are drawn from the space's exact feasible set where it has one, else by rejection and,
    where that fails, by descents in latency. Once nothing new is found, those of the better half
    by mean score are evaluated again in turns.

    The best of all trials, not of the last population, is the result: `max(trials, key=lambda trial: trial.score)`.

    Args:
        space: any object with `random`, `mutate` and `latency` (see `Space`).
        evaluate: genotype -> score, higher is better.
        limit_ms, at_least_ms: the latency band in ms, both ends included.
        population, sample: P and S of the paper.
        cycles: C, the number of trials in all, the initial ones included; it has no influence on what they are.
        rng: `random.Random`, `numpy.random.Generator` or anything else with `random()`; the sole source of chance.
        strategy: "default" or "paper".
        history: the first trials of an earlier call with the same arguments and seed: they are not evaluated again but
            replayed, so that the search continues as if it had never stopped.

    Returns:
        An iterator over all `cycles` trials in order, replayed ones included. Each is evaluated when it is asked for.

    Raises:
        InfeasibleLimitError: at once, if nothing meets the limit; without an exact set, if neither `MAX_TRIES` random
            draws and mutations do. It names the smallest latency, or for a band what is nearest on both sides.
        UsageError: an argument is out of range.
        StuckError: "paper" found no feasible genotype (at once) or child (while iterating) in `MAX_TRIES` tries.
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
    if hashable(trial.genotype) != hashable(genotype):
        raise RunError(
            f"trial {index} of the earlier history is {trial.genotype}, but this search arrives at {genotype}: "
            "it has another seed, table or setting"
        )
    return trial.score
