"""The network that a trained supernet names: within a limit and, where asked for, evaluated by the supernet itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bpnas.profiler.block import Blocks
from bpnas.search.connections.connect import Connections, Floats
from bpnas.search.connections.derive import Assignment, argmax_blocks, k_most_probable_blocks
from bpnas.search.connections.inherited_accuracy import evaluation_count, inherited_accuracy
from bpnas.search.connections.super_block import Candidates
from bpnas.search.connections.supernet import Supernet
from bpnas.search.data.dataset import Dataset
from bpnas.search.data.evaluation_images import EvaluationImages
from bpnas.search.presets import ConnectionSettings


@dataclass(frozen=True, slots=True)
class NetworkChoice:
    """What a supernet comes to.

    Attributes:
        chosen: within the limit: the most probable network, or the best of those evaluated, of equals the first.
        argmax: the paper's, the most probable candidate of every site, which may miss the limit.
        evaluated: the `k_best` most probable ones within the limit, the most probable first, each with its accuracy by
            the supernet's own weights, 0..1; none where `k_best` is 1.
        judged_on: the images of these accuracies.
    """

    chosen: Assignment
    argmax: Assignment
    evaluated: tuple[tuple[Assignment, float], ...] = ()
    judged_on: EvaluationImages | None = None


def choose_network(
    supernet: Supernet,
    learned: Connections,
    latencies_ms: Sequence[Floats],
    dataset: Dataset,
    settings: ConnectionSettings,
    limit_ms: float,
    fixed_ms: float,
    exact_ms: Callable[[tuple[int, ...]], float],
) -> NetworkChoice:
    """Derive a network within `limit_ms` from a trained supernet [ours].

    Args:
        supernet, learned: as `connect` left and returned them.
        latencies_ms, fixed_ms, exact_ms: as of `k_most_probable_blocks`.
        dataset: where `settings.k_best` is above 1, networks are evaluated on those of its training images that
            were not trained on.

    Raises:
        InfeasibleLimitError: no network of these candidates meets the limit.
    """
    log_p, k_best, batch = learned.log_probabilities, settings.k_best, settings.train.batch
    likely = k_most_probable_blocks(log_p, latencies_ms, limit_ms, k_best, fixed_ms, exact_ms)
    argmax = argmax_blocks(log_p, latencies_ms, fixed_ms)
    argmax = replace(argmax, latency_ms=exact_ms(argmax.choices))
    if k_best == 1:
        return NetworkChoice(likely[0], argmax)
    _, held_out = dataset.train.first(settings.train.train_images).parted(settings.weight_share)
    scores = [inherited_accuracy(supernet, one.choices, dataset, held_out, batch) for one in likely]
    images = EvaluationImages.held_out(dataset.source, evaluation_count(len(held_out), batch), dataset.input_size)
    return NetworkChoice(likely[scores.index(max(scores))], argmax, tuple(zip(likely, scores, strict=True)), images)


def chosen_blocks(candidates: Sequence[Candidates], choices: Sequence[int]) -> Blocks:
    """The blocks of one choice per site."""
    return tuple(options[choice] for options, choice in zip(candidates, choices, strict=True))
