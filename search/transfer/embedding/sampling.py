"""Which images make up the batches of an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bpnas.search.data.batches import batch_count


def shuffled_batches(images: int, batch: int, generator: torch.Generator, processes: int = 1) -> list[list[int]]:
    """All images in random order; a last batch of a single one is left out, which batch normalisation can't use, and
    one with fewer images than processes.
    """
    order: list[int] = torch.randperm(images, generator=generator).tolist()
    return [order[number * batch : (number + 1) * batch] for number in range(batch_count(images, batch, processes))]


def pk_batches(labels: Sequence[int], identities: int, each: int, generator: torch.Generator) -> list[list[int]]:
    """Batches of `identities` identities with `each` images of everyone (Hermans et al. 2017, PK batches).

    An identity's images are cut into groups of `each`, the last one filled up from the identity's others; batches are
    made until fewer than `identities` identities have groups left. Where there are fewer in all, each batch has all.
    """
    images: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        images.setdefault(label, []).append(index)
    groups: dict[int, list[list[int]]] = {}
    for label, mine in images.items():
        order = [mine[place] for place in torch.randperm(len(mine), generator=generator).tolist()]
        filled = order + [order[place % len(order)] for place in range(-len(order) % each)]
        groups[label] = [filled[start : start + each] for start in range(0, len(filled), each)]
    identities = min(identities, len(groups))
    batches: list[list[int]] = []
    while len(groups) >= identities:
        names = list(groups)
        drawn = [names[place] for place in torch.randperm(len(names), generator=generator)[:identities].tolist()]
        batches.append([index for label in drawn for index in groups[label].pop()])
        groups = {label: left for label, left in groups.items() if left}
    return batches
