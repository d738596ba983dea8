"""Train a network that a search has found once more: on other images, with other classes, by another recipe.

BP-NAS connects blocks on 100 classes of ImageNet, and trains the network that comes out on all of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.android_bench.errors import UsageError
from bpnas.search.distributed import from_main, is_main, process_group
from bpnas.search.executor import default_threads, set_threads, threads_kept
from bpnas.search.network_file import LATENCY_FIELDS, NetworkFile, check_weights, latency_facts
from bpnas.search.presets import Preset
from bpnas.search.progress import Progress, Silent
from bpnas.search.run_directory import RunDirectory
from bpnas.search.sources import Source

if TYPE_CHECKING:
    from bpnas.profiler.backbone import Backbone
    from bpnas.tables import LatencyTable


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
        DivergedError: the training came to numbers that are not finite.
    """
    from bpnas.search.data import check_classes, load_data
    from bpnas.search.final_training import train_network

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
            check_weights(directory.root / "network.json")
            reached = float(from_main(directory.read_json("network.json")["accuracy"] if is_main() else 0.0))
        else:
            set_threads(default_threads("local", None))
            dataset = load_data(data, backbone.input_size, preset.retraining.train_images)
            check_classes(dataset, backbone.classes, backbone.input_size)
            reached = train_network(directory, file.blocks, backbone, dataset, preset, seed, watcher, latency)
    return Retrained(directory.root, reached, latency["predicted_latency_ms"], latency["mock"])


def _latency(file: NetworkFile, backbone: Backbone, table: LatencyTable | None) -> dict[str, Any]:
    values = json.loads(file.path.read_text(encoding="utf-8"))
    found = {name: values[name] for name in LATENCY_FIELDS if name in values}
    if table is not None:
        return latency_facts(table, file.blocks, backbone, found["target_ms"])
    if backbone != file.backbone:
        raise UsageError(
            f"{file.path}: was searched for {file.backbone.classes} classes, and the images have {backbone.classes}: "
            "name the table that predicts the latency with such a head, --table TABLE"
        )
    return found
