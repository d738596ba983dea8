"""Stage 1 in a run directory: LEvoNAS once per latency limit. BP-NAS, block proposal search."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bpnas.base.collection import no_collection
from bpnas.base.randomness import derived_seed
from bpnas.profiler.block import CODE_BITS, Block
from bpnas.search.data.evaluation_images import EvaluationImages, on_images
from bpnas.search.errors import RunError
from bpnas.search.execution.evaluation import Evaluation
from bpnas.search.execution.executor import Executor
from bpnas.search.fields import FieldError, Fields, fields_of
from bpnas.search.presets import ProposalSettings
from bpnas.search.progress import Progress
from bpnas.search.proposals.evolution import Evolution, Trial
from bpnas.search.proposals.halving import SuccessiveHalving
from bpnas.search.proposals.levonas import replayed
from bpnas.search.proposals.random_draws import RandomDraws
from bpnas.search.proposals.schedules import Proposer, evaluate_trials
from bpnas.search.proposals.snapshots import EVERY, Snapshot, Snapshots, TrialDigest
from bpnas.search.proposals.space import BlockSpace
from bpnas.search.proposals.survivors import Survivors, check_survivor
from bpnas.search.run_directory import RunDirectory
from bpnas.search.sealed import LINE_REMEDY
from bpnas.search.spent import note_time


@dataclass(frozen=True, slots=True)
class Proposal:
    """A block that stage 2 may put at every site.

    Attributes:
        block: the block.
        limit_ms: the limit it was searched under; None if the user gave it.
        latency_ms: of the network that has it at every site.
        score: its accuracy in stage 1, 0..1, on `score_on`.
        score_on: the held-out images; None where they are not known.
        runner_up_to: the best block within the limit, where that is proposed for a tighter limit already.
    """

    block: Block
    limit_ms: float | None = None
    latency_ms: float | None = None
    score: float | None = None
    score_on: EvaluationImages | None = None
    runner_up_to: Block | None = None

    def values(self) -> dict[str, Any]:
        """As plain values for JSON."""
        found = {**asdict(self), "block": str(self.block)}
        del found["runner_up_to"]
        return found if self.runner_up_to is None else {**found, "runner_up_to": str(self.runner_up_to)}


@dataclass(frozen=True, slots=True)
class ProposalSearch:
    """What stage 1 searches.

    Attributes:
        space: the blocks.
        limits_ms: latency limits, in ascending order.
        data: the images, as the user named them.
        settings: see `ProposalSettings`.
        seed: of all random choices.
        bands: each limit is searched above the one before it only.
        window, asynchronous: see `evaluate_trials`.
    """

    space: BlockSpace
    limits_ms: tuple[float, ...]
    data: str
    settings: ProposalSettings
    seed: int
    bands: bool = False
    window: int = 1
    asynchronous: bool = False


def run_proposals(
    search: ProposalSearch, directory: RunDirectory, progress: Progress, executor: Executor, *, checkpoints: bool = True
) -> tuple[Proposal, ...]:
    """A block for each limit, in their order; every evaluation and trial is on the disk as soon as it is known.

    What one limit has learned counts for all [ours]: it is the most accurate of all blocks of the run that meet the
    limit (and the band), under whichever limit they were tried. No block is proposed twice, as stage 2 would gain
    nothing by it: where the most accurate one is proposed for a tighter limit already, the next one is, and says so
    (`Proposal.runner_up_to`). So the best proposal up to any limit is never worse than that up to a tighter one. A
    limit within which all blocks that were tried are proposed already has none.

    A later call resumes behind the trials that are there. With the ordered schedule (see `evaluate_trials`) it does so
    as if it had never stopped: chance depends on the seed and the number of the limit alone, and what was evaluated is
    not evaluated again; only trials after the last one of `Snapshots` are replayed. With the asynchronous one they make
    up the population, and chance depends on their number too.

    With `checkpoints`, which the workers must see, a training that is cut off resumes in its middle.

    A candidate whose training diverges is a trial of score 0, is marked as diverged and is never proposed.

    Raises:
        DivergedError: all candidates under a limit have diverged, or all of the first `HOPELESS`.
    """
    with no_collection():
        recorded = _recorded(directory, search.limits_ms, search.space, search.asynchronous)
        known = _evaluations(directory, recorded.by_text)
    total = search.settings.cycles * len(search.limits_ms)
    progress.stage("block proposals", total, sum(map(len, recorded.trials)))
    kept = directory.checkpoints if checkpoints else None
    run = _Run(search, directory, progress, executor, kept, recorded.by_code, known)
    for number, history in enumerate(recorded.trials):
        run.search(number, history)
    proposals = run.proposals()
    meta, space = search.space.table.meta, search.space
    directory.write_json(
        "proposals.json",
        {
            "mock": meta.mock,
            "device": meta.device_name,
            "runtime": meta.runtime,
            "table_sha256": space.table.sha256,
            "additivity": space.table.additivity,
            **space.table.head(space.backbone.input_size, space.backbone.classes).facts,
            "backbone": space.backbone.to_dict(),
            "data": search.data,
            "seed": search.seed,
            "proposals": [proposal.values() for proposal in proposals],
        },
    )
    run.snapshots.remove()
    return proposals


class _Run:
    """One search after the other, on the disk and in memory."""

    def __init__(
        self,
        search: ProposalSearch,
        directory: RunDirectory,
        progress: Progress,
        executor: Executor,
        checkpoints: Path | None,
        blocks: dict[int, Block],
        known: dict[Block, Evaluation],
    ) -> None:
        self._search, self._directory, self._progress, self._executor = search, directory, progress, executor
        self._space, self._checkpoints = search.space, checkpoints
        self._known, self._survivors = known, Survivors()
        self._blocks = blocks  # by genotype, of the trials on the disk
        self._have_diverged = {block: one.diverged for block, one in known.items() if one.diverged is not None}
        self._digest, self.snapshots = TrialDigest(), Snapshots(directory, _identity(search))
        self._trials: list[list[Trial[int]]] = []
        self._inherited: list[tuple[int, Trial[int]]] = []

    def search(self, number: int, history: list[Trial[int]]) -> None:
        """Search under limit number `number`, of which `history` is on the disk."""
        search, limit = self._search, self._search.limits_ms[number]
        with no_collection():
            proposer, rng, done = self._begun(number, history)
        terms = _Terms(search.settings, self._checkpoints)
        for trial in done:
            terms.learn(self._known.get(self._block(trial)))
            self._survivors.tell(self._diverged(trial))
        for trial in self._further(proposer, terms):
            terms.learn(self._known[self._block(trial)])
            if len(done) < len(history):
                _check_replayed(self._directory, history[len(done)], trial)
            else:
                self._tell(number, trial)
            done.append(trial)
            self._survivors.tell(self._diverged(trial))
            self._digest.add(trial, self._diverged(trial))
            if not search.asynchronous and (len(done) % EVERY == 0 or len(done) == search.settings.cycles):
                assert proposer is not None
                self.snapshots.keep(number, proposer, rng, self._digest)
        check_survivor(map(self._diverged, done), limit)
        self._trials.append(done)

    def proposals(self) -> tuple[Proposal, ...]:
        """What is proposed, once all limits were searched."""
        every = [trial for trials in self._trials for trial in trials]
        # Few validation images make many equals: of these the faster one is worth more.
        every.sort(key=lambda trial: (-trial.score, trial.latency_ms))
        best_of: dict[Block, Trial[int]] = {}
        for trial in every:
            best_of.setdefault(self._block(trial), trial)
        trained = {block: trial for block, trial in best_of.items() if self._diverged(trial) is None}
        found: dict[Block, Proposal] = {}
        for number, limit in enumerate(self._search.limits_ms):
            meet = [block for block, trial in trained.items() if self._within(number, trial)]
            block = next((block for block in meet if block not in found), None)
            if block is None:
                self._progress.note(f"limit {limit:g} ms: all blocks within it are proposed for tighter limits already")
                continue
            best = trained[block]
            images = self._held_out(block) if block in self._known else None
            other = None if block == meet[0] else meet[0]
            found[block] = Proposal(block, limit, best.latency_ms, best.score, images, other)
        return tuple(found.values())

    def _within(self, number: int, trial: Trial[int]) -> bool:
        return self._at_least_ms(number) <= trial.latency_ms <= self._search.limits_ms[number]

    def _at_least_ms(self, number: int) -> float:
        return self._search.limits_ms[number - 1] if self._search.bands and number else 0.0

    def _learned(self) -> list[tuple[int, Trial[int]]]:
        """Trials of the limits before, each with its limit's number, for the next one to begin with."""
        pairs = [(number, trial) for number, trials in enumerate(self._trials) for trial in trials]
        return [pair for pair in pairs if self._diverged(pair[1]) is None]

    def _begun(
        self, number: int, history: list[Trial[int]]
    ) -> tuple[Proposer[int] | None, random.Random, list[Trial[int]]]:
        """What proposes under a limit, its source of chance, and what of `history` it need not propose again.

        There is none where that is all.
        """
        search = self._search
        if search.asynchronous:
            rng = self._rng(number, len(history))
            proposer = self._proposer(number, rng)
            proposer.restore(history)
            return proposer, rng, list(history)
        if (found := self._snapshot(number, history)) is not None:
            snapshot, digest = found
            rng, done = self._rng(number), history[: snapshot.told]
            if snapshot.state is None and len(done) == search.settings.cycles:
                self._digest = digest
                return None, rng, done
            proposer = self._proposer(number, rng)
            if snapshot.take_up(proposer, rng, done):
                self._digest = digest
                return proposer, rng, done
        rng = self._rng(number)
        return self._proposer(number, rng), rng, []

    def _snapshot(self, number: int, history: list[Trial[int]]) -> tuple[Snapshot, TrialDigest] | None:
        """That of a limit, with the digest of the trials until then, if it can be believed."""
        # A candidate that waits is trained by the terms of when it was asked for, which only a replay tells.
        if self._search.settings.halving is not None and self._search.window > 1:
            return None
        digest = TrialDigest(self._digest)
        snapshot = self.snapshots.of(number, digest, [(trial, self._diverged(trial)) for trial in history])
        if snapshot is None:
            return None
        # A trial whose evaluation is another, or none, is for a replay to mend or to refuse.
        known = ((self._known.get(self._block(trial)), trial.score) for trial in history[: snapshot.told])
        fits = all(evaluation is not None and evaluation.score == score for evaluation, score in known)
        return (snapshot, digest) if fits else None

    def _rng(self, number: int, restored: int = 0) -> random.Random:
        names = ("levonas", number, *([restored] if restored else []))
        return random.Random(derived_seed(self._search.seed, *names))

    def _proposer(self, number: int, rng: random.Random) -> Evolution[int] | RandomDraws:
        search, settings = self._search, self._search.settings
        limit_ms, at_least_ms, cycles = search.limits_ms[number], self._at_least_ms(number), settings.cycles
        self._inherited = self._learned() if settings.warm_start else []
        inherited = [trial for _, trial in self._inherited]
        if settings.strategy == "random":
            return RandomDraws(search.space, limit_ms, rng, at_least_ms=at_least_ms, cycles=cycles, inherited=inherited)
        return Evolution(
            search.space,
            limit_ms=limit_ms,
            at_least_ms=at_least_ms,
            population=settings.population,
            sample=settings.sample,
            cycles=cycles,
            rng=rng,
            strategy=settings.strategy,
            inherited=inherited,
        )

    def _further(self, proposer: Proposer[int] | None, terms: _Terms) -> Iterator[Trial[int]]:
        """The trials that are still to be told."""
        if proposer is None:
            return iter(())
        return evaluate_trials(
            proposer,
            self._executor,
            self._space.block,
            window=self._search.window,
            asynchronous=self._search.asynchronous,
            known=self._known,
            on_evaluation=self._keep,
            options=terms.options,
        )

    def _keep(self, block: Block, evaluation: Evaluation) -> None:
        if evaluation.diverged is not None:
            self._have_diverged[block] = evaluation.diverged
        # What depends on the clock is not kept together with what a search is made of.
        left_out = {"seconds", "gpus"} | ({"diverged"} if evaluation.diverged is None else set())
        values = {name: value for name, value in asdict(evaluation).items() if name not in left_out}
        self._directory.append("evaluations.jsonl", {"block": str(block), **values})
        times = (evaluation.images, evaluation.seconds, evaluation.gpus)
        note_time(self._directory, "proposals", *times, block=str(block), workers=self._executor.workers)

    def _tell(self, number: int, trial: Trial[int]) -> None:
        block, reason, limit = self._block(trial), self._diverged(trial), self._search.limits_ms[number]
        mark = {} if reason is None else {"diverged": True}
        parent: dict[str, Any] = {}
        if trial.parent is not None and trial.parent < 0:
            elsewhere, parent_trial = self._inherited[-1 - trial.parent]
            parent = {"parent": parent_trial.index, "parent_limit": elsewhere}
        self._directory.append("trials.jsonl", {**_line(number, limit, trial, block), **parent, **mark})
        evaluated = on_images(self._held_out(block))
        outcome = f"accuracy {trial.score:.3f} {evaluated}" if reason is None else f"diverged {reason}"
        self._progress.step(f"limit {limit:g} ms: {block}, {trial.latency_ms:.4g} ms, {outcome}")

    def _block(self, trial: Trial[int]) -> Block:
        found = self._blocks.get(trial.genotype)
        return self._space.block(trial.genotype) if found is None else found

    def _diverged(self, trial: Trial[int]) -> str | None:
        return self._have_diverged.get(self._block(trial)) if self._have_diverged else None

    def _held_out(self, block: Block) -> EvaluationImages | None:
        judged_on = self._known[block].judged_on
        return EvaluationImages.held_out(self._search.data, judged_on, self._space.backbone.input_size)


