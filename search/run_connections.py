"""Stage 2 in a run directory: train the supernet, derive a network that meets its target, retrain and export it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block
from bpnas.search.chance import derived_seed
from bpnas.search.checkpoint import finished_epochs
from bpnas.search.connect import ConnectionEpoch, candidate_latencies, connect, new_supernet
from bpnas.search.data import Dataset, load_data
from bpnas.search.derive import Assignment, argmax_blocks, fastest_blocks, k_most_probable_blocks
from bpnas.search.distributed import from_main, is_main
from bpnas.search.divergence import stage_in
from bpnas.search.errors import DivergedError, InfeasibleLimitError, RunError
from bpnas.search.event_files import event_files
from bpnas.search.final_training import train_network
from bpnas.search.judge import inherited_accuracy
from bpnas.search.network_file import block_texts, check_weights, latency_facts, parse_blocks
from bpnas.search.presets import Preset
from bpnas.search.progress import Progress
from bpnas.search.run_directory import RunDirectory, limit_name
from bpnas.search.supernet import Candidates, site_candidates

if TYPE_CHECKING:
    from bpnas.tables import LatencyTable

_RETRY = "the block proposals are kept, call the same command again with a smaller --connection-rate"


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """The network that a search ends with.

    Attributes:
        backbone: where the blocks sit.
        blocks: one per site, None for Skip.
        predicted_latency_ms: by the table's model; at most `target_ms`.
        target_ms: its limit.
        accuracy: on test images, 0..1, after retraining.
        argmax_latency_ms: of the paper's argmax per site, which may miss the target.
    """

    backbone: Backbone
    blocks: Candidates
    predicted_latency_ms: float
    target_ms: float
    accuracy: float
    argmax_latency_ms: float


def check_target(table: LatencyTable, backbone: Backbone, proposals: Sequence[Block], target_ms: float) -> None:
    """Refuse a target that no network of these proposals and Skip meets.

    Raises:
        InfeasibleLimitError: with the smallest latency there is.
        MissingEntryError: the table lacks a path of a proposal at some site.
    """
    latencies = candidate_latencies(table, backbone, proposals)
    fastest = fastest_blocks([np.zeros(len(row)) for row in latencies], latencies)
    blocks = _blocks([site_candidates(proposals, site) for site in backbone.sites], fastest.choices)
    smallest = table.network(blocks, backbone.input_size, backbone.classes)
    if smallest > target_ms:
        raise InfeasibleLimitError(target_ms, smallest, "network of these block proposals")


def run_connections(
    directory: RunDirectory,
    table: LatencyTable,
    backbone: Backbone,
    proposals: Sequence[Block],
    data: str,
    target_ms: float,
    preset: Preset,
    seed: int,
    progress: Progress,
    further_ms: Sequence[float] = (),
) -> tuple[NetworkResult, ...]:
    """Search the connections, retrain the network that they name, export it; every epoch is a checkpoint.

    Args:
        target_ms: what the latency loss aims at, and the limit of the first network, whose files lie in `directory`.
        further_ms: limits of further networks out of the same supernet, each retrained and kept in
            `networks/LIMITms` below [ours].

    Returns:
        The network of `target_ms` and those of `further_ms`.

    Raises:
        DivergedError: the supernet or a network came to numbers that are not finite.
    """
    for ms in (target_ms, *further_ms):
        check_target(table, backbone, proposals, ms)
    places = {target_ms: directory, **{ms: directory.below(Path("networks", limit_name(ms))) for ms in further_ms}}
    if from_main(all(place.has("network.json") for place in places.values())):
        progress.note("the network is there already")
        return tuple(map(_read_network, places.values()))
    wanted = [preset.connections.train.train_images, preset.retraining.train_images]
    dataset = load_data(data, backbone.input_size, None if None in wanted else max(n for n in wanted if n is not None))
    derivation: Callable[[float], dict[str, Any]] | None = None
    for ms, place in places.items():
        if from_main(place.has("connections.json")):
            continue
        if derivation is None:
            derivation = _search(directory, table, backbone, proposals, dataset, target_ms, preset, seed, progress)
        place.write_json("connections.json", derivation(ms))
    results = []
    for ms, place in places.items():
        if from_main(place.has("network.json")):
            results.append(_read_network(place))
        else:
            found = from_main(place.read_json("connections.json") if is_main() else {})
            # Networks of one run are trained alike: once one of them is, the recipe is settled.
            with _one_recipe(directory):
                results.append(_retrain(place, table, backbone, dataset, ms, preset, seed, progress, found))
    return tuple(results)


def _search(
    directory: RunDirectory,
    table: LatencyTable,
    backbone: Backbone,
    proposals: Sequence[Block],
    dataset: Dataset,
    target_ms: float,
    preset: Preset,
    seed: int,
    progress: Progress,
) -> Callable[[float], dict[str, Any]]:
    """Train the supernet as far as that is not done, and return what derives a network within a limit from it."""
    settings = preset.connections
    checkpoint = directory.checkpoints / "connections.pt"
    progress.stage("block connections", settings.train.epochs, finished_epochs(checkpoint))
    recorded = directory.lines("connections.jsonl")

    def report(epoch: ConnectionEpoch) -> None:
        if epoch.epoch >= len(recorded):
            line = {
                "epoch": epoch.epoch,
                "tau": epoch.tau,
                "weight_loss": epoch.weight_loss,
                "alpha_loss": epoch.alpha_loss,
                "expected_latency_ms": epoch.latency_ms,
                "argmax_latency_ms": epoch.argmax_latency_ms,
                "entropy": sum(epoch.entropies) / len(epoch.entropies),
                "entropies": epoch.entropies,
                "alphas": epoch.alphas,
            }
            directory.append("connections.jsonl", line)
            recorded.append(line)
            curves(line)
        work = {"stage": "connections", "images": epoch.images, "seconds": epoch.seconds}
        directory.append("timings.jsonl", work)
        loss = "" if epoch.alpha_loss is None else f", alpha loss {epoch.alpha_loss:.3f}"
        progress.step(f"epoch {epoch.epoch + 1}: loss {epoch.weight_loss:.3f}{loss}, latency {epoch.latency_ms:.4g} ms")

    latencies = candidate_latencies(table, backbone, proposals)
    fixed = table.fixed(backbone.input_size, backbone.classes)
    model_seed = derived_seed(seed, "supernet")
    supernet = new_supernet(backbone, proposals, settings, model_seed)
    stage = stage_in(directory, "the connection search", lines="connections.jsonl", checkpoint=checkpoint, retry=_RETRY)
    with stage, event_files(directory, "connections", recorded) as curves:
        learned = connect(
            supernet,
            dataset,
            latencies,
            settings,
            target_ms=target_ms,
            fixed_ms=fixed,
            seed=model_seed,
            checkpoint=checkpoint,
            on_epoch=report,
            on_step=progress.within,
        )

    def exact_ms(choices: tuple[int, ...]) -> float:
        return table.network(_blocks(learned.candidates, choices), backbone.input_size, backbone.classes)

    def as_dict(assignment: Assignment) -> dict[str, Any]:
        return {
            "blocks": block_texts(_blocks(learned.candidates, assignment.choices)),
            "latency_ms": exact_ms(assignment.choices),
            "log_probability": assignment.log_probability,
        }

    def derived(limit_ms: float) -> dict[str, Any]:
        found = k_most_probable_blocks(learned.log_probabilities, latencies, limit_ms, settings.k_best, fixed, exact_ms)
        result = {
            "mock": table.meta.mock,
            "target_ms": limit_ms,
            "argmax": as_dict(argmax_blocks(learned.log_probabilities, latencies, fixed)),
            "chosen": as_dict(found[0]),
        }
        if settings.k_best > 1:
            _, held_out = dataset.train.first(settings.train.train_images).parted(settings.weight_share)
            judged = []
            for assignment in found:
                score = inherited_accuracy(supernet, assignment.choices, dataset, held_out, settings.train.batch)
                judged.append({**as_dict(assignment), "inherited_accuracy": score})
            # The most probable one of equally good ones.
            result |= {"chosen": max(judged, key=lambda one: one["inherited_accuracy"]), "judged": judged}
        return result

    return derived


def _retrain(
    directory: RunDirectory,
    table: LatencyTable,
    backbone: Backbone,
    dataset: Dataset,
    target_ms: float,
    preset: Preset,
    seed: int,
    progress: Progress,
    found: dict[str, Any],
) -> NetworkResult:
    blocks = parse_blocks(found["chosen"]["blocks"])
    facts = {**latency_facts(table, blocks, backbone, target_ms), "argmax": found["argmax"]}
    reached = train_network(directory, blocks, backbone, dataset, preset, seed, progress, facts)
    predicted_ms = facts["predicted_latency_ms"]
    return NetworkResult(backbone, blocks, predicted_ms, target_ms, reached, found["argmax"]["latency_ms"])


@contextmanager
def _one_recipe(directory: RunDirectory) -> Iterator[None]:
    try:
        yield
    except DivergedError as error:
        if not from_main(directory.has_trained()):
            raise
        raise error.of(
            error.stage,
            "the networks that are finished are kept, and all of a run are trained alike: start another run with a "
            "smaller --retrain-rate and another --out",
        ) from None


def _read_network(directory: RunDirectory) -> NetworkResult:
    values = directory.read_json("network.json")
    check_weights(directory.root / "network.json")
    try:
        return NetworkResult(
            Backbone.from_dict(values["backbone"]),
            parse_blocks(values["blocks"]),
            values["predicted_latency_ms"],
            values["target_ms"],
            values["accuracy"],
            values["argmax"]["latency_ms"],
        )
    except (KeyError, TypeError) as error:
        raise RunError(f"{directory.root / 'network.json'}: is damaged ({error}); delete it to make it anew") from error


def _blocks(candidates: Sequence[Candidates], choices: Sequence[int]) -> Candidates:
    return tuple(options[choice] for options, choice in zip(candidates, choices, strict=True))
