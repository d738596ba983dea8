"""Face identification among distractors: the rank-1 rate of the MegaFace protocol (Kemelmacher-Shlizerman et al. 2016).

For each identity with at least two probe images, each of its images is sought with each other one as the mate that
is in the gallery, among N distractors. The search succeeds where the mate is nearer than every distractor; at equal
similarity it fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bpnas.search.errors import DataError


def gallery_sizes(distractors: int) -> tuple[int, ...]:
    """The numbers of distractors to report: 10, 100, 1000, ... and all."""
    powers = [10**exponent for exponent in range(1, len(str(distractors))) if 10**exponent < distractors]
    return (*powers, distractors)


def rank_1_rates(
    probes: Tensor, identities: Tensor, distractors: Tensor, sizes: Sequence[int], chunk: int = 4096
) -> dict[int, float]:
    """The rank-1 rate, 0..1, at every number of distractors; the first N are taken.

    Args:
        probes: (P, D), of length 1, as are the distractors.
        identities: (P,), of the probes.
        distractors: (M, D), in random order.
        sizes: increasing, each at most M.
        chunk: at most this many images are compared with as many others at a time; the result does not depend on it.

    Raises:
        DataError: no identity has two probes.
    """
    rates = {}
    nearest = torch.full((len(probes),), -torch.inf, dtype=probes.dtype, device=probes.device)
    done = 0
    for size in sizes:
        for start in range(done, size, chunk):
            among = distractors[start : min(start + chunk, size)]
            for rows in _chunks(len(probes), chunk):
                nearest[rows] = torch.maximum(nearest[rows], (probes[rows] @ among.T).amax(dim=1))
        done = size
        hits = pairs = 0
        for rows in _chunks(len(probes), chunk):
            mates = identities[rows].view(-1, 1) == identities
            mates[torch.arange(len(mates)), torch.arange(rows.start, rows.stop)] = False  # an image is not its own mate
            found = (probes[rows] @ probes.T) > nearest[rows].view(-1, 1)
            hits += int((mates & found).sum())
            pairs += int(mates.sum())
        if pairs == 0:
            raise DataError("identification needs an identity with two probe images")
        rates[size] = hits / pairs
    return rates


def _chunks(count: int, chunk: int) -> Iterator[slice]:
    for start in range(0, count, chunk):
        yield slice(start, min(start + chunk, count))
