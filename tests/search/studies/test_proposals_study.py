"""Studies, with an evaluator that trains nothing."""

import csv
import json
import re
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from bpnas.base.errors import UsageError
from bpnas.base.randomness import derived_seed
from bpnas.search import InfeasibleLimitError, Preset, RunError
from bpnas.search.execution.executor import LocalExecutor
from bpnas.search.proposals.space import BlockSpace
from bpnas.search.studies.proposals.arms import STUDIES, load_study
from bpnas.search.studies.proposals.study import run_proposals_study
from bpnas.search.studies.study import StudyRequest
from tests.root import ROOT
from tests.search_helpers import FormulaTable, as_of_an_earlier_bpnas

SMALL = Preset.load("tiny").override({"proposals.population": 3, "proposals.sample": 2, "proposals.cycles": 8})
LIMITS = (0.1, 0.3)
FILES = ("study.csv", "summary.json", "study.png", "evaluations.jsonl")


@dataclass
class Lottery:
    """Wider blocks are better, and every training has its luck; stops after some as Ctrl-C does."""

    stop_after: int = 10**9
    done: int = 0

    def __call__(self, block, *, seed, on_test=False):
        if self.done == self.stop_after:
            raise KeyboardInterrupt
        self.done += 1
        luck = derived_seed(seed, block, on_test) / 2**63
        width = sum(getattr(path, "expansion", 1) for path in block.paths)
        score = 0.3 + 0.01 * width + 0.2 * luck
        return SimpleNamespace(score=score, images=10, seconds=0.5, judged_on=30, diverged=None)


@pytest.fixture(scope="module")
def table():
    return FormulaTable.tiny("K1G1,K3G1,K3G4,K3E[1-4]G1,K5E[26]G2,K7E16G1")


def run(table, out, name="strategies", evaluate=None, executor=None, **changes):
    fake = evaluate or Lottery()
    study, limits = changes.pop("study", None) or load_study(name), changes.pop("constraints", LIMITS)
    executor = executor or (lambda make, on_loss: LocalExecutor(lambda: fake))
    request = StudyRequest(table, out, **{"preset": SMALL, "seeds": (0, 1, 2), **changes})
    return run_proposals_study(study, request, constraints=limits, executor=executor)


