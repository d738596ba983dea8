"""`profile-device operators`: a time that the runtime's clock cannot tell is never shown as 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from bpnas.android_bench.device import DeviceOptions
from bpnas.android_bench.model_file import ModelFile
from bpnas.android_bench.model_inputs import InputChoices
from bpnas.android_bench.runner.device import NativeDevice
from bpnas.android_bench.serials import connect
from tests.model_graphs import convolution, write_graph
from tests.phone.chaos import write_fake_runner

Operators = Callable[..., Result]


@pytest.fixture
def operators(cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operators:
    """Call it for a model with a runner that answers with these members of the line `profile`."""
    runner = write_fake_runner(tmp_path)

    def opened(serial: str, runtime: str, options: DeviceOptions) -> NativeDevice:
        chosen = DeviceOptions(runner=runner, directory=str(tmp_path / "device"), affinity="none", keep_governor=True)
        return NativeDevice(connect("local", str(tmp_path)), runtime, chosen)

    monkeypatch.setattr("bpnas.android_bench.runner.device.open_native_device", opened)

    def examined(path: Path, choices: InputChoices) -> ModelFile:  # what the fake runner takes for a model is none
        return ModelFile(path, "tflite", "", (), (), False, "", ())

    monkeypatch.setattr("bpnas.android_bench.model_file.open_model_file", examined)

    def call(profile: dict[str, Any], *options: str) -> Result:
        model = tmp_path / "model.tflite"
        model.write_text(f"profile:{json.dumps(profile)}")
        return cli("profile-device", "operators", model, "--serial", "local", *options)

    return call


def operator(name: str, ns: float, **more: float) -> dict[str, Any]:
    return {"name": name, "type": "Conv", "ns": ns, **more}


def test_times_that_the_clock_tells(operators: Operators) -> None:
    profile = {"operators": [operator("a", 7000, resolution_ns=1000), operator("b", 40, resolution_ns=1)]}
    done = operators(profile)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        "     0.0070 ms  Conv  a",
        "   0.000040 ms  Conv  b",
        "     0.0070 ms  together",
    ]


def test_times_below_the_clock_are_said_to_be(operators: Operators) -> None:
    times = [
        operator("a", 0, resolution_ns=1000),
        operator("b", 7000, resolution_ns=1000),
        operator("c", 350, resolution_ns=1000),
        operator("d", 2000, resolution_ns=3000),
    ]
    profile = {"operators": times, "inference_ns": 12_345.6}
    assert operators(profile).stdout.splitlines()[1:] == [
        "   < 0.0010 ms  Conv  a",
        "     0.0070 ms  Conv  b",
        "   < 0.0014 ms  Conv  c",
        "   < 0.0050 ms  Conv  d",
        "  >= 0.0093 ms  together",
        "     0.0123 ms  one inference while profiled, by the runner's own clock",
        "3 of 4 operators are below the resolution of the runtime's clock, 1 us",
    ]
    result = json.loads(operators(profile, "--json").stdout)
    assert [each["below_clock"] for each in result["operators"]] == [True, False, True, True]
    assert [each["resolution_ns"] for each in result["operators"]] == [1000, 1000, 1000, 3000]
    assert (result["below_clock"], result["inference_ns"]) == (3, 12_345.6)


def test_nothing_that_an_older_runner_says_is_taken_for_0(operators: Operators) -> None:
    profile = {"operators": [operator("a", 0)]}
    assert operators(profile).stdout.splitlines()[1:] == [
        "   < 0.0010 ms  Conv  a",
        "   < 0.0010 ms  together",
        "1 of 1 operator is below the resolution of the runtime's clock, 1 us",
    ]
    result = json.loads(operators(profile, "--json").stdout)
    assert (result["below_clock"], result["inference_ns"]) == (1, None)


def test_medians_come_with_their_spread_in_80_columns(operators: Operators) -> None:
    long = "/model/features/block.17/" + "expand/" * 9 + "conv/Conv"
    times = [
        operator("a", 7000, resolution_ns=1000, p10_ns=6500, p90_ns=9000),
        operator("b", 0, resolution_ns=1000, p10_ns=0, p90_ns=1000),
        operator(long, 2_000_000, resolution_ns=1000, p10_ns=1_900_000, p90_ns=2_500_000),
    ]
    profile = {"operators": times, "inference_ns": 2_100_000.0, "runs": 57}
    lines = operators(profile).stdout.splitlines()[1:]
    assert lines[:2] == [
        "     0.0070 ms  0.0065 to 0.0090  Conv  a",
        "   < 0.0010 ms                    Conv  b",
    ]
    assert lines[2].startswith("     2.0000 ms  1.9000 to 2.5000  Conv  /model/") and lines[2].endswith("/conv/Conv")
    assert lines[-1] == "medians of 57 inferences; behind them the 10th and the 90th percentile"
    assert max(map(len, lines)) == 80
    result = json.loads(operators(profile, "--json").stdout)
    assert result["runs"] == 57
    assert result["operators"][2]["name"] == long
    assert (result["operators"][0]["p10_ns"], result["operators"][0]["p90_ns"]) == (6500, 9000)


def test_a_computed_device_has_no_profiler(cli: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(write_graph(convolution(), "onnxruntime"))
    done = cli("profile-device", "operators", tmp_path / "model.onnx", "--serial", "mock:s9")
    assert done.exit_code == 2
    assert "--serial mock:s9: a computed device has no profiler; name a phone, or 'local'" in done.stderr


def test_a_runner_without_times_says_why(operators: Operators) -> None:
    done = operators({"unavailable": "this TFLite library has no hook for a profiler"})
    assert done.exit_code == 1
    assert "no times of operators from tflite (this TFLite library has no hook for a profiler)" in done.stderr
