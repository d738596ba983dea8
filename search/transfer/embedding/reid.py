"""Person re-identification (BP-NAS, transfer tasks) on Market-1501's layout, evaluated by Rank-1, -5, -10 and mAP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bpnas.search.progress import Progress
from bpnas.search.transfer.backbones import BackboneChoice
from bpnas.search.transfer.embedding.layout import IdentityImages, market_images
from bpnas.search.transfer.embedding.run import EmbeddingTask, run_embedding
from bpnas.search.transfer.embedding.settings import REID_PRESETS, ReidSettings

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ReidTask(EmbeddingTask):
    """Learn from `data/bounding_box_train`; seek `data/query` in `data/bounding_box_test`."""

    name = "reid"
    presets = REID_PRESETS
    settings: ReidSettings
    query: IdentityImages
    gallery: IdentityImages

    @classmethod
    def find(cls, data: Path, settings: ReidSettings) -> Self:
        """See `EmbeddingTask.find`."""
        training = market_images(data / "bounding_box_train", distractors=False).to_learn()
        query = market_images(data / "query", distractors=False)
        return cls(data, settings, training, query, market_images(data / "bounding_box_test", distractors=True))

    def objective(self, identities: int, size: int) -> nn.Module:
        """Cross-entropy, with triplets where they are asked for."""
        from bpnas.search.transfer.embedding.objectives import Identity, TripletAndIdentity

        kind = Identity if self.settings.loss == "identity" else TripletAndIdentity
        return kind(self.settings, identities, size)

    def scores(self, embedded: Callable[[Sequence[Path]], Tensor], seed: int) -> dict[str, Any]:
        """As Market-1501 counts them; nothing is drawn."""
        from bpnas.search.transfer.embedding.retrieval import retrieval_scores

        query, gallery, train = self.query, self.gallery, self.settings.train
        scores = retrieval_scores(
            *(embedded(query.paths).numpy(), query.identities, query.cameras),
            *(embedded(gallery.paths).numpy(), gallery.identities, gallery.cameras),
        )
        return {
            **{f"rank_{rank}": share for rank, share in scores.cmc.items()},
            "mean_average_precision": scores.mean_average_precision,
            "queries": scores.queries,
            "gallery": len(gallery.paths),
            "judged_on": f"{scores.queries:,} queries in {query.folder} among {len(gallery.paths):,} images in "
            f"{gallery.folder} at {train.height} x {train.width} px",
        }


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
    """
    return run_embedding(ReidTask.find(data, settings), backbone, out=out, seed=seed, progress=progress)
