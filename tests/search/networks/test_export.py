"""The model files of a search written again, and in int8 with what that costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx

from bpnas.search import load_data
from bpnas.search.data.batches import on_device
from bpnas.search.networks.export import accuracy_of, export_int8, write_models
from bpnas.search.networks.interpreters import open_model
from bpnas.search.networks.network_file import NetworkFile, load_network, save_weights
from bpnas.search.presets import Preset
from bpnas.search.training.threads import set_threads, threads_kept
from bpnas.search.training.train import accuracy, train
from tests.network_factory import stored_network
from tests.search_helpers import tiny_backbone

IMAGES = 100


@pytest.fixture(scope="module")
def digits() -> Any:
    return load_data("digits", 32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Path:
    """A network.json of a network that knows digits a little."""
    path, network = stored_network(tmp_path_factory.mktemp("trained"), backbone=tiny_backbone())
    settings = Preset.load("tiny").retraining
    with threads_kept():
        set_threads(1)
        train(network, digits, on_device(digits.train.first(1000), torch.device("cpu")), settings, seed=0)
    network.eval()
    save_weights(path.with_suffix(".safetensors"), network)
    values = json.loads(path.read_text())
    values |= {"data": "digits", "classes": list(digits.class_names)}
    values["input"] = {"mean": digits.mean, "std": digits.std}
    path.write_text(json.dumps(values))
    return path


@pytest.fixture
def network(trained: Path, tmp_path: Path) -> NetworkFile:
    for file in (trained, trained.with_suffix(".safetensors")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return NetworkFile.load(tmp_path)


def test_exported_files_answer_as_torch_does(network: NetworkFile, digits: Any) -> None:
    module = load_network(network.path)
    split = digits.test.first(IMAGES)
    images = digits.normalized(split.images)
    for content in write_models(network.path, module, 32).values():
        model = open_model(content)
        found = torch.tensor(model(images[:1].numpy()))
        torch.testing.assert_close(found, module(images[:1]).detach(), rtol=1e-4, atol=1e-4)
        assert accuracy_of(content, digits, split) == accuracy(module, digits, split)


def test_int8_files_cost_little_and_say_what(network: NetworkFile) -> None:
    pytest.importorskip("ai_edge_quantizer")
    result = export_int8(network, calibration_images=64, test_images=IMAGES)
    assert set(result.files) == {"network.int8.onnx", "network.int8.tflite"} and result.left_out is None
    noted = json.loads(network.path.read_text())["int8"]
    assert noted["calibration_images"] == 64 and noted["test_images"] == IMAGES
    digits = load_data("digits", 32)
    for name, loss in result.files.items():
        assert noted["files"][name]["int8_accuracy"] == loss.int8_accuracy
        assert loss.loss_points == pytest.approx((loss.float32_accuracy - loss.int8_accuracy) * 100)
        # Chance is 0.1; how far so short a training gets differs between processors.
        assert loss.float32_accuracy > 0.15 and abs(loss.loss_points) <= 5
        content = (network.path.parent / name).read_bytes()
        assert accuracy_of(content, digits, digits.test.first(IMAGES)) == loss.int8_accuracy
    weights = onnx.load(network.path.with_suffix(".int8.onnx")).graph.initializer
    assert sum(each.data_type == onnx.TensorProto.INT8 and len(each.dims) == 4 for each in weights) == 8


def test_all_sizes_of_all_files_are_fixed(network: NetworkFile) -> None:
    pytest.importorskip("ai_edge_quantizer")
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    export_int8(network, calibration_images=8, test_images=1)
    for suffix in (".onnx", ".int8.onnx"):
        graph = onnx.load(network.path.with_suffix(suffix)).graph
        (source,), (target,) = graph.input, graph.output
        for value, shape in ((source, [1, 3, 32, 32]), (target, [1, 10])):
            assert [dim.dim_value for dim in value.type.tensor_type.shape.dim] == shape
            assert not any(dim.dim_param for dim in value.type.tensor_type.shape.dim)
    kinds = {}
    for suffix in (".tflite", ".int8.tflite"):
        model = interpreter.Interpreter(str(network.path.with_suffix(suffix)))
        assert model.get_signature_list() == {"serving_default": {"inputs": ["input"], "outputs": ["output"]}}
        (source,), (target,) = model.get_input_details(), model.get_output_details()
        for value, shape in ((source, [1, 32, 32, 3]), (target, [1, 10])):
            assert value["shape"].tolist() == value["shape_signature"].tolist() == shape
        kinds[suffix] = [tensor["name"] for tensor in model.get_tensor_details() if tensor["dtype"] == np.float32]
    assert len(kinds[".tflite"]) > 10 and len(kinds[".int8.tflite"]) == 2  # the input and the output


def test_int8_files_are_timed_like_the_others(network: NetworkFile, cli: Any) -> None:
    pytest.importorskip("ai_edge_quantizer")
    export_int8(network, calibration_images=8, test_images=1)
    quick = ("--runs", "3", "--seconds", "0", "--warmup-seconds", "0", "--sessions", "1")
    done = cli("run-search", "measure", network.path, "--serial", "local", *quick)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("times as fast as in float32") == 2
    assert len(json.loads(network.path.read_text())["measured"]) == 4


def test_without_the_quantiser_of_tflite_onnx_is_written_alone(
    network: NetworkFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpnas.search.networks.export.find_spec", lambda name: None)
    result = export_int8(network, calibration_images=8, test_images=10)
    assert set(result.files) == {"network.int8.onnx"}
    assert result.left_out is not None and "pip install" in result.left_out
    assert not network.path.with_suffix(".int8.tflite").exists()


def test_the_command_writes_them_from_the_weights(network: NetworkFile, cli: Any) -> None:
    done = cli("run-search", "export", network.path.parent)
    assert done.exit_code == 0 and "network.onnx" in done.stdout
    first = network.path.with_suffix(".onnx").read_bytes()
    options = ("--int8", "--calibration-images", "8", "--test-images", "10")
    done = cli("run-search", "export", network.path.parent, *options)
    assert "a loss of" in done.stdout and "on 10 test images" in done.stdout
    assert network.path.with_suffix(".onnx").read_bytes() == first


def test_what_was_measured_of_a_file_that_is_no_more_is_forgotten(network: NetworkFile, cli: Any) -> None:
    write_models(network.path, load_network(network.path), 32)
    quick = ("--runs", "3", "--seconds", "0", "--warmup-seconds", "0", "--sessions", "1")
    cli("run-search", "measure", network.path.parent, "--serial", "mock:s9", *quick)
    before = json.loads(network.path.read_text())["measured"]
    assert [each["file"] for each in before] == ["network.onnx", "network.tflite"]
    cli("run-search", "export", network.path.parent)
    assert json.loads(network.path.read_text())["measured"] == before
    module = load_network(network.path)
    module.head.linear.bias.data += 1
    save_weights(network.weights, module)
    cli("run-search", "export", network.path.parent)
    assert json.loads(network.path.read_text())["measured"] == []


@pytest.mark.parametrize(
    ("change", "options", "code", "message"),
    [
        ({"classes": list("abcdefghij")}, [], 2, "has the classes 0, 1, 2 ... (10)"),
        ({"data": None}, [], 2, "name them with --data"),
        ({"data": "cifar10:none"}, [], 1, "no such directory"),
        ({}, ["--data", "huge"], 2, "no data source is called 'huge'"),
    ],
)
def test_wrong_images_are_refused(
    network: NetworkFile, cli: Any, change: dict[str, Any], options: list[str], code: int, message: str
) -> None:
    network.path.write_text(json.dumps(json.loads(network.path.read_text()) | change))
    before = network.path.read_bytes()
    done = cli("run-search", "export", network.path.parent, "--int8", *options)
    assert done.exit_code == code and message in done.stderr and "Traceback" not in done.stderr
    assert network.path.read_bytes() == before
