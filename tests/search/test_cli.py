import json
import os
import random
import signal
import time

import pytest

pytest.importorskip("torch")
from click.testing import CliRunner

from bpnas.profiler import Block
from bpnas.search.cli import main as run_search_command
from bpnas.tables import LatencyTable
from tests.programs import halted, run, script

SMALL_BACKBONE = """
name = "small"
stages = [{ channels = 8, blocks = 2, stride = 2 }, { channels = 16, blocks = 2, stride = 2 }]
[stem]
channels = 8
stride = 2
[head]
channels = 16
"""
MICRO = ("--population 2 --sample 1 --cycles 3 --proposal-epochs 1 --proposal-images 40 --connection-epochs 2 "
         "--connection-images 40 --retrain-epochs 2 --retrain-images 40").split()  # fmt: skip


def call(*arguments):
    return CliRunner().invoke(run_search_command, list(map(str, arguments)))


@pytest.fixture(scope="session")
def small_table(tmp_path_factory):
    """A table made by the commands themselves: a small backbone on the computed device."""
    folder = tmp_path_factory.mktemp("table")
    (folder / "small.toml").write_text(SMALL_BACKBONE)
    profile = ["--serial", "mock:s9", "--sessions", 1, "--backbone", folder / "small.toml", "--input-size", 32]
    profile += ["--paths", "K1G1,K3G*,K3E[13]G1", "--records", folder / "small.sqlite"]
    run(script("profile-device"), *profile)
    run(script("build-table"), folder / "small.sqlite", "--out", folder / "small.parquet")
    return folder / "small.parquet"


def damaged(table, tmp_path):
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    file = tmp_path / "damaged.parquet"
    file.write_bytes(content)
    return file


