"""Ways to propose blocks, and the studies that compare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from bpnas.base.errors import UsageError
from bpnas.base.randomness import Rng
from bpnas.profiler.block import Block, Coding
from bpnas.search.errors import InfeasibleLimitError
from bpnas.search.presets import ProposalSettings
from bpnas.search.proposals.evolution import Candidate, Evolution, Strategy, Trial
from bpnas.search.proposals.space import BlockSpace
from bpnas.search.studies.study import Study

_REDRAWS = 64
"""Draws in a row that may meet what was drawn before, until one is taken again."""


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


@dataclass(frozen=True, slots=True)
class LevonasArm:
    """LEvoNAS.

    Attributes:
        name: in tables, plots and files.
        strategy: None for the preset's.
        coding: whose bits are flipped.
    """

    name: str
    strategy: Strategy | None = None
    coding: Coding = "binary"

    def proposer(self, space: BlockSpace, settings: ProposalSettings, limit_ms: float, rng: Rng) -> Proposer:
        """A new search.

        Raises:
            InfeasibleLimitError: nothing meets the limit.
            StuckError: the paper's strategy does not hit anything that does.
        """
        return Evolution(
            space,
            limit_ms=limit_ms,
            population=settings.population,
            sample=settings.sample,
            cycles=settings.cycles,
            rng=rng,
            strategy=self.strategy or settings.strategy,
        )


@dataclass(frozen=True, slots=True)
class RandomArm:
    """Random feasible blocks; see `RandomDraws`."""

    name: str
    coding: ClassVar[Coding] = "binary"

    def proposer(self, space: BlockSpace, settings: ProposalSettings, limit_ms: float, rng: Rng) -> Proposer:
        """A new search. Raises InfeasibleLimitError if nothing meets the limit."""
        return RandomDraws(space, limit_ms, rng)


ProposalArm = LevonasArm | RandomArm

_RANDOM = RandomArm("random")

_STUDIES: tuple[Study[ProposalArm], ...] = (
    Study(
        "strategies",
        (LevonasArm("default", "default"), LevonasArm("paper", "paper"), _RANDOM),
        (("default", "paper"), ("default", "random"), ("paper", "random")),
    ),
    Study("random-stage1", (LevonasArm("levonas"), _RANDOM), (("levonas", "random"),)),
    Study(
        "gray-code",
        (
            LevonasArm("gray", "default", "gray"),
            LevonasArm("binary", "default"),
            LevonasArm("gray-paper", "paper", "gray"),
            LevonasArm("binary-paper", "paper"),
        ),
        (("gray", "binary"), ("gray-paper", "binary-paper")),
    ),
)
STUDIES = {study.name: study for study in _STUDIES}


def load_study(name: str) -> Study[ProposalArm]:
    """The study `strategies`, `random-stage1` or `gray-code`.

    Raises:
        UsageError: there is no such study.
    """
    try:
        return STUDIES[name]
    except KeyError:
        raise UsageError(f"no study is called {name!r}: use one of {', '.join(STUDIES)}") from None
