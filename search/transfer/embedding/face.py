"""Face identification (BP-NAS, transfer tasks): ArcFace with m = 0.5, judged by rank 1 among distractors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.base.randomness import derived_seed
from bpnas.search.progress import Progress, Silent
from bpnas.search.transfer.backbones import BackboneChoice
from bpnas.search.transfer.embedding.layout import check_probes, check_training, identity_folders, images_below
from bpnas.search.transfer.embedding.run import EmbeddingTask, run_embedding
from bpnas.search.transfer.embedding.settings import FaceSettings

if TYPE_CHECKING:
    from torch import nn

    from bpnas.search.transfer.embedding.model import Embedder


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

    Raises:
        DataError: a folder is missing or without the images that it must have, or an image cannot be read.
    """
    train = identity_folders(data / "train")
    check_training(data / "train", train.labels)
    probes = identity_folders(data / "probes")
    check_probes(data / "probes", probes.labels)
    distractors = images_below(data / "distractors")

    def objective(identities: int, size: int) -> nn.Module:
        from bpnas.search.transfer.embedding.objectives import ArcFace

        return ArcFace(settings, identities, size)

    def judge(model: Embedder) -> dict[str, Any]:
        import torch

        from bpnas.search.transfer.embedding.identification import gallery_sizes, rank_1_rates
        from bpnas.search.transfer.embedding.model import embed

        generator = torch.Generator().manual_seed(derived_seed(seed, "distractors"))
        order = torch.randperm(len(distractors), generator=generator).tolist()
        height, width = settings.train.height, settings.train.width
        rates = rank_1_rates(
            embed(model, probes.paths, height, width),
            torch.tensor(probes.labels),
            embed(model, [distractors[place] for place in order], height, width),
            gallery_sizes(len(distractors)),
        )
        return {
            "rank_1": [{"distractors": size, "rate": rate} for size, rate in rates.items()],
            "probes": {"images": len(probes.paths), "identities": len(set(probes.labels))},
            "judged_on": f"{len(probes.paths):,} images in {data / 'probes'} at {height} x {width} px",
        }

    task = EmbeddingTask("face", data, settings, train.paths, train.labels, objective, judge)
    return run_embedding(task, backbone, out=out, seed=seed, progress=progress or Silent())
