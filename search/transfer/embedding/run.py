"""The run of a task with embeddings, in a directory of its own: train, judge, write down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.base.files import write_atomically
from bpnas.search.progress import Progress
from bpnas.search.run_directory import RunDirectory
from bpnas.search.transfer.embedding.settings import TaskSettings

if TYPE_CHECKING:
    from torch import nn

    from bpnas.search.training.train import EpochReport
    from bpnas.search.transfer.embedding.model import Embedder

_RETRY = "no result is written, call the same command again with a smaller --learning-rate"


@dataclass(frozen=True, slots=True)
class BackboneChoice:
    """Which network to start from: the arguments of `load_features`."""

    model: str
    network: Path | None = None
    weights: Path | None = None
    pretrained: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "model": self.model,
            "network": None if self.network is None else str(self.network),
            "weights": None if self.weights is None else str(self.weights),
            "pretrained": self.pretrained,
        }


@dataclass(frozen=True, slots=True)
class EmbeddingTask:
    """What distinguishes the tasks.

    Attributes:
        name: `face` or `reid`.
        data: the folder of the images.
        settings: the recipe.
        paths, labels: training images, and the identity of each, from 0.
        objective: number of identities, size of an embedding -> the loss, as `train_embedder` takes it.
        judge: the trained network -> the task's own results, as plain values.
    """

    name: str
    data: Path
    settings: TaskSettings
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    objective: Callable[[int, int], nn.Module]
    judge: Callable[[Embedder], dict[str, Any]]


def run_embedding(
    task: EmbeddingTask, backbone: BackboneChoice, *, out: Path, seed: int, progress: Progress
) -> dict[str, Any]:
    """Train the embeddings of `task` and judge them; called again with the same arguments, it goes on.

    Below `out`: result.json, embedder.safetensors (the weights of an `Embedder`), epochs.jsonl, config.json.

    Returns:
        What result.json says.

    Raises:
        UsageError, SearchError: as of `load_features`, `train_embedder` and the task; or torchrun runs this.
        RunError: `out` belongs to another run or is in use.
    """
    from bpnas.search.training.distributed import refuse_torchrun

    refuse_torchrun("an embedding")  # the losses compare all images of a batch
    directory = RunDirectory(out)
    with directory.locked():
        config: dict[str, Any] = {
            "task": task.name,
            "data": str(task.data),
            "backbone": backbone.to_dict(),
            "settings": task.settings.to_dict(),
            "seed": seed,
        }
        directory.agree(config)
        if directory.has("result.json"):
            progress.note("the result is there already")
        else:
            _run(task, backbone, directory, seed, config, progress)
        result: dict[str, Any] = directory.read_json("result.json", whole=True)
        return result


def _run(
    task: EmbeddingTask,
    backbone: BackboneChoice,
    directory: RunDirectory,
    seed: int,
    config: dict[str, Any],
    progress: Progress,
) -> None:
    from safetensors.torch import save

    from bpnas.base.randomness import derived_seed
    from bpnas.search.data.batches import pick_device
    from bpnas.search.training.checkpoint import finished_epochs
    from bpnas.search.training.divergence import stage_in
    from bpnas.search.training.seeded import seeded
    from bpnas.search.transfer.backbones import load_features
    from bpnas.search.transfer.embedding.model import Embedder
    from bpnas.search.transfer.embedding.train import train_embedder

    settings, identities = task.settings.train, len(set(task.labels))

    def build() -> tuple[Embedder, nn.Module]:
        features = load_features(
            backbone.model, network=backbone.network, pretrained=backbone.pretrained, weights=backbone.weights
        )
        model = Embedder(features, settings.embedding)
        return model, task.objective(identities, model.size)

    model, objective = seeded(derived_seed(seed, task.name), build)
    checkpoint = directory.checkpoints / "embedder.pt"
    recorded = len(directory.lines("epochs.jsonl"))
    progress.stage(task.name, settings.epochs, finished_epochs(checkpoint))

    def report(epoch: EpochReport) -> None:
        if epoch.epoch >= recorded:
            line = {"epoch": epoch.epoch, "loss": epoch.loss, "images": epoch.images, "seconds": epoch.seconds}
            directory.append("epochs.jsonl", line)
        progress.step(f"epoch {epoch.epoch + 1}: loss {epoch.loss:.3f}")

    with stage_in(directory, f"the training of {task.name}", lines="epochs.jsonl", checkpoint=checkpoint, retry=_RETRY):
        train_embedder(
            *(model, objective, task.paths, task.labels, settings),
            seed=seed,
            of=config,
            checkpoint=checkpoint,
            on_epoch=report,
            on_step=progress.within,
        )
        progress.note(f"{task.name}: embedding the test images")
        judged = task.judge(model.to(pick_device()))
    weights = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    write_atomically(directory.root / "embedder.safetensors", save(weights))
    result = {
        "task": task.name,
        **model.features.origin,
        "data": str(task.data),
        "training": {"images": len(task.paths), "identities": identities},
        "embedding": model.size,
        **judged,
        "settings": task.settings.to_dict(),
        "seed": seed,
    }
    directory.write_json("result.json", result)  # last, since this file says that all is done
