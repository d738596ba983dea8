"""Object detection in a run directory: train Faster R-CNN on a network, evaluate it as COCO does (BP-NAS, transfer).

detector.safetensors  the weights of the whole detector
detections.json       what it sees on the images of the evaluation, in COCO's result format

The other files are those of all transfer tasks, see `bpnas.search.transfer.run`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.base.files import write_atomically
from bpnas.base.plurals import counted
from bpnas.base.randomness import derived_seed
from bpnas.search.errors import SearchError
from bpnas.search.networks.network_file import NetworkFile
from bpnas.search.progress import Progress, Silent
from bpnas.search.run_directory import RunDirectory
from bpnas.search.transfer.backbones import BackboneChoice
from bpnas.search.transfer.cost import Stopwatch
from bpnas.search.transfer.detection.coco import CocoImage, CocoSet
from bpnas.search.transfer.detection.settings import DetectionSettings
from bpnas.search.transfer.recipe import check_share
from bpnas.search.transfer.run import result_in, training_in

if TYPE_CHECKING:
    from torch import nn

Files = tuple[Path, Path]


def run_detection(
    train: Files,
    val: Files,
    settings: DetectionSettings,
    *,
    out: str | Path,
    model: str = "bpnas",
    network: Path | None = None,
    weights: Path | None = None,
    from_scratch: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a detector on the one images and evaluate it on the others; called again, it resumes where it was.

    Where torchrun started several processes, each calls this with the same arguments within `process_group`.

    Args:
        train, val: directory of images and annotation file each (see `coco_files`).
        settings: the recipe.
        out: run directory.
        model, network, weights, from_scratch: see `load_features`.
        seed: random seed of the training.
        progress: told what happens.

    Returns:
        The content of result.json: what it is a detector of (`model`, `network`, `weights`, `mock`,
        `predicted_latency_ms`), `metrics` (see `coco_metrics`), `recipe`, `seed`, `notes`, `versions`.

    Raises:
        UsageError: the arguments do not fit together, or the processes cannot share a batch.
        DataError: annotations or images are missing or damaged.
        RunError: the network, its weights or the run directory are damaged, or of another run.
        SearchError: torchvision or pycocotools is missing.
        DivergedError: the training came to numbers that are not finite.
        SpaceError: no space on the disk.
    """
    from bpnas.search.training.distributed import is_main, world_size

    check_share(settings, world_size(), trains_norms=not settings.frozen_norms)
    check_libraries()
    stopwatch = Stopwatch()
    watcher = Silent() if progress is None or not is_main() else progress
    to_train, to_evaluate = CocoSet.load(*train), CocoSet.load(*val)
    to_evaluate.check_categories(to_train)
    images = to_train.images_with_boxes()
    to_evaluate.images_with_boxes()  # raises where nothing is to be found
    from bpnas.search.training.seeded import seeded
    from bpnas.search.transfer.detection.model import build_detector, detection_features

    def build() -> tuple[nn.Module, dict[str, Any], tuple[str, ...]]:
        features = BackboneChoice(model, network, weights, not from_scratch).load()
        changes = detection_features(features)
        return build_detector(features, len(to_train.category_ids), settings), features.origin, changes

    detector, origin, changes = seeded(derived_seed(seed, "detector"), build)
    dropped = len(to_train.images) - len(images)
    without = counted(dropped, "image without boxes is", "images without boxes are")
    empty = [f"{to_train.file}: {without} left out of training"] if dropped else []
    config = {
        "task": "detection",
        **origin,
        "data": {name: [str(path.resolve()) for path in files] for name, files in (("train", train), ("val", val))},
        "network_fingerprint": None if network is None else NetworkFile.load(network).fingerprint,
        "sha256": {str(path): _digest(path) for path in (train[1], val[1], origin["weights"]) if path is not None},
        "recipe": asdict(settings),
        "seed": seed,
    }

    def run(directory: RunDirectory) -> dict[str, Any]:
        for note in (notes := (*settings.notes(), *changes, *to_train.notes, *empty)):
            watcher.note(note)
        _train(directory, detector, images, settings, seed, stopwatch, watcher)
        watcher.note(f"evaluation on {counted(len(to_evaluate.images), 'image')}")
        return {
            **config,
            "metrics": _evaluate(directory, detector, to_evaluate, settings.batch),
            "images": {"train": len(images), "val": len(to_evaluate.images)},
            "judged_on": f"{counted(len(to_evaluate.images), 'image')} of {to_evaluate.file}, scaled to a shorter side "
            f"of {settings.shorter_side} px, at most {settings.longer_side} px",
            "categories": to_train.category_names,
            "notes": notes,
            "versions": _versions(),
            "cost": stopwatch.cost(),
        }

    return result_in(out, config, watcher, "detector", run)


def check_libraries() -> None:
    """See that what detection needs besides torch is installed.

    Raises:
        SearchError: it is not.
    """
    missing = [name for name in ("torchvision", "pycocotools") if find_spec(name) is None]
    if missing:
        raise SearchError(f"detection needs {' and '.join(missing)}: pip install 'bpnas[vision]'")


def _train(
    directory: RunDirectory,
    detector: nn.Module,
    images: Sequence[CocoImage],
    settings: DetectionSettings,
    seed: int,
    stopwatch: Stopwatch,
    progress: Progress,
) -> None:
    from bpnas.search.transfer.detection.train import detection_course, train_detector

    checkpoint, seed = directory.checkpoints / "detection.pt", derived_seed(seed, "training")
    epochs = detection_course(images, settings, seed).epochs
    with training_in(directory, checkpoint, "detection", "the detector", epochs, progress) as report:
        train_detector(
            detector,
            images,
            settings,
            seed=seed,
            checkpoint=checkpoint,
            stopwatch=stopwatch,
            on_epoch=lambda epoch: report({"epoch": epoch.epoch, "loss": epoch.loss, **epoch.losses}),
            on_step=progress.within,
        )


def _evaluate(directory: RunDirectory, detector: nn.Module, found: CocoSet, batch: int) -> dict[str, float | None]:
    from safetensors.torch import save

    from bpnas.search.training.distributed import is_main, world_size
    from bpnas.search.transfer.detection.score import coco_metrics, detect

    detections = detect(detector, found, batch=max(1, batch // world_size()))
    if is_main():
        state = {name: value.contiguous().cpu() for name, value in detector.state_dict().items()}
        write_atomically(directory.root / "detector.safetensors", save(state))
        # For other programs, which want a plain list.
        write_atomically(directory.root / "detections.json", (json.dumps(detections, indent=2) + "\n").encode())
    return coco_metrics(found, detections)


def _digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in ("bpnas", "torch", "torchvision", "timm", "pycocotools"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