class _Terms:
    """How the trainings of one search may end early, and where a training is kept while it lasts."""

    def __init__(self, settings: ProposalSettings, checkpoints: Path | None) -> None:
        eta, self._checkpoints = settings.halving, checkpoints
        self._halving = None if eta is None else SuccessiveHalving(settings.train.epochs, eta)

    def options(self, block: Block) -> dict[str, Any]:
        """For `CandidateEvaluator`."""
        found: dict[str, Any] = {}
        if self._halving is not None:
            found["stop_below"] = self._halving.stop_below()
        if self._checkpoints is not None:
            found["checkpoint"] = self._checkpoints / f"{block}.pt"
        return found

    def learn(self, evaluation: Evaluation | None) -> None:
        """A trial was told; later ones are held against it."""
        if self._halving is not None and evaluation is not None:
            self._halving.observe(evaluation.rungs)


def read_proposals(directory: RunDirectory) -> tuple[Proposal, ...]:
    """What `run_proposals` wrote.

    Raises:
        RunError: the file is damaged.
    """
    return parse_proposals(directory.read_json("proposals.json"), str(directory.root / "proposals.json"))


def parse_proposals(values: Any, name: str) -> tuple[Proposal, ...]:
    """The proposals in the content of a proposals.json.

    Raises:
        RunError: it is damaged.
    """
    with fields_of(f"{name}: holds no block proposals", "give blocks, or a file that run-search wrote"):
        found = tuple(_proposal(entry) for entry in Fields.of(values).parts("proposals"))
    if not found:
        raise RunError(f"{name}: holds no block proposals")
    return found


