"""The command `run-search transfer face`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bpnas.base.command import Command, print_result
from bpnas.search.commands.display import display
from bpnas.search.commands.options import wait_passively
from bpnas.search.commands.transfer_embedding import backbone_choice, embedding_options, summary, where
from bpnas.search.transfer.embedding.settings import FACE_PRESETS


@click.command(cls=Command, short_help="Face identification: ArcFace, rank 1 among distractors.")
@embedding_options
def face(
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
    """Train embeddings of faces by ArcFace, and identify faces among distractors.

    The folder holds train/IDENTITY/*, probes/IDENTITY/* and distractors/*, faces aligned and cut out. Called again with
    the same options, it goes on where it was stopped.
    """
    wait_passively()
    from bpnas.search.transfer.embedding.face import run_face

    settings = FACE_PRESETS[preset].override(overrides)
    backbone, mock = backbone_choice(model, network, weights, from_scratch)
    place = where(out, "face", model, seed)
    with display(mock) as progress:
        result = run_face(data, backbone, settings, out=place, seed=seed, progress=progress)
    lines = [f"Rank 1 among {row['distractors']} distractors: {row['rate'] * 100:.2f}%" for row in result["rank_1"]]
    lines += [f"Judged on {result['judged_on']}"] * ("judged_on" in result)
    print_result(result, as_json, summary(result, place, lines))
