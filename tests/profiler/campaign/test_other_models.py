"""Known networks and anybody's files through `profile-device`: the same runner, the same records, no table."""

from __future__ import annotations

import json
import math
import re
import shutil
import statistics
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from bpnas.android_bench.mock import PROFILES
from bpnas.android_bench.operators import read_operators
from bpnas.base.errors import BpnasError
from bpnas.profiler import Records
from bpnas.profiler.campaign.other_models import file_parts
from tests.model_graphs import FORMATS, convolution, one_of_each, write_graph
from tests.records_factory import make_plan, read_everything, write_records

MOCK = ("--serial", "mock:s9")
QUICK = ("--warmup-runs", "1", "--warmup-seconds", "0", "--runs", "3", "--seconds", "0")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in a directory with two models in it."""
    monkeypatch.chdir(tmp_path)
    Path("a.onnx").write_bytes(write_graph(one_of_each(), "onnxruntime"))
    Path("b.tflite").write_bytes(write_graph(convolution(c_out=64, size=20), "tflite"))


@pytest.fixture
def run(cli):
    """A command's JSON, if it went well."""

    def call(*arguments: str, exit_code: int = 0) -> dict:
        done = cli("profile-device", *arguments, *MOCK, "--json")
        assert done.exit_code == exit_code, done.stderr
        return json.loads(done.stdout)

    return call


def error_line(text: str) -> str:
    assert "Traceback" not in text
    (line,) = (line for line in text.splitlines() if line.startswith("Error:"))
    return line


# --- known networks


def test_known_networks_are_timed_in_several_sessions(run) -> None:
    result = run("zoo", "--networks", "mobilenetv2", "fbnet-a", "--input-size", "32")
    assert (result["device"], result["mock"], result["total"], result["measured"]) == ("s9", True, 6, 6)
    one, two = result["models"]
    assert (one["name"], two["name"]) == ("mobilenetv2", "fbnet-a")
    assert (one["key"], one["runtime"], one["source"]) == ("zoo:mobilenetv2@32", "tflite", "mock")
    assert one["parameters"] == 3_504_872
    assert (one["sessions"], one["quarantined"], one["flags"]) == (3, 0, [])
    plans, measurements, failures = read_everything(Path("s9.sqlite"))
    assert (plans, failures) == ([], [])
    medians_ms = sorted(
        statistics.median(each.samples_ns) / each.repeats / 1e6 for _, each in measurements if each.key == one["key"]
    )
    assert [one["low_ms"], one["latency_ms"], one["high_ms"]] == pytest.approx(medians_ms)
    assert {measurement.key for _, measurement in measurements} == {"zoo:mobilenetv2@32", "zoo:fbnet-a@32"}


def test_the_text_names_every_model_and_says_what_was_computed(cli) -> None:
    done = cli("profile-device", "zoo", *MOCK, "--networks", "mobilenetv2", "--input-size", "64")
    header, row, note = done.stdout.splitlines()
    assert re.split(r"\s{2,}", header) == "model ms +- sessions MACs parameters flags".split()
    cells = re.split(r"\s{2,}", row)
    assert (cells[0], cells[3:]) == ("mobilenetv2", ["3", "25.7 M", "3.50 M"])
    assert float(cells[1]) > 1 and cells[2].endswith("%")
    assert note.startswith("s9.sqlite: ") and "on Samsung Galaxy S9 (MOCK: computed, not measured), tflite, and" in note


def test_a_second_call_goes_on_where_the_first_one_ended(run) -> None:
    network = ("zoo", "--networks", "mobilenetv2", "--input-size", "32")
    first = run(*network, "--sessions", "1")
    assert first["models"][0]["low_ms"] is None
    second = run(*network)
    assert (first["measured"], second["measured"], second["done"]) == (1, 2, 3)
    assert run(*network)["measured"] == 0
    other_settings = run(*network, "--runs", "7")
    assert other_settings["measured"] == 3, "never mixed with samples that were taken otherwise"


def test_the_formats_and_sizes_of_a_network_are_different_models(run) -> None:
    network = ("zoo", "--networks", "mobilenetv2", "--sessions", "1")
    latencies = [
        run(*network, "--input-size", size, "--runtime", runtime)["models"][0]["latency_ms"]
        for size, runtime in (("32", "tflite"), ("64", "tflite"), ("64", "onnxruntime"))
    ]
    assert latencies[0] < latencies[1] == pytest.approx(latencies[2], rel=0.03)


