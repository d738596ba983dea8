"""Train a network that a search has found once more: on other images, with other classes, by another recipe.

BP-NAS connects blocks on 100 classes of ImageNet, and trains the network that comes out on all of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.android_bench.errors import UsageError
from bpnas.search.chance import derived_seed
from bpnas.search.distributed import from_main, is_main, process_group
from bpnas.search.executor import default_threads, set_threads, threads_kept
from bpnas.search.network_file import NetworkFile, block_texts, save_weights
from bpnas.search.presets import Preset
from bpnas.search.progress import Progress, Silent
from bpnas.search.run_directory import RunDirectory
from bpnas.search.sources import Source

if TYPE_CHECKING:
    from bpnas.profiler.backbone import Backbone
    from bpnas.search.data import Dataset
    from bpnas.search.train import EpochReport
    from bpnas.tables import LatencyTable

# What a network.json says of its latency; all else is of the training, or belongs to the files beside it.
_LATENCY_FIELDS = (
    "mock",
    "device",
    "runtime",
    "table_sha256",
    "table_setup",
    "additivity",
    "predicted_latency_ms",
    "target_ms",
)


@dataclass(frozen=True, slots=True)
class Retrained:
    """What a retraining gave.

    Attributes:
        directory: where its files lie: `network.json`, `.safetensors`, `.onnx` and `.tflite`, as of a search.
        accuracy: on test images, 0..1.
        predicted_latency_ms: with the head for these classes.
        mock: whether that latency is computed from no measurement.
    """

    directory: Path
    accuracy: float
    predicted_latency_ms: float
    mock: bool


@process_group()
def retrain(
    network: str | Path,
    *,
    out: str | Path,
    data: str,
    preset: Preset | str = "tiny",
    table: LatencyTable | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Retrained:
    """Train the network from random weights, or go on with what `out` holds.

    Where torchrun started several processes, each calls this with the same arguments (see `train`).

    Args:
        network: a network.json, or the run directory that holds it.
        out: the directory of the result.
        data: the images (see `Source`), taken at the size that the network was searched for.
        preset: its `retraining` is the recipe, and its `test_images` judge the result.
        table: predicts the latency anew; needed where the images have another number of classes.
        seed: of weights, order and augmentation.
        progress: is told what happens.

    Raises:
        UsageError: other classes need a table.
        RunError: the network is missing or damaged; or `out` belongs to another training, is in use or is damaged.
        TableError, MissingEntryError: the table lacks something.
        DataError: images are missing or damaged.
    """
    from bpnas.search.data import check_classes, load_data

    watcher: Progress = Silent() if progress is None or not is_main() else progress
    preset = Preset.load(preset) if isinstance(preset, str) else preset
    file, source = NetworkFile.load(network), Source.parse(data)
    backbone = replace(file.backbone, classes=source.class_count())
    latency = _latency(file, backbone, table)
    directory = RunDirectory(out, writes=is_main())
    if directory.root.resolve() == file.path.parent.resolve():
        raise UsageError(f"{directory.root}: holds the network itself; choose another directory with --out")
    config = {
        "network": file.fingerprint,
        "data": source.absolute,
        "retraining": asdict(preset.retraining),
        "test_images": preset.test_images,
        "seed": seed,
        **latency,
    }
    with directory.locked(), threads_kept():
        directory.agree(config)
        if from_main(directory.has("network.json")):
            watcher.note("the network is there already")
            reached = float(from_main(directory.read_json("network.json")["accuracy"] if is_main() else 0.0))
        else:
            set_threads(default_threads("local", None))
            dataset = load_data(data, backbone.input_size, preset.retraining.train_images)
            check_classes(dataset, backbone.classes, backbone.input_size)
            reached = _train(directory, file, backbone, dataset, preset, seed, watcher, latency)
    return Retrained(directory.root, reached, latency["predicted_latency_ms"], latency["mock"])


def _latency(file: NetworkFile, backbone: Backbone, table: LatencyTable | None) -> dict[str, Any]:
    values = json.loads(file.path.read_text(encoding="utf-8"))
    found = {name: values[name] for name in _LATENCY_FIELDS if name in values}
    if table is not None:
        return {
            "mock": table.meta.mock,
            "device": table.meta.device_name,
            "runtime": table.meta.runtime,
            "table_sha256": table.sha256,
            "table_setup": None if table.meta.setup is None else asdict(table.meta.setup),
            "additivity": table.additivity,
            "predicted_latency_ms": table.network(file.blocks, backbone.input_size, backbone.classes),
            "target_ms": found["target_ms"],
        }
    if backbone != file.backbone:
        raise UsageError(
            f"{file.path}: was searched for {file.backbone.classes} classes, and the images have {backbone.classes}: "
            "name the table that predicts the latency with such a head, --table TABLE"
        )
    return found


def _train(
    directory: RunDirectory,
    file: NetworkFile,
    backbone: Backbone,
    dataset: Dataset,
    preset: Preset,
    seed: int,
    progress: Progress,
    latency: dict[str, Any],
) -> float:
    from bpnas.profiler import build_module
    from bpnas.search.checkpoint import finished_epochs
    from bpnas.search.evaluate import seeded
    from bpnas.search.export import write_models
    from bpnas.search.train import accuracy, train

    checkpoint = directory.checkpoints / "retraining.pt"
    progress.stage("retraining", preset.retraining.epochs, finished_epochs(checkpoint))
    recorded = len(directory.lines("epochs.jsonl"))

    def report(epoch: EpochReport) -> None:
        if epoch.epoch >= recorded:
            directory.append("epochs.jsonl", {"epoch": epoch.epoch, "loss": epoch.loss})
        directory.append("timings.jsonl", {"stage": "retraining", "images": epoch.images, "seconds": epoch.seconds})
        progress.step(f"epoch {epoch.epoch + 1}: loss {epoch.loss:.3f}")

    model_seed = derived_seed(seed, "retraining")
    model = seeded(model_seed, lambda: build_module(file.blocks, backbone))
    train(
        model,
        dataset,
        dataset.train.first(preset.retraining.train_images),
        preset.retraining,
        seed=model_seed,
        checkpoint=checkpoint,
        on_epoch=report,
        on_step=progress.within,
    )
    reached = accuracy(model, dataset, dataset.test.first(preset.test_images), together=True)
    model.cpu().eval()
    if is_main():
        save_weights(directory.root / "network.safetensors", model)
        write_models(directory.root / "network.json", model, backbone.input_size)
    # Last, since this file says that all is done.
    directory.write_json(
        "network.json",
        {
            **latency,
            "backbone": backbone.to_dict(),
            "blocks": block_texts(file.blocks),
            "accuracy": reached,
            "data": dataset.source,
            "classes": list(dataset.class_names),
            "input": {
                "layout": "NCHW in ONNX, NHWC in TFLite",
                "scale": "0..1",
                "mean": dataset.mean,
                "std": dataset.std,
            },
            "seed": seed,
        },
    )
    return reached
