"""The command `run-search transfer reid`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bpnas.base.command import Command, print_result
from bpnas.search.commands.display import display
from bpnas.search.commands.options import wait_passively
from bpnas.search.commands.transfer_embedding import backbone_choice, embedding_options, summary, where
from bpnas.search.transfer.embedding.settings import REID_PRESETS


@click.command(cls=Command, short_help="Person re-identification: Rank-1 and mAP.")
@embedding_options
def reid(
    data: Path,
    model: str,
    network: Path | None,
    weights: Path | None,
    from_scratch: bool,
    preset: str,
    out: Path | None,
    seed: int,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Train embeddings of persons by triplets and cross-entropy, and find persons in other cameras' images.

    The folder has Market-1501's layout: bounding_box_train, query and bounding_box_test with files such as
    0002_c1s1_000451_03.jpg. Called again with the same options, it goes on where it was stopped.
    """
    wait_passively()
    from bpnas.search.transfer.embedding.reid import run_reid

    settings = REID_PRESETS[preset].override(overrides)
    backbone, mock = backbone_choice(model, network, weights, from_scratch)
    place = where(out, "reid", model, seed)
    with display(mock) as progress:
        result = run_reid(data, backbone, settings, out=place, seed=seed, progress=progress)
    ranks = ", ".join(f"Rank-{rank} {result[f'rank_{rank}'] * 100:.2f}%" for rank in (1, 5, 10))
    lines = [f"{ranks}, mAP {result['mean_average_precision'] * 100:.2f}% ({result['queries']} queries)"]
    lines += [f"Judged on {result['judged_on']}"] * ("judged_on" in result)
    print_result(result, as_json, summary(result, place, lines))
