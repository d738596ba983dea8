"""Options that `run-search` and its studies share."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bpnas.android_bench.errors import UsageError
from bpnas.tables.model_record import MODEL_NAMES

PROPOSAL_OVERRIDES = {
    "population": "proposals.population",
    "sample": "proposals.sample",
    "cycles": "proposals.cycles",
    "strategy": "proposals.strategy",
    "proposal_epochs": "proposals.train.epochs",
    "proposal_images": "proposals.train.train_images",
}
"""Which value of a preset an option changes."""

table_option = click.option(
    "--table", type=click.Path(dir_okay=False), help="Latency table.  [default: the one in this directory]"
)
additivity_option = click.option(
    "--additivity", type=click.Choice(MODEL_NAMES), help="How the table predicts a network.  [default: the table's own]"
)
preset_option = click.option(
    "--preset", default="tiny", show_default=True, help="'tiny' (minutes on a CPU) or 'paper'."
)
data_option = click.option(
    "--data", default="digits", show_default=True, help="digits, cifar10:DIR, fashion-mnist:DIR or folder:DIR."
)
input_size_option = click.option(
    "--input-size", type=click.IntRange(8), help="Image size, which the table must hold.  [default: the images' own]"
)
population_option = click.option("--population", type=int, help="Overrides the preset, as all below: P of LEvoNAS.")
sample_option = click.option("--sample", type=int, help="S of LEvoNAS.")
cycles_option = click.option("--cycles", type=int, help="C of LEvoNAS, trials per limit.")
strategy_option = click.option(
    "--strategy", type=click.Choice(["default", "paper"]), help="Mutation: bounded walk, or Algorithm 2."
)
proposal_epochs_option = click.option("--proposal-epochs", type=int, help="Training of one candidate.")
proposal_images_option = click.option("--proposal-images", type=int, help="Training images of stage 1.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def table_here() -> str:
    """The only table in the current directory.

    Raises:
        UsageError: there is none, or several.
    """
    from bpnas.tables.schema import is_table_file

    files = sorted(str(path) for path in Path().glob("*.parquet") if is_table_file(path))
    if len(files) != 1:
        found = f"{len(files)} tables in this directory ({', '.join(files)})" if files else "no table in this directory"
        raise UsageError(f"{found}; name one with --table, or make one with build-table")
    return files[0]


def milliseconds(text: str | None) -> tuple[float, ...]:
    """Limits as the user wrote them.

    Raises:
        UsageError: they are no numbers.
    """
    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--constraints {text!r}: write milliseconds with commas between, as in 2.5,4,6") from None


def wait_passively() -> None:
    """Let threads that wait for each other sleep; to be called before torch loads.

    By spinning they make a training many times slower as soon as anything else runs on the machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
