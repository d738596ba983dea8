"""The commands `run-search study strategies`, `random-stage1` and `gray-code`."""

from __future__ import annotations

import shlex
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from bpnas.base.command import Command
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
    table_option,
    together,
    typed,
    wait_passively,
)
from bpnas.search.commands.study import overridden, retrain_option, run_and_print, seeds_option, study_out_option

if TYPE_CHECKING:
    from bpnas.search.studies.study import StudyResult


_terms = together(
    table_option,
    additivity_option,
    seeds_option,
    click.option("--constraints", metavar="MS,MS,...", help="Latency limits.  [default: three of the preset's]"),
    click.option("--arms", metavar="ARM,ARM,...", help="Only these.  [default: all]"),
    retrain_option("Trainings of every winner with fresh seeds, evaluated on test images."),
    data_option,
    input_size_option,
    study_out_option,
    executor_options,
    preset_option,
    proposal_options,
    json_option,
)


@click.command(cls=Command, short_help="The default strategy, the paper's, and random blocks.")
@_terms
def strategies(**options: Any) -> None:
    """Compare the default strategy of LEvoNAS, the paper's (Algorithm 2) and random feasible blocks."""
    _run("strategies", **options)


@click.command("random-stage1", cls=Command, short_help="LEvoNAS and the best of random blocks.")
@_terms
@strategy_option
def random_stage1(**options: Any) -> None:
    """Compare LEvoNAS with the best of as many random feasible blocks, the paper's ablation of stage 1.

    A search has 100 trials, as there, or as many as the preset has if that is more.
    """
    from bpnas.search.presets import RANDOM_BLOCKS

    _run("random-stage1", least_cycles=RANDOM_BLOCKS, **options)


@click.command("gray-code", cls=Command, short_help="Gray and binary code, under both strategies.")
@_terms
def gray_code(**options: Any) -> None:
    """Compare the Gray code of blocks with the binary one, under the default strategy and under the paper's."""
    _run("gray-code", **options)


def _run(name: str, *, least_cycles: int = 0, **options: Any) -> None:
    wait_passively()
    from bpnas.search.execution.executor import check_executor, open_executor
    from bpnas.search.presets import Preset
    from bpnas.search.studies.proposals.arms import load_study
    from bpnas.search.studies.proposals.study import handed_on, run_proposals_study

    values, preset = overridden(options, PROPOSAL_OVERRIDES), Preset.load(options["preset"])
    values.setdefault("proposals.strategy", "default")
    values.setdefault("proposals.cycles", max(least_cycles, preset.proposals.cycles))
    preset = preset.override(values)
    compared, arms, kind = load_study(name), options["arms"], options["executor"]
    if arms is not None:
        compared = compared.only(tuple(arm.strip() for arm in arms.split(",")))
    workers = {"workers": options["workers"], "ray_address": options["ray_address"]}
    check_executor(kind, **workers)
    limits = milliseconds(options["constraints"])
    executor = partial(open_executor, kind, **workers)
    run = partial(run_proposals_study, compared, constraints=limits, executor=executor)
    context = click.get_current_context()

    def following(result: StudyResult[Any], table: str) -> list[str]:
        seed = seed_numbers(options["seeds"])[0]
        lines = [f"Each arm's winners are in {result.directory}/proposals. Next, connect them and train the network:"]
        for arm in compared.arms:
            words = ["--table", table, "--stage", "connections", *typed(context, only=("data", "input_size"))]
            given = ["--proposals", str(result.directory / handed_on(arm.name, seed))]
            out = ["--out", f"{result.directory}-{arm.name}-seed{seed}"]
            lines.append(f"  {shlex.join(['run-search', *words, *given, *out])}")
        return lines

    run_and_print(name, preset, run, options, following)


PROPOSAL_STUDIES = (strategies, random_stage1, gray_code)
