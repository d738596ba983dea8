"""Options that `run-search` and its studies share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bpnas.base.errors import UsageError
from bpnas.base.plain_numbers import read_number, read_whole_number
from bpnas.base.plain_text import shown
from bpnas.tables.additivity.model_record import MODEL_NAMES
from bpnas.tables.shipped import MOCK_TABLE

if TYPE_CHECKING:
    from bpnas.profiler.block import Block

F = TypeVar("F", bound=Callable[..., Any])

PROPOSAL_OVERRIDES = {
    "population": "proposals.population",
    "sample": "proposals.sample",
    "cycles": "proposals.cycles",
    "strategy": "proposals.strategy",
    "proposal_epochs": "proposals.train.epochs",
    "proposal_images": "proposals.train.train_images",
    "proposal_rate": "proposals.train.learning_rate",
    "proposal_subset": "proposals.subset",
    "coding": "proposals.coding",
    "halving": "proposals.halving",
    "patience": "proposals.patience",
    "precision": "proposals.train.precision",
    "compile": "proposals.train.compile",
}
"""Which value of a preset an option changes."""

CONNECTION_OVERRIDES = {
    "connection_epochs": "connections.train.epochs",
    "connection_images": "connections.train.train_images",
    "connection_batch": "connections.train.batch",
    "connection_rate": "connections.train.learning_rate",
    "lambda_below": "connections.lambda_below",
    "noise_free_latency": "connections.noise_free_latency",
    "k_best": "connections.k_best",
    "sampled_paths": "connections.sampled_paths",
    "checkpoint_activations": "connections.checkpoint_activations",
    "connection_precision": "connections.train.precision",
    "connection_compile": "connections.train.compile",
}
"""The same for the supernet."""

RETRAIN_OVERRIDES = {
    "retrain_epochs": "retraining.epochs",
    "retrain_images": "retraining.train_images",
    "retrain_batch": "retraining.batch",
    "retrain_accumulate": "retraining.accumulate",
    "retrain_rate": "retraining.learning_rate",
    "retrain_warmup_epochs": "retraining.warmup_epochs",
    "retrain_ema": "retraining.ema_decay",
    "retrain_label_smoothing": "retraining.label_smoothing",
    "retrain_norm_decay": "retraining.decay_norms",
    "retrain_precision": "retraining.precision",
    "retrain_compile": "retraining.compile",
}
"""The same for the training of the final network."""

table_option = click.option(
    "--table",
    type=click.Path(dir_okay=False),
    help="Latency table; 'mock:s9' is the computed one that comes with bpnas.  [default: the one in this directory]",
)
additivity_option = click.option(
    "--additivity", type=click.Choice(MODEL_NAMES), help="How the table predicts a network.  [default: the table's own]"
)
preset_option = click.option(
    "--preset",
    default="tiny",
    show_default=True,
    help="'tiny' (minutes on a CPU), 'small' (CIFAR-10, hours on a CPU) or 'paper'.",
)
data_option = click.option(
    "--data",
    default="digits",
    show_default=True,
    help="digits, cifar10:DIR, fashion-mnist:DIR, folder:DIR, imagenet:DIR or imagenet100:DIR.",
)
own_data_option = click.option(
    "--data", help="The images, named as for a search.  [default: those that the network was trained on]"
)
input_size_option = click.option(
    "--input-size", type=click.IntRange(8), help="Image size, which the table must hold.  [default: the images' own]"
)
strategy_option = click.option(
    "--strategy", type=click.Choice(["default", "paper"]), help="default: no repeats; paper: exactly Algorithm 2."
)
stage1_strategy_option = click.option(
    "--strategy",
    type=click.Choice(["default", "paper", "random"]),
    help="default: no repeats; paper: exactly Algorithm 2; random: random blocks.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def proposal_options(command: F) -> F:
    """What overrides the preset's search of proposals, except for the strategy; see `PROPOSAL_OVERRIDES`."""
    return _decorated(
        command,
        click.option("--population", type=int, help="Overrides the preset, as all below: P of LEvoNAS."),
        click.option("--sample", type=int, help="S of LEvoNAS."),
        click.option("--cycles", type=int, help="C of LEvoNAS, trials per limit."),
        click.option("--proposal-epochs", type=int, help="Training of one candidate."),
        click.option("--proposal-images", type=int, help="Training images of stage 1, those held out included."),
        click.option("--proposal-rate", type=float, help="First learning rate of a candidate."),
        click.option(
            "--proposal-subset", type=int, metavar="N", help="Cheaper: train on N of them; those held out stay."
        ),
        click.option(
            "--patience", type=int, metavar="N", help="Cheaper: end a training that was no better for N epochs."
        ),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bfloat16"]),
            help="Precision of a candidate's training; bfloat16 is faster on GPUs.",
        ),
        click.option(
            "--compile", is_flag=True, default=None, help="Compile candidates (torch.compile): for long trainings."
        ),
    )


def connection_options(command: F) -> F:
    """What overrides the preset's search of connections; see `CONNECTION_OVERRIDES`."""
    return _decorated(
        command,
        click.option("--connection-epochs", type=int, help="Epochs of the supernet."),
        click.option("--connection-images", type=int, help="Training images of stage 2."),
        click.option("--connection-batch", type=int, help="Its batch, over all processes of torchrun."),
        click.option("--connection-rate", type=float, help="First learning rate of its weights."),
        click.option("--lambda-below", type=float, help="Lambda of the latency loss below the target."),
        click.option(
            "--noise-free-latency",
            is_flag=True,
            default=None,
            help="Expect the latency over softmax(alpha), without Gumbel noise: nearer to the target.",
        ),
        click.option(
            "--k-best",
            type=int,
            metavar="K",
            help="Have the supernet evaluate the K most probable networks.  [default: 1]",
        ),
        click.option(
            "--sampled-paths",
            type=click.IntRange(1, 2),
            help="Compute 1 or 2 candidates of a site in a step, for memory.  [default: all]",
        ),
        click.option(
            "--checkpoint-activations",
            is_flag=True,
            default=None,
            help="Compute what is inside of sites twice, for memory.",
        ),
        click.option("--connection-precision", type=click.Choice(["float32", "bfloat16"]), help="As --precision."),
        click.option("--connection-compile", is_flag=True, default=None, help="As --compile."),
    )