# --- files


def test_files_of_both_formats_run_each_on_its_own_runtime(run) -> None:
    result = run("--models", "b.tflite", "a.onnx")
    two, one = result["models"]
    assert (one["name"], one["runtime"], two["name"], two["runtime"]) == ("a.onnx", "onnxruntime", "b.tflite", "tflite")
    assert re.fullmatch(r"file:a\.onnx#[0-9a-f]{12}", one["key"])
    assert (one["sessions"], two["sessions"], result["total"]) == (3, 3, 6)
    computed_ms = PROFILES["s9"].costs.latency_ns(read_operators(Path("b.tflite").read_bytes())) / 1e6
    assert two["latency_ms"] == pytest.approx(computed_ms, rel=0.03)
    assert computed_ms < 0.7, "so that each sample holds several inferences"
    assert two["macs"] == 20 * 20 * 64 * 9 * 8
    assert two["parameters"] == 64 * 9 * 8 + 64
    assert {setup.device.runtime for setup, _ in read_everything(Path("s9.sqlite"))[1]} == set(FORMATS)


@pytest.mark.parametrize(
    "words",
    [
        ["--models", "a.onnx", "b.tflite"],
        ["--models", "a.onnx", "--models", "b.tflite"],
        ["--models=a.onnx", "b.tflite"],
        ["--models", "a.onnx", "b.tflite", "a.onnx", "--seed", "3"],
    ],
    ids=" ".join,
)
def test_several_files_after_one_option_or_each_after_its_own(run, words: list[str]) -> None:
    assert [model["name"] for model in run("--sessions", "1", *words)["models"]] == ["a.onnx", "b.tflite"]


