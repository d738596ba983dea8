"""The command `run-search transfer compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bpnas.base.command import Command, print_result
from bpnas.base.plurals import counted
from bpnas.search.commands.options import json_option


@click.command(cls=Command, short_help="Finished runs side by side, next to the paper's figures.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@json_option
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """Set finished runs of one task side by side: networks, seeds, figures, hours, and what the paper reports.

    RUN is the directory of a run. All must be of one recipe on the same data.
    """
    from bpnas.search.transfer.compare import compared

    result = compared(runs)
    print_result(result, as_json, "\n".join(_lines(result)))


def _lines(result: dict[str, Any]) -> list[str]:
    lines = []
    for row in result["networks"]:
        latency = row["predicted_latency_ms"]
        mock = " (mock: computed, not measured)" if row["mock"] else ""
        about = "" if latency is None else f", {latency:.4g} ms by table{mock}"
        seeds = counted(len(row["seeds"]), "seed")
        lines.append(f"{row['network']}{about}, {seeds}")
        lines += [f"  {name + ':':18} {_percent(figure)}" for name, figure in row["figures"].items()]
        if row["hours"] is not None:
            gpus = f", {row['gpu_hours']:.3g} GPU hours" if row["gpu_hours"] else ""
            lines.append(f"  {'cost:':18} {row['hours']:.3g} hours{gpus}")
    paper = result["paper"]
    lines.append(f"The paper, on {paper['data']}, with the paper's data and trained weights")
    for name, figures in paper["rows"].items():
        values = zip(paper["metrics"], figures, strict=True)
        lines.append(f"  {name + ':':18} {', '.join(f'{metric} {value:g}%' for metric, value in values)}")
    return lines


def _percent(figure: dict[str, float | None]) -> str:
    mean, std = figure["mean"], figure["std"]
    if mean is None:
        return "unknown"
    return f"{mean * 100:.1f}%" + ("" if std is None else f" +- {std * 100:.1f} (standard deviation of the seeds)")
