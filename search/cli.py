"""The command `run-search`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpnas.android_bench.command import Command, print_result
from bpnas.android_bench.errors import UsageError
from bpnas.tables.model_record import MODEL_NAMES

if TYPE_CHECKING:
    from bpnas.search.cost import CostEstimate
    from bpnas.search.progress import Progress
    from bpnas.search.run import SearchResult

_OVERRIDES = {
    "population": "proposals.population",
    "sample": "proposals.sample",
    "cycles": "proposals.cycles",
    "strategy": "proposals.strategy",
    "proposal_epochs": "proposals.train.epochs",
    "proposal_images": "proposals.train.train_images",
    "connection_epochs": "connections.train.epochs",
    "connection_images": "connections.train.train_images",
    "lambda_below": "connections.lambda_below",
    "retrain_epochs": "retraining.epochs",
    "retrain_images": "retraining.train_images",
}


@click.command(cls=Command)
@click.option("--table", type=click.Path(dir_okay=False), help="Latency table.  [default: the one in this directory]")
@click.option(
    "--additivity", type=click.Choice(MODEL_NAMES), help="How the table predicts a network.  [default: the table's own]"
)
@click.option(
    "--stage",
    type=click.Choice(["proposals", "connections", "all"]),
    default="all",
    show_default=True,
    help="Search blocks, connect them (and retrain), or both.",
)
@click.option("--preset", default="tiny", show_default=True, help="'tiny' (minutes on a CPU) or 'paper'.")
@click.option("--constraints", metavar="MS,MS,...", help="Latency limits of stage 1.  [default: five from the table]")
@click.option(
    "--bands", is_flag=True, help="Search each limit above the one before it: proposals spread over the budget."
)
@click.option("--target", "target_ms", type=float, metavar="MS", help="Limit of the network.  [default: middle one]")
@click.option(
    "--data", default="digits", show_default=True, help="digits, cifar10:DIR, fashion-mnist:DIR or folder:DIR."
)
@click.option("--connections-data", help="Images of stage 2 and retraining.  [default: as --data]")
@click.option(
    "--input-size", type=click.IntRange(8), help="Image size, which the table must hold.  [default: the images' own]"
)
@click.option("--connections-input-size", type=click.IntRange(8), help="The same for stage 2.")
@click.option("--proposals", help="Blocks in place of stage 1: a proposals.json, or texts as 'K3E6G1,K1G1+K5E3G2'.")
@click.option("--out", type=click.Path(file_okay=False), help="Run directory.  [default: runs/TABLE-seedN]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn.")
@click.option(
    "--executor",
    type=click.Choice(["local", "processes", "ray"]),
    default="local",
    show_default=True,
    help="Train candidates here, on processes (one GPU each) or on a Ray cluster.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="How many at a time.  [default: one per GPU, else per two cores]"
)
@click.option(
    "--window",
    type=click.IntRange(1),
    help="Candidates under way. It decides the trials, the workers do not; twice the workers keeps them busier.  "
    "[default: --workers]",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of one training.  [default: cores / workers]")
@click.option(
    "--asynchronous", is_flag=True, help="Use results as they come: no worker waits, but trials depend on timing."
)
@click.option("--ray-address", metavar="ADDRESS", help="Of a running cluster.  [default: one on this machine]")
@click.option("--population", type=int, help="Overrides the preset, as all below: P of LEvoNAS.")
@click.option("--sample", type=int, help="S of LEvoNAS.")
@click.option("--cycles", type=int, help="C of LEvoNAS, trials per limit.")
@click.option("--strategy", type=click.Choice(["default", "paper"]), help="Mutation: bounded walk, or Algorithm 2.")
@click.option("--proposal-epochs", type=int, help="Training of one candidate.")
@click.option("--proposal-images", type=int, help="Training images of stage 1.")
@click.option("--connection-epochs", type=int, help="Epochs of the supernet.")
@click.option("--connection-images", type=int, help="Training images of stage 2.")
@click.option("--lambda-below", type=float, help="Lambda of the latency loss below the target.")
@click.option("--retrain-epochs", type=int, help="Epochs of the final network.")
@click.option("--retrain-images", type=int, help="Training images of the final network.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    table: str | None,
    additivity: str | None,
    stage: Any,
    preset: str,
    constraints: str | None,
    bands: bool,
    target_ms: float | None,
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
    as_json: bool,
    **overrides: Any,
) -> None:
    """Search a network for the device that a latency table describes.

    Called again with the same options, it goes on where it was stopped.
    """
    # Threads that wait for each other by spinning make a training many times slower as soon as anything else runs on
    # the machine. Must be set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from bpnas.search.presets import Preset
    from bpnas.search.run import run_search
    from bpnas.tables import LatencyTable

    values = {_OVERRIDES[name]: value for name, value in overrides.items() if value is not None}
    chosen = Preset.load(preset).override(values)
    limits = _milliseconds(constraints)
    blocks = _blocks(proposals)
    table = table or _table_here()
    loaded = LatencyTable.load(table, additivity)
    with _display(loaded.meta.mock) as progress:
        result = run_search(
            loaded,
            out=out or Path("runs") / f"{Path(table).stem}-seed{seed}",
            stage=stage,
            preset=chosen,
            constraints=limits,
            bands=bands,
            target_ms=target_ms,
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
    cost = None if preset == "paper" or blocks else _cost(loaded, result)
    print_result(_as_dict(result, cost), as_json, _summary(table, result, cost, loaded.meta.imported is not None))


def _table_here() -> str:
    from bpnas.tables.schema import is_table_file

    files = sorted(str(path) for path in Path().glob("*.parquet") if is_table_file(path))
    if len(files) != 1:
        found = f"{len(files)} tables in this directory ({', '.join(files)})" if files else "no table in this directory"
        raise UsageError(f"{found}; name one with --table, or make one with build-table")
    return files[0]


def _milliseconds(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--constraints {text!r}: write milliseconds with commas between, as in 2.5,4,6") from None


def _blocks(text: str | None) -> tuple[Any, ...]:
    if text is None:
        return ()
    from bpnas.profiler.block import Block

    if not text.endswith(".json"):
        return tuple(Block.parse(part) for part in text.split(","))
    import json

    from bpnas.search.run_proposals import parse_proposals

    try:
        values = json.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--proposals {text}: cannot be read ({error})") from error
    return tuple(proposal.block for proposal in parse_proposals(values, text))


def _cost(table: Any, result: SearchResult) -> CostEstimate | None:
    from bpnas.search.cost import estimate_paper_cost
    from bpnas.search.run_directory import RunDirectory
    from bpnas.search.space import BlockSpace

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
            {"block": str(p.block), "limit_ms": p.limit_ms, "latency_ms": p.latency_ms, "score": p.score}
            for p in result.proposals
        ],
        "network": None
        if network is None
        else {
            "blocks": ["skip" if block is None else str(block) for block in network.blocks],
            "predicted_latency_ms": network.predicted_latency_ms,
            "target_ms": network.target_ms,
            "accuracy": network.accuracy,
            "argmax_latency_ms": network.argmax_latency_ms,
        },
        "paper_recipe_estimate": None
        if cost is None
        else {"seconds": cost.seconds, "measured_images_per_second": cost.images_per_second},
    }


def _summary(table: str, result: SearchResult, cost: CostEstimate | None, imported: bool) -> str:
    mock = " (mock: computed, not measured)" if result.mock else " (imported, not measured here)" if imported else ""
    lines = [
        f"Device: {result.device}, {result.runtime}{mock}; networks are predicted by {result.additivity!r}",
        "Block proposals:",
    ]
    for p in result.proposals:
        found = f"limit {p.limit_ms:g} ms, {p.latency_ms:.4g} ms, accuracy {p.score:.3f}" if p.limit_ms else "given"
        lines.append(f"  {p.block}  {found}")
    network = result.network
    if network is None:
        lines.append(f"Files: {result.directory}/proposals.json; next: the same command with --stage connections")
    else:
        lines.append(
            f"Network: {network.predicted_latency_ms:.4g} ms by table{mock}, target {network.target_ms:g} ms, "
            f"accuracy {network.accuracy * 100:.1f}% on test images"
        )
        lines += [f"  site {n:2d}  {'skip' if block is None else block}" for n, block in enumerate(network.blocks)]
        lines.append(f"Files: {result.directory}/network.json, network.onnx, network.tflite")
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


@contextmanager
def _display(mock: bool) -> Iterator[Progress]:
    """A progress bar on a terminal, a line per step elsewhere; both on standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    mark = " [mock]" if mock else ""
    if not console.is_terminal:
        yield _Lines(mark)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        yield _Bars(bar, mark)


class _Lines:
    """One line per step, for logs."""

    def __init__(self, mark: str) -> None:
        self._mark, self._title, self._steps, self._done = mark, "", 0, 0

    def stage(self, title: str, steps: int, done: int = 0) -> None:
        self._title, self._steps, self._done = title, steps, done

    def step(self, text: str) -> None:
        self._done += 1
        click.echo(f"{self._title}{self._mark} {self._done}/{self._steps}: {text}", err=True)

    def note(self, text: str) -> None:
        click.echo(f"{text}{self._mark}", err=True)


class _Bars:
    """One bar per stage, with the last step's outcome above it."""

    def __init__(self, bar: Any, mark: str) -> None:
        self._bar, self._mark, self._task = bar, mark, None

    def stage(self, title: str, steps: int, done: int = 0) -> None:
        self._task = self._bar.add_task(f"{title}{self._mark}", total=steps, completed=done)

    def step(self, text: str) -> None:
        self._bar.advance(self._task)
        self._bar.console.print(text, markup=False, highlight=False)

    def note(self, text: str) -> None:
        self._bar.console.print(f"{text}{self._mark}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
