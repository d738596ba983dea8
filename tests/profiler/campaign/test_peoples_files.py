"""Anybody's files through `profile-device --models`: what can be timed is, and every other file has its sentence."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from onnx import TensorProto, helper

from bpnas.profiler.campaign.other_models import _shortest, file_parts
from tests.model_graphs import convolution, one_of_each, write_graph
from tests.people_models import LFS_POINTER, onnx_model, onnx_of, relu, tflite_model, tflite_tensor, with_data
from tests.records_factory import read_everything

OPEN_DEVICE = importlib.import_module("bpnas.android_bench.opening")

QUICK = ("--warmup-runs", "1", "--warmup-seconds", "0", "--runs", "12", "--seconds", "0")
FLOAT = TensorProto.FLOAT

Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in a directory with two models in it."""
    monkeypatch.chdir(tmp_path)
    Path("a.onnx").write_bytes(write_graph(one_of_each(), "onnxruntime"))
    Path("b.tflite").write_bytes(write_graph(convolution(c_out=64, size=20), "tflite"))


@pytest.fixture
def models(cli: Call) -> Call:
    def call(*arguments: str, serial: str = "local") -> Result:
        return cli("profile-device", "--serial", serial, *QUICK, "--models", *arguments)

    return call


def results(done: Result) -> dict[str, Any]:
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    return {each["name"]: each for each in found["models"]} | {"": found}


def open_convolution(batch: int | str = "batch", size: int | str = 9) -> bytes:
    weight = np.zeros((8, 8, 3, 3), np.float32)
    x, y = ("x", FLOAT, [batch, 8, size, size]), ("y", FLOAT, [batch, 8, size, size])
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    return onnx_model([node], [x], [y], w=weight).SerializeToString()


# --- M1, M2: whatever the runtime runs


def add(**more: Any) -> bytes:
    return tflite_model([tflite_tensor(name, (1, 8)) for name in "ab"], [tflite_tensor("y", (1, 8))], "ADD")


def control_flow() -> bytes:
    branches = {
        f"{word}_branch": helper.make_graph(
            [helper.make_node("Identity", ["x"], [word])],
            word,
            [],
            [helper.make_tensor_value_info(word, FLOAT, [1, 8])],
        )
        for word in ("then", "else")
    }
    node = helper.make_node("If", ["c"], ["y"], **branches)
    return onnx_model([node], [("x", FLOAT, [1, 8]), ("c", 9, [])], [("y", FLOAT, [1, 8])]).SerializeToString()


