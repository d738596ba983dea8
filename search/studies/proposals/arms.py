"""What a study compares: its arms, each a way to propose blocks, and the pairs of them that it judges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from bpnas.base.errors import UsageError
from bpnas.base.randomness import Rng
from bpnas.profiler.block import Block, Coding
from bpnas.search.errors import InfeasibleLimitError
from bpnas.search.presets import ProposalSettings
from bpnas.search.proposals.evolution import Candidate, Evolution, Strategy, Trial
from bpnas.search.proposals.space import BlockSpace

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


class Proposer(Protocol):
    """What is asked for codes of blocks and told their scores; `Evolution` is one."""

    def ask(self) -> Candidate[int]: ...
    def tell(self, index: int, score: float) -> Trial[int]: ...


class RandomDraws:
    """Random feasible blocks, all equally likely, each once as long as others are met: random search at its best.

    Args:
        space, limit_ms, rng: as of `levonas`.

    Raises:
        InfeasibleLimitError: nothing meets the limit.
    """

    def __init__(self, space: BlockSpace, limit_ms: float, rng: Rng) -> None:
        self._space, self._feasible, self._rng = space, space.feasible(limit_ms), rng
        if not self._feasible.size:
            raise InfeasibleLimitError(limit_ms, self._feasible.smallest_ms)
        self._seen: set[Block] = set()
        self._candidates: list[Candidate[int]] = []

    def ask(self) -> Candidate[int]:
        """The next one."""
        for _ in range(_REDRAWS):
            code = self._feasible.sample(self._rng)
            if self._space.block(code) not in self._seen:
                break
        self._seen.add(self._space.block(code))
        self._candidates.append(Candidate(len(self._candidates), code, self._space.latency(code)))
        return self._candidates[-1]

    def tell(self, index: int, score: float) -> Trial[int]:
        """Candidate number `index` has this score, which changes nothing here."""
        candidate = self._candidates[index]
        return Trial(index, candidate.genotype, candidate.latency_ms, score)


def proposer(arm: Arm, space: BlockSpace, settings: ProposalSettings, limit_ms: float, rng: Rng) -> Proposer:
    """A new search of `arm`.

    Raises:
        InfeasibleLimitError: nothing meets the limit.
        StuckError: the paper's strategy does not hit anything that does.
    """
    if arm.method == "random":
        return RandomDraws(space, limit_ms, rng)
    return Evolution(
        space,
        limit_ms=limit_ms,
        population=settings.population,
        sample=settings.sample,
        cycles=settings.cycles,
        rng=rng,
        strategy=arm.strategy or settings.strategy,
    )
