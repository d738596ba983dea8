"""The last stage: train the network that was found from random weights, evaluate it on test images, write its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bpnas.base.randomness import derived_seed
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Blocks
from bpnas.search.data.batches import gpus
from bpnas.search.data.dataset import Dataset
from bpnas.search.data.evaluation_images import EvaluationImages
from bpnas.search.event_files import event_files
from bpnas.search.networks.export import write_models
from bpnas.search.networks.network_file import block_texts, file_digests, limit_facts, limited_ms, save_weights
from bpnas.search.presets import Preset
from bpnas.search.progress import Progress
from bpnas.search.run_directory import RunDirectory
from bpnas.search.spent import note_time
from bpnas.search.training.checkpoint import finished_epochs
from bpnas.search.training.distributed import is_main, world_size
from bpnas.search.training.divergence import stage_in
from bpnas.search.training.seeded import seeded
from bpnas.search.training.train import EpochReport, accuracy, train

if TYPE_CHECKING:
    from bpnas.profiler.models.modules import Network

_RETRY = (
    "no network is written, what was done before is kept, call the same command again with a smaller --retrain-rate"
)


@dataclass(frozen=True, slots=True)
class Trained:
    """What the training of a network gave.

    Attributes:
        accuracy: 0..1.
        accuracy_on: the images that it is of; None where an earlier bpnas did not note them.
    """

    accuracy: float
    accuracy_on: EvaluationImages | None


def train_network(
    directory: RunDirectory,
    blocks: Blocks,
    backbone: Backbone,
    dataset: Dataset,
    preset: Preset,
    seed: int,
    progress: Progress,
    facts: Mapping[str, Any],
) -> Trained:
    """Train by `preset.retraining`, or resume it, and write network.json, .safetensors, .onnx and .tflite.

    Args:
        blocks: one per site, None for Skip.
        facts: further fields of network.json, `LATENCY_FIELDS` among them.

    Raises:
        DivergedError: a loss, a weight or an answer is not finite; no file of the network is written.
    """
    from bpnas.profiler import build_module

    settings, checkpoint = preset.retraining, directory.checkpoints / "retraining.pt"
    progress.stage("retraining", settings.epochs, finished_epochs(checkpoint))
    recorded = directory.epochs("retraining.jsonl")

    def report(epoch: EpochReport) -> None:
        if epoch.epoch >= len(recorded):
            line = {"epoch": epoch.epoch, "loss": epoch.loss}
            directory.append("retraining.jsonl", line)
            recorded.append(line)
            curves(line)
        note_time(directory, "retraining", epoch.images, epoch.seconds, gpus() * world_size())
        progress.step(f"epoch {epoch.epoch + 1}: loss {epoch.loss:.3f}")

    model_seed = derived_seed(seed, "retraining")
    model = seeded(model_seed, lambda: build_module(blocks, backbone))
    stage = stage_in(directory, "the retraining", lines="retraining.jsonl", checkpoint=checkpoint, retry=_RETRY)
    with stage, event_files(directory, "retraining", recorded) as curves:
        train(
            model,
            dataset,
            dataset.train.first(settings.train_images),
            settings,
            seed=model_seed,
            checkpoint=checkpoint,
            on_epoch=report,
            on_step=progress.within,
        )
        test = dataset.test.first(preset.test_images)
        reached = accuracy(model, dataset, test, together=True, epochs=settings.epochs)
        curves({"epoch": settings.epochs - 1, "accuracy": reached})
    evaluated = EvaluationImages.test(dataset, preset.test_images)
    model.cpu().eval()
    contents = _write_files(directory, model, backbone.input_size)
    # Last, since this file says that all is done.
    directory.write_json(
        "network.json",
        {
            **facts,
            **limit_facts(limited_ms(facts), facts.get("target_ms")),
            "backbone": backbone.to_dict(),
            "blocks": block_texts(blocks),
            "accuracy": reached,
            "accuracy_on": asdict(evaluated),
            "data": dataset.source,
            "classes": list(dataset.class_names),
            "input": {
                "layout": "NCHW in ONNX, NHWC in TFLite",
                "scale": "0..1",
                "mean": dataset.mean,
                "std": dataset.std,
            },
            "seed": seed,
            "files": file_digests(contents),
        },
    )
    return Trained(reached, evaluated)


def _write_files(directory: RunDirectory, model: Network, input_size: int) -> dict[str, bytes]:
    """The weights and the exported models, by name; the first process of torchrun writes them."""
    if not is_main():
        return {}
    weights = save_weights(directory.root / "network.safetensors", model)
    models = write_models(directory.root / "network.json", model, input_size)
    return {"network.safetensors": weights} | {f"network{suffix}": content for suffix, content in models.items()}
