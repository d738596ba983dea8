"""The command `run-search`, and the studies below it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpnas.base.command import Command, DefaultGroup, print_result
from bpnas.search.commands.display import display
from bpnas.search.commands.export import export, int8_text, measure
from bpnas.search.commands.options import (
    CONNECTION_OVERRIDES,
    PROPOSAL_OVERRIDES,
    RETRAIN_OVERRIDES,
    additivity_option,
    connection_options,
    data_option,
    executor_options,
    given_proposals,
    input_size_option,
    json_option,
    milliseconds,
    preset_option,
    proposal_options,
    retrain_options,
    strategy_option,
    table_here,
    table_option,
    wait_passively,
)
from bpnas.search.commands.retrain import retrain
from bpnas.search.commands.study import study
from bpnas.search.commands.study_connections import CONNECTION_STUDIES
from bpnas.search.commands.study_proposals import PROPOSAL_STUDIES
from bpnas.search.commands.transfer import transfer
from bpnas.search.data.judged_images import on_images

if TYPE_CHECKING:
    from bpnas.search.connections.run import NetworkResult
    from bpnas.search.networks.export import Int8Result
    from bpnas.search.paper_cost import CostEstimate
    from bpnas.search.progress import Progress
    from bpnas.search.run import SearchResult

_OVERRIDES = {
    **PROPOSAL_OVERRIDES,
    **CONNECTION_OVERRIDES,
    **RETRAIN_OVERRIDES,
}


@click.group(cls=DefaultGroup)
def main() -> None:
    """Search networks (see `search`), and study the ways to search them."""


@main.command(cls=Command, hidden=True)
@table_option
@additivity_option
@click.option(
    "--stage",
    type=click.Choice(["proposals", "connections", "all"]),
    default="all",
    show_default=True,
    help="Search blocks, connect them (and retrain), or both.",
)
@preset_option
@click.option("--constraints", metavar="MS,MS,...", help="Latency limits of stage 1.  [default: five from the table]")
@click.option(
    "--bands", is_flag=True, help="Search each limit above the one before it: proposals spread over the budget."
)
@click.option("--target", "target_ms", type=float, metavar="MS", help="Limit of the network.  [default: middle one]")
@click.option(
    "--targets", metavar="MS,MS,...", help="Limits of several networks out of one supernet.  [default: --target]"
)
@data_option
@click.option("--connections-data", help="Images of stage 2 and retraining.  [default: as --data]")
@input_size_option
@click.option("--connections-input-size", type=click.IntRange(8), help="The same for stage 2.")
@click.option(
    "--proposals",
    help="Blocks in place of stage 1: a run directory, a proposals.json, or texts as 'K3E6G1,K1G1+K5E3G2'.",
)
@click.option("--out", type=click.Path(file_okay=False), help="Run directory.  [default: runs/TABLE-seedN]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn.")
@executor_options
@click.option(
    "--window",
    type=click.IntRange(1),
    help="Candidates under way. It decides the trials, the workers do not; twice the workers keeps them busier.  "
    "[default: --workers]",
)
@click.option(
    "--asynchronous", is_flag=True, help="Use results as they come: no worker waits, but trials depend on timing."
)
@proposal_options
@strategy_option
@click.option(
    "--halving", type=int, metavar="N", help="Cheaper: at 1/N, 1/N^2 ... of the epochs, only the best 1/N go on."
)
@connection_options
@retrain_options
@click.option("--int8", is_flag=True, help="Also write the final network in int8, and what that costs in accuracy.")
@json_option
def search(
    table: str | None,
    additivity: str | None,
    stage: Any,
    preset: str,
    constraints: str | None,
    bands: bool,
    target_ms: float | None,
    targets: str | None,
    data: str,
    connections_data: str | None,
    input_size: int | None,
    connections_input_size: int | None,
    proposals: str | None,
    out: str | None,
    seed: int,
    executor: Any,
    workers: int | None,
    window: int | None,
    threads: int | None,
    asynchronous: bool,
    ray_address: str | None,
    int8: bool,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Search a network for the device that a latency table describes.

    Called again with the same options, it goes on where it was stopped. Stage 2 also runs under torchrun:
    torchrun --nproc-per-node 2 -m bpnas.search.cli --stage connections.
    """
    wait_passively()
    from bpnas.search.presets import Preset
    from bpnas.search.run import run_search
    from bpnas.search.training.distributed import is_main, process_group
    from bpnas.tables import LatencyTable

    values = {_OVERRIDES[name]: value for name, value in overrides.items() if value is not None}
    chosen = Preset.load(preset).override(values)
    limits, limits_later = milliseconds(constraints), milliseconds(targets, "--targets")
    blocks = given_proposals(proposals)
    table = table or table_here()
    loaded = LatencyTable.load(table, additivity)
    with process_group(), display(loaded.meta.mock) as progress:
        speaks = is_main()
        result = run_search(
            loaded,
            out=out or Path("runs") / f"{Path(table).stem}-seed{seed}",
            stage=stage,
            preset=chosen,
            constraints=limits,
            bands=bands,
            target_ms=target_ms,
            targets_ms=limits_later,
            data=data,
            connections_data=connections_data,
            input_size=input_size,
            connections_input_size=connections_input_size,
            proposals=blocks,
            seed=seed,
            executor=executor,
            workers=workers,
            window=window,
            threads=threads,
            asynchronous=asynchronous,
            ray_address=ray_address,
            progress=progress,
        )
        quantized = _int8(result, progress) if int8 and speaks else {}
    if not speaks:
        return
    cost = None if preset == "paper" or blocks else _cost(loaded, result)
    values = _as_dict(result, cost) | {"int8": {str(place): asdict(each) for place, each in quantized.items()}}
    text = _summary(table, result, cost, loaded.meta.imported is not None)
    for place, each in quantized.items():
        text += f"\nInt8 in {place}:\n{int8_text(each)}"
    print_result(values, as_json, text)


