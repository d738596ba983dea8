"""The commands `run-search study strategies`, `random-stage1` and `gray-code`."""

from __future__ import annotations

from functools import partial
from typing import Any

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
    strategy_option,
    table_option,
    together,
    wait_passively,
)
from bpnas.search.commands.study import overridden, retrain_option, run_and_print, seeds_option, study_out_option

_RANDOM_TRIALS = 100
"""BP-NAS, ablation of the block proposal search: the best of 100 random blocks."""


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
    _run("random-stage1", least_cycles=_RANDOM_TRIALS, **options)


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
    from bpnas.search.studies.proposals.study import run_proposals_study

    values, preset = overridden(options, PROPOSAL_OVERRIDES), Preset.load(options["preset"])
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
    run_and_print(name, preset, run, options)


PROPOSAL_STUDIES = (strategies, random_stage1, gray_code)
