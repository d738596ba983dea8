"""Stage 2 in a run directory: train the supernet, derive a network that meets its target, retrain and export it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bpnas.base.plain_text import shortened
from bpnas.base.randomness import derived_seed
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block, Blocks
from bpnas.search.connections.choose_network import choose_network, chosen_blocks
from bpnas.search.connections.connect import ConnectionEpoch, candidate_latencies, connect, new_supernet
from bpnas.search.connections.derive import Assignment, fastest_blocks
from bpnas.search.connections.supernet import site_candidates
from bpnas.search.data.batches import gpus
from bpnas.search.data.dataset import Dataset, load_data
from bpnas.search.data.evaluation_images import EvaluationImages
from bpnas.search.errors import DataError, DivergedError, InfeasibleLimitError, RunError
from bpnas.search.event_files import event_files
from bpnas.search.fields import FieldError, Fields, fields_of
from bpnas.search.networks.final_training import train_network
from bpnas.search.networks.network_file import (
    NetworkFile,
    block_texts,
    check_sites,
    check_weights,
    latency_facts,
    parse_blocks,
)
from bpnas.search.presets import Preset, proposals_of_today
from bpnas.search.progress import Progress
from bpnas.search.run_directory import Layout, RunDirectory, Stage, limit_name
from bpnas.search.sealed import RESTORE
from bpnas.search.spent import note_time
from bpnas.search.training.checkpoint import finished_epochs
from bpnas.search.training.distributed import from_main, is_main, world_size
from bpnas.search.training.divergence import stage_in

if TYPE_CHECKING:
    from bpnas.tables import LatencyTable

_SETTINGS = ("target_ms", "deploy_classes", "connections_data", "connections_input_size", "preset.connections")
_NETWORK = ("retraining.jsonl", "network.json")


def _of_today(config: dict[str, Any]) -> dict[str, Any]:
    try:
        preset = config["preset"]
        return {**config, "preset": {**preset, "proposals": proposals_of_today(preset["proposals"])}}
    except (KeyError, TypeError, AttributeError):
        return config  # not of a search


SEARCH_LAYOUT = Layout(
    ("connections_data",),
    (
        Stage(("evaluations.jsonl", "trials.jsonl", "proposals.json")),
        Stage(("connections.jsonl", "connections.json"), _SETTINGS),
        Stage((*_NETWORK, *(f"networks/*/{name}" for name in _NETWORK)), ("preset.retraining", "preset.test_images")),
    ),
    _of_today,
)
"""Result files of both stages of a search; the networks of further limits are in `networks/LIMITms`."""

_RETRY = "the block proposals are kept, call the same command again with a smaller --connection-rate"


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """The network that a search ends with.

    Attributes:
        backbone: where the blocks sit.
        blocks: one per site, None for Skip.
        predicted_latency_ms: by the table's model.
        target_ms: its limit: of this latency, or of `deployed_latency_ms` where that is there.
        accuracy: 0..1, after retraining, on `accuracy_on`.
        argmax_latency_ms: of the paper's argmax per site, which may miss the target.
        accuracy_on: the images; None where an earlier bpnas trained it and did not note them.
        deploy_classes: of the head that will be deployed, where that is another one; else None.
        deployed_latency_ms: the latency with that head, as `argmax_latency_ms` then is, too.
    """

    backbone: Backbone
    blocks: Blocks
    predicted_latency_ms: float
    target_ms: float
    accuracy: float
    argmax_latency_ms: float
    accuracy_on: EvaluationImages | None = None
    deploy_classes: int | None = None
    deployed_latency_ms: float | None = None

    @property
    def limited_ms(self) -> float:
        """The latency that its limit is for."""
        return self.predicted_latency_ms if self.deployed_latency_ms is None else self.deployed_latency_ms


def check_target(table: LatencyTable, backbone: Backbone, proposals: Sequence[Block], target_ms: float) -> None:
    """Refuse a target that no network of these proposals and Skip meets.

    Raises:
        InfeasibleLimitError: with the smallest latency there is.
        MissingEntryError: the table lacks a path of a proposal at some site.
    """
    latencies = candidate_latencies(table, backbone, proposals)
    fastest = fastest_blocks([np.zeros(len(row)) for row in latencies], latencies)
    blocks = chosen_blocks([site_candidates(proposals, site) for site in backbone.sites], fastest.choices)
    smallest = table.network(blocks, backbone.input_size, backbone.classes)
    if smallest > target_ms:
        raise InfeasibleLimitError(target_ms, smallest, "network of these block proposals")


def default_target(table: LatencyTable, backbone: Backbone, proposals: Sequence[Block]) -> float:
    """Where none is asked for: the latency in ms of the middle proposal, stacked. Raises MissingEntryError."""
    middle = [proposals[len(proposals) // 2]] * len(backbone.sites)
    return table.network(middle, backbone.input_size, backbone.classes)


def run_connections(
    directory: RunDirectory,
    table: LatencyTable,
    backbone: Backbone,
    proposals: Sequence[Block],
    data: str,
    targets_ms: Sequence[float],
    preset: Preset,
    seed: int,
    progress: Progress,
    deploy_classes: int | None = None,
) -> tuple[NetworkResult, ...]:
    """Search the connections, retrain the network that they name, export it; every epoch is a checkpoint.

    Args:
        targets_ms: what the latency loss aims at, and the limit of the first network, whose files are in `directory`;
            then limits of further networks out of the same supernet, each retrained and kept in `networks/LIMITms`
            below [ours].
        deploy_classes: all these limits hold with a head of that many classes; None for that of `backbone`.

    Returns:
        The networks in the order of `targets_ms`.

    Raises:
        DivergedError: the supernet or a network came to numbers that are not finite.
    """
    deployed = backbone if deploy_classes is None else replace(backbone, classes=deploy_classes)
    target_ms, *further_ms = targets_ms
    for ms in targets_ms:
        check_target(table, deployed, proposals, ms)
    places = {target_ms: directory, **{ms: directory.below(Path("networks", limit_name(ms))) for ms in further_ms}}
    if from_main(all(place.has("network.json") for place in places.values())):
        progress.note("the network is there already")
        return tuple(_read_network(place, table, backbone, deployed, ms) for ms, place in places.items())
    dataset = load_data(data, backbone.input_size, preset.later_images)
    count = len(dataset.train.first(preset.retraining.train_images))
    if count < world_size():
        raise DataError(
            f"{dataset.source}: {count} training images are too few for {world_size()} processes; start fewer of them, "
            "or give more images, with --retrain-images or another --data"
        )
    derivation: Callable[[float], dict[str, Any]] | None = None
    for ms, place in places.items():
        if from_main(place.has("connections.json")):
            continue
        if derivation is None:
            derivation = _search(
                directory, table, backbone, deployed, proposals, dataset, target_ms, preset, seed, progress
            )
        place.write_json("connections.json", derivation(ms))
    results = []
    for ms, place in places.items():
        if from_main(place.has("network.json")):
            results.append(_read_network(place, table, backbone, deployed, ms))
        else:
            found = from_main(place.read_json("connections.json") if is_main() else {})
            # Networks of one run are trained alike: once one of them is, the recipe is settled.
            with _one_recipe(directory):
                results.append(_retrain(place, table, backbone, deployed, dataset, ms, preset, seed, progress, found))
    return tuple(results)


def _search(
    directory: RunDirectory,
    table: LatencyTable,
    backbone: Backbone,
    deployed: Backbone,
    proposals: Sequence[Block],
    dataset: Dataset,
    target_ms: float,
    preset: Preset,
    seed: int,
    progress: Progress,
) -> Callable[[float], dict[str, Any]]:
    """Train the supernet as far as that is not done, and return what derives a network within a limit from it.

    All its latencies are those of `deployed`: the same with another head, or with none.
    """
    settings = preset.connections
    checkpoint = directory.checkpoints / "connections.pt"
    progress.stage("block connections", settings.train.epochs, finished_epochs(checkpoint))
    recorded = directory.epochs("connections.jsonl")

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
        note_time(directory, "connections", epoch.images, epoch.seconds, gpus() * world_size())
        loss = "" if epoch.alpha_loss is None else f", alpha loss {epoch.alpha_loss:.3f}"
        progress.step(f"epoch {epoch.epoch + 1}: loss {epoch.weight_loss:.3f}{loss}, latency {epoch.latency_ms:.4g} ms")

    latencies = candidate_latencies(table, backbone, proposals)
    fixed = table.fixed(deployed.input_size, deployed.classes)
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
        return table.network(chosen_blocks(learned.candidates, choices), deployed.input_size, deployed.classes)

    def as_dict(assignment: Assignment) -> dict[str, Any]:
        blocks = block_texts(chosen_blocks(learned.candidates, assignment.choices))
        latency_ms, log_p = assignment.latency_ms, assignment.log_probability
        return {"blocks": blocks, "latency_ms": latency_ms, "log_probability": log_p}

    def derived(limit_ms: float) -> dict[str, Any]:
        choice = choose_network(supernet, learned, latencies, dataset, settings, limit_ms, fixed, exact_ms)
        result = {"mock": table.meta.mock, "target_ms": limit_ms, "argmax": as_dict(choice.argmax)}
        if deployed != backbone:
            result["deploy_classes"] = deployed.classes
        if not choice.evaluated:
            return result | {"chosen": as_dict(choice.chosen)}
        evaluated = {one: {**as_dict(one), "inherited_accuracy": score} for one, score in choice.evaluated}
        images = None if choice.judged_on is None else asdict(choice.judged_on)
        named = {
            "chosen": evaluated[choice.chosen],
            "inherited_accuracy_on": images,
            "judged": list(evaluated.values()),
        }
        return result | named

    return derived


def _retrain(
    directory: RunDirectory,
    table: LatencyTable,
    backbone: Backbone,
    deployed: Backbone,
    dataset: Dataset,
    target_ms: float,
    preset: Preset,
    seed: int,
    progress: Progress,
    found: dict[str, Any],
) -> NetworkResult:
    path = directory.root / "connections.json"
    with fields_of(f"{path}: is damaged"):
        fields = Fields(found)
        blocks = parse_blocks(fields.part("chosen").texts("blocks"))
        check_sites(blocks, backbone)
        argmax = fields.part("argmax")
        check_sites(parse_blocks(argmax.texts("blocks")), backbone)
        argmax_ms = argmax.latency("latency_ms")
        if fields.latency("target_ms") != target_ms:
            raise FieldError(f"'target_ms' is not the {target_ms:g} ms of this network")
    facts = {**latency_facts(table, blocks, backbone, target_ms, deployed.classes), "argmax": argmax.values}
    limited = table.network(blocks, deployed.input_size, deployed.classes)
    _check_latency(path, limited, target_ms, fields.part("chosen").values.get("latency_ms"))
    reached = train_network(directory, blocks, backbone, dataset, preset, seed, progress, facts)
    return NetworkResult(
        backbone,
        blocks,
        facts["predicted_latency_ms"],
        target_ms,
        reached.accuracy,
        argmax_ms,
        reached.accuracy_on,
        facts.get("deploy_classes"),
        facts.get("deployed_latency_ms"),
    )


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


def _read_network(
    directory: RunDirectory, table: LatencyTable, backbone: Backbone, deployed: Backbone, target_ms: float
) -> NetworkResult:
    """The network that an earlier call has left."""
    file = NetworkFile.load(directory.root / "network.json")
    check_weights(file.path)
    with fields_of(f"{file.path}: is damaged"):
        fields = Fields(file.values)
        accuracy, argmax_ms = fields.share("accuracy"), fields.part("argmax").latency("latency_ms")
        other_head = None if deployed == backbone else deployed.classes
        if (file.backbone, file.target_ms, file.deploy_classes) != (backbone, target_ms, other_head):
            raise FieldError("its backbone, target_ms or deploy_classes is not that of this search")
        predicted_ms = fields.latency("predicted_latency_ms")
    limited = table.network(file.blocks, deployed.input_size, deployed.classes)
    _check_latency(file.path, limited, target_ms, file.limited_ms)
    return NetworkResult(
        backbone,
        file.blocks,
        predicted_ms,
        target_ms,
        accuracy,
        argmax_ms,
        file.accuracy_on,
        other_head,
        file.deployed_latency_ms,
    )


def _check_latency(path: Path, latency_ms: float, target_ms: float, stored_ms: Any) -> None:
    """Refuse a file whose network is not what a search under this limit, by this table, has left there."""
    if not isinstance(stored_ms, int | float) or not math.isclose(stored_ms, latency_ms, rel_tol=1e-6):
        said = shortened(str(stored_ms))
        raise RunError(f"{path}: says {said} ms of blocks that take {latency_ms:.6g} ms by table; {RESTORE}")
    if latency_ms > target_ms:
        raise RunError(f"{path}: its blocks take {latency_ms:.6g} ms, above the limit of {target_ms:.6g} ms; {RESTORE}")
