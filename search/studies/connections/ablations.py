"""The paper's ablations whole, each from stage 1 to a retrained network: BP-NAS, table of ablations.

A seed gives every arm a stage 1 of its own, in `stage1/ARM-seedN` of the study's directory, which is a run like any
other; all that follows is a study of connections.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bpnas.base.errors import UsageError
from bpnas.profiler.block import Block
from bpnas.search.connections.run import check_target
from bpnas.search.errors import RunError
from bpnas.search.proposals.limits import default_limits
from bpnas.search.proposals.space import BlockSpace
from bpnas.search.run import carry_out
from bpnas.search.run_directory import RunDirectory
from bpnas.search.search_plan import SearchRequest, plan_search
from bpnas.search.studies.connections.arms import (
    FBNET_BLOCKS,
    ConnectionArm,
    ConnectionStudy,
    RandomArm,
    SearchedArm,
)
from bpnas.search.studies.connections.study import run_connections_study
from bpnas.search.studies.connections.summary import Summary
from bpnas.search.studies.connections.terms import StudyNetwork, StudyTerms
from bpnas.search.studies.connections.work import Searched, Work
from bpnas.search.studies.study import Study, StudyRequest, StudyResult

NAME = "ablations"

ARMS = ("full", "rand-stage-1", "rand-stage-2", "bcs-a", "gray")
"""The whole search; random blocks in stage 1; random connections in stage 2; FBNet's candidates; the Gray code."""

_STAGE1 = {"full": "full", "rand-stage-1": "random", "rand-stage-2": "full", "gray": "gray"}
"""Whose block proposals an arm connects."""


@dataclass(frozen=True, slots=True)
class PerSeedArm(ConnectionArm):
    """A search, or random connections, of the proposals that stage 1 has found with the same seed.

    Attributes:
        name: in tables, plots and files.
        by_seed: the proposals.
        lambda_below: of the search; None for random connections.
    """

    name: str
    by_seed: Mapping[int, tuple[Block, ...]]
    lambda_below: float | None

    def _arm(self, seed: int) -> ConnectionArm:
        blocks = self.by_seed[seed]
        if self.lambda_below is None:
            return RandomArm(self.name, blocks)
        return SearchedArm(self.name, blocks, self.lambda_below)

    @property
    def supernets(self) -> int:  # type: ignore[override]
        """See `ConnectionArm`."""
        return int(self.lambda_below is not None)

    def check(self, terms: StudyTerms, seeds: Sequence[int]) -> None:
        """See `ConnectionArm`."""
        for seed in seeds:
            check_target(terms.table, terms.backbone, self.by_seed[seed], terms.target_ms)
            self._arm(seed).check(terms, (seed,))

    def search(self, work: Work, seed: int) -> Searched | None:
        """See `ConnectionArm`."""
        return self._arm(seed).search(work, seed)

    def networks(self, work: Work, seed: int) -> tuple[StudyNetwork, ...]:
        """See `ConnectionArm`."""
        return self._arm(seed).networks(work, seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationsRequest:
    """What is asked of this study, next to what is asked of any.

    Attributes:
        search: stage 1 of the arm "full"; its `target_ms` is that of all networks, default the middle one of
            `default_limits` at their input size.
        arms: of `ARMS`.
    """

    search: SearchRequest
    arms: tuple[str, ...] = ARMS

    def check(self) -> None:
        """Refuse arms that there are not. Raises UsageError."""
        for name in self.arms:
            if name not in ARMS:
                raise UsageError(f"study {NAME} has no arm {name!r}: its arms are {', '.join(ARMS)}")
        if not self.arms:
            raise UsageError(f"study {NAME} needs an arm: its arms are {', '.join(ARMS)}")


def run_ablations(wanted: AblationsRequest, request: StudyRequest) -> StudyResult[Summary]:
    """Run the ablations, or resume those that `request.out` holds.

    Args:
        wanted: arms and stage 1.
        request: as of `run_connections_study`; its data are those of stage 2 and retraining.

    Raises:
        UsageError, InfeasibleLimitError: the request makes no sense or cannot be met.
        Others as of `carry_out` and `run_connections_study`.
    """
    wanted.check()
    _check_own(Path(request.out))
    backbone = request.backbone()
    target_ms = wanted.search.target_ms
    if target_ms is None:
        limits = default_limits(BlockSpace(request.table, backbone.input_size, classes=backbone.classes)).limits_ms
        target_ms = limits[len(limits) // 2]
    search = replace(wanted.search, target_ms=target_ms)
    kinds = dict.fromkeys(_STAGE1[arm] for arm in wanted.arms if arm in _STAGE1)
    # All is checked before the first training.
    if "bcs-a" in wanted.arms:
        check_target(request.table, backbone, FBNET_BLOCKS, target_ms)
    plans = {
        (kind, seed): plan_search(_stage1(search, kind, seed), request.table)
        for seed in request.seeds
        for kind in kinds
    }
    found: dict[str, dict[int, tuple[Block, ...]]] = {kind: {} for kind in kinds}
    for (kind, seed), plan in plans.items():
        request.progress.note(f"stage 1 of seed {seed}: {kind}")
        result = carry_out(plan, Path(request.out) / "stage1" / f"{kind}-seed{seed}", request.progress)
        found[kind][seed] = tuple(proposal.block for proposal in result.proposals)
    below = request.preset.connections.lambda_below

    def arms() -> Iterable[ConnectionArm]:
        for name in wanted.arms:
            if name == "bcs-a":
                yield SearchedArm(name, FBNET_BLOCKS, below)
            else:
                yield PerSeedArm(name, found[_STAGE1[name]], None if name == "rand-stage-2" else below)

    def design(terms: StudyTerms) -> ConnectionStudy:
        pairs = tuple(("full", name) for name in wanted.arms if name != "full" and "full" in wanted.arms)
        return Study(NAME, tuple(arms()), pairs)

    return run_connections_study(design, request, proposals=FBNET_BLOCKS, target_ms=target_ms)


def _stage1(search: SearchRequest, kind: str, seed: int) -> SearchRequest:
    change = {"random": {"proposals.strategy": "random"}, "gray": {"proposals.coding": "gray"}}.get(kind, {})
    return replace(search, stage="proposals", seed=seed, preset=search.preset.override(change))


def _check_own(out: Path) -> None:
    if not (out / "config.json").exists():
        return
    if RunDirectory(out).read_json("config.json").get("study") != NAME:
        raise RunError(f"{out}: holds another study or a search; choose another directory with --out")
