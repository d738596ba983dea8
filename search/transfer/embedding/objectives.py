"""What embeddings are trained for; the losses are pytorch-metric-learning's."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bpnas.search.errors import SearchError
from bpnas.search.transfer.embedding.settings import FaceSettings, ReidSettings


class ArcFace(nn.Module):
    """Angular margin on the normalised embeddings: cross-entropy of s cos(theta + m) (Deng et al. 2019, Eq. 3)."""

    def __init__(self, settings: FaceSettings, identities: int, size: int) -> None:
        super().__init__()
        losses = _library("losses")
        self.loss = losses.ArcFaceLoss(identities, size, margin=math.degrees(settings.margin), scale=settings.scale)

    def forward(self, plain: Tensor, neck: Tensor, labels: Tensor) -> Tensor:
        """Both outputs of `Embedder`, each (N, size), and identities (N,) -> the mean loss, a scalar."""
        loss: Tensor = self.loss(neck, labels)
        return loss


class Identity(nn.Module):
    """Cross-entropy of the identities, behind the neck if there is one."""

    def __init__(self, settings: ReidSettings, identities: int, size: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(size, identities)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)
        self._smoothing = settings.label_smoothing

    def forward(self, plain: Tensor, neck: Tensor, labels: Tensor) -> Tensor:
        """As of `ArcFace`."""
        return F.cross_entropy(self.classifier(neck), labels, label_smoothing=self._smoothing)


class TripletAndIdentity(nn.Module):
    """Batch-hard triplets before the neck, and cross-entropy with smoothed labels behind it (Luo et al. 2019)."""

    def __init__(self, settings: ReidSettings, identities: int, size: int) -> None:
        super().__init__()
        # Luo et al. compare features as they are, and take the mean over all anchors; the library's defaults differ.
        distance = _library("distances").LpDistance(normalize_embeddings=False)
        self.miner = _library("miners").BatchHardMiner(distance=distance)
        self.triplet = _library("losses").TripletMarginLoss(
            settings.triplet_margin, distance=distance, reducer=_library("reducers").MeanReducer()
        )
        self.classifier = nn.Linear(size, identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self._smoothing = settings.label_smoothing

    def forward(self, plain: Tensor, neck: Tensor, labels: Tensor) -> Tensor:
        """As of `ArcFace`."""
        triplet: Tensor = self.triplet(plain, labels, self.miner(plain, labels))
        return triplet + F.cross_entropy(self.classifier(neck), labels, label_smoothing=self._smoothing)


def _library(part: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"pytorch_metric_learning.{part}")
    except ImportError as error:
        raise SearchError(
            f"training embeddings needs pytorch-metric-learning ({error}): pip install 'bpnas[vision]'"
        ) from error
