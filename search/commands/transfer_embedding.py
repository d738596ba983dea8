"""The commands `run-search transfer face` and `run-search transfer reid`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bpnas.base.command import Command, print_result
from bpnas.base.plurals import counted
from bpnas.search.commands.display import display
from bpnas.search.commands.options import together, wait_passively
from bpnas.search.commands.transfer_options import (
    backbone_options,
    closing_lines,
    network_line,
    preset_option,
    recipe_options,
    run_options,
    run_path,
    settings_values,
)
from bpnas.search.transfer.backbones import BackboneChoice
from bpnas.search.transfer.embedding.face import FaceTask
from bpnas.search.transfer.embedding.reid import ReidTask
from bpnas.search.transfer.embedding.run import EmbeddingTask, run_embedding

_EMBEDDING_OPTIONS = together(
    click.option("--height", type=int, metavar="PIXELS", help="Height to which images are resized."),
    click.option("--width", type=int, metavar="PIXELS", help="Width to which images are resized."),
    click.option("--embedding", type=int, metavar="N", help="Numbers of an embedding."),
    click.option("--optimizer", type=click.Choice(["sgd", "adam"]), help="SGD or Adam."),
    click.option("--padding", type=int, metavar="PIXELS", help="Shift images at random by up to this."),
    click.option("--erasing", type=float, metavar="SHARE", help="Erase a rectangle in this share of the images."),
    click.option("--whole-network/--last-map", default=None, help="Embed behind the network's head, or before it."),
    click.option("--neck/--no-neck", default=None, help="Normalise embeddings over the batch, or not."),
)
_FACE_OPTIONS = together(
    click.option("--margin", type=float, help="m of ArcFace, in radians."),
    click.option("--scale", type=float, help="s of ArcFace."),
)
_REID_OPTIONS = together(
    click.option("--loss", type=click.Choice(["identity", "triplet"]), help="Cross-entropy alone, or with triplets."),
    click.option("--images-per-identity", type=int, metavar="N", help="In a batch; triplets want some."),
    click.option("--label-smoothing", type=float, metavar="SHARE", help="Smooth the identities' labels."),
    click.option("--triplet-margin", type=float, help="Between the distances of triplets."),
)


@dataclass(frozen=True, slots=True)
class _Texts:
    """What a command says: `help` is its text, `scores` the lines of a result."""

    scores: Callable[[Mapping[str, Any]], list[str]]
    short_help: str
    help: str
    presets: str = ""


def _command(
    task: type[EmbeddingTask], texts: _Texts, options: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> click.Command:
    @click.command(task.name, cls=Command, short_help=texts.short_help, help=texts.help)
    @click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        required=True,
        help="Folder of the images, in the layout described above.",
    )
    @backbone_options
    @preset_option(task.presets, texts.presets)
    @recipe_options
    @_EMBEDDING_OPTIONS
    @options
    @run_options(task.name)
    def command(
        data: Path,
        backbone: BackboneChoice,
        preset: str,
        recipe: dict[str, Any],
        out: Path | None,
        seed: int,
        as_json: bool,
        **own: Any,
    ) -> None:
        wait_passively()
        settings = task.presets[preset].override(settings_values(recipe, own))
        folder = run_path(out, task.name, backbone, seed)
        found = task.find(data, settings)
        from bpnas.search.training.distributed import is_main, process_group

        with process_group(), display(backbone.mock) as progress:
            speaks = is_main()
            result = run_embedding(found, backbone, out=folder, seed=seed, progress=progress)
        images = result["training"]
        identities = counted(images["identities"], "identity", "identities")
        trained_on = f"{counted(images['images'], 'image')} of {identities}"
        lines = [
            network_line(result),
            f"Trained on {trained_on}, {settings.train.length_text}",
            *texts.scores(result),
            *[f"Evaluated on {result['judged_on']}"] * ("judged_on" in result),
            *closing_lines(result),
            f"Files: {folder}/result.json, embedder.safetensors",
        ]
        if speaks:
            print_result(result, as_json, "\n".join(lines))

    return command


def _rank_1(result: Mapping[str, Any]) -> list[str]:
    return [
        f"Rank 1 among {counted(row['distractors'], 'distractor')}: {row['rate'] * 100:.2f}%"
        for row in result["rank_1"]
    ]


def _ranks(result: Mapping[str, Any]) -> list[str]:
    ranks = ", ".join(f"Rank-{rank} {result[f'rank_{rank}'] * 100:.2f}%" for rank in (1, 5, 10))
    return [
        f"{ranks}, mAP {result['mean_average_precision'] * 100:.2f}% ({counted(result['queries'], 'query', 'queries')})"
    ]


face = _command(
    FaceTask,
    _Texts(
        _rank_1,
        "Face identification: ArcFace, rank 1 among distractors.",
        """Train embeddings of faces by ArcFace, and identify faces among distractors.

    The folder holds train/IDENTITY/*, probes/IDENTITY/* and distractors/*, faces aligned and cut out. Called again with
    the same options, it resumes where it was stopped. On several GPUs:
    torchrun --nproc-per-node 8 -m bpnas.search.cli transfer face ...
    """,
    ),
    _FACE_OPTIONS,
)
reid = _command(
    ReidTask,
    _Texts(
        _ranks,
        "Person re-identification: Rank-1 and mAP.",
        """Train embeddings of persons by their identities, and find persons in other cameras' images.

    The folder has Market-1501's layout: bounding_box_train, query and bounding_box_test with files such as
    0002_c1s1_000451_03.jpg. Called again with the same options, it resumes where it was stopped. On several GPUs:
    torchrun --nproc-per-node 8 -m bpnas.search.cli transfer reid ...
    """,
        ", 'bag-of-tricks' (triplets, a stronger recipe)",
    ),
    _REID_OPTIONS,
)
