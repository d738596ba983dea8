"""Face identification (BP-NAS, transfer tasks): ArcFace with m = 0.5, evaluated by rank 1 among distractors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bpnas.base.randomness import derived_seed
from bpnas.search.progress import Progress
from bpnas.search.transfer.backbones import BackboneChoice
from bpnas.search.transfer.embedding.layout import IdentityImages, identity_folders, images_below
from bpnas.search.transfer.embedding.run import EmbeddingTask, run_embedding
from bpnas.search.transfer.embedding.settings import FACE_PRESETS, FaceSettings

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class FaceTask(EmbeddingTask):
    """Learn from `data/train/IDENTITY/*`; seek `data/probes/IDENTITY/*` among `data/distractors/`."""

    name = "face"
    presets = FACE_PRESETS
    settings: FaceSettings
    probes: IdentityImages
    distractors: tuple[Path, ...]

    @classmethod
    def find(cls, data: Path, settings: FaceSettings) -> Self:
        """See `EmbeddingTask.find`."""
        training = identity_folders(data / "train").to_learn()
        return cls(
            data, settings, training, identity_folders(data / "probes").to_pair(), images_below(data / "distractors")
        )

    def objective(self, identities: int, size: int) -> nn.Module:
        """ArcFace."""
        from bpnas.search.transfer.embedding.objectives import ArcFace

        return ArcFace(self.settings, identities, size)

    def scores(self, embedded: Callable[[Sequence[Path]], Tensor], seed: int) -> dict[str, Any]:
        """Rank 1 of the probes among the first distractors in a random order."""
        import torch

        from bpnas.search.transfer.embedding.identification import gallery_sizes, rank_1_rates

        probes, count, train = self.probes, len(self.distractors), self.settings.train
        order = torch.randperm(count, generator=torch.Generator().manual_seed(derived_seed(seed, "distractors")))
        rates = rank_1_rates(
            embedded(probes.paths),
            torch.tensor(probes.identities),
            embedded([self.distractors[place] for place in order.tolist()]),
            gallery_sizes(count),
        )
        return {
            "rank_1": [{"distractors": size, "rate": rate} for size, rate in rates.items()],
            "probes": {"images": len(probes.paths), "identities": len(set(probes.identities))},
            "judged_on": f"{len(probes.paths):,} images in {probes.folder} at {train.height} x {train.width} px",
        }


def run_face(
    data: Path,
    backbone: BackboneChoice,
    settings: FaceSettings,
    *,
    out: Path,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a network on `data/train/IDENTITY/*`; seek `data/probes/IDENTITY/*` among `data/distractors/`.

    Faces must be aligned and cut out already. See `run_embedding` for files and errors.

    Returns:
        What result.json says; `rank_1` is a list of `distractors` and `rate`, 0..1.
    """
    return run_embedding(FaceTask.find(data, settings), backbone, out=out, seed=seed, progress=progress)
