"""The one program of all tasks with embeddings: train a network, evaluate it, write down what came out.

embedder.safetensors  the weights of an `Embedder`

The other files are those of all transfer tasks, see `bpnas.search.transfer.run`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from bpnas.base.files import write_atomically
from bpnas.search.progress import Progress, Silent
from bpnas.search.run_directory import RunDirectory
from bpnas.search.transfer.backbones import BackboneChoice
from bpnas.search.transfer.cost import Stopwatch
from bpnas.search.transfer.embedding.layout import IdentityImages
from bpnas.search.transfer.embedding.settings import TaskSettings
from bpnas.search.transfer.recipe import check_share
from bpnas.search.transfer.run import result_in, training_in

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bpnas.search.transfer.embedding.model import Embedder


@dataclass(frozen=True, slots=True)
class EmbeddingTask(ABC):
    """What distinguishes the tasks: each answers for itself.

    Attributes:
        name: in commands, messages and results.
        presets: its recipes.
        data: the folder of the images.
        settings: the recipe, which says how batches are drawn, too.
        training: the images to learn from.
    """

    name: ClassVar[str]
    presets: ClassVar[Mapping[str, TaskSettings]]
    data: Path
    settings: TaskSettings
    training: IdentityImages

    @classmethod
    @abstractmethod
    def find(cls, data: Path, settings: Any) -> Self:
        """The task on the images in `data`. Raises DataError where a folder lacks what it must have."""

    @abstractmethod
    def objective(self, identities: int, size: int) -> nn.Module:
        """The loss of embeddings of `size` numbers, as `train_embedder` takes it."""

    @abstractmethod
    def scores(self, embedded: Callable[[Sequence[Path]], Tensor], seed: int) -> dict[str, Any]:
        """How good a network is whose embeddings of images are those, as plain values. Raises what `embed` raises."""


def run_embedding(
    task: EmbeddingTask, backbone: BackboneChoice, *, out: Path, seed: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Train the embeddings of `task` and evaluate them; called again with the same arguments, it resumes.

    Where torchrun started several processes, each calls this with the same arguments within `process_group`.

    Returns:
        What result.json says.

    Raises:
        UsageError, SearchError, DataError, DivergedError: as of `load_features`, `train_embedder` and the task; or the
            processes cannot share a batch.
        RunError: `out` belongs to another run or is in use.
    """
    from bpnas.search.training.distributed import is_main, world_size

    check_share(task.settings.train, world_size())
    config: dict[str, Any] = {
        "task": task.name,
        "data": str(task.data),
        "backbone": backbone.to_dict(),
        "settings": task.settings.to_dict(),
        "seed": seed,
    }
    watcher = Silent() if progress is None or not is_main() else progress
    return result_in(
        out, config, watcher, "result", lambda directory: _run(task, backbone, directory, seed, config, watcher)
    )


def _run(
    task: EmbeddingTask,
    backbone: BackboneChoice,
    directory: RunDirectory,
    seed: int,
    config: Mapping[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    from safetensors.torch import save

    from bpnas.base.randomness import derived_seed
    from bpnas.search.data.batches import pick_device
    from bpnas.search.training.distributed import is_main
    from bpnas.search.training.seeded import seeded
    from bpnas.search.transfer.embedding.model import Embedder, embed
    from bpnas.search.transfer.embedding.train import embedding_course, train_embedder

    stopwatch, settings = Stopwatch(), task.settings.train
    images, labels = task.training, task.training.labels
    identities = len(set(labels))

    def build() -> tuple[Embedder, nn.Module]:
        features = backbone.load(whole=settings.whole_network)
        model = Embedder(features, settings.embedding, settings.neck)
        return model, task.objective(identities, model.size)

    model, objective = seeded(derived_seed(seed, task.name), build)
    for note in (notes := settings.notes()):
        progress.note(note)
    epochs = embedding_course(labels, settings, seed).epochs
    checkpoint = directory.checkpoints / "embedder.pt"
    with training_in(directory, checkpoint, task.name, task.name, epochs, progress) as report:
        train_embedder(
            *(model, objective, images, settings),
            seed=seed,
            of=config,
            checkpoint=checkpoint,
            stopwatch=stopwatch,
            on_epoch=lambda epoch: report(
                {"epoch": epoch.epoch, "loss": epoch.loss, "images": epoch.images, "seconds": epoch.seconds}
            ),
            on_step=progress.within,
        )
        progress.note(f"{task.name}: embedding the test images")
        model.to(pick_device())
        scores = task.scores(lambda paths: embed(model, paths, settings.height, settings.width), seed)
    if is_main():
        weights = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
        write_atomically(directory.root / "embedder.safetensors", save(weights))
    return {
        "task": task.name,
        **model.features.origin,
        "data": str(task.data),
        "training": {"images": len(labels), "identities": identities},
        "embedding": model.size,
        **scores,
        "settings": task.settings.to_dict(),
        "seed": seed,
        "notes": notes,
        "cost": stopwatch.cost(),
    }
