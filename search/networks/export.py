"""The model files of a finished search: again from its weights, and in int8 with what that costs in accuracy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bpnas.base.errors import UsageError
from bpnas.base.files import write_atomically
from bpnas.base.plain_text import shortened
from bpnas.base.plurals import counted
from bpnas.profiler.backbone import IMAGE_CHANNELS
from bpnas.search.data.batches import AnySplit, in_order
from bpnas.search.data.dataset import Dataset, load_data
from bpnas.search.data.evaluation_images import EvaluationImages, on_images
from bpnas.search.errors import RunError
from bpnas.search.fields import Fields, fields_of
from bpnas.search.networks.interpreters import open_model
from bpnas.search.networks.measure import drop_outdated
from bpnas.search.networks.network_file import NetworkFile, load_network, network_values, note_files
from bpnas.search.networks.own_images import own_images
from bpnas.search.progress import Progress, Silent
from bpnas.search.training.train import EVALUATION_BATCH

if TYPE_CHECKING:
    from bpnas.profiler.models.modules import Network

CALIBRATION_IMAGES = 256
SIGNATURE = "serving_default"
"""The signature of network.tflite, as TensorFlow names the only one of a model."""

_TFLITE_MISSING = "network.int8.tflite is left out: it takes AI Edge Quantizer, pip install 'bpnas[int8]'"


@dataclass(frozen=True, slots=True)
class Int8Loss:
    """What int8 costs one file.

    Attributes:
        float32_accuracy, int8_accuracy: share of right answers, 0..1, on the same test images and by the interpreter of
            the file's runtime.
        loss_points: their difference in percentage points.
    """

    float32_accuracy: float
    int8_accuracy: float
    loss_points: float


@dataclass(frozen=True, slots=True)
class Int8Result:
    """The int8 files of a network, as network.json has them.

    Attributes:
        calibration_images: training images that the ranges of the feature maps come from.
        test_images: that the accuracies are of.
        files: by name.
        left_out: a sentence about a file that could not be made.
        accuracy_on: the images that the accuracies are of; None where an earlier bpnas noted none.
    """

    calibration_images: int
    test_images: int
    files: dict[str, Int8Loss]
    left_out: str | None = None
    accuracy_on: EvaluationImages | None = None


def write_models(path: Path, module: Network, input_size: int) -> dict[str, bytes]:
    """Write a network in float32, for one image at a time.

    Args:
        path: of its network.json, which need not be there yet.
        module: the network, in evaluation mode and on the CPU.
        input_size: height and width of the image, in pixels.

    Returns:
        The contents by suffix.

    Raises:
        SpaceError: the disk is full.
    """
    from bpnas.profiler import to_onnx, to_tflite

    shape = (1, IMAGE_CHANNELS, input_size, input_size)
    contents = {".onnx": to_onnx(module, shape), ".tflite": to_tflite(module, shape, SIGNATURE)}
    for suffix, content in contents.items():
        write_atomically(path.with_suffix(suffix), content)
    return contents


def export_int8(
    network: NetworkFile,
    *,
    data: str | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    test_images: int | None = None,
    progress: Progress | None = None,
) -> Int8Result:
    """Write network.int8.onnx and network.int8.tflite next to a network.json, and into that what they cost in accuracy.

    Post-training quantisation: nothing is trained. The ranges of the feature maps come from the first training images.

    Args:
        data: the images (see `load_data`); default those of the search.
        calibration_images: how many training images.
        test_images: how many test images are classified by every file; default all.

    Raises:
        UsageError: the data source is unknown, or has other classes than the network.
        DataError: images are missing or damaged.
        RunError: the weights are missing, damaged or of another network.
        SpaceError: the disk is full; network.json is as before.
    """
    watcher = Silent() if progress is None else progress
    dataset = _dataset(network, data, calibration_images)
    calibration, test = dataset.train.first(calibration_images), dataset.test.first(test_images)
    floats = write_models(network.path, load_network(network.path), network.backbone.input_size)
    makers = {".onnx": _int8_onnx, ".tflite": _int8_tflite}
    left_out = None
    if find_spec("ai_edge_quantizer") is None:
        del makers[".tflite"]
        left_out = _TFLITE_MISSING
    watcher.stage("int8", 2 * len(makers))
    evaluated = EvaluationImages.test(dataset, test_images)
    losses, contents = {}, {f"{network.path.stem}{suffix}": content for suffix, content in floats.items()}
    for suffix, quantize in makers.items():
        content = quantize(floats[suffix], normal_images(dataset, calibration))
        path = network.path.with_suffix(f".int8{suffix}")
        watcher.step(f"{path.name} is calibrated with {counted(len(calibration), 'image')}")
        before, after = (accuracy_of(each, dataset, test) for each in (floats[suffix], content))
        losses[path.name] = Int8Loss(before, after, (before - after) * 100)
        watcher.step(
            f"{path.name}: accuracy {after * 100:.2f}%, in float32 {before * 100:.2f}%, {on_images(evaluated)}"
        )
        write_atomically(path, content)
        contents[path.name] = content
    result = Int8Result(len(calibration), len(test), losses, left_out, evaluated)
    with network_values(network.path) as values:
        values["int8"] = asdict(result)
        note_files(values, contents)
        drop_outdated(network, values)
    return result


def int8_of(network: NetworkFile) -> Int8Result | None:
    """What `export_int8` noted in a network.json, if it did and its files are there as they were written.

    Raises:
        RunError: what it noted is damaged.
    """
    values = network.values.get("int8")
    if values is None:
        return None
    with fields_of(f"{network.path}: is damaged"):
        fields = Fields.of(values, "int8")
        files = fields.part("files")
        losses = {name: _int8_loss(files.part(name)) for name in files.values}
        result = Int8Result(
            fields.whole("calibration_images", 1),
            fields.whole("test_images", 1),
            losses,
            fields.text("left_out") if fields.has("left_out") else None,
            EvaluationImages.read(fields, "accuracy_on"),
        )
    try:
        for name in result.files:
            network.read_file(network.path.parent / Path(name).name, "")
    except (OSError, RunError):
        return None
    return result


def _int8_loss(fields: Fields) -> Int8Loss:
    found = fields.share("float32_accuracy"), fields.share("int8_accuracy"), fields.number("loss_points", -100, 100)
    return Int8Loss(*found)


def accuracy_of(content: bytes, dataset: Dataset, split: AnySplit) -> float:
    """Share of the images of `split` that an exported model puts into the right class, 0..1, one image at a time."""
    model = open_model(content)
    right = 0
    for images, labels in in_order(split, EVALUATION_BATCH, torch.device("cpu")):
        for image, label in zip(_normal(dataset, images), labels.tolist(), strict=True):
            right += int(model(image[None]).argmax()) == label
    return right / len(split)


def normal_images(dataset: Dataset, split: AnySplit) -> npt.NDArray[np.float32]:
    """The images of `split` as the network gets them: float32 (N, 3, S, S)."""
    batches = in_order(split, EVALUATION_BATCH, torch.device("cpu"))
    return np.concatenate([_normal(dataset, images) for images, _ in batches])


def _normal(dataset: Dataset, images: Tensor) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = dataset.normalized(images).contiguous().numpy()
    return found


def _dataset(network: NetworkFile, data: str | None, train_images: int) -> Dataset:
    """The images of the search, normalised as its network wants them."""
    if data is None:
        data = own_images(network)
    dataset = load_data(data, network.backbone.input_size, train_images)
    if dataset.class_names != network.class_names:
        raise UsageError(
            f"{data}: has the classes {_short(dataset.class_names)}, {network.path} {_short(network.class_names)}"
        )
    return replace(dataset, mean=network.mean, std=network.std)


def _short(names: tuple[str, ...]) -> str:
    return shortened(", ".join(names[:3])) + (f" ... ({len(names)})" if len(names) > 3 else "")


def _int8_onnx(content: bytes, images: npt.NDArray[np.float32]) -> bytes:
    from bpnas.search.networks.int8_onnx import quantize_onnx

    return quantize_onnx(content, images)


def _int8_tflite(content: bytes, images: npt.NDArray[np.float32]) -> bytes:
    from bpnas.search.networks.int8_tflite import quantize_tflite

    return quantize_tflite(content, images.transpose(0, 2, 3, 1))
