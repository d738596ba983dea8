"""The commands `run-search transfer face` and `run-search transfer reid`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from bpnas.base.command import Command, print_result
from bpnas.search.commands.display import display
from bpnas.search.commands.options import wait_passively
from bpnas.search.commands.transfer_options import backbone_options, network_line, preset_option, run_options, run_path
from bpnas.search.transfer.backbones import BackboneChoice
from bpnas.search.transfer.embedding.face import FaceTask
from bpnas.search.transfer.embedding.reid import ReidTask
from bpnas.search.transfer.embedding.run import EmbeddingTask, run_embedding


def _command(
    task: type[EmbeddingTask], scores: Callable[[Mapping[str, Any]], list[str]], short_help: str, text: str
) -> click.Command:
    @click.command(task.name, cls=Command, short_help=short_help, help=text)
    @click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        required=True,
        help="Folder of the images, laid out as above.",
    )
    @backbone_options
    @preset_option()
    @click.option("--epochs", type=int, help="Overrides the preset, as all below; 0 evaluates an untrained network.")
    @click.option("--batch", type=int, help="Images a step.")
    @click.option("--learning-rate", type=float, help="The highest one.")
    @run_options("TASK")
    def command(
        data: Path,
        backbone: BackboneChoice,
        preset: str,
        out: Path | None,
        seed: int,
        as_json: bool,
        **overrides: Any,
    ) -> None:
        wait_passively()
        settings = task.presets[preset].override(overrides)
        folder = run_path(out, task.name, backbone, seed)
        with display(backbone.mock) as progress:
            result = run_embedding(task.find(data, settings), backbone, out=folder, seed=seed, progress=progress)
        images, epochs = result["training"], result["settings"]["train"]["epochs"]
        lines = [
            network_line(result),
            f"Trained on {images['images']} images of {images['identities']} identities, {epochs} epochs",
            *scores(result),
            *[f"Evaluated on {result['judged_on']}"] * ("judged_on" in result),
            f"Files: {folder}/result.json, embedder.safetensors",
        ]
        print_result(result, as_json, "\n".join(lines))

    return command


def _rank_1(result: Mapping[str, Any]) -> list[str]:
    return [f"Rank 1 among {row['distractors']} distractors: {row['rate'] * 100:.2f}%" for row in result["rank_1"]]


def _ranks(result: Mapping[str, Any]) -> list[str]:
    ranks = ", ".join(f"Rank-{rank} {result[f'rank_{rank}'] * 100:.2f}%" for rank in (1, 5, 10))
    return [f"{ranks}, mAP {result['mean_average_precision'] * 100:.2f}% ({result['queries']} queries)"]


face = _command(
    FaceTask,
    _rank_1,
    "Face identification: ArcFace, rank 1 among distractors.",
    """Train embeddings of faces by ArcFace, and identify faces among distractors.

    The folder holds train/IDENTITY/*, probes/IDENTITY/* and distractors/*, faces aligned and cut out. Called again with
    the same options, it resumes where it was stopped.
    """,
)
reid = _command(
    ReidTask,
    _ranks,
    "Person re-identification: Rank-1 and mAP.",
    """Train embeddings of persons by triplets and cross-entropy, and find persons in other cameras' images.

    The folder has Market-1501's layout: bounding_box_train, query and bounding_box_test with files such as
    0002_c1s1_000451_03.jpg. Called again with the same options, it resumes where it was stopped.
    """,
)