def _proposal(entry: Fields) -> Proposal:
    limit_ms = entry.latency("limit_ms") if entry.has("limit_ms") else None
    latency_ms = entry.latency("latency_ms") if entry.has("latency_ms") else None
    if limit_ms is not None and latency_ms is not None and latency_ms > limit_ms:
        raise FieldError(f"'{entry.place}latency_ms' of {latency_ms:g} is above its limit of {limit_ms:g}")
    score = entry.share("score") if entry.has("score") else None
    other = entry.block("runner_up_to") if entry.has("runner_up_to") else None
    return Proposal(entry.block("block"), limit_ms, latency_ms, score, EvaluationImages.read(entry, "score_on"), other)


def _identity(search: ProposalSearch) -> str:
    """All that decides the trials of an ordered search."""
    space = search.space
    facts = {
        "table": [space.table.sha256, space.table.additivity],
        "backbone": space.backbone.to_dict(),
        "coding": space.coding,
        "limits_ms": search.limits_ms,
        "data": search.data,
        "settings": asdict(search.settings),
        "seed": search.seed,
        "bands": search.bands,
        "window": search.window,
    }
    return json.dumps(facts, sort_keys=True)


def _line(number: int, limit_ms: float, trial: Trial[int], block: Block) -> dict[str, Any]:
    # Nothing that depends on the clock, so that an interrupted run ends with the same file as an undisturbed one.
    return {
        "limit": number,
        "limit_ms": limit_ms,
        "index": trial.index,
        "genotype": trial.genotype,
        "block": str(block),
        "latency_ms": trial.latency_ms,
        "score": trial.score,
        "parent": trial.parent,
    }


