"""A search that is called again goes on behind its snapshot, to the same trials; without one it replays them all."""

import json
import os
import random
import shutil
from dataclasses import replace

import pytest

import bpnas.search.proposals.run as run_module
from bpnas.search.errors import RunError
from bpnas.search.execution.evaluation import Evaluation
from bpnas.search.presets import Preset
from bpnas.search.progress import Silent
from bpnas.search.proposals.evolution import Evolution
from bpnas.search.proposals.random_draws import RandomDraws
from bpnas.search.proposals.run import ProposalSearch, run_proposals
from bpnas.search.proposals.space import BlockSpace
from bpnas.search.run_directory import RunDirectory
from bpnas.search.sealed import sealed_json, sealed_line
from tests.search_helpers import FormulaTable, Steps

LIMITS_MS = (0.5, 0.8)  # of the second one, what the first one has learned counts
CYCLES = 60
SNAPSHOT = "checkpoints/evolution.json"


class CutOff(Exception):  # noqa: N818
    """The process is killed."""


class Answers:
    """An executor whose candidates reach what their name says; killed when it is to evaluate one too many."""

    workers = 1

    def __init__(self, most):
        self.most, self.blocks, self._queue = most, [], []

    def submit(self, number, block, **options):
        if len(self.blocks) == self.most:
            raise CutOff
        self.blocks.append(block)
        self._queue.append((number, block))

    def next(self):
        number, block = self._queue.pop(0)
        accuracy = random.Random(str(block)).randrange(20) / 20
        return number, Evaluation(accuracy, 10, 0.1, 2, ((1, accuracy),), 20)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(run_module, "EVERY", 8)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands of them take minutes on a busy disk


@pytest.fixture
def space():
    return BlockSpace(FormulaTable.tiny("K[13]*"))


@pytest.fixture
def search(space):
    def call(folder, most=10**6, window=1, **settings):
        """Evaluate at most so many candidates; the proposals, or None, and how many candidates were evaluated."""
        changes = {"proposals.cycles": CYCLES, "proposals.population": 12, "proposals.sample": 4}
        preset = Preset.load("tiny").override(changes | {f"proposals.{name}": each for name, each in settings.items()})
        directory, answers = RunDirectory(folder), Answers(most)
        coded = BlockSpace(space.table, coding=preset.proposals.coding)
        wanted = ProposalSearch(coded, LIMITS_MS, "digits", preset.proposals, 3, window=window)
        try:
            return run_proposals(wanted, directory, Silent(), answers), len(answers.blocks)
        except CutOff:
            return None, len(answers.blocks)

    return call


def contents(folder):
    return {name: (folder / name).read_bytes() for name in ("trials.jsonl", "evaluations.jsonl", "proposals.json")}


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"warm_start": False},
        {"strategy": "paper"},
        {"strategy": "random"},
        {"coding": "gray"},
        {"halving": 2, "train.epochs": 4},
    ],
    ids=str,
)
def test_a_search_that_is_cut_off_again_and_again_ends_as_an_undisturbed_one(search, tmp_path, window, settings):
    expected, evaluated = search(tmp_path / "whole", window=window, **settings)
    calls = 0
    while True:
        calls += 1
        found, count = search(tmp_path / "parts", 7 + calls % 5, window=window, **settings)
        assert count <= 12
        if found is not None:
            break
    assert calls > evaluated / 13
    assert found == expected
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert not (tmp_path / "parts" / SNAPSHOT).exists()


def cut_off(search, folder, most=95):
    """A search cut off under its second limit."""
    assert search(folder, most) == (None, most)
    return folder


def test_only_what_follows_the_snapshot_is_replayed_and_each_line_is_read_once(search, tmp_path, monkeypatch):
    folder = cut_off(search, tmp_path / "run")
    asked, lines = [], []
    ask, trial = Evolution.ask, run_module._trial
    monkeypatch.setattr(Evolution, "ask", lambda self: asked.append(0) or ask(self))
    monkeypatch.setattr(run_module, "_trial", lambda line, *others: lines.append(0) or trial(line, *others))
    trials = len((folder / "trials.jsonl").read_text().splitlines())
    assert search(folder, 0) == (None, 0)
    assert len(asked) <= 8 + 1 < trials - CYCLES, "the first limit is done, and most of the second"
    assert len(lines) == trials


def damaged(snapshot):
    return snapshot.write_bytes(snapshot.read_bytes()[:-40])


def resealed(change):
    def apply(snapshot):
        values = json.loads(snapshot.read_text())
        del values["file_sha256"]
        change(values)
        snapshot.write_bytes(sealed_json(values))

    return apply


