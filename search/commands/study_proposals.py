"""The commands `run-search study strategies`, `random-stage1` and `gray-code`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bpnas.base.command import Command, Group, print_result
from bpnas.search.commands.display import display
from bpnas.search.commands.options import (
    PROPOSAL_OVERRIDES,
    additivity_option,
    data_option,
    executor_options,
    input_size_option,
    json_option,
    milliseconds,
    preset_option,
    proposal_options,
    seed_numbers,
    strategy_option,
    table_here,
    table_option,
    wait_passively,
)

if TYPE_CHECKING:
    from bpnas.search.studies.proposals.study import StudyResult

F = TypeVar("F", bound=Callable[..., Any])

_RANDOM_TRIALS = 100
"""BP-NAS, ablation of the block proposal search: the best of 100 random blocks."""

_options = (
    table_option,
    additivity_option,
    click.option("--seeds", default="5", show_default=True, help="How many, or which: 0,1,7."),
    click.option("--constraints", metavar="MS,MS,...", help="Latency limits.  [default: three of the preset's]"),
    click.option("--arms", metavar="ARM,ARM,...", help="Only these.  [default: all]"),
    click.option(
        "--retrain",
        type=click.IntRange(0),
        default=1,
        show_default=True,
        help="Train every winner so often with fresh seeds, and judge it on test images.",
    ),
    data_option,
    input_size_option,
    click.option("--out", type=click.Path(file_okay=False), help="Directory.  [default: runs/TABLE-STUDY]"),
    executor_options,
    preset_option,
    proposal_options,
    json_option,
)


def _terms(command: F) -> F:
    """The options of every study."""
    for option in reversed(_options):
        command = option(command)
    return command


@click.group(cls=Group, short_help="Compare ways to search, with several seeds.")
def study() -> None:
    """Compare ways to search block proposals or to connect them, under equal terms and with several seeds.

    Each writes one table, study.csv, and one plot, study.png, and states what its seeds can tell. Called again with the
    same options, it goes on where it was stopped.
    """


@study.command(cls=Command, short_help="The default strategy, the paper's, and random blocks.")
@_terms
def strategies(**options: Any) -> None:
    """Compare the default strategy of LEvoNAS, the paper's (Algorithm 2) and random feasible blocks."""
    _run("strategies", **options)


@study.command("random-stage1", cls=Command, short_help="LEvoNAS and the best of random blocks.")
@_terms
@strategy_option
def random_stage1(cycles: int | None, **options: Any) -> None:
    """Compare LEvoNAS with the best of as many random feasible blocks, the paper's ablation of stage 1.

    A search has 100 trials, as there, or as many as the preset has if that is more.
    """
    _run("random-stage1", cycles=cycles, least_cycles=_RANDOM_TRIALS, **options)


@study.command("gray-code", cls=Command, short_help="Gray and binary code, under both strategies.")
@_terms
def gray_code(**options: Any) -> None:
    """Compare the Gray code of blocks with the binary one, under the default strategy and under the paper's."""
    _run("gray-code", **options)


def _run(
    name: str,
    *,
    table: str | None,
    additivity: str | None,
    seeds: str,
    constraints: str | None,
    arms: str | None,
    retrain: int,
    data: str,
    input_size: int | None,
    out: str | None,
    executor: Any,
    workers: int | None,
    threads: int | None,
    ray_address: str | None,
    preset: str,
    as_json: bool,
    least_cycles: int = 0,
    **overrides: Any,
) -> None:
    wait_passively()
    from bpnas.search.execution.executor import check_executor, open_executor
    from bpnas.search.presets import Preset
    from bpnas.search.studies.proposals.arms import Study
    from bpnas.search.studies.proposals.study import run_study
    from bpnas.tables import LatencyTable

    values = {PROPOSAL_OVERRIDES[option]: value for option, value in overrides.items() if value is not None}
    chosen = Preset.load(preset)
    values.setdefault("proposals.cycles", max(least_cycles, chosen.proposals.cycles))
    chosen = chosen.override(values)
    compared = Study.load(name)
    if arms is not None:
        compared = compared.only(tuple(arm.strip() for arm in arms.split(",")))
    check_executor(executor, workers, ray_address)
    limits, numbers = milliseconds(constraints), seed_numbers(seeds)
    file = table or table_here()
    loaded = LatencyTable.load(file, additivity)
    with display(loaded.meta.mock) as progress:
        result = run_study(
            compared,
            loaded,
            out=out or Path("runs") / f"{Path(file).stem}-{name}",
            seeds=numbers,
            preset=chosen,
            constraints=limits,
            data=data,
            input_size=input_size,
            retrain=retrain,
            executor=partial(open_executor, executor, workers=workers, ray_address=ray_address),
            threads=threads or 1,
            progress=progress,
        )
    _print(name, result, as_json)


def _print(name: str, result: StudyResult, as_json: bool) -> None:
    from dataclasses import asdict

    from bpnas.search.studies.proposals.text import summary_lines

    facts, lines = result.facts, summary_lines(result.summary)
    answer = {
        "out": str(result.directory),
        "study": name,
        **facts,
        **asdict(result.summary),
        "trainings": result.trainings,
        "text": lines,
    }
    mock = " (mock: computed, not measured)" if facts["mock"] else ""
    text = [
        f"Device: {facts['device']}, {facts['runtime']}{mock}; networks are predicted by {facts['additivity']!r}",
        *lines,
        f"Files: {result.directory}/study.csv, study.png, summary.json; {result.trainings} trainings",
    ]
    print_result(answer, as_json, "\n".join(text))