_TRIAL = (
    "limit",
    "limit_ms",
    "index",
    "genotype",
    "block",
    "latency_ms",
    "score",
    "parent",
    "parent_limit",
    "diverged",
)
_EVALUATION = ("block", *(field.name for field in fields(Evaluation)))


@dataclass(frozen=True, slots=True)
class _Recorded:
    """The trials on the disk.

    Attributes:
        trials: one list per limit, in the order in which they were told.
        by_code, by_text: their blocks.
    """

    trials: list[list[Trial[int]]]
    by_code: dict[int, Block]
    by_text: dict[str, Block]


def _recorded(directory: RunDirectory, limits_ms: Sequence[float], space: BlockSpace, asynchronous: bool) -> _Recorded:
    path, row, found = directory.root / "trials.jsonl", 0, _Recorded([[] for _ in limits_ms], {}, {})
    with fields_of(lambda: f"{path}: line {row} is no trial of this run", LINE_REMEDY):
        for row, line in enumerate(directory.lines("trials.jsonl"), start=1):
            number, trial, block = _trial(Fields(line), limits_ms, space)
            trials = found.trials[number]
            if trial.index != len(trials) and not asynchronous:
                raise RunError(
                    f"{path}: line {row} is trial {trial.index}, but {len(trials)} should follow; restore a copy, or "
                    "move the file away and call the same command again, which writes it from evaluations.jsonl"
                )
            trials.append(trial)
            found.by_code[trial.genotype] = found.by_text[line["block"]] = block
    return found


