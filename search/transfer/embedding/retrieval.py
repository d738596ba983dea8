"""Person re-identification: CMC and mean average precision as Market-1501 counts them (Zheng et al. 2015).

A gallery image of the query's identity and camera is left out of that query's ranking. A query whose identity no other
camera saw is left out altogether. Average precision is the mean precision at the hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bpnas.search.errors import DataError

RANKS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """How well queries find their identities.

    Attributes:
        mean_average_precision: 0..1.
        cmc: rank -> share of queries with a hit among their `rank` nearest images, 0..1.
        queries: that counted.
    """

    mean_average_precision: float
    cmc: dict[int, float]
    queries: int


def retrieval_scores(
    queries: NDArray[np.float32],
    query_identities: Sequence[int],
    query_cameras: Sequence[int],
    gallery: NDArray[np.float32],
    gallery_identities: Sequence[int],
    gallery_cameras: Sequence[int],
    ranks: Sequence[int] = RANKS,
    chunk: int = 256,
) -> RetrievalScores:
    """Rank the gallery for every query by cosine similarity, and evaluate the rankings.

    Args:
        queries, gallery: (Q, D) and (G, D), of length 1.
        query_identities, query_cameras, gallery_identities, gallery_cameras: of each image.
        ranks: of the CMC.
        chunk: this many queries at a time; the result does not depend on it.

    Raises:
        DataError: no query's identity is seen by another camera in the gallery.
    """
    identities, cameras = np.asarray(gallery_identities), np.asarray(gallery_cameras)
    precisions, firsts = [], []
    for start in range(0, len(queries), chunk):
        part = slice(start, start + chunk)
        order = np.argsort(-(queries[part] @ gallery.T), axis=1, kind="stable")
        same = identities[order] == np.asarray(query_identities[part])[:, None]
        kept = ~(same & (cameras[order] == np.asarray(query_cameras[part])[:, None]))
        hits = same & kept
        counted = hits.any(axis=1)
        hits, ranking = hits[counted], kept[counted].cumsum(axis=1)
        at_hits = np.where(hits, hits.cumsum(axis=1) / np.maximum(ranking, 1), 0.0)
        precisions.append(at_hits.sum(axis=1) / hits.sum(axis=1))
        firsts.append(ranking[np.arange(len(hits)), hits.argmax(axis=1)])
    precision, first = np.concatenate(precisions), np.concatenate(firsts)
    if not len(precision):
        raise DataError("retrieval needs a query whose identity another camera has seen")
    cmc = {rank: float((first <= rank).mean()) for rank in ranks}
    return RetrievalScores(float(precision.mean()), cmc, len(precision))
