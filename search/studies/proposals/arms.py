"""Ways to propose blocks, and the studies that compare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from bpnas.base.errors import UsageError
from bpnas.base.randomness import Rng
from bpnas.profiler.block import Coding
from bpnas.search.presets import ProposalSettings
from bpnas.search.proposals.evolution import Candidate, Evolution, Strategy, Trial
from bpnas.search.proposals.random_draws import RandomDraws
from bpnas.search.proposals.space import BlockSpace
from bpnas.search.studies.study import Study


class Proposer(Protocol):
    """What is asked for codes of blocks and told their scores; `Evolution` is one."""

    def ask(self) -> Candidate[int]: ...
    def tell(self, index: int, score: float) -> Trial[int]: ...


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
            strategy=self.strategy or evolving(settings),
        )


@dataclass(frozen=True, slots=True)
class RandomArm:
    """Random feasible blocks; see `RandomDraws`."""

    name: str
    coding: ClassVar[Coding] = "binary"

    def proposer(self, space: BlockSpace, settings: ProposalSettings, limit_ms: float, rng: Rng) -> Proposer:
        """A new search. Raises InfeasibleLimitError if nothing meets the limit."""
        return RandomDraws(space, limit_ms, rng)


def evolving(settings: ProposalSettings) -> Strategy:
    """The strategy of LEvoNAS that a preset names.

    Raises:
        UsageError: it names random blocks.
    """
    if settings.strategy == "random":
        raise UsageError("strategy 'random' is an arm of its own in a study: use 'default' or 'paper'")
    return settings.strategy


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