def rows(out):
    with (out / "study.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(out):
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_gets_the_same_terms(name, table, tmp_path):
    result = run(table, tmp_path, name)
    found = rows(tmp_path)
    arms = [arm.name for arm in load_study(name).arms]
    assert len(found) == len(arms) * 3 * len(LIMITS) * 8
    searches = {}
    for row in found:
        searches.setdefault((row["arm"], row["limit_ms"], row["seed"]), []).append(row)
    assert len(searches) == len(arms) * 3 * len(LIMITS)
    for (_, limit, _), trials in searches.items():
        scores = [float(trial["score"]) for trial in trials]
        blocks = [trial["block"] for trial in trials]
        assert [int(trial["index"]) for trial in trials] == list(range(8))
        assert all(float(trial["latency_ms"]) <= float(limit) for trial in trials)
        assert [float(trial["best_so_far"]) for trial in trials] == [max(scores[: n + 1]) for n in range(8)]
        assert [trial["repeat"] for trial in trials] == [str(block in blocks[:n]) for n, block in enumerate(blocks)]
    assert {(row["mock"], row["device"], row["table_sha256"], row["data"]) for row in found} == {
        ("True", "a formula", "0" * 64, "digits")
    }
    assert {(outcome.arm, outcome.limit_ms) for outcome in result.found.summary.outcomes} == {
        (arm, limit) for arm in arms for limit in LIMITS
    }


def test_no_training_is_done_twice(table, tmp_path):
    evaluate = Lottery()
    result = run(table, tmp_path, evaluate=evaluate)
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert {" ".join(line) for line in lines} == {"block seed on_test score images seconds judged_on check"}
    keys = [(line["block"], line["seed"], line["on_test"]) for line in lines]
    assert len(set(keys)) == len(keys) == evaluate.done == result.found.trainings
    searched = {(row["block"], int(row["seed"])) for row in rows(tmp_path)}
    assert {(block, seed) for block, seed, on_test in keys if not on_test} == searched
    again = run(table, tmp_path, evaluate=Lottery(stop_after=0))
    assert (again.values, again.found.lines) == (result.values, result.found.lines)


def test_winners_are_evaluated_by_fresh_seeds_on_test_images(table, tmp_path):
    result = run(table, tmp_path, retrain=3)
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    tested = [line for line in lines if line["on_test"]]
    assert not {line["seed"] for line in tested} & {0, 1, 2}
    assert {line["block"] for line in tested} == {outcome.block for outcome in result.found.summary.outcomes}
    for outcome in result.found.summary.outcomes:
        scores = {line["score"] for line in tested if line["block"] == outcome.block}
        assert min(scores) <= outcome.test <= max(scores)
    assert run(table, tmp_path / "none", retrain=0).found.summary.outcomes[0].test is None


@pytest.mark.parametrize("stop_after", [0, 1, 7, 30])
def test_stopped_at_any_training_it_ends_as_if_undisturbed(stop_after, table, tmp_path):
    run(table, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(table, tmp_path / "stopped", evaluate=Lottery(stop_after))
    with (tmp_path / "stopped/evaluations.jsonl").open("ab") as file:
        file.write(b'{"block": "K3G1", "se')  # as a kill leaves it
    run(table, tmp_path / "stopped")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


class Shuffled(LocalExecutor):
    """Three workers that finish in another order than they began."""

    def __init__(self, make):
        super().__init__(make)
        self.workers, self.most = 3, 0

    def next(self):
        self.most = max(self.most, len(self._queue))
        self._queue.rotate(1)
        return super().next()


def test_workers_change_nothing_but_the_order_of_trainings(table, tmp_path):
    run(table, tmp_path / "one")
    opened = []

    def executor(make, on_loss):
        opened.append(Shuffled(lambda: Lottery()))
        return opened[-1]

    run(table, tmp_path / "three", executor=executor)
    assert opened[0].most == 3
    one, three = contents(tmp_path / "one"), contents(tmp_path / "three")
    assert sorted(one.pop("evaluations.jsonl").splitlines()) == sorted(three.pop("evaluations.jsonl").splitlines())
    assert one == three


def test_more_seeds_later_keep_what_was_trained(table, tmp_path):
    run(table, tmp_path, seeds=(0, 1))
    before = rows(tmp_path)
    again = Lottery()
    run(table, tmp_path, seeds=(0, 1, 2), evaluate=again)
    assert [row for row in rows(tmp_path) if row["seed"] != "2"] == before
    assert 0 < again.done <= 6 * 8 + 6


def test_one_seed_has_no_intervals(table, tmp_path):
    summary = run(table, tmp_path, seeds=(4,)).found.summary
    assert all(arm.found.low is None for arm in summary.arms)
    assert all(comparison.result.p == 1.0 for comparison in summary.comparisons if comparison.limit_ms)


def test_an_arm_that_is_left_out_is_compared_with_nothing(table, tmp_path):
    summary = run(table, tmp_path, study=load_study("strategies").only(("random", "default"))).found.summary
    assert {(comparison.first, comparison.second) for comparison in summary.comparisons} == {("default", "random")}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"constraints": (0.1, 0.2)}, "--constraints "),
        ({"preset": SMALL.override({"proposals.cycles": 9})}, "proposals.cycles = 8, now it is 9"),
        ({"preset": SMALL.override({"proposals.train.epochs": 9})}, "proposals.train.epochs"),
        ({"name": "gray-code"}, "study = strategies, now it is gray-code"),
        ({"table": FormulaTable(FormulaTable.tiny().backbones, sha256="1" * 64)}, "a --table of SHA-256 "),
        ({"data": "fashion-mnist:somewhere"}, "data"),
    ],
)
def test_a_changed_setting_is_named(change, field, table, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(table, tmp_path, evaluate=Lottery(2))
    before = (tmp_path / "evaluations.jsonl").read_bytes()
    with pytest.raises(RunError, match=field):
        run(**{"table": table, "out": tmp_path, **change})
    assert (tmp_path / "evaluations.jsonl").read_bytes() == before


def test_a_damaged_line_is_named(table, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(table, tmp_path, evaluate=Lottery(2))
    as_of_an_earlier_bpnas(tmp_path / "evaluations.jsonl")
    with (tmp_path / "evaluations.jsonl").open("ab") as file:
        file.write(b'{"block": "K9", "seed": 0, "on_test": false, "score": 0.5}\n')
    with pytest.raises(RunError, match="line 3 is no evaluation"):
        run(table, tmp_path)


def test_an_infeasible_limit_is_answered_with_the_smallest_feasible_one(table, tmp_path):
    with pytest.raises(InfeasibleLimitError, match="the smallest feasible latency is") as caught:
        run(table, tmp_path / "x", constraints=(0.3, 0.001))
    assert caught.value.smallest_ms == float(BlockSpace(table).latencies().min())
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, "needs one or more"),
        ({"seeds": (1, 1)}, "each once"),
        ({"retrain": -1}, "-1 times"),
        ({"constraints": (-1.0,)}, "positive"),
        ({"constraints": (float("nan"),)}, "positive"),
        ({"preset": SMALL.override({"proposals.cycles": 3})}, "more than the population of 3"),
        ({"data": "places"}, "no data source"),
    ],
)
def test_senseless_requests(change, message, table, tmp_path):
    with pytest.raises(UsageError, match=message):
        run(table, tmp_path / "x", **change)
    assert not (tmp_path / "x").exists()


