"""Person re-identification (BP-NAS, transfer tasks) on Market-1501's layout, judged by Rank-1, -5, -10 and mAP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.search.progress import Progress, Silent
from bpnas.search.transfer.backbones import BackboneChoice
from bpnas.search.transfer.embedding.layout import check_training, market_images
from bpnas.search.transfer.embedding.run import EmbeddingTask, run_embedding
from bpnas.search.transfer.embedding.settings import ReidSettings

if TYPE_CHECKING:
    from torch import nn

    from bpnas.search.transfer.embedding.model import Embedder


def run_reid(
    data: Path,
    backbone: BackboneChoice,
    settings: ReidSettings,
    *,
    out: Path,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a network on `data/bounding_box_train`; seek `data/query` in `data/bounding_box_test`.

    See `run_embedding` for files and errors.

    Returns:
        What result.json says; `rank_1`, `rank_5`, `rank_10` and `mean_average_precision` are 0..1.

    Raises:
        DataError: a folder is missing or without the images that it must have, or an image cannot be read.
    """
    train = market_images(data / "bounding_box_train", distractors=False)
    check_training(data / "bounding_box_train", train.identities)
    query = market_images(data / "query", distractors=False)
    gallery = market_images(data / "bounding_box_test", distractors=True)
    numbers = {identity: number for number, identity in enumerate(sorted(set(train.identities)))}
    labels = tuple(numbers[identity] for identity in train.identities)

    def objective(identities: int, size: int) -> nn.Module:
        from bpnas.search.transfer.embedding.objectives import TripletAndIdentity

        return TripletAndIdentity(settings, identities, size)

    def judge(model: Embedder) -> dict[str, Any]:
        from bpnas.search.transfer.embedding.model import embed
        from bpnas.search.transfer.embedding.retrieval import retrieval_scores

        height, width = settings.train.height, settings.train.width
        scores = retrieval_scores(
            embed(model, query.paths, height, width).numpy(),
            query.identities,
            query.cameras,
            embed(model, gallery.paths, height, width).numpy(),
            gallery.identities,
            gallery.cameras,
        )
        return {
            **{f"rank_{rank}": share for rank, share in scores.cmc.items()},
            "mean_average_precision": scores.mean_average_precision,
            "queries": scores.queries,
            "gallery": len(gallery.paths),
            "judged_on": f"{scores.queries:,} queries in {data / 'query'} among {len(gallery.paths):,} images in "
            f"{data / 'bounding_box_test'} at {height} x {width} px",
        }

    task = EmbeddingTask("reid", data, settings, train.paths, labels, objective, judge)
    return run_embedding(task, backbone, out=out, seed=seed, progress=progress or Silent())