def split_without_shapes() -> bytes:
    nodes = [
        helper.make_node("Split", ["x"], ["p", "q"], axis=1),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    return onnx_model(nodes, [("x", FLOAT, [1, 8])], [("y", FLOAT, None)]).SerializeToString()


RUN = {
    "keras.tflite": relu((1, 8), signature=(-1, 8)),
    "nameless.tflite": tflite_model([tflite_tensor(None, (1, 8))], [tflite_tensor(None, (1, 8))], "RELU"),
    "int8.tflite": relu(kind="INT8", quantised=True),
    "two.tflite": add(),
    "CAPITALS.TFLITE": relu(),
    "batch.onnx": onnx_of(FLOAT, ("batch", 8)),
    "ids.onnx": onnx_of(TensorProto.INT64, (1, 8)),
    "scalar.onnx": onnx_of(FLOAT, ()),
    "flow.onnx": control_flow(),
    "split.onnx": split_without_shapes(),
    "CAPITALS.ONNX": onnx_of(FLOAT),
}


def test_whatever_the_runtime_runs_is_timed(models: Call) -> None:
    for name, content in RUN.items():
        Path(name).write_bytes(content)
    with_data(Path("data.onnx"))
    done = models(*RUN, "data.onnx", "--sessions", "1", "--json")
    assert done.exit_code == 0, done.stderr
    found = results(done)
    for name in (*RUN, "data.onnx"):
        assert found[name]["latency_ms"] > 0, name
    assert found["ids.onnx"]["inputs"] == {"x": {"type": "int64", "shape": [1, 8]}}
    assert found["nameless.tflite"]["inputs"] == {"input_0": {"type": "float32", "shape": [1, 8]}}
    assert "batch.onnx: the open batch is taken as 1, x=1,8; --input-shape gives another" in done.stderr


def test_open_sizes_are_given_and_told_apart_in_the_records(models: Call) -> None:
    Path("open.onnx").write_bytes(open_convolution(size="size"))
    refused = models("open.onnx", "--json")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "its input x is open, (batch, 8, size, size); give all its sizes as numbers" in refused.stderr
    keys = []
    for size in ("9", "12", "9"):
        done = models("open.onnx", "--input-shape", f"x=1,8,{size},{size}", "--sessions", "1", "--json")
        (model,) = json.loads(done.stdout)["models"]
        keys.append(model["key"])
        assert model["inputs"]["x"]["shape"] == [1, 8, int(size), int(size)]
    assert keys[0] == keys[2] != keys[1]
    assert re.fullmatch(r"file:open\.onnx#[0-9a-f]{12}\[x=1,8,9,9\]", keys[0])
    assert {one.key for _, one in read_everything(Path("local.sqlite"))[1]} == set(keys)


def test_tflite_is_resized(models: Call) -> None:
    Path("m.tflite").write_bytes(relu((1, 8), signature=(-1, -1)))
    assert models("m.tflite", "--input-shape", "x=2,64", "--sessions", "1").exit_code == 0


def test_a_key_of_before_is_still_that_of_the_same_file(models: Call) -> None:
    (part,) = file_parts([Path("a.onnx")]).groups["onnxruntime"]
    assert re.fullmatch(r"file:a\.onnx#[0-9a-f]{12}", part.key)


@pytest.mark.parametrize("serial", ["local", "mock:s9"])
def test_a_wrong_name_is_one_sentence_that_lists_the_inputs(models: Call, serial: str) -> None:
    done = models("a.onnx", "b.tflite", "--input-shape", "inptu=1,8,9,9", serial=serial)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Error: --input-shape 'inptu': no such input; there are: input (1, " in done.stderr
    done = models("a.onnx", "--input-shape", "input=1,8,9", serial=serial)
    assert done.exit_code == 2
    assert "--input-shape input=1,8,9 does not fit; its inputs: input (1, 8, 9, 9) float32" in done.stderr


def test_they_are_about_files_alone(cli: Call) -> None:
    done = cli("profile-device", "--serial", "mock:s9", "--input-shape", "x=1")
    assert done.exit_code == 2 and "--input-shape: is about inputs of --models" in done.stderr
    for command in (("profile-device", "zoo"), ("run-search", "measure", ".")):
        assert "No such option" in cli(*command, "--input-value", "x=1").stderr


# --- M3: one unfit file costs itself alone


def test_files_that_cannot_be_timed_are_told_first_and_the_others_are_timed(models: Call) -> None:
    Path("lfs.tflite").write_bytes(LFS_POINTER)
    Path("cut.onnx").write_bytes(Path("a.onnx").read_bytes()[:200])
    with_data(Path("net.onnx"))
    Path("net.onnx.data").unlink()
    words = ("lfs.tflite", "a.onnx", "cut.onnx", "net.onnx", "none.onnx", "m.pt", "b.tflite")
    done = models(*words, "--sessions", "1", "--json")
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    left_out = [line for line in lines if line.startswith("Left out: ")]
    assert len(left_out) == 5 and lines[:5] == left_out, "before anything of the device"
    assert "lfs.tflite: is a Git LFS pointer" in left_out[0] and "git lfs pull" in left_out[0]
    assert lines[-1] == "Error: 5 of 7 models could not be timed: lfs.tflite, cut.onnx, net.onnx, none.onnx, m.pt"
    found = results(done)
    assert all(found[name]["latency_ms"] > 0 for name in ("a.onnx", "b.tflite"))
    assert [each["name"] for each in found[""]["left_out"]] == [
        "lfs.tflite",
        "cut.onnx",
        "net.onnx",
        "none.onnx",
        "m.pt",
    ]
    assert all(each["reason"].startswith(each["path"]) for each in found[""]["left_out"])


def test_where_nothing_is_left_the_device_is_not_started(models: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPEN_DEVICE, "open_device", lambda *arguments: pytest.fail("it was"))
    Path("lfs.tflite").write_bytes(LFS_POINTER)
    done = models("lfs.tflite", "none.onnx")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "Error: none of the 2 files can be timed, for the reasons above"
    assert {path.name for path in Path().iterdir()} == {"a.onnx", "b.tflite", "lfs.tflite"}


def test_many_that_the_runtime_refuses_do_not_stop_the_rest(models: Call) -> None:
    names = [f"{number}.tflite" for number in range(30)]
    for name in names:
        Path(name).write_bytes(
            tflite_model([tflite_tensor(name, (1, 8))], [tflite_tensor("y", (1, 8))], "CUSTOM", "My")
        )
    done = models(*names, "b.tflite", "--json")
    assert done.exit_code == 1
    found = results(done)
    assert (found["b.tflite"]["sessions"] >= 3, len(found[""]["failures"])) == (True, 30)
    assert "Not timed: 7.tflite: refused: Encountered unresolved custom op: My" in done.stderr
    again = models(*names[:2], "b.tflite", "--json")
    assert len(results(again)[""]["failures"]) == 2, "they are tried again, once each"


# --- M7, M8: names


def test_files_of_one_name_are_told_apart(models: Call) -> None:
    for folder in ("x/one", "x/two", "y/two"):
        Path(folder).mkdir(parents=True)
    for number, folder in enumerate(("x/one", "x/two", "y/two")):
        Path(folder, "model.onnx").write_bytes(onnx_of(FLOAT, (1, 8 + number // 2)))  # two of them are equal
    files = ("x/one/model.onnx", "x/two/model.onnx", "y/two/model.onnx", "a.onnx", "a.onnx")
    found = results(models(*files, "--sessions", "1", "--json"))
    assert set(found) == {"one/model.onnx", "x/two/model.onnx", "y/two/model.onnx", "a.onnx", ""}
    assert found["one/model.onnx"]["path"] == "x/one/model.onnx"
    assert found["one/model.onnx"]["key"] == found["x/two/model.onnx"]["key"] != found["y/two/model.onnx"]["key"]
    text = models(*files, "--sessions", "1").stdout
    assert [line.split()[0] for line in text.splitlines()[1:-1]] == [
        "one/model.onnx",
        "x/two/model.onnx",
        "y/two/model.onnx",
        "a.onnx",
    ]


def test_the_shortest_ends_of_paths() -> None:
    def shortest(*texts: str) -> list[str]:
        return list(_shortest([Path(text) for text in texts]).values())

    assert shortest("/a/b/m.onnx", "/a/c/n.onnx") == ["m.onnx", "n.onnx"]
    assert shortest("/a/b/m.onnx", "/b/m.onnx", "/m.onnx") == ["a/b/m.onnx", "/b/m.onnx", "/m.onnx"]


@pytest.mark.parametrize("serial", ["local", "mock:s9"])
def test_a_name_that_is_no_text_of_any_encoding(models: Call, serial: str) -> None:
    name = os.fsdecode(b"M\xe4rz\x1b[2J.onnx")
    Path(name).write_bytes(open_convolution())
    done = models(name, "--sessions", "1", "--json", serial=serial)
    assert done.exit_code == 0, done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    (model,) = json.loads(done.stdout)["models"]
    assert model["name"] == "M\\udce4rz\x1b[2J.onnx"


# --- M9: flags


def test_models_have_the_flags_of_a_campaign(models: Call, cli: Call) -> None:
    done = models("b.tflite", "--sessions", "1", "--json", serial="mock:s9")
    assert results(done)["b.tflite"]["flags"] == ["unknown"]
    text = models("b.tflite", "--sessions", "2", "--precision", "0.1%", "--max-sessions", "2", serial="mock:s9")
    assert text.stdout.splitlines()[1].endswith("imprecise"), text.stdout
    zoo = ("profile-device", "zoo", "--serial", "mock:s9", "--networks", "mobilenetv2", "--input-size", "32")
    assert json.loads(cli(*zoo, "--sessions", "1", "--json").stdout)["models"][0]["flags"] == ["unknown"]


# --- A10


def test_a_model_that_asks_for_too_much_memory_costs_itself_alone(models: Call) -> None:
    Path("greedy.onnx").write_bytes(onnx_of(FLOAT, (2, 10**9)))
    Path("greedy.tflite").write_bytes(relu((2, 10**9)))
    done = models("greedy.onnx", "greedy.tflite", "a.onnx", "b.tflite", "--sessions", "1", "--json")
    assert done.exit_code == 1
    found = results(done)
    assert [each["kind"] for each in found[""]["failures"]] == ["refused", "refused"]
    assert all("--max-memory allows more" in each["message"] for each in found[""]["failures"])
    assert found["a.onnx"]["latency_ms"] > 0 and found["b.tflite"]["latency_ms"] > 0
    assert "Error: 2 of 4 models could not be timed: greedy." in done.stderr


# --- the computed phone takes what the others take


def test_the_computed_phone_knows_sizes_too(models: Call) -> None:
    Path("open.onnx").write_bytes(open_convolution(size="size"))
    Path("m.tflite").write_bytes(write_graph(convolution(size=8), "tflite"))

    def time(name: str, *shape: str) -> dict[str, Any]:
        done = models(name, "--input-shape", *shape, "--sessions", "1", "--json", serial="mock:s9")
        assert done.exit_code == 0, done.stderr
        return results(done)[name]

    small, large = time("open.onnx", "x=1,8,9,9"), time("open.onnx", "x=1,8,90,90")
    assert (small["macs"], large["macs"]) == (9 * 9 * 8 * 8 * 9, 90 * 90 * 8 * 8 * 9)
    assert small["latency_ms"] < large["latency_ms"]
    plain, wide = time("m.tflite", "input=1,8,8,8"), time("m.tflite", "input=1,80,80,8")
    assert wide["macs"] == 100 * plain["macs"] > 0
