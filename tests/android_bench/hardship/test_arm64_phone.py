"""The whole way on an ARM64 phone under emulation: the bundle with both runtimes, and the commands of the README."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from bpnas.android_bench.device import MODEL_SUFFIX, DeviceOptions
from bpnas.android_bench.local.runtimes import open_session
from bpnas.android_bench.measurement import Measurement, RunSettings
from bpnas.android_bench.model_file import open_model_file
from bpnas.android_bench.model_inputs import InputChoices
from bpnas.android_bench.opening import open_device
from bpnas.android_bench.phone.facts import read_facts
from bpnas.android_bench.remote import FileToPush
from bpnas.android_bench.runner.bundle import Bundle
from bpnas.android_bench.runner.lines import parse_line
from bpnas.android_bench.runner.program import choose_program
from bpnas.android_bench.serials import connect
from bpnas.profiler.cli import main as profile_device
from bpnas.tables import LatencyTable
from tests.model_graphs import FORMATS, convolution, one_of_each, request_for, write_graph
from tests.people_models import onnx_model, onnx_of, relu, tflite_model, tflite_tensor, with_data
from tests.phone.daemon import Adbd, wait_until
from tests.phone.parts import phone_parts
from tests.root import ROOT

README = ROOT / "README.md"
HURRIED_HOST = ROOT / "tests/phone/hurried_host.py"
AARCH64 = 183  # e_machine of an ELF file


def readme_commands() -> list[str]:
    """How a phone gets its table, as it stands there."""
    section = README.read_text(encoding="utf-8").partition("## With a phone")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return str(block).splitlines()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the environment of the README's commands."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        # The bundle's wheels are those that are here already.
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(phone_parts("wheels") / "wheels"),
    }


@pytest.fixture(scope="module")
def bundle(settings: dict[str, str]) -> Bundle:
    """What the first of those commands makes: to compile it takes a while, so there is one for all."""
    command = readme_commands()[0]
    done = subprocess.run(command, shell=True, env={**os.environ, **settings}, capture_output=True, text=True)  # noqa: S602
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(done.stderr)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    (folder,) = Path(settings["XDG_CACHE_HOME"], "bpnas/bundles").iterdir()
    return Bundle.load(folder)


@pytest.fixture
def phone(arm64_phone: Adbd) -> Iterator[Adbd]:
    arm64_phone.reset()
    yield arm64_phone
    wait_until(lambda: not any("bpnas" in text for text in arm64_phone.children().values()))


def lcg(size: int) -> np.ndarray:
    """The inputs that the runner times with, see docs/native.md."""
    values, x = [], 1
    for _ in range(size):
        x = (1664525 * x + 1013904223) % 2**32
        values.append((x - 2**32 if x >= 2**31 else x) / 2**31)
    return np.array(values, np.float32)


@pytest.mark.parametrize("runtime", FORMATS)
@pytest.mark.parametrize("graph", [convolution(), one_of_each()], ids=["convolution", "one_of_each"])
def test_outputs_equal_those_on_this_machine(
    graph: object, runtime: str, bundle: Bundle, phone: Adbd, tmp_path: Path
) -> None:
    content = write_graph(graph, runtime)  # type: ignore[arg-type]
    path = tmp_path / f"model{MODEL_SUFFIX[runtime]}"
    path.write_bytes(content)
    session = open_session(runtime, path)
    (shape,) = [one.shape for one in session.inputs()]
    session.set_inputs([lcg(int(np.prod(shape))).reshape(shape)])
    session.invoke()
    expected = session.output().ravel()

    folder = f"{phone.directory}/by-hand"
    remote = connect(phone.serial)
    try:
        program = choose_program(read_facts(remote, folder), runtime, DeviceOptions(bundle=bundle.directory))
        pushed = [FileToPush(file.path, f"{folder}/{name}", file.mode) for name, file in program.files.items()]
        remote.push([*pushed, FileToPush(content, f"{folder}/m"), FileToPush(b"m\t0\t0\tm\n", f"{folder}/list")])
        settings = "--warmup-runs 1 --warmup-seconds 0 --runs 1 --seconds 0 --sample-ms 0 --threads 1"
        command = f"{program.command(folder)} --list {folder}/list {settings} --timeout-seconds 60 --print-output 10000"
        result = remote.shell(command, timeout_seconds=120)
    finally:
        remote.close()
    assert result.exit_code == 0, result
    (line,) = [each for each in result.output.splitlines() if each.startswith(b'{"model"')]
    assert parse_line(line) is not None
    output = np.array(json.loads(line)["output"])
    assert output.shape == expected.shape
    assert np.abs(output - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("runtime", FORMATS)
def test_models_as_people_have_them(runtime: str, bundle: Bundle, phone: Adbd, tmp_path: Path) -> None:
    if runtime == "onnxruntime":
        contents = {"ids.onnx": onnx_of(TensorProto.INT64), "open.onnx": onnx_of(TensorProto.FLOAT, ("batch", 8))}
        with_data(tmp_path / "data.onnx")
    else:
        contents = {"int8.tflite": relu(kind="INT8", quantised=True), "plain.tflite": relu()}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    choices = InputChoices({"x": (3, 8)}) if runtime == "tflite" else InputChoices()
    names = [*contents, *(["data.onnx"] if runtime == "onnxruntime" else [])]
    requests = [
        open_model_file(tmp_path / name, choices).request(name, 0, tmp_path / f"copy-{number}")
        for number, name in enumerate(names)
    ]
    settings = RunSettings(warmup_runs=1, warmup_seconds=0, runs=3, seconds=0)
    with open_device(phone.serial, runtime, DeviceOptions(bundle=bundle.directory)) as device:
        outcomes = list(device.run(requests, settings))
    assert [outcome.key for outcome in outcomes] == names
    assert all(isinstance(outcome, Measurement) for outcome in outcomes), outcomes


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_phone_is_what_it_says_and_times_models(runtime: str, bundle: Bundle, phone: Adbd, tmp_path: Path) -> None:
    contents = [write_graph(convolution(seed=seed), runtime) for seed in range(3)]
    requests = [request_for(content, tmp_path, runtime, f"part-{n}") for n, content in enumerate(contents)]
    settings = RunSettings(warmup_runs=1, warmup_seconds=0, runs=3, seconds=0)
    with open_device(phone.serial, runtime, DeviceOptions(bundle=bundle.directory)) as device:
        info = device.info
        outcomes = list(device.run(requests, settings))
    assert (info.name, info.platform, info.abi, info.mock) == ("s9-emulator", "sdm845", "arm64-v8a", False)
    assert info.runtime_sha256 == bundle.files[bundle.library(runtime)].sha256
    assert int(info.affinity, 16) > 0
    for outcome, request in zip(outcomes, requests, strict=True):
        assert isinstance(outcome, Measurement), outcome
        assert (outcome.key, outcome.sha256, len(outcome.samples_ns)) == (request.key, request.sha256, 3)
        assert outcome.conditions["before"]["screen"] == "off"
        assert outcome.conditions["before"]["battery_percent"] == 85.0
        assert outcome.conditions["after"]["temperature_c"] == pytest.approx(37.4)
        assert outcome.conditions["after"]["sentinel_ns"] > 0  # type: ignore[operator]
    names = {path.name.partition("-")[0] for path in Path(f"{phone.root}{phone.directory}/bpnas").iterdir()}
    assert names == {"bundle"}


def test_a_bundle_brings_loader_and_libraries(bundle: Bundle) -> None:
    assert bundle.arch == "arm64"
    assert bundle.launcher == ("ld-linux-aarch64.so.1", "--library-path", ".")
    assert bundle.files[bundle.launcher[0]].mode == 0o755
    own = [n for n in bundle.files if "/" not in n and n not in {r.library for r in bundle.runtimes.values()}]
    assert {"bpnas-runner", "libc.so.6", "libstdc++.so.6", "libgcc_s.so.1"} <= set(own)
    for name in own:
        head = (bundle.directory / name).read_bytes()[:20]
        assert head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little") == AARCH64, name
    needed = subprocess.run(
        ["readelf", "-d", bundle.directory / bundle.runner], capture_output=True, text=True, check=True
    ).stdout
    for line in needed.splitlines():
        if "(NEEDED)" in line:
            assert line.rpartition("[")[2].rstrip("]") in own


@pytest.mark.slow
def test_the_commands_of_the_readme_word_for_word(
    bundle: Bundle, settings: dict[str, str], phone: Adbd, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    commands = [line.replace("SERIAL", phone.serial) for line in readme_commands()]
    assert [command.split()[0] for command in commands] == ["profile-device"] * 4 + ["build-table"]
    assert commands[0] == "profile-device bundle --arch arm64", "which made the bundle that the campaign finds"
    environment = {**os.environ, **settings}
    (tmp_path / "bin").mkdir()
    hurried = tmp_path / "bin/profile-device"
    hurried.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{HURRIED_HOST}" "$@"\n')
    hurried.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    for command in commands[1:]:
        if command.startswith("profile-device --serial"):  # the campaign
            environment["PATH"] = f"{hurried.parent}:{settings['PATH']}"
        done = subprocess.run(command, shell=True, cwd=work, env=environment, capture_output=True, text=True)  # noqa: S602
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    table = LatencyTable.load(work / "s9-emulator.parquet")
    assert (table.meta.device.platform, table.meta.device.runtime) == ("sdm845", "onnxruntime")
    entries = table.to_pandas()
    assert set(entries.source) == {"measured"}
    assert set(entries.device) == {"s9-emulator"}
    assert "EMULATOR" in table.meta.device.label
    assert len(entries[entries.kind == "path"]) == 12
    assert (entries.latency_ms > 0).all()


@pytest.mark.parametrize("runtime", FORMATS)
def test_operators_of_a_model_are_timed(runtime: str, bundle: Bundle, phone: Adbd, tmp_path: Path) -> None:
    model = tmp_path / f"model{MODEL_SUFFIX[runtime]}"
    model.write_bytes(write_graph(one_of_each(), runtime))
    arguments = ["operators", str(model), "--serial", phone.serial, "--bundle", str(bundle.directory)]
    done = CliRunner().invoke(profile_device, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert "SM-G960U" in result["device"]
    types = " ".join(operator["type"] for operator in result["operators"])
    assert "Conv" in types
    assert all(operator["ns"] >= 0 for operator in result["operators"])
    text = CliRunner().invoke(profile_device, arguments).stdout.splitlines()
    assert text[len(result["operators"]) + 1].endswith("together")

    node = helper.make_node("Nope", ["x"], ["y"])
    unknown = onnx_model([node], [("x", TensorProto.FLOAT, [1])], [("y", TensorProto.FLOAT, [1])]).SerializeToString()
    custom = tflite_model([tflite_tensor("x", (1, 8))], [tflite_tensor("y", (1, 8))], "CUSTOM", "Nope")
    model.write_bytes(unknown if runtime == "onnxruntime" else custom)
    done = CliRunner().invoke(profile_device, arguments)
    assert done.exit_code == 1
    assert "no times of operators" in done.stderr
    other = tmp_path / "model.txt"
    other.write_text("")
    assert CliRunner().invoke(profile_device, ["operators", str(other), *arguments[2:]]).exit_code == 2