@pytest.mark.parametrize("runtime", FORMATS)
def test_this_machine_times_files_in_earnest(cli, runtime: str) -> None:
    name = "a.onnx" if runtime == "onnxruntime" else "b.tflite"
    done = cli("profile-device", "--serial", "local", "--models", name, *QUICK, "--sessions", "2", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    (model,) = result["models"]
    assert (model["source"], model["device"], model["sessions"]) == ("measured", "local", 2)
    assert model["latency_ms"] > 0


def test_an_edited_file_is_another_model(run) -> None:
    first = run("--models", "b.tflite", "--sessions", "1")
    Path("b.tflite").write_bytes(write_graph(convolution(c_out=64, size=20, seed=5), "tflite"))
    second = run("--models", "b.tflite", "--sessions", "1")
    assert second["measured"] == 1
    assert first["models"][0]["key"] != second["models"][0]["key"]


def test_a_file_that_changes_in_mid_work_is_noticed() -> None:
    (part,) = file_parts([Path("a.onnx")]).groups["onnxruntime"]
    Path("a.onnx").write_bytes(b"other")
    with pytest.raises(BpnasError, match=r"a\.onnx: has changed since it was first read"):
        part.read()


def unreadable_inside() -> bytes:
    """A fixed input, but inner shapes that depend on values: the computed phone can say nothing of it."""
    nodes = [helper.make_node("NonZero", ["x"], ["y"]), helper.make_node("Transpose", ["y"], ["z"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    z = helper.make_tensor_value_info("z", TensorProto.INT64, ["n", 4])
    graph = helper.make_graph(nodes, "dynamic", [x], [z])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()


def test_a_model_that_fails_costs_itself_alone(cli, run) -> None:
    Path("bad.onnx").write_bytes(unreadable_inside())
    done = cli("profile-device", *MOCK, "--models", "bad.onnx", "a.onnx", "--json")
    assert done.exit_code == 1
    assert "1 of 2 models could not be timed: bad.onnx" in error_line(done.stderr)
    assert "Not timed: bad.onnx: refused: " in done.stderr
    assert len(read_everything(Path("s9.sqlite"))[2]) == 1, "its other sessions are not tried in vain"
    bad, good = json.loads(done.stdout)["models"]
    assert (bad["latency_ms"], bad["low_ms"], bad["sessions"], bad["macs"]) == (None, None, 0, 0)
    assert good["sessions"] == 3
    text = cli("profile-device", *MOCK, "--models", "bad.onnx")  # a count of 0 is one, and not something below 0.05 M
    assert re.split(r"\s{2,}", text.stdout.splitlines()[1])[:6] == ["bad.onnx", "-", "-", "0", "0", "0"]


def one_operator(op: str, domain: str, shape: list[int]) -> bytes:
    node = helper.make_node(op, ["x", "w"], ["y"], domain=domain)
    x, y = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 100]), helper.make_empty_tensor_value_info("y")
    weight = helper.make_tensor("w", TensorProto.FLOAT, shape, [0.0] * math.prod(shape))
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    graph = helper.make_graph([node], "one", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def test_multiply_adds_are_right_or_missing_and_what_no_phone_runs_has_no_price(cli, run) -> None:
    Path("conv1d.onnx").write_bytes(one_operator("Conv", "", [64, 64, 3]))
    Path("custom.onnx").write_bytes(one_operator("MyConv", "my.domain", [64, 64, 3]))
    done = cli("profile-device", *MOCK, "--models", "conv1d.onnx", "custom.onnx", "--json")
    known, custom = json.loads(done.stdout)["models"]
    assert (known["macs"], known["parameters"], known["sessions"]) == (98 * 64 * 64 * 3, 64 * 64 * 3, 3)
    assert (custom["macs"], custom["parameters"], custom["latency_ms"]) == (None, 64 * 64 * 3, None)
    assert "no phone runs it: operator MyConv of my.domain is none of ONNX Runtime's own" in done.stderr


# --- wrong input


WRONG = {
    "missing": (["none.onnx"], "none.onnx: cannot be read (No such file or directory)"),
    "folder": (["folder"], "folder: is a folder; name the .onnx and .tflite files in it"),
    "suffix": (["model.pt"], "model.pt: neither a .tflite nor an .onnx file"),
    "garbage": (["garbage.onnx"], "garbage.onnx: is a text file, and no model; check the name"),
    "empty": (["empty.tflite"], "empty.tflite: is an empty file, and no model; check the name"),
    "runtime": (["a.onnx", "--runtime", "tflite"], "a.onnx: .onnx files run on onnxruntime, not on tflite"),
    "paths": (["a.onnx", "--paths", "K3G1"], "--paths: is about backbones; leave it out, or --models"),
    "size": (["a.onnx", "--input-size", "32"], "--input-size: is about backbones"),
    "nothing": ([], "Option '--models' requires an argument"),
    "serial": (["a.onnx", "--serial", "mock:s10"], "no device answers to serial 'mock:s10'"),
}


@pytest.mark.parametrize(("words", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_one_sentence_and_makes_no_file(cli, words: list[str], sentence: str) -> None:
    Path("folder").mkdir()
    for name, content in {
        "model.pt": b"PK",
        "garbage.onnx": b"garbage",
        "empty.tflite": b"",
    }.items():
        Path(name).write_bytes(content)
    before = set(Path().iterdir())
    serial = () if "--serial" in words else MOCK
    done = cli("profile-device", *serial, "--models", *words)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert sentence in error_line(done.stderr)
    assert set(Path().iterdir()) == before


def test_an_unknown_network_is_named_with_all_there_are(cli) -> None:
    done = cli("profile-device", "zoo", *MOCK, "--networks", "fbnet-a", "resnet50")
    assert done.exit_code == 2
    assert "no known network is called 'resnet50': use some of mobilenetv1," in error_line(done.stderr)
    assert not Path("s9.sqlite").exists()


# --- tables


def test_no_table_takes_them_in_nor_chokes_on_them(cli, run) -> None:
    run("zoo", "--networks", "mobilenetv2", "--input-size", "32", "--sessions", "1")
    alone = cli("build-table", "s9.sqlite")
    assert alone.exit_code == 1
    assert "no campaign in these records" in error_line(alone.stderr)

    plan = make_plan()
    write_records(Path("campaign.sqlite"), plan)
    assert cli("build-table", "campaign.sqlite", "--out", "before.csv").exit_code == 0
    with Records.read("s9.sqlite") as others:
        rows = list(others.measurements())
    with Records.write("campaign.sqlite") as records:
        for _, measurement in rows:  # even of the same setup
            records.add(plan.setup, {"bpnas": "0"}, measurement)
    assert cli("build-table", "campaign.sqlite", "--out", "after.csv").exit_code == 0
    assert Path("before.csv").read_text() == Path("after.csv").read_text()
    shutil.copy("s9.sqlite", "copy.sqlite")
    assert cli("build-table", "campaign.sqlite", "copy.sqlite", "--out", "both.csv").exit_code == 0
    assert Path("both.csv").read_text() == Path("before.csv").read_text()
