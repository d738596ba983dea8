"""The exported files of a network, timed by `run-search measure`, here on the computed device."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bpnas.android_bench.measurement import RunSettings
from bpnas.android_bench.opening import open_device
from bpnas.profiler import to_onnx, to_tflite
from bpnas.profiler.campaign.records import Records, Setup
from bpnas.profiler.models.graph import EXPORT_VERSION
from tests.network_factory import stored_network
from tests.search_helpers import tiny_backbone

SETTINGS = RunSettings(warmup_runs=1, warmup_seconds=0, runs=12, seconds=0)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network.json with its files, of a table of the computed S9 with the runtime TFLite."""
    path, module = stored_network(tmp_path, backbone=tiny_backbone())
    path.with_suffix(".onnx").write_bytes(to_onnx(module, (1, 3, 32, 32)))
    path.with_suffix(".tflite").write_bytes(to_tflite(module, (1, 3, 32, 32)))
    with open_device("mock:s9", "tflite") as device:
        setup = Setup(device.info, SETTINGS, EXPORT_VERSION)
    write(path, predicted_latency_ms=0.5, table_setup=asdict(setup))
    return path


def write(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def measure(cli: Any) -> Any:
    def call(*arguments: str | Path, exit_code: int = 0) -> Any:
        done = cli("run-search", "measure", *arguments, "--json")
        assert done.exit_code == exit_code, done.stderr
        return json.loads(done.stdout) if not exit_code else done.stderr

    return call


def test_it_is_noted_next_to_the_prediction(network: Path, measure: Any) -> None:
    before = json.loads(network.read_text())
    result = measure(network.parent, "--runtime", "tflite")
    after = json.loads(network.read_text())
    (entry,) = after.pop("measured")
    assert after == before and result["measured"] == [entry] and result["warnings"] == []
    assert (entry["file"], entry["device"], entry["runtime"]) == ("network.tflite", "s9", "tflite")
    assert entry["mock"] is True and entry["sessions"] == 3
    assert entry["low_ms"] <= entry["latency_ms"] <= entry["high_ms"]
    assert entry["flags"] == []


def test_doubts_are_shown(network: Path, measure: Any, cli: Any) -> None:
    options = ("--runtime", "tflite", "--sessions", "1")
    assert measure(network, *options)["measured"][0]["flags"] == ["unknown"]
    assert ", flags: unknown" in cli("run-search", "measure", network, *options).stdout


def test_a_limit_is_held_against_both(network: Path, cli: Any) -> None:
    write(network, predicted_latency_ms=0.5, target_ms=0.001)
    done = cli("run-search", "measure", network, "--runtime", "tflite")
    assert done.exit_code == 0 and "; above the limit of 0.001 ms" in done.stdout
    assert f"{network}: the network takes 0.5 ms by table, above its limit of 0.001 ms" in done.stderr
    answer = json.loads(cli("run-search", "measure", network, "--runtime", "tflite", "--json").stdout)
    assert answer["limit_ms"] == 0.001 and answer["within_limit"] is False


def test_a_head_that_the_table_interpolated_is_told(network: Path, measure: Any, cli: Any) -> None:
    assert measure(network, "--runtime", "tflite")["head_interpolated_from"] == []
    assert "interpolated" not in cli("run-search", "measure", network, "--runtime", "tflite").stdout
    write(network, head_interpolated_from=[10, 100])
    answer = measure(network, "--runtime", "tflite")
    assert answer["head_interpolated_from"] == [10, 100] and answer["classes"] == 10
    text = cli("run-search", "measure", network, "--runtime", "tflite").stdout
    assert "The prediction is with a head of 10 classes that is interpolated from 10 and 100\n" in text


def test_a_damaged_measurement_is_named(network: Path, cli: Any) -> None:
    write(network, measured=[{"latency_ms": -1}])
    for command in ("measure", "export"):
        done = cli("run-search", command, network)
        assert done.exit_code == 1 and "'measured[0].latency_ms' must be a latency" in done.stderr


def test_the_settings_are_the_tables_unless_said_otherwise(network: Path, measure: Any) -> None:
    measure(network, "--runtime", "tflite")
    assert samples(network, SETTINGS) == 3 * 12
    result = measure(network, "--runtime", "tflite", "--runs", "15")
    assert samples(network, replace(SETTINGS, runs=15)) == 3 * 15
    (warning,) = result["warnings"]
    assert "runs: 12 | 15" in warning


def samples(network: Path, settings: RunSettings) -> int:
    with Records.read(network.with_name("measured.sqlite")) as records:
        return sum(
            len(each.samples_ns)
            for setup, each in records.measurements()
            if setup.settings == settings and each.key.startswith("file:")
        )


def test_another_call_replaces_its_own_entries_and_keeps_the_others(network: Path, measure: Any) -> None:
    foreign = {"device": "another", "runtime": "tflite", "file": "network.tflite", "latency_ms": 9.0}
    stale = {"device": "s9", "runtime": "tflite", "file": "network.tflite", "latency_ms": 8.0}
    write(network, measured=[stale, foreign])
    measure(network)
    entries = json.loads(network.read_text())["measured"]
    assert foreign in entries and stale not in entries
    assert [each["file"] for each in entries] == ["network.tflite", "network.onnx", "network.tflite"]
    measure(network)
    assert len(json.loads(network.read_text())["measured"]) == 3


def test_another_runtime_is_warned_of(network: Path, measure: Any, cli: Any) -> None:
    (warning,) = measure(network, "--runtime", "onnxruntime")["warnings"]
    assert "on onnxruntime this is not what the table was measured with (runtime: tflite | onnxruntime" in warning
    done = cli("run-search", "measure", network)
    assert "network.tflite: " in done.stdout and "MOCK" in done.stdout and "Warning: on onnxruntime" in done.stdout
    assert "the table predicts 0.5 ms" in done.stdout


def test_a_table_that_says_nothing_of_its_measuring_is_warned_of(network: Path, measure: Any) -> None:
    write(network, table_setup=None)
    (warning,) = measure(network, "--serial", "mock:s9", "--runtime", "tflite")["warnings"]
    assert "does not say how its table was measured" in warning


def test_computed_devices_leave_int8_out(network: Path, measure: Any) -> None:
    network.with_suffix(".int8.tflite").write_bytes(network.with_suffix(".tflite").read_bytes())
    measured = measure(network, "--runtime", "tflite")["measured"]
    assert [each["file"] for each in measured] == ["network.tflite"]


def test_what_cannot_be_timed_is_one_sentence(network: Path, measure: Any, tmp_path: Path) -> None:
    write(network, table_setup={"device": {}})
    assert "table_setup is damaged" in measure(network, exit_code=1)
    write(network, table_setup=None)
    for suffix in (".onnx", ".tflite"):
        network.with_suffix(suffix).unlink()
    assert "run-search export" in measure(network, exit_code=2)
    assert "is no network of run-search" in measure(tmp_path / "none", exit_code=1)
