"""How embeddings are trained: the recipes of both tasks, as values.

BP-NAS gives the data sets and, for faces, ArcFace with m = 0.5; the rest of its recipes is unknown to us. `paper` is
therefore the recipe that the field takes for the task, [ours] in all else; `tiny` is for a CPU and small images.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from bpnas.base.errors import UsageError
from bpnas.search.presets import check_rate


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """How one network learns embeddings.

    Attributes:
        height, width: of the images, in pixels; others are resized.
        embedding: numbers per image; None for as many as the network's last map has channels.
        epochs, batch: passes over the images, images a step. 0 epochs evaluate the network as it is.
        images_per_identity: K of PK batches, which hold batch / K identities; None for batches of any images.
        optimizer, learning_rate, momentum, weight_decay: `momentum` is SGD's.
        warmup: share of all steps in which the rate rises from 0, linearly.
        decay_at: shares of all steps after which the rate is multiplied by 0.1.
        padding: images are padded by this many pixels of the mean colour, and cut out again at a random place.
        erasing: probability of a random rectangle without content (Zhong et al. 2020, "Random Erasing").
    """

    height: int
    width: int
    embedding: int | None
    epochs: int
    batch: int
    images_per_identity: int | None
    optimizer: Literal["sgd", "adam"]
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.0
    decay_at: tuple[float, ...] = ()
    padding: int = 0
    erasing: float = 0.0

    def rate(self, progress: float) -> float:
        """The learning rate after a share `progress` (0..1) of all steps."""
        rising = min(progress / self.warmup, 1.0) if self.warmup else 1.0
        passed = sum(progress >= share for share in self.decay_at)
        return float(self.learning_rate * rising * 0.1**passed)


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What both tasks share: a training, and its changes."""

    train: EmbeddingSettings

    def override(self, values: dict[str, Any]) -> Self:
        """A copy with values of `train` changed where one is given.

        Raises:
            UsageError: a value makes no sense.
        """
        train = replace(self.train, **{name: value for name, value in values.items() if value is not None})
        each = train.images_per_identity or 1
        if train.epochs < 0:
            raise UsageError(f"epochs must be at least 0, not {train.epochs}")
        if train.batch < 2 * each or train.batch % each:
            raise UsageError(f"batch must be a multiple of {each} and at least {2 * each}, not {train.batch}")
        check_rate(train.learning_rate)
        return replace(self, train=train)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FaceSettings(TaskSettings):
    """Faces: ArcFace (Deng et al. 2019).

    Attributes:
        margin: m, in radians.
        scale: s.
    """

    margin: float = 0.5
    scale: float = 64.0


@dataclass(frozen=True, slots=True)
class ReidSettings(TaskSettings):
    """Persons: batch-hard triplets and cross-entropy on both sides of a BNNeck (Luo et al. 2019).

    Attributes:
        label_smoothing: of the cross-entropy.
        triplet_margin: between Euclidean distances of features that are not normalised.
    """

    label_smoothing: float = 0.1
    triplet_margin: float = 0.3


_TINY = {"epochs": 15, "batch": 32, "warmup": 0.1, "decay_at": (0.6, 0.9), "padding": 2}

# ArcFace's own schedule: 180,000 steps of 512 of 5.8 million images, the rate divided after 100,000 and 160,000.
_FACE = FaceSettings(
    EmbeddingSettings(
        height=112,
        width=112,
        embedding=512,
        epochs=16,
        batch=512,
        images_per_identity=None,
        optimizer="sgd",
        learning_rate=0.1,
        decay_at=(100 / 180, 160 / 180),
    )
)
FACE_PRESETS = {
    "paper": _FACE,
    "tiny": replace(_FACE.override({**_TINY, "height": 32, "width": 32, "embedding": 64}), scale=16.0),
}

# Luo et al. 2019, without their stride of 1 in the last stage and their centre loss.
_REID = ReidSettings(
    EmbeddingSettings(
        height=256,
        width=128,
        embedding=None,
        epochs=120,
        batch=64,
        images_per_identity=4,
        optimizer="adam",
        learning_rate=3.5e-4,
        warmup=10 / 120,
        decay_at=(40 / 120, 70 / 120),
        padding=10,
        erasing=0.5,
    )
)
REID_PRESETS = {
    "paper": _REID,
    "tiny": _REID.override({**_TINY, "height": 64, "width": 32, "learning_rate": 0.01, "erasing": 0.2}),
}