WRONG = {
    "cut off": damaged,
    "missing": lambda snapshot: snapshot.unlink(),
    "of another search": resealed(lambda values: values.update(search="another")),
    "of other trials": resealed(lambda values: values["limits"]["1"].update(trials="0" * 64)),
    "of more trials": resealed(lambda values: values["limits"]["1"].update(told=10**6)),
    "no random state": resealed(lambda values: values["limits"]["1"]["state"].update(rng=[3, [1, 2], None])),
    "too large numbers": resealed(lambda values: values["limits"]["1"]["state"].update(rng=[3, [2**80] * 625, None])),
    "a round of others": resealed(lambda values: values["limits"]["1"]["state"]["proposer"].update(round=[-999])),
    "waits for no block": resealed(lambda values: values["limits"]["1"]["state"]["proposer"].update(waiting=[[0, 0]])),
    "done too early": resealed(lambda values: values["limits"]["1"].update(state=None)),
    "of another first limit": resealed(lambda values: values["limits"].update({"1": values["limits"]["0"]})),
    "no state": resealed(lambda values: values["limits"]["1"].update(state={})),
    "a list": resealed(lambda values: values["limits"].update({"1": []})),
    "no limits": resealed(lambda values: values.update(limits=7)),
    "a negative number": resealed(lambda values: values["limits"]["1"].update(told=-3)),
    "words": resealed(
        lambda values: values["limits"]["1"]["state"]["proposer"]["sampler"].update(seen_ms=["x", "y", "z"])
    ),
}


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG)
def test_a_snapshot_that_is_wrong_is_not_believed(search, tmp_path, spoil):
    expected, _ = search(tmp_path / "whole")
    folder = cut_off(search, tmp_path / "run")
    spoil(folder / SNAPSHOT)
    assert search(folder)[0] == expected
    assert contents(folder) == contents(tmp_path / "whole")


def test_one_of_an_earlier_moment_is_taken_up_there(search, tmp_path):
    expected, _ = search(tmp_path / "whole")
    folder = cut_off(search, tmp_path / "run", 80)
    shutil.copy(folder / SNAPSHOT, tmp_path / "earlier.json")
    search(folder, 20)
    shutil.copy(tmp_path / "earlier.json", folder / SNAPSHOT)
    assert search(folder)[0] == expected
    assert contents(folder) == contents(tmp_path / "whole")


def test_trials_that_were_moved_away_are_written_again(search, tmp_path):
    expected, _ = search(tmp_path / "whole")
    folder = cut_off(search, tmp_path / "run")
    (folder / "trials.jsonl").unlink()
    assert search(folder)[0] == expected
    assert contents(folder) == contents(tmp_path / "whole")


def test_snapshots_of_random_draws_spare_the_draws(search, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    assert search(folder, 95, strategy="random") == (None, 95)
    asked, ask = [], RandomDraws.ask
    monkeypatch.setattr(RandomDraws, "ask", lambda self: asked.append(0) or ask(self))
    assert search(folder, 0, strategy="random") == (None, 0)
    assert len(asked) <= 8 + 1


@pytest.mark.parametrize("window", [1, 4])
def test_opinions_asked_for_again_go_on_as_they_were(tmp_path, window):
    """Where every block is known, also those of the limit before are evaluated again in turns, half of them a round."""

    def killed_after(steps, folder):
        def kill(number):
            if number == steps:
                raise CutOff

        preset = Preset.load("tiny").override({"proposals.cycles": 70, "proposals.population": 6})
        few = BlockSpace(FormulaTable.tiny("K[13]G[12]"))
        wanted = ProposalSearch(few, (0.5, 0.8), "digits", preset.proposals, 3, window=window)
        return run_proposals(wanted, RunDirectory(folder), Steps(kill), Answers(10**6))

    expected = killed_after(0, tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "whole/trials.jsonl").read_text().splitlines()]
    assert any("parent_limit" in line for line in lines[-20:])
    for steps in (*range(1, 30), 10**6):
        try:
            found = killed_after(steps, tmp_path / "parts")
            break
        except CutOff:
            pass
    assert found == expected
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize("limit", [0, 1])
def test_what_evaluations_say_otherwise_is_refused_as_without_a_snapshot(search, tmp_path, limit):
    folder = cut_off(search, tmp_path / "run")
    trials = map(json.loads, (folder / "trials.jsonl").read_text().splitlines())
    trial = next(line for line in trials if (line["limit"], line["index"]) == (limit, 2))
    lines = (folder / "evaluations.jsonl").read_bytes().splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines) if json.loads(line)["block"] == trial["block"])
    values = json.loads(lines[number])
    del values["check"]
    lines[number] = sealed_line(values | {"score": 0.123})
    (folder / "evaluations.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(RunError, match="trial 2 scored"):
        search(folder)


@pytest.mark.parametrize("diverged", [0, 3, 70], ids=str)
def test_what_has_diverged_counts_as_it_did(search, tmp_path, monkeypatch, diverged):
    next_of = Answers.next

    def fail(self):
        number, evaluation = next_of(self)
        bad = random.Random(evaluation.score * 7 + diverged).random() < 0.3
        return number, replace(evaluation, score=0.0, diverged="in epoch 1") if bad else evaluation

    monkeypatch.setattr(Answers, "next", fail)
    expected, _ = search(tmp_path / "whole")
    assert b"diverged" in (tmp_path / "whole/trials.jsonl").read_bytes()
    for most in range(5, 40):
        found, _ = search(tmp_path / "parts", most)
        if found is not None:
            break
    assert found == expected
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
