"""The commands `run-search study lambda`, `random-stage2`, `fbnet-candidates` and `connections`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bpnas.base.command import Command, print_result
from bpnas.base.errors import UsageError
from bpnas.base.plain_numbers import read_number
from bpnas.search.commands.display import display
from bpnas.search.commands.options import (
    CONNECTION_OVERRIDES,
    RETRAIN_OVERRIDES,
    additivity_option,
    connection_options,
    data_option,
    given_proposals,
    input_size_option,
    json_option,
    preset_option,
    retrain_options,
    seed_numbers,
    table_here,
    table_option,
    wait_passively,
)

if TYPE_CHECKING:
    from bpnas.profiler.block import Block
    from bpnas.search.presets import Preset
    from bpnas.search.studies.connections.arms import Stage2Study, Terms
    from bpnas.search.studies.connections.study import Stage2Result
    from bpnas.tables import LatencyTable

F = TypeVar("F", bound=Callable[..., Any])
Design = Callable[["Terms", "tuple[Block, ...]", "Preset"], "Stage2Study"]

_OVERRIDES = {**CONNECTION_OVERRIDES, **RETRAIN_OVERRIDES}

_options = (
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
    click.option("--seeds", default="5", show_default=True, help="How many, or which: 0,1,7."),
    click.option(
        "--retrain",
        type=click.IntRange(0),
        default=1,
        show_default=True,
        help="Train every network so often from scratch, and judge it on test images; 0 leaves accuracies out.",
    ),
    data_option,
    input_size_option,
    click.option("--out", type=click.Path(file_okay=False), help="Directory.  [default: runs/TABLE-STUDY]"),
    preset_option,
    connection_options,
    retrain_options,
    click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads of a training."),
    json_option,
)
_random_option = click.option(
    "--random-networks",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Random connections per seed; they take 90 to 100 % of the target.",
)


def _terms(command: F) -> F:
    """The options of every study of stage 2."""
    for option in reversed(_options):
        command = option(command)
    return command


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

    def design(terms: Terms, proposals: tuple[Block, ...], preset: Preset) -> Stage2Study:
        from bpnas.search.studies.connections.arms import lambda_study

        return lambda_study(proposals, values)

    _run("lambda", design, **options)


@click.command("random-stage2", cls=Command, short_help="Searched connections and random ones.")
@_terms
@_random_option
def random_stage2(random_networks: int, **options: Any) -> None:
    """Compare the connection search with random connections of the same proposals at equal latency by table."""

    def design(terms: Terms, proposals: tuple[Block, ...], preset: Preset) -> Stage2Study:
        from bpnas.search.studies.connections.arms import random_study

        return random_study(proposals, preset.connections.lambda_below, random_networks)

    _run("random-stage2", design, **options)


@click.command("fbnet-candidates", cls=Command, short_help="Block proposals and FBNet's nine candidates.")
@_terms
def fbnet_candidates(**options: Any) -> None:
    """Search connections of the block proposals and of FBNet's nine hand-made candidates ("BCS-A" of the paper)."""

    def design(terms: Terms, proposals: tuple[Block, ...], preset: Preset) -> Stage2Study:
        from bpnas.search.studies.connections.arms import fbnet_study

        return fbnet_study(proposals, preset.connections.lambda_below)

    _run("fbnet-candidates", design, **options)


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

    def design(terms: Terms, proposals: tuple[Block, ...], preset: Preset) -> Stage2Study:
        from bpnas.search.studies.connections.arms import connections_study
        from bpnas.tables import LatencyTable

        widths: list[LatencyTable] = [LatencyTable.load(file, options["additivity"]) for file in width_tables]
        return connections_study(terms, proposals, preset.connections.lambda_below, random_networks, widths)

    _run("connections", design, **options)


def _run(
    name: str,
    design: Design,
    *,
    table: str | None,
    additivity: str | None,
    proposals: str,
    target_ms: float | None,
    seeds: str,
    retrain: int,
    data: str,
    input_size: int | None,
    out: str | None,
    preset: str,
    threads: int,
    as_json: bool,
    **overrides: Any,
) -> None:
    wait_passively()
    from bpnas.search.presets import Preset
    from bpnas.search.studies.connections.study import run_stage2_study
    from bpnas.tables import LatencyTable

    values = {_OVERRIDES[option]: value for option, value in overrides.items() if value is not None}
    chosen = Preset.load(preset).override(values)
    numbers, blocks = seed_numbers(seeds), given_proposals(proposals)
    file = table or table_here()
    loaded = LatencyTable.load(file, additivity)
    with display(loaded.meta.mock) as progress:
        result = run_stage2_study(
            lambda terms: design(terms, blocks, chosen),
            loaded,
            out=out or Path("runs") / f"{Path(file).stem}-{name}",
            proposals=blocks,
            target_ms=target_ms,
            seeds=numbers,
            preset=chosen,
            data=data,
            input_size=input_size,
            retrain=retrain,
            threads=threads,
            progress=progress,
        )
    _print(name, result, as_json)


def _print(name: str, result: Stage2Result, as_json: bool) -> None:
    from dataclasses import asdict

    from bpnas.search.studies.connections.text import stage2_lines

    facts, lines = result.facts, [*stage2_lines(result.summary), *result.notes]
    answer = {
        "out": str(result.directory),
        "study": name,
        **facts,
        **asdict(result.summary),
        "trainings": result.trainings,
        "notes": list(result.notes),
        "text": lines,
    }
    mock = " (mock: computed, not measured)" if facts["mock"] else ""
    text = [
        f"Device: {facts['device']}, {facts['runtime']}{mock}; networks are predicted by {facts['additivity']!r}",
        f"Target T = {facts['target_ms']:.4g} ms by table; every network is within it",
        *lines,
        f"Files: {result.directory}/study.csv, study.png, summary.json; {result.trainings} trainings",
    ]
    print_result(answer, as_json, "\n".join(text))


STAGE2_COMMANDS = (lambda_below, random_stage2, fbnet_candidates, connections)
