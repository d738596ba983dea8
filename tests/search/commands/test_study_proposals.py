"""The command `run-search study`, which trains in earnest here."""

import csv
import json
import signal

import pytest

pytest.importorskip("torch")

from bpnas.search.training.threads import threads_kept
from tests.programs import halted, run, script
from tests.records_factory import backbone, make_plan
from tests.search_helpers import as_of_an_earlier_bpnas
from tests.table_factory import damage, write

MICRO = "--population 2 --sample 1 --cycles 4 --proposal-epochs 1 --proposal-images 40 --input-size 8".split()
FILES = ("study.csv", "summary.json", "study.png")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write(
        tmp_path_factory.mktemp("table") / "t.parquet", make_plan(backbone(8), paths="K[13]G1,K[35]E[12]G1", mock=True)
    )


@pytest.fixture(scope="module")
def limits(table):
    from bpnas.search import BlockSpace
    from bpnas.tables import LatencyTable

    ordered = sorted(BlockSpace(LatencyTable.load(table)).latencies())
    return f"{ordered[8] + 1e-6:.6f},{ordered[20] + 1e-6:.6f}"


BAD = {
    "no table": (lambda t, d: ["strategies", "--table", d / "none.parquet"], 1, "none.parquet"),
    "damaged table": (lambda t, d: ["strategies", "--table", damage(d / "t.parquet")], 1, "damaged"),
    "study": (lambda t, d: ["colours", "--table", t], 2, "No such command 'colours'"),
    "arm": (lambda t, d: ["strategies", "--table", t, "--arms", "default,genetic"], 2, "no arm 'genetic'"),
    "preset": (lambda t, d: ["gray-code", "--table", t, "--preset", "huge"], 2, "no preset is called 'huge'"),
    "no seeds": (lambda t, d: ["strategies", "--table", t, "--seeds", "0"], 2, "at least one seed"),
    "seeds": (lambda t, d: ["strategies", "--table", t, "--seeds", "few"], 2, "--seeds 'few'"),
    "same seeds": (lambda t, d: ["strategies", "--table", t, "--seeds", "1,1"], 2, "each once"),
    "constraints": (lambda t, d: ["strategies", "--table", t, "--constraints", "3;4"], 2, "commas"),
    "infeasible": (
        lambda t, d: ["strategies", "--table", t, "--constraints", "0.01"],
        2,
        "smallest feasible latency is",
    ),
    "cycles": (lambda t, d: ["strategies", "--table", t, "--cycles", "3"], 2, "more than the population of 3"),
    "source": (lambda t, d: ["strategies", "--table", t, "--data", "places"], 2, "no data source"),
    "directory": (lambda t, d: ["strategies", "--table", t, "--data", f"cifar10:{d}/none"], 1, "no such directory"),
    "input size": (lambda t, d: ["strategies", "--table", t, "--input-size", "64"], 1, "--input-size 64"),
    "workers": (lambda t, d: ["strategies", "--table", t, "--workers", "2"], 2, "without workers"),
    "halving": (lambda t, d: ["strategies", "--table", t, "--halving", "2"], 2, "--halving"),
    "a search's option": (lambda t, d: ["strategies", "--table", t, "--target", "3"], 2, "--target"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_the_right_exit_code(case, cli, table, tmp_path):
    make, code, message = BAD[case]
    (tmp_path / "t.parquet").write_bytes(table.read_bytes())
    name, *options = make(table, tmp_path)
    result = cli("run-search", "study", name, "--input-size", 8, *options, "--out", tmp_path / "out")
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stdout == ""


def test_a_study_in_json_and_text_resumed_and_marked_mock(cli, table, limits, tmp_path):
    options = ["study", "strategies", "--table", table, "--constraints", limits, "--out", tmp_path / "out"]
    options += ["--seeds", "2", "--arms", "default,random", *MICRO]
    done = cli("run-search", *options, "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["mock"] is True and answer["study"] == "strategies"
    assert "[mock]" in done.stderr and f"{2 * 2 * 2 * 4}/{2 * 2 * 2 * 4}" in done.stderr
    with (tmp_path / "out/study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 * 4 and {row["mock"] for row in rows} == {"True"}
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    assert all(0 <= outcome["test"] <= 1 for outcome in answer["outcomes"])
    assert json.loads((tmp_path / "out/summary.json").read_text())["arms"] == answer["arms"]
    assert any("can be told with 2 seeds" in line for line in answer["text"])
    held_out, test = "10 held-out training images of digits at 8 px", "359 test images of digits at 8 px"
    assert f"Searches are evaluated on {held_out}, winners trained again on {test}." in answer["text"]
    assert answer["test_on"] == {"data": "digits", "split": "test", "images": 359, "input_size": 8}
    accuracies = [line for line in done.stderr.splitlines() if "accuracy" in line]
    assert accuracies and all(line.endswith((f" on {held_out}", f" on {test}")) for line in accuracies)
    files = {name: (tmp_path / "out" / name).read_bytes() for name in FILES}
    again = cli("run-search", *options)
    assert again.exit_code == 0 and "mock: computed, not measured" in again.stdout
    assert all(line in again.stdout for line in answer["text"])
    assert files == {name: (tmp_path / "out" / name).read_bytes() for name in FILES}
    changed = cli("run-search", *options, "--proposal-epochs", "2")
    assert changed.exit_code == 1 and "proposals.train.epochs = 1, now it is 2" in changed.stderr


def test_changed_lines_of_a_study_are_seen(cli, table, limits, tmp_path):
    out = tmp_path / "out"
    options = ["study", "strategies", "--table", table, "--constraints", limits, "--out", out, "--seeds", "1", *MICRO]
    assert cli("run-search", *options).exit_code == 0
    whole = (out / "evaluations.jsonl").read_text()
    first, *others = whole.splitlines()
    for change, message in (
        ({"score": -0.5}, "'score' must be a number from 0 to 1"),
        ({"seed": "0"}, "'seed' must be a whole number"),
        ({"on_test": 1}, "'on_test' must be true or false"),
        ({"block": None}, "'block' must be a text"),
    ):
        line = json.dumps(json.loads(first) | change)
        (out / "evaluations.jsonl").write_text("\n".join([line, *others]) + "\n")
        done = cli("run-search", *options)
        assert done.exit_code == 1 and "evaluations.jsonl: line 1 was changed since it was written" in done.stderr
        as_of_an_earlier_bpnas(out / "evaluations.jsonl")
        done = cli("run-search", *options)
        assert done.exit_code == 1 and message in done.stderr and "Traceback" not in done.stderr
    (out / "evaluations.jsonl").write_text(whole)
    as_of_an_earlier_bpnas(out / "evaluations.jsonl", out / "config.json")
    assert cli("run-search", *options).exit_code == 0


def test_random_stage_1_has_a_hundred_trials_as_the_papers(cli, table, tmp_path, monkeypatch):
    asked = []

    def note(study, request, **options):
        asked.append((study.name, request.preset.proposals.cycles, request.preset.proposals.strategy))
        raise KeyboardInterrupt

    monkeypatch.setattr("bpnas.search.studies.proposals.study.run_proposals_study", note)
    common = ["--table", table, "--out", tmp_path]
    assert cli("run-search", "study", "random-stage1", *common).exit_code == 130
    assert cli("run-search", "study", "random-stage1", *common, "--preset", "paper").exit_code == 130
    cli("run-search", "study", "random-stage1", *common, "--cycles", "7", "--strategy", "paper")
    cli("run-search", "study", "gray-code", *common)
    assert asked == [
        ("random-stage1", 100, "default"),
        ("random-stage1", 300, "default"),
        ("random-stage1", 7, "paper"),
        ("gray-code", 5, "default"),
    ]


@threads_kept()
def test_winners_see_test_images_and_the_same_training_images():
    from bpnas.profiler import Block
    from bpnas.search import CandidateEvaluator, Preset, load_data
    from bpnas.search.studies.proposals.trainer import StudyTraining
    from tests.search_helpers import tiny_backbone

    preset = Preset.load("tiny").override(
        {"proposals.train.epochs": 1, "proposals.train.train_images": 60, "test_images": 70}
    )
    trainer = StudyTraining(tiny_backbone(), "digits", preset)()
    settings, block = preset.proposals, Block.parse("K3G1")
    dataset = load_data("digits", 32, 60)
    assert trainer(block, seed=3).score == CandidateEvaluator(tiny_backbone(), dataset, settings, 3)(block).score
    tested = trainer(block, seed=3, on_test=True)
    assert tested.images == 45  # as in a search
    assert tested.score * 70 == pytest.approx(round(tested.score * 70))


@pytest.mark.slow
def test_killed_and_interrupted_it_ends_as_if_undisturbed(cli, table, limits, tmp_path):
    def words(name):
        options = ["--table", table, "--constraints", limits, "--seeds", "2", *MICRO, "--out", tmp_path / name]
        return "study", "strategies", *options

    assert cli("run-search", *words("whole")).exit_code == 0
    again = script("run-search"), *words("cut")
    for number, lines, code in ((signal.SIGKILL, 3, -signal.SIGKILL), (signal.SIGINT, 12, 130)):
        with halted(tmp_path / "cut/evaluations.jsonl", lines, *again) as process:
            process.send_signal(number)
            assert process.wait() == code
            errors = process.stderr
        assert "Traceback" not in errors
    assert "call the same command again" in errors
    run(*again)
    for name in FILES:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_worker_processes_train_the_same_study(cli, table, limits, tmp_path):
    options = [
        "study",
        "strategies",
        "--table",
        table,
        "--constraints",
        limits,
        "--seeds",
        "1",
        "--retrain",
        "0",
        *MICRO,
    ]
    options += ["--arms", "default,random"]
    for place, executor in (("here", []), ("there", ["--executor", "processes", "--workers", "2"])):
        done = cli("run-search", *options, *executor, "--out", tmp_path / place)
        assert done.exit_code == 0, done.stderr
    assert (tmp_path / "here/study.csv").read_bytes() == (tmp_path / "there/study.csv").read_bytes()
