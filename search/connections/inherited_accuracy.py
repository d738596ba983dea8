"""How good a network is that a trained supernet contains, evaluated with the supernet's own weights [ours]."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bpnas.search.connections.supernet import Supernet
from bpnas.search.data.batches import AnySplit, batch_count, in_order
from bpnas.search.data.dataset import Dataset
from bpnas.search.training.distributed import mean_over_ranks, rank, world_size


@torch.no_grad()
def inherited_accuracy(
    supernet: Supernet, choices: Sequence[int], dataset: Dataset, split: AnySplit, batch: int
) -> float:
    """Share of the images of `split` that one candidate per site puts into the right class, 0..1.

    An answer that is not finite names no class, and so is wrong.

    Batches are normalised by their own statistics, as in the training of the supernet: its running statistics are those
    of mixtures of candidates, which no single network has. The images come as they are, in their order.

    Args:
        supernet: trained; its running statistics move on, its weights do not.
        choices: number of the candidate at every site.
        split: best images that no weight was fitted to.
        batch: images a batch, over all processes of torchrun; a last one as small as `batches` would leave out is left
            out here, too.
    """
    device = supernet.alphas[0].device
    gates = [torch.zeros_like(alpha) for alpha in supernet.alphas]
    for gate, choice in zip(gates, choices, strict=True):
        gate[choice] = 1.0
    before = supernet.training
    supernet.train()
    correct = torch.zeros((), dtype=torch.float64, device=device)
    count = evaluation_count(len(split), batch)
    for images, labels in in_order(split.first(count), batch, device, (rank(), world_size())):
        answers = supernet(dataset.normalized(images), gates)
        correct += ((answers.argmax(dim=1) == labels) & answers.isfinite().all(dim=1)).sum()
    supernet.train(before)
    return float(mean_over_ranks(correct)) * world_size() / count


def evaluation_count(images: int, batch: int) -> int:
    """How many of `images` images `inherited_accuracy` looks at."""
    return min(batch_count(images, batch, world_size()) * batch, images)