def retrain_options(command: F) -> F:
    """What overrides the preset's training of the final network; see `RETRAIN_OVERRIDES`."""
    return _decorated(
        command,
        click.option("--retrain-epochs", type=int, help="Epochs of the final network."),
        click.option("--retrain-images", type=int, help="Training images of the final network."),
        click.option("--retrain-batch", type=int, help="Its batch, over all processes of torchrun."),
        click.option("--retrain-accumulate", type=int, metavar="N", help="Take a batch in N parts, for less memory."),
        click.option("--retrain-rate", type=float, help="Its first learning rate."),
        click.option("--retrain-warmup-epochs", type=int, metavar="N", help="Let the rate rise for N epochs first."),
        click.option("--retrain-ema", type=float, metavar="DECAY", help="Keep a moving average of its weights."),
        click.option("--retrain-label-smoothing", type=float, metavar="SHARE", help="Smooth its labels."),
        click.option(
            "--retrain-norm-decay/--no-retrain-norm-decay",
            default=None,
            help="Weight decay on batch normalisation and biases, too, or not.",
        ),
        click.option("--retrain-precision", type=click.Choice(["float32", "bfloat16"]), help="As --precision."),
        click.option("--retrain-compile", is_flag=True, default=None, help="As --compile."),
    )


def executor_options(command: F) -> F:
    """Where candidates are trained."""
    return _decorated(
        command,
        click.option(
            "--executor",
            type=click.Choice(["local", "processes", "ray"]),
            default="local",
            show_default=True,
            help="Train candidates here, on processes (one GPU each) or on a Ray cluster.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1),
            help="How many at a time.  [default: one per GPU, else per two cores]",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1),
            help="CPU threads of one training.  [default: cores / workers; 1 on Ray and in a study]",
        ),
        click.option("--ray-address", metavar="ADDRESS", help="A running cluster.  [default: one on this machine]"),
    )


def typed(context: click.Context, *, without: Sequence[str] = (), only: Sequence[str] | None = None) -> list[str]:
    """The options of a command as they were given, as words, apart from some or only some of them."""
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if not given or name in without or (only is not None and name not in only):
            continue
        value = context.params[name]
        if isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            words += [parameter.opts[0], str(value)]
    return words


def together(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several options as one, in this order."""
    return lambda command: _decorated(command, *options)


def _decorated(command: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def table_here() -> str:
    """The only table in the current directory.

    Raises:
        UsageError: there is none, or several.
    """
    from bpnas.tables.schema import is_table_file

    files = sorted(str(path) for path in Path().glob("*.parquet") if is_table_file(path))
    if len(files) != 1:
        found = f"{len(files)} tables in this directory ({', '.join(files)})" if files else "no table in this directory"
        remedy = f"name one with --table, or make one with build-table; --table {MOCK_TABLE} is the computed one"
        raise UsageError(f"{found}; {remedy} that comes with bpnas")
    return files[0]


def milliseconds(text: str | None, option: str = "--constraints") -> tuple[float, ...]:
    """Limits as the user wrote them behind `option`.

    Raises:
        UsageError: they are no positive numbers.
    """
    if text is None:
        return ()
    try:
        limits_ms = tuple(read_number(part) for part in text.split(","))
    except ValueError:
        limits_ms = ()
    if not limits_ms or min(limits_ms) <= 0:
        raise UsageError(f"{option} {shown(text)}: write milliseconds with commas between, as in 2.5,4,6")
    return limits_ms


def seed_numbers(text: str) -> tuple[int, ...]:
    """The seeds of a study: "3" for the first three, "0,1,7" for these.

    Raises:
        UsageError: they are no numbers, or none.
    """
    try:
        numbers = tuple(read_whole_number(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--seeds {text!r}: write how many, as in 5, or which with commas, as in 0,1,7") from None
    if "," in text:
        return numbers
    if numbers[0] < 1:
        raise UsageError(f"--seeds {text}: a study needs at least one seed")
    return tuple(range(numbers[0]))


def given_proposals(text: str | None) -> tuple[Block, ...]:
    """Blocks as the user gave them: a run directory, a proposals.json or texts with commas between; none for None.

    Raises:
        BlockError: a text is no block.
        UsageError, RunError: the file cannot be read, or holds no proposals.
    """
    if text is None:
        return ()
    from bpnas.profiler.block import Block

    file = Path(text) / "proposals.json" if Path(text).is_dir() else Path(text)
    if file.suffix != ".json":
        return tuple(Block.parse(part) for part in text.split(","))
    from bpnas.search.proposals.run import parse_proposals
    from bpnas.search.sealed import read_sealed

    if not file.is_file():
        raise UsageError(f"--proposals {text}: cannot be read (there is no such file)")
    values = read_sealed(
        file, "restore a copy, or give blocks of your own as texts, as in --proposals 'K3E6G1,K1G1+K5E3G2'"
    )
    return tuple(proposal.block for proposal in parse_proposals(values, str(file)))


def wait_passively() -> None:
    """Let threads that wait for each other sleep; to be called before torch loads.

    By spinning they make a training many times slower as soon as anything else runs on the machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
