"""How embeddings are trained: the recipes of both tasks, as values.

`paper` is BP-NAS's own recipe; what the paper does not give is marked [ours]. `tiny` [ours] is for a CPU and small
images, `bag-of-tricks` a stronger recipe for persons than the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, get_args

from bpnas.base.errors import UsageError
from bpnas.search.transfer.recipe import Recipe, overridden

Optimizer = Literal["sgd", "adam"]
ReidLoss = Literal["identity", "triplet"]

_LARGEST = 65_536  # of what takes memory in proportion


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSettings(Recipe):
    """How one network learns embeddings.

    Attributes:
        height, width: of the images, in pixels; others are resized.
        embedding: numbers per image; None for as many as the network's last map has channels.
        images_per_identity: K of PK batches, which hold batch / K identities; None for batches of any images.
        optimizer: `momentum` is SGD's.
        padding: images are padded by this many pixels of the mean colour, and cut out again at a random place.
        erasing: probability of a random rectangle without content (Zhong et al. 2020, "Random Erasing").
        whole_network: the embedding is taken behind the 1x1 convolution of the network's head, as its classes are, and
            not from its last block.
        neck: batch normalisation without shift behind the embedding (Luo et al. 2019, BNNeck).
    """

    height: int
    width: int
    embedding: int | None = None
    images_per_identity: int | None = None
    optimizer: Optimizer = "sgd"
    padding: int = 0
    erasing: float = 0.0
    whole_network: bool = False
    neck: bool = True


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What both tasks share: a training, and its changes."""

    train: EmbeddingSettings

    def override(self, values: Mapping[str, Any]) -> Self:
        """A copy with values, of `train` or of the task, changed where one is given (see `overridden`).

        Raises:
            UsageError: a value makes no sense.
        """
        given = {name: value for name, value in values.items() if value is not None}
        own = {field.name for field in fields(self)} & given.keys()
        train = overridden(self.train, {name: value for name, value in given.items() if name not in own})
        changed = replace(self, train=train, **{name: given[name] for name in own})
        _check(train)
        changed.check()
        return changed

    def check(self) -> None:
        """Raise UsageError where a value of the task is out of range."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


def _check(train: EmbeddingSettings) -> None:
    each = 1 if train.images_per_identity is None else train.images_per_identity
    if each < 1:
        raise UsageError(f"images per identity must be at least 1, not {each}")
    if train.batch < 2 * each or train.batch % each:
        raise UsageError(f"batch must be a multiple of {each} and at least {2 * each}, not {train.batch}")
    for name in ("height", "width"):
        if not 8 <= getattr(train, name) <= _LARGEST:
            raise UsageError(f"{name} must be at least 8 and at most {_LARGEST:,} pixels, not {getattr(train, name):,}")
    if train.embedding is not None and not 1 <= train.embedding <= _LARGEST:
        raise UsageError(f"embedding must be at least 1 and at most {_LARGEST:,}, not {train.embedding:,}")
    if not 0 <= train.padding <= min(train.height, train.width):
        raise UsageError(f"padding must be from 0 to the smaller side of the images, not {train.padding}")
    if not 0 <= train.erasing <= 1:
        raise UsageError(f"erasing must be a probability from 0 to 1, not {train.erasing:g}")
    if train.optimizer not in get_args(Optimizer):
        raise UsageError(f"optimizer must be one of {', '.join(get_args(Optimizer))}, not {train.optimizer}")


@dataclass(frozen=True, slots=True)
class FaceSettings(TaskSettings):
    """Faces: ArcFace (Deng et al. 2019).

    Attributes:
        margin: m, in radians.
        scale: s.
    """

    margin: float = 0.5
    scale: float = 64.0

    def check(self) -> None:
        """See `TaskSettings.check`."""
        if not 0 <= self.margin <= 3:
            raise UsageError(f"margin must be from 0 to 3 radians, not {self.margin:g}")
        if not 0 < self.scale <= 1e6:
            raise UsageError(f"scale must be above 0 and at most 1e+06, not {self.scale:g}")


@dataclass(frozen=True, slots=True)
class ReidSettings(TaskSettings):
    """Persons: classification by identity, alone or with batch-hard triplets.

    Attributes:
        loss: "identity": cross-entropy; "triplet": also batch-hard triplets in front of the neck (Luo et al. 2019).
        label_smoothing: of the cross-entropy.
        triplet_margin: between Euclidean distances of features that are not normalised.
    """

    loss: ReidLoss = "identity"
    label_smoothing: float = 0.0
    triplet_margin: float = 0.3

    def check(self) -> None:
        """See `TaskSettings.check`."""
        if self.loss not in get_args(ReidLoss):
            raise UsageError(f"loss must be one of {', '.join(get_args(ReidLoss))}, not {self.loss}")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label smoothing must be from 0 to less than 1, not {self.label_smoothing:g}")
        if not 0 <= self.triplet_margin <= 1000:
            raise UsageError(f"triplet margin must be from 0 to 1000, not {self.triplet_margin:g}")


_TINY: dict[str, Any] = {"epochs": 15, "batch": 32, "warmup_epochs": 1.5, "milestones": (9, 13.5), "padding": 2}

_FACE = FaceSettings(
    EmbeddingSettings(
        iterations=200_000,
        milestones=(100_000, 140_000, 160_000),
        batch=512,  # [ours], as ArcFace
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        height=112,  # [ours], with all below, as ArcFace
        width=112,
        embedding=512,
    ),
    margin=0.5,
    scale=64.0,
)
FACE_PRESETS = {
    "paper": _FACE,
    "tiny": _FACE.override({**_TINY, "height": 32, "width": 32, "embedding": 64, "scale": 16.0}),
}

_REID = ReidSettings(
    EmbeddingSettings(
        epochs=90,
        milestones=(45, 60),
        batch=32,
        learning_rate=3e-4,
        momentum=0.9,
        weight_decay=5e-4,
        whole_network=True,
        neck=False,
        height=256,  # [ours]
        width=128,
    ),
    loss="identity",
)
# Luo et al. 2019, without their stride of 1 in the last stage and their centre loss.
_TRICKS = ReidSettings(
    EmbeddingSettings(
        epochs=120,
        warmup_epochs=10.0,
        milestones=(40, 70),
        batch=64,
        images_per_identity=4,
        optimizer="adam",
        learning_rate=3.5e-4,
        weight_decay=5e-4,
        height=256,
        width=128,
        padding=10,
        erasing=0.5,
    ),
    loss="triplet",
    label_smoothing=0.1,
)
REID_PRESETS = {
    "paper": _REID,
    "bag-of-tricks": _TRICKS,
    "tiny": _TRICKS.override({**_TINY, "height": 64, "width": 32, "learning_rate": 0.01, "erasing": 0.2}),
}