def _trial(line: Fields, limits_ms: Sequence[float], space: BlockSpace) -> tuple[int, Trial[int], Block]:
    line.only(*_TRIAL)
    number, genotype = line.whole("limit", 0, len(limits_ms) - 1), line.whole("genotype", 0, 2**CODE_BITS - 1)
    latency_ms, text = line.latency("latency_ms"), line.text("block")
    if line.latency("limit_ms") != limits_ms[number] or latency_ms > limits_ms[number]:
        raise FieldError(f"'latency_ms' or 'limit_ms' is not within the limit of {limits_ms[number]:g} ms")
    block = space.block(genotype)
    if str(block) != text and block != line.block("block"):
        raise FieldError(f"'genotype' is not that of {line.block('block')}")
    parent = line.whole("parent") if line.has("parent") else None
    if line.has("parent_limit"):
        line.whole("parent_limit", 0, number - 1)
        parent = None  # no trial of this limit
    return number, Trial(line.whole("index"), genotype, latency_ms, line.share("score"), parent), block


def _evaluations(directory: RunDirectory, blocks: Mapping[str, Block]) -> dict[Block, Evaluation]:
    """The evaluations on the disk; how long they took is kept elsewhere. `blocks` need not be read again, by text."""
    path, row = directory.root / "evaluations.jsonl", 0
    known = {}
    with fields_of(lambda: f"{path}: line {row} is no evaluation of this run", LINE_REMEDY):
        for row, line in enumerate(directory.lines("evaluations.jsonl"), start=1):  # noqa: B007 - the text has it
            found = Fields(line)
            found.only(*_EVALUATION)
            block = blocks.get(found.text("block")) or found.block("block")
            known[block] = Evaluation(
                found.share("score"),
                found.whole("images"),
                0.0,
                found.whole("epochs"),
                tuple(_rung(number, point) for number, point in enumerate(found.items("rungs"))),
                found.whole("judged_on") if found.has("judged_on") else 0,
                found.text("diverged") if found.has("diverged") else None,
            )
    return known


def _rung(number: int, point: Any) -> tuple[int, float]:
    name = f"rungs[{number}]"
    epochs, score = Fields({name: point}).items(name, 2)
    rung = Fields({"epochs": epochs, "accuracy": score}, f"{name}.")
    return rung.whole("epochs", 1), rung.share("accuracy")


def _check_replayed(directory: RunDirectory, earlier: Trial[int], trial: Trial[int]) -> None:
    if replayed(earlier, trial.index, trial.genotype) != trial.score:
        raise RunError(
            f"{directory.root}: trial {trial.index} scored {earlier.score} in trials.jsonl, but {trial.score} in "
            "evaluations.jsonl; restore a copy of both, or move trials.jsonl away and call the same command again, "
            "which writes it from evaluations.jsonl"
        )
