"""The command `run-search` itself: one search, or its plan."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpnas.base.columns import terminal_width
from bpnas.base.command import Command, print_result
from bpnas.search.commands.display import display
from bpnas.search.commands.export import int8_text
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
    stage1_strategy_option,
    table_here,
    table_option,
    typed,
    wait_passively,
)
from bpnas.search.commands.search_text import (
    following_lines,
    head_line,
    network_folder,
    plan_text,
    plan_values,
    result_text,
    result_values,
)
from bpnas.tables.shipped import beside_table

if TYPE_CHECKING:
    from bpnas.search.networks.export import Int8Result
    from bpnas.search.progress import Progress
    from bpnas.search.run import SearchResult
    from bpnas.search.search_plan import SearchPlan

_OVERRIDES = {
    **PROPOSAL_OVERRIDES,
    **CONNECTION_OVERRIDES,
    **RETRAIN_OVERRIDES,
}


@click.command(cls=Command, hidden=True)
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
@click.option(
    "--constraints", metavar="MS,MS,...", help="Latency limits of stage 1.  [default: five around the targets]"
)
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
    "--deploy-classes",
    type=click.IntRange(2, 1_000_000),
    metavar="N",
    help="The targets hold with a head of N classes, for a network that is retrained on N.  [default: as the images]",
)
@click.option(
    "--proposals",
    help="Blocks in place of stage 1: a run directory, a proposals.json, or texts as 'K3E6G1,K1G1+K5E3G2'.",
)
@click.option("--out", type=click.Path(file_okay=False), help="Run directory.  [default: runs/TABLE-seedN]")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
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
@stage1_strategy_option
@click.option("--coding", type=click.Choice(["binary", "gray"]), help="Code whose bits are flipped.  [default: binary]")
@click.option(
    "--halving", type=int, metavar="N", help="Cheaper: at 1/N, 1/N^2 ... of the epochs, only the best 1/N continue."
)
@connection_options
@retrain_options
@click.option("--int8", is_flag=True, help="Also write the final network in int8, and what that costs in accuracy.")
@click.option("--plan", "only_plan", is_flag=True, help="Show limits, targets and hours, then end; nothing is written.")
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
    deploy_classes: int | None,
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
    only_plan: bool,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Search a network for the device that a latency table describes.

    Called again with the same options, it resumes where it was stopped. Stage 2 also runs under torchrun:
    torchrun --nproc-per-node 2 -m bpnas.search.cli --stage connections.
    """
    wait_passively()
    from bpnas.search.presets import RANDOM_BLOCKS, Preset
    from bpnas.search.run import carry_out
    from bpnas.search.search_plan import Execution, SearchRequest, plan_search
    from bpnas.search.training.distributed import is_main, process_group
    from bpnas.tables import LatencyTable

    values = {_OVERRIDES[name]: value for name, value in overrides.items() if value is not None}
    if preset == "paper" and overrides["strategy"] == "random":
        values.setdefault("proposals.cycles", RANDOM_BLOCKS)
    request = SearchRequest(
        stage=stage,
        preset=Preset.load(preset).override(values),
        constraints=milliseconds(constraints),
        bands=bands,
        target_ms=target_ms,
        targets_ms=milliseconds(targets, "--targets"),
        data=data,
        connections_data=connections_data,
        input_size=input_size,
        connections_input_size=connections_input_size,
        deploy_classes=deploy_classes,
        proposals=given_proposals(proposals),
        seed=seed,
        execution=Execution(
            executor=executor,
            workers=workers,
            window=window,
            threads=threads,
            asynchronous=asynchronous,
            ray_address=ray_address,
        ),
    )
    table = table or table_here()
    loaded = LatencyTable.load(table, additivity)
    if only_plan:
        _show_plan(plan_search(request, loaded), as_json)
        return
    with process_group(), display(loaded.meta.mock) as progress:
        speaks = is_main()
        directory = out or Path("runs") / f"{beside_table(table).name}-seed{seed}"
        plan = plan_search(request, loaded)
        if speaks:
            progress.note(
                f"All is kept in {directory}. Stop this when you like: the same command goes on where it was; with "
                "--plan it tells beforehand what it does and how long that takes here."
            )
        result = carry_out(plan, directory, progress)
        quantized = _int8(result, progress) if int8 and speaks else {}
    if not speaks:
        return
    context = click.get_current_context()
    again = typed(context, without=("stage", "as_json"))
    data_words = _images_of_stage2(data, connections_data, input_size, connections_input_size)
    recipe = typed(context, only=("preset", *RETRAIN_OVERRIDES))
    following = following_lines(table, result, ["run-search", *again], data_words, loaded.input_sizes, recipe)
    found = result_values(result) | {
        "proposals_classes": None if plan.space is None else plan.space.backbone.classes,
        "int8": {str(place): asdict(each) for place, each in quantized.items()},
    }
    text = result_text(result, loaded.meta.imported is not None, following, head_line(plan))
    for place, each in quantized.items():
        text += f"\nInt8 in {place}:\n{int8_text(each)}"
    print_result(found, as_json, text)


def _show_plan(plan: SearchPlan, as_json: bool) -> None:
    from bpnas.search.plan_cost import plan_cost

    costs = plan_cost(plan)
    print_result(plan_values(plan, costs), as_json, plan_text(plan, costs, terminal_width()))


def _images_of_stage2(
    data: str, connections_data: str | None, input_size: int | None, connections_input_size: int | None
) -> list[str]:
    """Options of a study on the images of the second stage."""
    size = connections_input_size or (input_size if connections_data in (None, data) else None)
    words = ["--data", connections_data or data]
    return words if size is None else [*words, "--input-size", str(size)]


def _int8(result: SearchResult, progress: Progress) -> dict[Path, Int8Result]:
    """The int8 files of all networks, by directory."""
    from bpnas.search.networks.export import export_int8, int8_of
    from bpnas.search.networks.network_file import NetworkFile

    found = {}
    for each in result.networks:
        network = NetworkFile.load(network_folder(result, each))
        found[network.path.parent] = int8_of(network) or export_int8(network, progress=progress)
    return found