BAD = {
    "no table": (lambda t, d: ["--table", d / "none.parquet"], 1, "none.parquet"),
    "damaged table": (lambda t, d: ["--table", damaged(t, d)], 1, "damaged"),
    "stage": (lambda t, d: ["--table", t, "--stage", "third"], 2, "third"),
    "preset": (lambda t, d: ["--table", t, "--preset", "huge"], 2, "tiny, small, paper"),
    "source": (lambda t, d: ["--table", t, "--data", "mnist"], 2, "no data source is called 'mnist'"),
    "directory": (lambda t, d: ["--table", t, "--data", f"cifar10:{d}/none"], 1, "no such directory"),
    "constraints": (lambda t, d: ["--table", t, "--constraints", "3;4"], 2, "commas"),
    "infeasible limit": (lambda t, d: ["--table", t, "--constraints", "0.0001"], 2, "smallest feasible latency is"),
    "infeasible target": (lambda t, d: ["--table", t, "--target", "0.0001"], 2, "smallest feasible latency is"),
    "negative target": (lambda t, d: ["--table", t, "--target", "-3"], 2, "positive"),
    "additivity": (lambda t, d: ["--table", t, "--additivity", "product"], 2, "product"),
    "no such model": (lambda t, d: ["--table", t, "--additivity", "corrected"], 1, "no model 'corrected'"),
    "input size": (lambda t, d: ["--table", t, "--input-size", "64"], 1, "--input-size 64"),
    "no proposals": (lambda t, d: ["--table", t, "--stage", "connections"], 2, "holds no proposals yet"),
    "proposals": (lambda t, d: ["--table", t, "--proposals", "K3G1,K9"], 2, "'K9' is no path"),
    "proposals file": (lambda t, d: ["--table", t, "--proposals", d / "none.json"], 2, "cannot be read"),
    "path not in the table": (
        lambda t, d: ["--table", t, "--proposals", "K7G1", "--target", 9, "--stage", "connections"],
        1,
        "no entry 'K7G1@",
    ),
    "override": (lambda t, d: ["--table", t, "--sample", "99"], 2, "population"),
    "workers of none": (lambda t, d: ["--table", t, "--workers", "2"], 2, "without workers"),
    "no workers": (lambda t, d: ["--table", t, "--executor", "processes", "--workers", "0"], 2, "x>=1"),
    "window": (lambda t, d: ["--table", t, "--window", "0"], 2, "x>=1"),
    "address": (lambda t, d: ["--table", t, "--ray-address", "auto"], 2, "use --executor ray"),
    "epochs": (lambda t, d: ["--table", t, "--connection-epochs", "1"], 2, "warm-up"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_the_right_exit_code(case, small_table, tmp_path):
    make, code, message = BAD[case]
    result = call(*make(small_table, tmp_path), "--out", tmp_path / "out")
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_the_only_table_in_the_directory_is_taken(small_table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no table in this directory" in call("--constraints", "0.0001").output
    (tmp_path / "other.parquet").write_bytes(b"PAR1 of somebody else PAR1")
    (tmp_path / "one.parquet").write_bytes(small_table.read_bytes())
    assert "smallest feasible latency is" in call("--constraints", "0.0001").output
    (tmp_path / "two.parquet").write_bytes(small_table.read_bytes())
    result = call("--constraints", "0.0001")
    assert result.exit_code == 2
    assert "2 tables in this directory (one.parquet, two.parquet)" in result.output


def test_classes_without_images_are_named(small_table, tmp_path):
    for name in "abc":
        for part in ("train", "val"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
    images = f"folder:{tmp_path / 'images'}"
    result = call("--table", small_table, "--data", images, "--input-size", 32, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "images/train/a: holds no images" in result.output


def test_a_run_in_json_resumed_and_marked_mock(small_table, tmp_path):
    arguments = ["--table", small_table, "--out", tmp_path / "out", *MICRO, "--json"]
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["mock"] is True and answer["additivity"] == "sum"
    assert json.loads((tmp_path / "out/network.json").read_text())["additivity"] == "sum"
    assert answer["network"]["predicted_latency_ms"] <= answer["network"]["target_ms"]
    assert len(answer["proposals"]) == len({p["limit_ms"] for p in answer["proposals"]})
    assert all(stage["hours"] > 0 for stage in answer["cost"]["stages"])
    assert "[mock]" in result.stderr
    again = call(*arguments)
    assert json.loads(again.stdout) == answer
    text = call(*arguments[:-1]).output
    assert "mock: computed, not measured" in text and "years" not in text
    assert "networks are predicted by 'sum'" in text
    other = call(*arguments, "--additivity", "sum+joins")
    assert other.exit_code == 1 and "--additivity sum, now it is sum+joins" in other.output
    changed = call(*arguments, "--seed", 5)
    assert changed.exit_code == 1 and "--seed 0, now it is 5" in changed.output


def test_a_plan_says_what_will_be_done_and_does_nothing(small_table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--table", small_table, "--seed", 1, *MICRO)
    done = call(*words, "--plan", "--json")
    assert done.exit_code == 0 and not list(tmp_path.iterdir())
    plan = json.loads(done.stdout)
    assert plan["mock"] is True and [stage["stage"] for stage in plan["stages"]] == [
        "proposals",
        "connections",
        "retraining",
    ]
    assert len(plan["forced_skips"]) == len(plan["targets_ms"]) == 1
    assert plan["cost_hours"] == sum(stage["cost_hours"] for stage in plan["stages"]) > 0
    text = call(*words, "--plan").stdout
    assert "mock: computed, not measured" in text and "Nothing was written" in text
    assert max(map(len, text.splitlines())) <= 100
    assert call(*words, "--out", "run").exit_code == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["constraints_ms"] == plan["limits_ms"] and [config["target_ms"]] == plan["targets_ms"]
    trained = {line["block"] for line in map(json.loads, (tmp_path / "run/evaluations.jsonl").read_text().splitlines())}
    assert len(trained) <= plan["stages"][0]["trainings"]


def test_every_accuracy_names_its_images(small_table, tmp_path):
    options = ["--table", small_table, "--out", tmp_path / "out", *MICRO, "--k-best", 2]
    done = call(*options)
    assert done.exit_code == 0, done.output
    test, held_out = "359 test images of digits at 32 px", "10 held-out training images of digits at 32 px"
    network = next(line for line in done.stdout.splitlines() if line.startswith("Network: "))
    assert network.endswith(f"% on {test}")
    of_blocks = [line for line in done.output.splitlines() if "limit " in line and "accuracy " in line]
    assert of_blocks and all(line.endswith(f" on {held_out}") for line in of_blocks)
    evaluated = {"data": "digits", "split": "test", "images": 359, "input_size": 32}
    answer = json.loads(call(*options, "--json").stdout)
    assert answer["network"]["accuracy_on"] == evaluated
    assert answer["network"]["within_limit"] is True and answer["network"]["limit_ms"] == answer["network"]["target_ms"]
    values = json.loads((tmp_path / "out/network.json").read_text())
    assert values["accuracy_on"] == evaluated and values["limit_ms"] == values["target_ms"] and values["within_limit"]
    for proposal in json.loads((tmp_path / "out/proposals.json").read_text())["proposals"]:
        assert proposal["score_on"] == evaluated | {"split": "held-out training", "images": 10}
    found = json.loads((tmp_path / "out/connections.json").read_text())
    assert found["inherited_accuracy_on"] == evaluated | {"split": "held-out training", "images": 8}
    assert call("export", tmp_path / "out").exit_code == 0
    proposals = call("--table", small_table, "--proposals", tmp_path / "out", "--stage", "proposals")
    assert proposals.exit_code == 2 and "nothing to do" in proposals.output


def test_int8_comes_last_and_once(small_table, tmp_path):
    pytest.importorskip("onnxruntime")
    options = ["--table", small_table, "--out", tmp_path / "run", *MICRO, "--int8"]
    first = call(*options)
    assert first.exit_code == 0, first.output
    assert f"Int8 in {tmp_path / 'run'}:\nnetwork.int8.onnx: accuracy " in first.stdout
    assert "points on 359 test images of digits at 32 px\n" in first.stdout
    before = (tmp_path / "run/network.int8.onnx").stat()
    again = json.loads(call(*options, "--json").stdout)
    (found,) = again["int8"].values()
    assert (
        found["calibration_images"] == 256 and found == json.loads((tmp_path / "run/network.json").read_text())["int8"]
    )
    assert (tmp_path / "run/network.int8.onnx").stat().st_mtime_ns == before.st_mtime_ns
    # Timed as the table was, and next to what it predicts.
    measured = json.loads(call("measure", tmp_path / "run", "--runtime", "tflite", "--json").stdout)
    assert measured["warnings"] == [] and measured["measured"][0]["mock"] is True
    assert measured["measured"][0]["latency_ms"] == pytest.approx(measured["predicted_latency_ms"], rel=0.5)


def test_another_model_predicts_another_latency_of_the_same_network(small_table, tmp_path):
    found = {}
    for name in ("sum", "sum+joins"):
        arguments = ["--table", small_table, "--additivity", name, "--proposals", "K3G1,K3G8+K3E1G1", "--target", 5]
        result = call(*arguments, "--out", tmp_path / name, *MICRO, "--json")
        assert result.exit_code == 0, result.output
        stored = json.loads((tmp_path / name / "network.json").read_text())
        assert stored["additivity"] == name
        found[name] = [None if text == "skip" else Block.parse(text) for text in stored["blocks"]]
        table = LatencyTable.load(small_table, name)
        assert stored["predicted_latency_ms"] == table.network(found[name])
        assert table.network(found[name]) <= 5


def test_given_proposals_as_texts_and_as_a_file(small_table, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({"proposals": [
        {"block": "K3G1", "limit_ms": None, "latency_ms": None, "score": None},
        {"block": "K3E1G1+K3G8", "limit_ms": 3.0, "latency_ms": 2.0, "score": 0.5},
    ]}))  # fmt: skip
    answers = []
    for number, proposals in enumerate(("K3G1,K3G8+K3E1G1", tmp_path / "p.json")):
        out = tmp_path / f"out{number}"
        arguments = ["--table", small_table, "--proposals", proposals, "--target", 5, "--out", out, *MICRO, "--json"]
        result = call(*arguments)
        assert result.exit_code == 0, result.output
        answers.append(json.loads(result.stdout)["network"])
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_if_undisturbed(small_table, tmp_path):
    assert call("--table", small_table, "--out", tmp_path / "whole", *MICRO).exit_code == 0
    again = script("run-search"), "--table", small_table, "--out", tmp_path / "killed", *MICRO
    files = {"trials.jsonl": 4, "connections.jsonl": 1, "connections.json": 1}
    for watched, lines in files.items():
        with halted(tmp_path / "killed" / watched, lines, *again) as process:
            process.kill()
            assert process.wait() == -signal.SIGKILL
    run(*again)
    for name in ("config.json", "trials.jsonl", "proposals.json", "connections.jsonl", "network.json"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text(), name
    assert (tmp_path / "killed/network.tflite").read_bytes() == (tmp_path / "whole/network.tflite").read_bytes()


def for_proposals(table, out, *more):
    options = [*MICRO, "--cycles", 12, "--stage", "proposals", "--window", 3, "--threads", 1]
    return "--table", table, "--out", out, *options, *more


@pytest.fixture(scope="module")
def whole(small_table, tmp_path_factory):
    """An undisturbed search for proposals."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert call(*for_proposals(small_table, out)).exit_code == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("executor", [["local"], ["processes", "--workers", 2]], ids=["local", "processes"])
def test_killed_at_random_moments_it_ends_with_the_same_trials(executor, small_table, whole, tmp_path):
    killed, count = tmp_path / "killed", len((whole / "trials.jsonl").read_bytes().splitlines())
    again = script("run-search"), *for_proposals(small_table, killed, "--executor", *executor)
    rng = random.Random(5)
    for goal in sorted(rng.sample(range(1, count), 4)):
        with halted(killed / "trials.jsonl", goal, *again) as process:
            time.sleep(rng.random() * 0.1)  # the workers of other processes train meanwhile
            process.kill()
            assert process.wait() == -signal.SIGKILL
    before = (killed / "evaluations.jsonl").read_bytes()
    run(*again)
    for name in ("config.json", "trials.jsonl", "proposals.json"):
        assert (killed / name).read_text() == (whole / name).read_text(), name
    trained = (killed / "evaluations.jsonl").read_bytes()
    assert trained.startswith(before[: before.rfind(b"\n") + 1])
    blocks = [json.loads(line)["block"] for line in trained.splitlines()]
    assert len(set(blocks)) == len(blocks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "fresh"), [([], True), (["--executor", "processes"], False)], ids=["local", "processes"]
)
def test_interrupting_it_ends_with_130_and_a_sentence(executor, fresh, small_table, tmp_path):
    out = tmp_path / "out"
    arguments = ["--table", small_table, "--out", out, *MICRO, "--cycles", 200, *executor]
    with halted(out / "trials.jsonl", 0, script("run-search"), *arguments, session=True, fresh=fresh) as process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 130
        assert "call the same command again" in process.stderr and "Traceback" not in process.stderr
