"""What a study compares: its arms, each a way to propose blocks, and the pairs of them that it judges."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from bpnas.android_bench.errors import UsageError
from bpnas.profiler.block import Coding
from bpnas.search.chance import Rng
from bpnas.search.errors import InfeasibleLimitError
from bpnas.search.evolution import Candidate, Evolution, Space, Strategy, Trial
from bpnas.search.presets import ProposalSettings

G = TypeVar("G")

_MAX_DRAWS = 10_000
"""A space without an exact feasible set is drawn from so often, until a limit is called infeasible."""

_REDRAWS = 64
"""Draws in a row that may meet what was drawn before, until one is taken again."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to search.

    Attributes:
        name: in tables and plots.
        method: "levonas", or "random" for random feasible blocks.
        strategy: of LEvoNAS; None for the preset's.
        coding: whose bits are flipped.
    """

    name: str
    method: Literal["levonas", "random"] = "levonas"
    strategy: Strategy | None = None
    coding: Coding = "binary"


@dataclass(frozen=True, slots=True)
class Study:
    """Arms under equal terms.

    Attributes:
        name: of its command.
        arms: that are run.
        pairs: of names of arms that are judged, the one that is hoped to be better first.
    """

    name: str
    arms: tuple[Arm, ...]
    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def load(cls, name: str) -> Study:
        """The study `strategies`, `random-stage1` or `gray-code`.

        Raises:
            UsageError: there is no such study.
        """
        try:
            return STUDIES[name]
        except KeyError:
            raise UsageError(f"no study is called {name!r}: use one of {', '.join(STUDIES)}") from None

    def only(self, names: tuple[str, ...]) -> Study:
        """The same with these arms only, and the pairs that are then left.

        Raises:
            UsageError: an arm is unknown.
        """
        known = {arm.name for arm in self.arms}
        for name in names:
            if name not in known:
                raise UsageError(f"study {self.name} has no arm {name!r}: its arms are {', '.join(sorted(known))}")
        return Study(
            self.name,
            tuple(arm for arm in self.arms if arm.name in names),
            tuple(pair for pair in self.pairs if set(pair) <= set(names)),
        )


_RANDOM = Arm("random", "random")

STUDIES = {
    study.name: study
    for study in (
        Study(
            "strategies",
            (Arm("default", strategy="default"), Arm("paper", strategy="paper"), _RANDOM),
            (("default", "paper"), ("default", "random"), ("paper", "random")),
        ),
        Study("random-stage1", (Arm("levonas"), _RANDOM), (("levonas", "random"),)),
        Study(
            "gray-code",
            (
                Arm("gray", strategy="default", coding="gray"),
                Arm("binary", strategy="default"),
                Arm("gray-paper", strategy="paper", coding="gray"),
                Arm("binary-paper", strategy="paper"),
            ),
            (("gray", "binary"), ("gray-paper", "binary-paper")),
        ),
    )
}


class Proposer(Protocol[G]):
    """What is asked for genotypes and told their scores; `Evolution` is one."""

    def ask(self) -> Candidate[G]: ...
    def tell(self, index: int, score: float) -> Trial[G]: ...


class RandomDraws(Generic[G]):
    """Random feasible genotypes, each once as long as others are met: the strongest form of random search.

    Exactly uniform where the space has `feasible` (see `bpnas.search.evolution.Space`), by rejection elsewhere.

    Args:
        space, limit_ms, rng: as of `levonas`.
        identity: two genotypes of the same identity are the same.

    Raises:
        InfeasibleLimitError: nothing meets the limit; without an exact set, nothing of 10,000 draws did.
    """

    def __init__(self, space: Space[G], limit_ms: float, rng: Rng, identity: Callable[[G], Hashable]) -> None:
        self._space, self._limit_ms, self._rng, self._identity = space, limit_ms, rng, identity
        feasible: Any = getattr(space, "feasible", None)
        self._exact: Any = None if feasible is None else feasible(limit_ms)
        self._seen: set[Hashable] = set()
        self._waiting: dict[int, Candidate[G]] = {}
        self._asked = 0
        if self._exact is not None and not self._exact.size:
            raise InfeasibleLimitError(limit_ms, self._exact.smallest_ms)

    def ask(self) -> Candidate[G]:
        """The next one."""
        for _ in range(_REDRAWS):
            genotype = self._draw()
            if self._identity(genotype) not in self._seen:
                break
        self._seen.add(self._identity(genotype))
        candidate = Candidate(self._asked, genotype, float(self._space.latency(genotype)))
        self._waiting[self._asked] = candidate
        self._asked += 1
        return candidate

    def tell(self, index: int, score: float) -> Trial[G]:
        """Candidate number `index` has this score, which changes nothing here."""
        candidate = self._waiting.pop(index)
        return Trial(index, candidate.genotype, candidate.latency_ms, score)

    def _draw(self) -> G:
        if self._exact is not None:
            exact: G = self._exact.sample(self._rng)
            return exact
        smallest = float("inf")
        for _ in range(_MAX_DRAWS):
            genotype = self._space.random(self._rng)
            latency = float(self._space.latency(genotype))
            if latency <= self._limit_ms:
                return genotype
            smallest = min(smallest, latency)
        raise InfeasibleLimitError(self._limit_ms, smallest, "genotype", exact=False)


def proposer(
    arm: Arm,
    space: Space[G],
    settings: ProposalSettings,
    limit_ms: float,
    rng: Rng,
    identity: Callable[[G], Hashable],
) -> Proposer[G]:
    """A new search of `arm`.

    Raises:
        InfeasibleLimitError: nothing meets the limit.
    """
    if arm.method == "random":
        return RandomDraws(space, limit_ms, rng, identity)
    return Evolution(
        space,
        limit_ms=limit_ms,
        population=min(settings.population, settings.cycles),
        sample=min(settings.sample, settings.cycles),
        cycles=settings.cycles,
        rng=rng,
        strategy=arm.strategy or settings.strategy,
    )
