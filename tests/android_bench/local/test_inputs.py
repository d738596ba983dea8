"""Inputs of every type on this machine: valid, the same on every device, and as told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from bpnas.android_bench.device import DeviceOptions
from bpnas.android_bench.local.device import LocalDevice
from bpnas.android_bench.local.inputs import filled, infer_first
from bpnas.android_bench.local.runtimes import Input, open_session
from bpnas.android_bench.measurement import Failure, Feed, Measurement, Outcome, RunRequest, RunSettings
from bpnas.android_bench.memory import USUAL_BYTES, memory_of_this_machine, most_bytes, with_remedy
from bpnas.base.errors import UsageError
from tests.model_graphs import FORMATS, convolution, request_for, write_graph
from tests.people_models import misdescribed, onnx_model, onnx_of, relu, with_data

QUICK = RunSettings(warmup_runs=1, warmup_seconds=0.0, runs=3, seconds=0.0)


def lcg(count: int) -> list[int]:
    """The numbers that docs/native.md promises."""
    x, numbers = 1, []
    for _ in range(count):
        x = (1664525 * x + 1013904223) % 2**32
        numbers.append(x)
    return numbers


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_floats_are_noise_between_minus_one_and_one(kind: str) -> None:
    values = filled(Input("x", (2, 500), kind))
    assert (values.shape, values.dtype) == ((2, 500), np.dtype(kind))
    expected = [(x - 2**32 if x >= 2**31 else x) / 2**31 for x in lcg(1000)]
    assert values.ravel() == pytest.approx(expected, abs=1e-3 if kind == "float16" else 1e-7)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16"])
def test_quantised_numbers_use_their_whole_range(kind: str) -> None:
    values = filled(Input("x", (5000,), kind, quantised=True))
    info = np.iinfo(kind)
    assert values.dtype == np.dtype(kind)
    assert values.min() < info.min * 0.9 + info.max * 0.1 and values.max() > info.max * 0.9 + info.min * 0.1
    assert int(values[0]) % 2**info.bits == lcg(1)[0] >> (32 - info.bits)


@pytest.mark.parametrize("kind", ["int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_whole_numbers_are_small(kind: str) -> None:
    assert filled(Input("x", (3,), kind)).tolist() == [1, 1, 1]
    assert filled(Input("x", (), kind), index=0).tolist() == 0


def test_the_rest() -> None:
    assert filled(Input("x", (2,), "bool")).tolist() == [False, False]
    assert filled(Input("x", (2,), "string")).tolist() == ["bpnas", "bpnas"]
    assert filled(Input("x", (2, 2), "complex64")).shape == (2, 2)
    assert filled(Input("x", (2,), "bfloat16"), (1.0,)).tolist() == [0x3F80, 0x3F80]
    assert filled(Input("x", (0, 3), "float32")).shape == (0, 3)
    assert filled(Input("x", (2, 2), "int64"), (5, 6, 7)).tolist() == [[5, 6], [7, 5]]
    with pytest.raises(ValueError, match="input 'x' is of the type int4, which cannot be filled"):
        filled(Input("x", (2,), "int4"))


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 16])
def test_onnx_runtime_takes_every_type(tmp_path: Path, kind: int) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx_of(kind))
    session = open_session("onnxruntime", tmp_path / "m.onnx")
    infer_first(session)
    assert session.output().shape == (1, 8)


def test_onnx_runtime_takes_texts(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx_of(TensorProto.STRING, to_float=False))
    infer_first(open_session("onnxruntime", tmp_path / "m.onnx"))


@pytest.mark.parametrize("kind", ["FLOAT32", "INT8", "UINT8", "INT16", "INT32", "INT64", "BOOL", "STRING"])
def test_tflite_takes_every_type(tmp_path: Path, kind: str) -> None:
    from tests.people_models import tflite_model, tflite_tensor

    x, y = tflite_tensor("x", (1, 8), kind), tflite_tensor("y", (2,), "INT32")
    (tmp_path / "m.tflite").write_bytes(tflite_model([x], [y], "SHAPE"))
    infer_first(open_session("tflite", tmp_path / "m.tflite"))


# --- through the device


@pytest.fixture
def time_one(tmp_path: Path) -> Callable[..., Outcome]:
    def call(content: bytes, runtime: str, *feeds: Feed, max_memory_gb: float | None = None) -> Outcome:
        request = request_for(content, tmp_path, runtime)
        with LocalDevice(runtime, max_memory_gb) as device:
            (outcome,) = device.run([RunRequest(request.key, 0, request.path, request.sha256, feeds)], QUICK)
        return outcome

    return call


def gather(rows: int) -> bytes:
    weights = np.zeros((rows, 4), np.float32)
    node = helper.make_node("Gather", ["w", "x"], ["y"])
    x, y = ("x", TensorProto.INT64, ["n"]), ("y", TensorProto.FLOAT, None)
    return onnx_model([node], [x], [y], w=weights).SerializeToString()


def test_an_index_never_leads_beyond_the_end(time_one) -> None:
    assert isinstance(time_one(gather(1), "onnxruntime", Feed((3,))), Measurement)
    assert isinstance(time_one(gather(2), "onnxruntime", Feed((3,))), Measurement)
    refused = time_one(gather(2), "onnxruntime", Feed((3,), (7,)))
    assert isinstance(refused, Failure) and "out of data bounds" in refused.message


def test_an_output_that_is_not_what_the_model_says_of_it(time_one) -> None:
    assert isinstance(time_one(misdescribed(), "onnxruntime"), Measurement)


def test_sizes_are_taken(time_one) -> None:
    assert isinstance(time_one(relu((1, 8)), "tflite", Feed((4, 8))), Measurement)
    wrong = time_one(write_graph(convolution(), "tflite"), "tflite", Feed((1, 8, 8, 3)))
    assert isinstance(wrong, Failure) and wrong.kind == "refused"
    many = time_one(relu(), "tflite", Feed((1, 8)), Feed((1, 8)))
    assert isinstance(many, Failure) and "the runtime sees 1 inputs, but 2 shapes were given" in many.message


def test_weights_beside_a_model_are_found(tmp_path: Path) -> None:
    from bpnas.android_bench.model_file import open_model_file

    with_data(tmp_path / "net.onnx")
    request = open_model_file(tmp_path / "net.onnx").request("key", 0, tmp_path / "copy")
    with LocalDevice("onnxruntime") as device:
        (outcome,) = device.run([request], QUICK)
    assert isinstance(outcome, Measurement), outcome


# --- memory


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_model_that_asks_for_too_much_memory_costs_itself_alone(tmp_path: Path, runtime: str) -> None:
    greedy = onnx_of(1, (2, 10**9)) if runtime == "onnxruntime" else relu((2, 10**9))
    good = write_graph(convolution(), runtime)
    requests = [request_for(content, tmp_path, runtime, str(n)) for n, content in enumerate((good, greedy, good))]
    with LocalDevice(runtime) as device:
        before, refused, after = device.run(requests, QUICK)
    assert isinstance(before, Measurement) and isinstance(after, Measurement)
    assert isinstance(refused, Failure) and refused.kind == "refused"
    assert refused.message.endswith(
        "; a model may have 4 GB, or half of what the device has, and --max-memory allows more"
    )


def test_the_limit_can_be_chosen(time_one) -> None:
    content = onnx_of(1, (1, 10**8))  # 0.8 GB for input and output
    refused = time_one(content, "onnxruntime", max_memory_gb=0.5)
    assert isinstance(refused, Failure) and refused.message.endswith("may have 0.5 GB, and --max-memory allows more")
    with pytest.raises(UsageError, match=r"--max-memory 0\.1: a runtime alone needs 0\.5; 0 is no limit"):
        DeviceOptions(max_memory_gb=0.1)
    with pytest.raises(UsageError, match="--max-memory -1: must be 0 or more"):
        DeviceOptions(max_memory_gb=-1)


def test_the_usual_limit() -> None:
    assert most_bytes(None, 64 * 10**9) == USUAL_BYTES
    assert most_bytes(None, 2 * 10**9) == 10**9
    assert most_bytes(None, 10**8) == 5 * 10**8
    assert (most_bytes(None, None), most_bytes(0, 10**9), most_bytes(12.5, 10**9)) == (USUAL_BYTES, 0, 12_500_000_000)
    found = memory_of_this_machine()
    assert found is None or found > 10**8


def test_only_what_is_about_memory_has_that_remedy() -> None:
    assert with_remedy("std::bad_alloc", None).endswith("--max-memory allows more")
    assert with_remedy("unresolved custom op: MyOp", None) == "unresolved custom op: MyOp"
    assert with_remedy("std::bad_alloc", 0) == "std::bad_alloc"


def test_the_worker_keeps_to_it() -> None:
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_DATA)[0])"
    prelude = "from bpnas.android_bench.memory import limit_memory; limit_memory(10**9); "
    done = subprocess.run([sys.executable, "-P", "-c", prelude + code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == 10**9
