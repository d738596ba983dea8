"""The commands `run-search study lambda`, `random-stage2`, `fbnet-candidates`, `connections` and `ablations`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from bpnas.base.command import Command
from bpnas.base.errors import UsageError
from bpnas.base.plain_numbers import read_number
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
    table_option,
    together,
    wait_passively,
)
from bpnas.search.commands.study import overridden, retrain_option, run_and_print, seeds_option, study_out_option

if TYPE_CHECKING:
    from bpnas.profiler.block import Block
    from bpnas.search.studies.connections.terms import StudyTerms
    from bpnas.search.studies.study import StudyRequest, StudyResult

_random_option = click.option(
    "--random-networks",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Random connections per seed; they take 90 to 100 % of the target.",
)


_terms = together(
    table_option,
    additivity_option,
    click.option(
        "--proposals",
        required=True,
        help="The blocks: a run directory, its proposals.json, or texts as 'K3E6G1,K1G1+K5E3G2'.",
    ),
    click.option(
        "--target",
        "target_ms",
        type=float,
        metavar="MS",
        help="Limit of every network.  [default: the middle proposal's]",
    ),
    seeds_option,
    retrain_option("Trainings of every network from scratch, evaluated on test images; 0 leaves accuracies out."),
    data_option,
    input_size_option,
    study_out_option,
    preset_option,
    connection_options,
    retrain_options,
    click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads of a training."),
    json_option,
)


@click.command("lambda", cls=Command, short_help="Lambda of the latency loss below the target.")
@_terms
@click.option(
    "--lambdas",
    default="0,0.001,0.01,0.05,0.5,1",
    show_default=True,
    metavar="L,L,...",
    help="Lambda below the target.",
)
def lambda_below(lambdas: str, **options: Any) -> None:
    """Search connections with several lambdas of the latency loss below the target (Eq. 6), the paper's ablation."""
    if options["lambda_below"] is not None:
        raise UsageError("--lambda-below is one lambda; this study takes several with --lambdas")
    try:
        values = tuple(dict.fromkeys(read_number(part) for part in lambdas.split(",")))
    except ValueError:
        raise UsageError(f"--lambdas {lambdas!r}: write numbers with commas between, as in 0,0.01,1") from None
    _run("lambda", lambda arms, terms, blocks, below: arms.lambda_study(blocks, values), options)


@click.command("random-stage2", cls=Command, short_help="Searched connections and random ones.")
@_terms
@_random_option
def random_stage2(random_networks: int, **options: Any) -> None:
    """Compare the connection search with random connections of the same proposals at equal latency by table."""
    _run("random-stage2", lambda arms, terms, blocks, below: arms.random_study(blocks, below, random_networks), options)


@click.command("fbnet-candidates", cls=Command, short_help="Block proposals and FBNet's nine candidates.")
@_terms
def fbnet_candidates(**options: Any) -> None:
    """Search connections of the block proposals and of FBNet's nine hand-made candidates ("BCS-A" of the paper)."""
    _run("fbnet-candidates", lambda arms, terms, blocks, below: arms.fbnet_study(blocks, below), options)


@click.command(cls=Command, short_help="Searched connections and all that is simpler.")
@_terms
@_random_option
@click.option(
    "--width-table",
    "width_tables",
    multiple=True,
    type=click.Path(dir_okay=False),
    help="Table of the backbone at another width, for MobileNetV2; once for each width.",
)
def connections(random_networks: int, width_tables: tuple[str, ...], **options: Any) -> None:
    """Compare the connection search with random connections, every single proposal stacked, and MobileNetV2.

    All take at most the target by table. A stacked proposal that is too slow gets Skips, those that bring it nearest to
    the target. MobileNetV2 is K3E6G1 at every site, of the given tables the one nearest to the target.
    """

    def design(arms: Any, terms: StudyTerms, blocks: tuple[Block, ...], below: float) -> Any:
        from bpnas.tables import LatencyTable

        widths = [LatencyTable.load(file, options["additivity"]) for file in width_tables]
        return arms.connections_study(terms, blocks, below, random_networks, widths)

    _run("connections", design, options)


def _run(
    name: str, design: Callable[[Any, StudyTerms, tuple[Block, ...], float], Any], options: dict[str, Any]
) -> None:
    """Run a study that `design` makes, of the module of arms, the terms, the proposals and lambda below the target."""
    wait_passively()
    from bpnas.search.presets import Preset
    from bpnas.search.studies.connections import arms
    from bpnas.search.studies.connections.study import run_connections_study

    preset = Preset.load(options["preset"]).override(overridden(options, CONNECTION_OVERRIDES | RETRAIN_OVERRIDES))
    blocks, below = given_proposals(options["proposals"]), preset.connections.lambda_below

    def run(request: StudyRequest) -> StudyResult[Any]:
        return run_connections_study(
            lambda terms: design(arms, terms, blocks, below), request, proposals=blocks, target_ms=options["target_ms"]
        )

    run_and_print(name, preset, run, options)


@click.command(cls=Command, short_help="The paper's ablations, each to a retrained network.")
@table_option
@additivity_option
@click.option("--arms", metavar="ARM,ARM,...", help="Of full, rand-stage-1, rand-stage-2, bcs-a, gray.  [default: all]")
@click.option(
    "--constraints", metavar="MS,MS,...", help="Latency limits of stage 1.  [default: five around the target]"
)
@click.option("--target", "target_ms", type=float, metavar="MS", help="Limit of every network.  [default: middle one]")
@seeds_option
@retrain_option("Trainings of every network from scratch, evaluated on test images; 0 leaves accuracies out.")
@data_option
@click.option("--connections-data", help="Images of stage 2 and retraining.  [default: as --data]")
@input_size_option
@click.option("--connections-input-size", type=click.IntRange(8), help="The same for stage 2.")
@study_out_option
@preset_option
@executor_options
@proposal_options
@strategy_option
@connection_options
@retrain_options
@json_option
def ablations(**options: Any) -> None:
    """The paper's ablations, each from stage 1 to a retrained network, beside the paper's figures.

    full: the whole search. rand-stage-1: random blocks in place of LEvoNAS. rand-stage-2: random connections of the
    proposals of full. bcs-a: FBNet's nine candidates. gray: the Gray code in stage 1.
    """
    wait_passively()
    from bpnas.search.presets import Preset
    from bpnas.search.search_plan import Execution, SearchRequest
    from bpnas.search.studies.connections.ablations import ARMS, NAME, AblationsRequest, run_ablations

    places = PROPOSAL_OVERRIDES | CONNECTION_OVERRIDES | RETRAIN_OVERRIDES
    preset = Preset.load(options["preset"]).override(overridden(options, places))
    same = ("target_ms", "data", "connections_data", "input_size", "connections_input_size")
    execution = {name: options[name] for name in ("executor", "workers", "threads", "ray_address")}
    search = SearchRequest(
        preset=preset,
        constraints=milliseconds(options["constraints"]),
        execution=Execution(**execution),
        **{name: options[name] for name in same},
    )
    chosen = ARMS if options["arms"] is None else tuple(arm.strip() for arm in options["arms"].split(","))
    wanted = AblationsRequest(search=search, arms=chosen)
    wanted.check()
    later = options["connections_data"]
    size = options["connections_input_size"] or (None if later else options["input_size"])
    of_stage2 = {**options, "data": later or options["data"], "input_size": size}
    run_and_print(NAME, preset, lambda request: run_ablations(wanted, request), of_stage2)


CONNECTION_STUDIES = (lambda_below, random_stage2, fbnet_candidates, connections, ablations)