main.add_command(retrain)
main.add_command(study)
main.add_command(transfer)
main.add_command(export)
main.add_command(measure)
for command in (*PROPOSAL_STUDIES, *CONNECTION_STUDIES):
    study.add_command(command)


def _int8(result: SearchResult, progress: Progress) -> dict[Path, Int8Result]:
    """The int8 files of all networks, by directory."""
    from bpnas.search.networks.export import export_int8, int8_of
    from bpnas.search.networks.network_file import NetworkFile

    found = {}
    for each in result.networks:
        network = NetworkFile.load(_place(result, each))
        found[network.path.parent] = int8_of(network) or export_int8(network, progress=progress)
    return found


def _place(result: SearchResult, network: NetworkResult) -> Path:
    """The directory of a network's files."""
    from bpnas.search.run_directory import limit_name

    return (
        result.directory if network == result.network else result.directory / "networks" / limit_name(network.target_ms)
    )


def _cost(table: Any, result: SearchResult) -> CostEstimate | None:
    from bpnas.search.paper_cost import estimate_paper_cost
    from bpnas.search.proposals.space import BlockSpace
    from bpnas.search.run_directory import RunDirectory

    config = RunDirectory(result.directory).read_json("config.json")
    backbones = [b for b in table.meta.backbones if b.input_size == config["input_size"]]
    space = BlockSpace(table, backbones[0].input_size, classes=backbones[0].classes)
    cost = estimate_paper_cost(result, space)
    return cost if cost.seconds else None


def _as_dict(result: SearchResult, cost: CostEstimate | None) -> dict[str, Any]:
    network = result.network
    return {
        "out": str(result.directory),
        "mock": result.mock,
        "device": result.device,
        "runtime": result.runtime,
        "additivity": result.additivity,
        "proposals": [
            {
                "block": str(p.block),
                "limit_ms": p.limit_ms,
                "latency_ms": p.latency_ms,
                "score": p.score,
                "score_on": None if p.score_on is None else asdict(p.score_on),
            }
            for p in result.proposals
        ],
        "network": None if network is None else _network_as_dict(network),
        "networks": [_network_as_dict(each) for each in result.networks],
        "paper_recipe_estimate": None
        if cost is None
        else {"seconds": cost.seconds, "measured_images_per_second": cost.images_per_second},
    }


def _network_as_dict(network: NetworkResult) -> dict[str, Any]:
    from bpnas.search.networks.network_file import limit_facts

    return {
        "blocks": ["skip" if block is None else str(block) for block in network.blocks],
        "predicted_latency_ms": network.predicted_latency_ms,
        "target_ms": network.target_ms,
        "accuracy": network.accuracy,
        "accuracy_on": None if network.accuracy_on is None else asdict(network.accuracy_on),
        **limit_facts(network.predicted_latency_ms, network.target_ms),
        "argmax_latency_ms": network.argmax_latency_ms,
    }


def _summary(table: str, result: SearchResult, cost: CostEstimate | None, imported: bool) -> str:
    mock = " (mock: computed, not measured)" if result.mock else " (imported, not measured here)" if imported else ""
    lines = [
        f"Device: {result.device}, {result.runtime}{mock}; networks are predicted by {result.additivity!r}",
        "Block proposals:",
    ]
    for p in result.proposals:
        found = "given"
        if p.limit_ms:
            found = f"limit {p.limit_ms:g} ms, {p.latency_ms:.4g} ms, accuracy {p.score:.3f} {on_images(p.score_on)}"
        lines.append(f"  {p.block}  {found}")
    network = result.network
    if network is None:
        lines.append(f"Files: {result.directory}/proposals.json; next: the same command with --stage connections")
    else:
        lines.append(
            f"Network: {network.predicted_latency_ms:.4g} ms by table{mock}, target {network.target_ms:g} ms, "
            f"accuracy {network.accuracy * 100:.1f}% {on_images(network.accuracy_on)}"
        )
        lines += [f"  site {n:2d}  {'skip' if block is None else block}" for n, block in enumerate(network.blocks)]
        lines.append(f"Files: {result.directory}/network.json, network.onnx, network.tflite")
        lines += [
            f"Further network: {each.predicted_latency_ms:.4g} ms by table{mock}, target {each.target_ms:g} ms, "
            f"accuracy {each.accuracy * 100:.1f}% {on_images(each.accuracy_on)}; files: {_place(result, each)}"
            for each in result.networks
            if each != network
        ]
    if cost is not None:
        lines.append(f"The paper's recipe: run-search --table {table} --preset paper --data cifar10:DIR")
        lines.append(
            f"Estimated time here, at this run's speed and on CIFAR-10 ({', '.join(cost.seconds)}): "
            f"{_duration(cost.total_seconds)}"
        )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    for unit, length in (("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 60:.0f} minutes"


if __name__ == "__main__":
    main()
