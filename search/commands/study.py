"""The command group `run-search study`, and what its commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpnas.base.command import Group, print_result
from bpnas.search.commands.display import display
from bpnas.search.commands.options import seed_numbers, table_here
from bpnas.tables.shipped import beside_table

if TYPE_CHECKING:
    from bpnas.search.presets import Preset
    from bpnas.search.studies.study import StudyRequest, StudyResult

seeds_option = click.option("--seeds", default="5", show_default=True, help="How many, or which: 0,1,7.")
study_out_option = click.option(
    "--out", type=click.Path(file_okay=False), help="Directory.  [default: runs/TABLE-STUDY]"
)


@click.group(cls=Group, short_help="Compare ways to search, with several seeds.")
def study() -> None:
    """Compare ways to search block proposals or to connect them, under equal terms and with several seeds.

    Each writes one table, study.csv, and one plot, study.png, and states what its seeds can tell. Called again with the
    same options, it resumes where it was stopped.
    """


def retrain_option(text: str) -> Callable[[Any], Any]:
    """How often what a search ends with is trained again."""
    return click.option("--retrain", type=click.IntRange(0), default=1, show_default=True, help=text)


def overridden(options: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """The values of a preset that options change."""
    return {place: options[name] for name, place in places.items() if options.get(name) is not None}


def run_and_print(
    name: str,
    preset: Preset,
    run: Callable[[StudyRequest], StudyResult[Any]],
    options: Mapping[str, Any],
    following: Callable[[StudyResult[Any], str], Sequence[str]] = lambda result, table: (),
) -> None:
    """Run a study with the options that all of them have, and print what came out.

    Args:
        following: of the result and the table's file, the lines on what comes next.
    """
    from bpnas.search.studies.report import as_json, report_lines
    from bpnas.search.studies.study import StudyRequest
    from bpnas.tables import LatencyTable

    seeds = seed_numbers(options["seeds"])
    file = options["table"] or table_here()
    table = LatencyTable.load(file, options["additivity"])
    out = options["out"] or Path("runs") / f"{beside_table(file).name}-{name}"
    with display(table.meta.mock) as progress:
        same = {option: options[option] for option in ("data", "input_size", "retrain")}
        threads = options["threads"] or 1
        result = run(StudyRequest(table, out, preset, seeds, threads=threads, progress=progress, **same))
    print_result(as_json(result), options["as_json"], "\n".join([*report_lines(result), *following(result, file)]))