def test_unknown_studies_and_arms_are_told_the_known_ones():
    with pytest.raises(UsageError, match="strategies, random-stage1, gray-code"):
        load_study("colours")
    with pytest.raises(UsageError, match="no arm 'genetic': its arms are default, paper, random"):
        load_study("strategies").only(("default", "genetic"))


def test_random_draws_take_no_block_twice_while_there_are_others(table, tmp_path):
    space = BlockSpace(table)
    fastest = sorted(space.latencies())[:5]
    run(table, tmp_path, constraints=(fastest[-1],), study=load_study("strategies").only(("random", "default")))
    for seed in "012":
        blocks = [row["block"] for row in rows(tmp_path) if row["arm"] == "random" and row["seed"] == seed]
        assert len(blocks) == 8 and len(set(blocks)) == 5
        assert len(set(blocks[:5])) == 5


def test_a_stuck_search_ends_early_and_keeps_its_best(table, monkeypatch, tmp_path):
    """No child is ever found: what is left is the first population."""
    slow = int(BlockSpace(table).latencies().argmax())
    monkeypatch.setattr(BlockSpace, "mutate", lambda self, code, rng: self.code_of(self.at(slow), rng))
    result = run(table, tmp_path)
    for outcome in result.found.summary.outcomes:
        where = (outcome.arm, str(outcome.limit_ms), str(outcome.seed))
        of_search = [row for row in rows(tmp_path) if (row["arm"], row["limit_ms"], row["seed"]) == where]
        assert outcome.stuck == (outcome.arm == "paper")
        assert len(of_search) == (3 if outcome.stuck else 8)
        scores = [float(row["best_so_far"]) for row in of_search]
        assert outcome.anytime == pytest.approx(sum(scores + scores[-1:] * (8 - len(scores))) / 8)


def test_the_documented_columns_and_files_are_those_written(table, tmp_path):
    run(table, tmp_path)
    text = (ROOT / "docs/search.md").read_text(encoding="utf-8")
    described = text[text.index("The columns of `study.csv`:") :].split("\n\n")[0]
    assert re.findall(r"`(\w+)`", described) == list(rows(tmp_path)[0])
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} - {".lock"} == set(
        re.findall(r"^\| `([\w.]+)` \|", text[text.index("### What it writes") :], re.MULTILINE)
    )
