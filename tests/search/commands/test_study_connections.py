"""The commands `run-search study lambda`, `random-stage2`, `fbnet-candidates` and `connections`."""

import csv
import json

import pytest

pytest.importorskip("torch")

from tests.programs import halted, run, script
from tests.records_factory import backbone, make_plan
from tests.search_helpers import as_of_an_earlier_bpnas
from tests.table_factory import damage, write

STUDIES = ("lambda", "random-stage2", "fbnet-candidates", "connections")
BLOCKS = "K1G1,K3E1G1,K5E2G1+K1G1"
MICRO = "--connection-epochs 2 --connection-images 40 --retrain-epochs 1 --retrain-images 40 --input-size 8 --seeds 2"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    paths = "K[13]G1,K[35]E[1236]G[12]"
    return write(tmp_path_factory.mktemp("table") / "t.parquet", make_plan(backbone(8), paths=paths, mock=True))


@pytest.fixture(scope="module")
def target(table):
    from bpnas.profiler import Block
    from bpnas.tables import LatencyTable

    loaded = LatencyTable.load(table)
    return f"{loaded.network([Block.parse('K5E2G1')] * 3) * 1.01:.6f}"


BAD = {
    "no proposals": (lambda t, d: ["lambda", "--table", t], 2, "--proposals"),
    "proposals": (lambda t, d: ["lambda", "--table", t, "--proposals", "K2G1"], 2, "kernel 2"),
    "empty directory": (lambda t, d: ["lambda", "--table", t, "--proposals", d], 2, "cannot be read"),
    "path": (lambda t, d: ["lambda", "--table", t, "--proposals", "K7G8"], 1, "K7G8"),
    "damaged table": (
        lambda t, d: ["random-stage2", "--table", damage(d / "t.parquet"), "--proposals", "K1G1"],
        1,
        "damaged",
    ),
    "lambdas": (lambda t, d: ["lambda", "--table", t, "--proposals", BLOCKS, "--lambdas", "few"], 2, "--lambdas 'few'"),
    "one lambda": (
        lambda t, d: ["lambda", "--table", t, "--proposals", BLOCKS, "--lambda-below", "0.1"],
        2,
        "--lambdas",
    ),
    "lambda": (lambda t, d: ["lambda", "--table", t, "--proposals", BLOCKS, "--lambdas", "3"], 2, "from 0 to 1"),
    "seeds": (lambda t, d: ["lambda", "--table", t, "--proposals", BLOCKS, "--seeds", "0"], 2, "at least one seed"),
    "target": (
        lambda t, d: ["connections", "--table", t, "--proposals", BLOCKS, "--target", "0.01"],
        2,
        "the smallest feasible latency is",
    ),
    "wide target": (
        lambda t, d: ["random-stage2", "--table", t, "--proposals", BLOCKS, "--target", "900"],
        2,
        "takes 810 to 900 ms",
    ),
    "warm-up": (
        lambda t, d: ["lambda", "--table", t, "--proposals", BLOCKS, "--connection-epochs", "1"],
        2,
        "warm-up",
    ),
    "width table": (
        lambda t, d: ["connections", "--table", t, "--proposals", BLOCKS, "--width-table", d / "none.parquet"],
        1,
        "none.parquet",
    ),
    "images": (
        lambda t, d: ["lambda", "--table", t, "--proposals", BLOCKS, "--data", f"cifar10:{d}/none"],
        1,
        "no such directory",
    ),
    "another's option": (lambda t, d: ["lambda", "--table", t, "--proposals", BLOCKS, "--cycles", "9"], 2, "--cycles"),
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


def test_changed_lines_of_a_study_are_seen(cli, table, target, tmp_path):
    out = tmp_path / "out"
    options = ["study", "random-stage2", "--table", table, "--proposals", BLOCKS, "--target", target, *MICRO.split()]
    assert cli("run-search", *options, "--out", out).exit_code == 0
    slow = ["K5E6G1+K5E6G1"] * 3
    for name, change, message in (
        ("searches.jsonl", {"chosen": slow}, "'chosen' takes"),
        ("searches.jsonl", {"chosen": ["K1G1"]}, "'blocks' must have 3 entries"),
        ("searches.jsonl", {"expected_latency_ms": 0}, "'expected_latency_ms' must be a latency"),
        ("searches.jsonl", {"lambda_below": None}, "'lambda_below' must be a number from 0 to 1"),
        ("evaluations.jsonl", {"score": 1.5}, "'score' must be a number from 0 to 1"),
        ("evaluations.jsonl", {"blocks": None}, "'blocks' must be a list"),
        ("evaluations.jsonl", {"backbone": []}, "'backbone' must be an object"),
    ):
        whole = (out / name).read_text()
        first, *others = whole.splitlines()
        line = json.dumps(json.loads(first) | change)
        (out / name).write_text("\n".join([line, *others]) + "\n")
        done = cli("run-search", *options, "--out", out)
        assert done.exit_code == 1 and f"{name}: line 1 was changed since it was written" in done.stderr
        as_of_an_earlier_bpnas(out / name)
        done = cli("run-search", *options, "--out", out)
        assert done.exit_code == 1 and message in done.stderr and "Traceback" not in done.stderr
        (out / name).write_text(whole)
    as_of_an_earlier_bpnas(out / "searches.jsonl", out / "evaluations.jsonl", out / "config.json")
    assert cli("run-search", *options, "--out", out).exit_code == 0


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_in_json_and_text_resumed_and_marked_mock(name, cli, table, target, tmp_path):
    options = ["study", name, "--table", table, "--proposals", BLOCKS, "--target", target, *MICRO.split()]
    options += ["--out", tmp_path / "out"]
    done = cli("run-search", *options, "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["mock"] is True and answer["study"] == name and "[mock]" in done.stderr
    with (tmp_path / "out/study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["mock"] for row in rows} == {"True"} and {row["seed"] for row in rows} == {"0", "1"}
    assert all(float(row["latency_ms"]) <= float(target) for row in rows)
    assert answer["accuracy_on"] == {"data": "digits", "split": "test", "images": 359, "input_size": 8}
    assert "Accuracies are on 359 test images of digits at 8 px." in answer["text"]
    assert all(
        " on 359 test images of digits at 8 px" in line for line in done.stderr.splitlines() if "accuracy" in line
    )
    assert (tmp_path / "out/study.png").read_bytes().startswith(b"\x89PNG")
    before = (tmp_path / "out/study.csv").read_bytes()
    again = cli("run-search", *options)
    assert again.exit_code == 0 and "mock: computed, not measured" in again.stdout
    assert all(line in again.stdout for line in answer["text"])
    assert (tmp_path / "out/study.csv").read_bytes() == before
    changed = cli("run-search", *options, "--threads", "1", "--retrain-epochs", "2")
    assert changed.exit_code == 1 and "retraining.epochs = 1, now it is 2" in changed.stderr
    changed = cli("run-search", *options, "--noise-free-latency")
    assert changed.exit_code == 1 and "connections.noise_free_latency = False, now it is True" in changed.stderr


def test_proposals_of_a_run_and_mobilenetv2_of_a_width(cli, table, tmp_path):
    from bpnas.profiler import Block
    from bpnas.tables import LatencyTable

    (tmp_path / "run").mkdir()
    blocks = ["K3E1G1", "K3E6G1"]
    proposals = [{"block": block, "limit_ms": 9.0, "latency_ms": 8.0, "score": 0.5} for block in blocks]
    (tmp_path / "run/proposals.json").write_text(json.dumps({"proposals": proposals}))
    options = ["study", "connections", "--table", table, "--proposals", tmp_path / "run", *MICRO.split()]
    options += ["--seeds", "1", "--retrain", "0", "--width-table", table, "--out", tmp_path / "out"]
    done = cli("run-search", *options)
    assert done.exit_code == 0, done.stderr
    with (tmp_path / "out/study.csv").open(newline="") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"searched", "random", "stacked K3E1G1", "stacked K3E6G1", "mobilenetv2"}
    # The middle of the two is the second, which is MobileNetV2's own: stacked, it is the target.
    expected = LatencyTable.load(table).network([Block.parse("K3E6G1")] * 3)
    assert float(rows["mobilenetv2"]["latency_ms"]) == float(rows["searched"]["target_ms"]) == expected


@pytest.mark.slow
def test_killed_in_the_middle_of_a_supernet_it_ends_as_if_undisturbed(cli, table, target, tmp_path):
    micro = [*MICRO.replace("--connection-epochs 2", "--connection-epochs 6").split(), "--seeds", "1"]

    def words(name):
        options = ["--table", table, "--proposals", BLOCKS, "--target", target, *micro, "--out", tmp_path / name]
        return "study", "random-stage2", *options

    assert cli("run-search", *words("whole")).exit_code == 0
    again = script("run-search"), *words("cut")
    with halted(tmp_path / "cut/checkpoints/*.pt", 0, *again) as process:
        process.kill()
    assert not (tmp_path / "cut/study.csv").exists()
    run(*again)
    for name in ("study.csv", "summary.json", "study.png"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not list((tmp_path / "cut/checkpoints").iterdir())
