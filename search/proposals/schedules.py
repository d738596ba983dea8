"""An evolution and an executor brought together: several evaluations under way, none of them twice.

Two schedules. *Ordered*: results are told in the order in which the candidates were proposed, and candidate i is
proposed once all up to i - window are told; early results wait. What is proposed then depends on the seed and the
window alone, never on timing: not on which executor, nor on how many workers. *Asynchronous*: results are told as they
come, as in Real et al., Regularized Evolution for Image Classifier Architecture Search (AAAI 2019); no worker ever
waits, and the trials depend on timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bpnas.base.errors import UsageError
from bpnas.profiler.block import Block
from bpnas.search.execution.executor import Executor
from bpnas.search.proposals.evolution import Candidate, G, Trial

if TYPE_CHECKING:
    from bpnas.search.execution.evaluation import Evaluation


class Proposer(Protocol[G]):
    """What proposes candidates and is told their scores; `Evolution` and `RandomDraws` are two."""

    cycles: int

    @property
    def asked(self) -> int: ...
    @property
    def told(self) -> int: ...
    @property
    def waiting(self) -> tuple[Candidate[G], ...]: ...
    def ask(self) -> Candidate[G]: ...
    def tell(self, index: int, score: float) -> Trial[G]: ...
    def restore(self, trials: Iterable[Trial[G]]) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def take_up(self, trials: Sequence[Trial[G]], state: Mapping[str, Any]) -> None: ...


def evaluate_trials(
    evolution: Proposer[G],
    executor: Executor,
    block: Callable[[G], Block],
    *,
    window: int,
    asynchronous: bool = False,
    known: dict[Block, Evaluation] | None = None,
    on_evaluation: Callable[[Block, Evaluation], None] = lambda block, evaluation: None,
    options: Callable[[Block], Mapping[str, Any]] = lambda block: {},
) -> Iterator[Trial[G]]:
    """Trials of `evolution`, evaluated by `executor`, until it has told `evolution.cycles`.

    Args:
        evolution: fresh; or restored (`Evolution.restore`) if asynchronous, else taken up (`Evolution.take_up`).
        executor: evaluates the blocks. It is not closed.
        block: of a genotype. Genotypes of the same block are evaluated once; where its evaluation is under way, the
            second one waits for it.
        window: how many candidates are under way, regardless of the number of workers. With 1, the trials are those of
            `levonas`. More of it than there are workers keeps them busy while results wait for their turn.
        asynchronous: the schedule, see above.
        known: evaluations that are not repeated; what is evaluated is added. To resume an ordered search, give it what
            is known: it arrives at the same candidates again.
        on_evaluation: called with each evaluation as soon as it is there, before anything depends on it.
        options: more arguments of the evaluation of a block, asked for when it is submitted. With the ordered schedule
            they may depend on the trials told until then.

    Raises:
        UsageError: the window is less than 1.
        SearchError, StuckError: as of `Evolution`.
        Exception: any that an evaluation raised.
    """
    if window < 1:
        raise UsageError(f"a window of {window} evaluations evaluates nothing: use 1 or more")
    evaluations = _Evaluations(executor, {} if known is None else known, on_evaluation, options)
    return (_asynchronous if asynchronous else _ordered)(evolution, evaluations, block, window)


def _ordered(
    evolution: Proposer[G], evaluations: _Evaluations, block: Callable[[G], Block], window: int
) -> Iterator[Trial[G]]:
    waiting: dict[int, Block] = {}
    for candidate in evolution.waiting:
        waiting[candidate.index] = block(candidate.genotype)
        evaluations.request(waiting[candidate.index])
    for index in range(evolution.told, evolution.cycles):
        while evolution.asked < min(index + window, evolution.cycles):
            candidate = evolution.ask()
            waiting[candidate.index] = block(candidate.genotype)
            evaluations.request(waiting[candidate.index])
        wanted = waiting.pop(index)
        while wanted not in evaluations.known:
            evaluations.collect()
        yield evolution.tell(index, evaluations.known[wanted].score)


def _asynchronous(
    evolution: Proposer[G], evaluations: _Evaluations, block: Callable[[G], Block], window: int
) -> Iterator[Trial[G]]:
    waiting: dict[int, Block] = {}
    while evolution.told < evolution.cycles:
        while len(waiting) < min(window, evolution.cycles - evolution.told):
            candidate = evolution.ask()
            waiting[candidate.index] = block(candidate.genotype)
            evaluations.request(waiting[candidate.index])
            if waiting[candidate.index] in evaluations.known:
                break  # its score is there at once
        if not any(wanted in evaluations.known for wanted in waiting.values()):
            evaluations.collect()
        for index in [index for index, wanted in waiting.items() if wanted in evaluations.known]:
            yield evolution.tell(index, evaluations.known[waiting.pop(index)].score)


class _Evaluations:
    """What is known, and what is under way."""

    def __init__(
        self,
        executor: Executor,
        known: dict[Block, Evaluation],
        on_evaluation: Callable[[Block, Evaluation], None],
        options: Callable[[Block], Mapping[str, Any]],
    ) -> None:
        self.known = known
        self._executor, self._on_evaluation, self._options = executor, on_evaluation, options
        self._under_way: dict[int, Block] = {}
        self._submitted = 0

    def request(self, block: Block) -> None:
        """Have `block` evaluated, if it neither is nor is about to be."""
        if block not in self.known and block not in self._under_way.values():
            self._under_way[self._submitted] = block
            self._executor.submit(self._submitted, block, **self._options(block))
            self._submitted += 1

    def collect(self) -> None:
        """Wait for one more evaluation."""
        number, evaluation = self._executor.next()
        block = self._under_way.pop(number)
        self._on_evaluation(block, evaluation)
        self.known[block] = evaluation
