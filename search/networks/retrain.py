"""Train a network that a search has found once more: on other images, with other classes, by another recipe.

BP-NAS connects blocks on 100 classes of ImageNet, and trains the network that comes out on all of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.base.errors import UsageError
from bpnas.search.data.evaluation_images import EvaluationImages
from bpnas.search.data.sources import Source
from bpnas.search.errors import AboveLimitError, RunError
from bpnas.search.execution.executor import default_threads
from bpnas.search.networks.network_file import (
    DEPLOYED_FIELDS,
    LATENCY_FIELDS,
    NetworkFile,
    above_limit,
    check_weights,
    latency_facts,
    limited_ms,
)
from bpnas.search.networks.own_images import own_images
from bpnas.search.presets import Preset
from bpnas.search.progress import Progress, Silent
from bpnas.search.run_directory import Layout, RunDirectory, Stage
from bpnas.search.spent import Spent, spent, write_cost
from bpnas.search.training.distributed import check_batch, from_main, is_main, process_group
from bpnas.search.training.threads import set_threads, threads_kept

if TYPE_CHECKING:
    from bpnas.profiler.backbone import Backbone
    from bpnas.search.networks.final_training import Trained
    from bpnas.tables import LatencyTable

_LAYOUT = Layout(("network", "retraining"), (Stage(("retraining.jsonl", "network.json")),))


@dataclass(frozen=True, slots=True)
class Retrained:
    """What a retraining gave.

    Attributes:
        directory: where its files are: `network.json`, `.safetensors`, `.onnx` and `.tflite`, as of a search.
        accuracy: 0..1, on `accuracy_on`.
        predicted_latency_ms: with the head for these classes; None where it is unknown.
        mock: whether that latency is computed from no measurement.
        limited_ms: the latency that its limit is for: the same, but that with the head that will be deployed, where the
            network was searched for that one and these are the classes that it was searched with.
        accuracy_on: the images; None where an earlier bpnas trained it and did not note them.
        limit_ms: the network's latency limit; None where it has none.
        above_limit: a sentence, where the latency is above the limit or unknown.
        cost: of the training, over all calls.
    """

    directory: Path
    accuracy: float
    predicted_latency_ms: float | None
    mock: bool
    limited_ms: float | None
    accuracy_on: EvaluationImages | None = None
    limit_ms: float | None = None
    above_limit: str | None = None
    cost: tuple[Spent, ...] = ()


@process_group()
def retrain(
    network: str | Path,
    *,
    out: str | Path,
    data: str | None = None,
    preset: Preset | str = "tiny",
    table: LatencyTable | None = None,
    allow_above_limit: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Retrained:
    """Train the network from random weights, or resume what `out` holds.

    Where torchrun started several processes, each calls this with the same arguments (see `train`).

    Args:
        network: a network.json, or the run directory that holds it.
        out: the directory of the result.
        data: the images (see `Source`), taken at the size that the network was searched for; default those that it was
            trained on.
        preset: its `retraining` is the recipe, and the result is evaluated on its `test_images`.
        table: predicts the latency; needed where the images have another number of classes than the network was
            searched with and for, since the head is then another one.
        allow_above_limit: train it also where the latency with such a head is above the network's limit, or unknown.
        seed: of weights, order and augmentation.
        progress: is told what happens.

    Raises:
        UsageError: the network does not say which images it was trained on; or torchrun started more processes than a
            batch has images.
        AboveLimitError: the latency with such a head is above the network's limit, or unknown without a table; said
            before anything is trained.
        RunError: the network is missing or damaged; or `out` belongs to another training, is in use or is damaged.
        TableError, MissingEntryError: the table lacks something.
        DataError: images are missing or damaged.
        DivergedError: the training came to numbers that are not finite.
    """
    from bpnas.search.data.dataset import check_classes, load_data
    from bpnas.search.networks.final_training import Trained, train_network

    watcher: Progress = Silent() if progress is None or not is_main() else progress
    preset = Preset.load(preset) if isinstance(preset, str) else preset
    file = NetworkFile.load(network)
    data = own_images(file) if data is None else data
    source = Source.parse(data)
    backbone = replace(file.backbone, classes=source.class_count())
    latency = _latency(file, backbone, table)
    if not from_main(Path(out, "network.json").exists()):
        check_batch(preset.retraining.batch, "--retrain-batch")
    if Path(out).resolve() == file.path.parent.resolve():
        raise UsageError(f"{out}: holds the network itself; choose another directory with --out")
    doubt = _doubt(Path(out) / "network.json", file, backbone, latency)
    if doubt is not None and not allow_above_limit:
        raise AboveLimitError(f"{doubt}; or train it all the same with --allow-above-limit")
    directory = RunDirectory(out, _LAYOUT, is_main())
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
            found = from_main(_read(directory) if is_main() else Trained(0.0, None))
        else:
            set_threads(default_threads("local", None))
            dataset = load_data(data, backbone.input_size, preset.retraining.train_images)
            check_classes(dataset, backbone.classes, backbone.input_size)
            found = train_network(directory, file.blocks, backbone, dataset, preset, seed, watcher, latency)
            write_cost(directory)
        cost = spent(directory)
    return Retrained(
        directory.root,
        found.accuracy,
        latency["predicted_latency_ms"],
        latency["mock"],
        limited_ms(latency),
        found.accuracy_on,
        file.target_ms,
        doubt,
        cost,
    )


def _read(directory: RunDirectory) -> Trained:
    """What a finished retraining reached."""
    from bpnas.search.networks.final_training import Trained

    found = NetworkFile.load(directory.root / "network.json")
    check_weights(found.path)
    if found.accuracy is None:
        raise RunError(f"{found.path}: is no network of run-search ('accuracy' is missing)")
    return Trained(found.accuracy, found.accuracy_on)


def _latency(file: NetworkFile, backbone: Backbone, table: LatencyTable | None) -> dict[str, Any]:
    """`LATENCY_FIELDS` with the head of `backbone`; without a table no latency of one that the search did not know."""
    same = backbone == file.backbone
    if table is not None:
        return latency_facts(table, file.blocks, backbone, file.target_ms, file.deploy_classes if same else None)
    found = {name: file.values[name] for name in LATENCY_FIELDS if name in file.values}
    found |= {"predicted_latency_ms": file.predicted_latency_ms, "target_ms": file.target_ms}
    if same:
        return found
    for name in DEPLOYED_FIELDS:
        found.pop(name, None)
    found.pop("head_interpolated_from", None)
    found["predicted_latency_ms"] = None
    if backbone.classes == file.deploy_classes:
        found["predicted_latency_ms"] = file.deployed_latency_ms
        if "deployed_head_interpolated_from" in file.values:
            found["head_interpolated_from"] = file.values["deployed_head_interpolated_from"]
    return found


def _doubt(path: Path, file: NetworkFile, backbone: Backbone, latency: dict[str, Any]) -> str | None:
    """Why it is not known to be within its limit, and what to do; None where it is, or where it has none."""
    predicted_ms, same = limited_ms(latency), backbone.classes == file.backbone.classes
    if predicted_ms is None and not same:
        deployed = "" if file.deploy_classes is None else f", to be deployed with {file.deploy_classes:,}"
        return (
            f"{file.path}: was searched for {file.backbone.classes} classes{deployed}, and the images have "
            f"{backbone.classes}: name the table that predicts the latency with such a head, --table TABLE"
        )
    return above_limit(path, predicted_ms, file.target_ms, file.deploy_classes if same else backbone.classes)
