"""The network that a trained supernet names: within a limit, and where asked for, judged by the supernet itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Blocks
from bpnas.search.connections.connect import Connections, Floats
from bpnas.search.connections.derive import Assignment, argmax_blocks, k_most_probable_blocks
from bpnas.search.connections.inherited_accuracy import inherited_accuracy, judged_count
from bpnas.search.connections.super_block import Candidates
from bpnas.search.connections.supernet import Supernet
from bpnas.search.data.dataset import Dataset
from bpnas.search.data.judged_images import JudgedImages
from bpnas.search.presets import ConnectionSettings

if TYPE_CHECKING:
    from bpnas.tables import LatencyTable


@dataclass(frozen=True, slots=True)
class ProbableNetwork:
    """A network that the probabilities of a supernet name.

    Attributes:
        blocks: one per site, None for Skip.
        latency_ms: by table.
        log_probability: sum of the log probabilities of its candidates.
        inherited_accuracy: by the supernet's own weights, 0..1; None where it was not judged.
    """

    blocks: Blocks
    latency_ms: float
    log_probability: float
    inherited_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class NetworkChoice:
    """What a supernet comes to.

    Attributes:
        chosen: within the limit: the most probable network, or the best of those judged, of equals the most probable.
        argmax: the paper's, the most probable candidate of every site, which may miss the limit.
        judged: the `k_best` most probable ones within the limit, the most probable first; none where `k_best` is 1.
        judged_on: the images of their accuracies.
    """

    chosen: ProbableNetwork
    argmax: ProbableNetwork
    judged: tuple[ProbableNetwork, ...] = ()
    judged_on: JudgedImages | None = None


def choose_network(
    supernet: Supernet,
    learned: Connections,
    table: LatencyTable,
    backbone: Backbone,
    latencies_ms: Sequence[Floats],
    dataset: Dataset,
    settings: ConnectionSettings,
    limit_ms: float,
) -> NetworkChoice:
    """Derive a network within `limit_ms` from a trained supernet [ours].

    Args:
        supernet, learned: as `connect` left and returned them.
        latencies_ms: see `candidate_latencies`.
        dataset: its training images that were not trained on judge, where `settings.k_best` is above 1.

    Raises:
        InfeasibleLimitError: no network of these candidates meets the limit.
    """
    fixed_ms = table.fixed(backbone.input_size, backbone.classes)

    def exact_ms(choices: tuple[int, ...]) -> float:
        return table.network(chosen_blocks(learned.candidates, choices), backbone.input_size, backbone.classes)

    def network(assignment: Assignment, accuracy: float | None = None) -> ProbableNetwork:
        choices = assignment.choices
        blocks = chosen_blocks(learned.candidates, choices)
        return ProbableNetwork(blocks, exact_ms(choices), assignment.log_probability, accuracy)

    log_p, k_best = learned.log_probabilities, settings.k_best
    likely = k_most_probable_blocks(log_p, latencies_ms, limit_ms, k_best, fixed_ms, exact_ms)
    argmax = network(argmax_blocks(log_p, latencies_ms, fixed_ms))
    if k_best == 1:
        return NetworkChoice(network(likely[0]), argmax)
    batch = settings.train.batch
    _, held_out = dataset.train.first(settings.train.train_images).parted(settings.weight_share)
    scores = [inherited_accuracy(supernet, one.choices, dataset, held_out, batch) for one in likely]
    judged = tuple(map(network, likely, scores))
    images = JudgedImages.held_out(dataset.source, judged_count(len(held_out), batch), dataset.input_size)
    best = scores.index(max(scores))
    return NetworkChoice(judged[best], argmax, judged, images)


def chosen_blocks(candidates: Sequence[Candidates], choices: Sequence[int]) -> Blocks:
    """The blocks of one choice per site."""
    return tuple(options[choice] for options, choice in zip(candidates, choices, strict=True))
