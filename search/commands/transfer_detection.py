"""The command `run-search transfer detection`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bpnas.base.command import Command, print_result
from bpnas.search.commands.display import display
from bpnas.search.commands.options import wait_passively
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


@click.command(cls=Command, short_help="Faster R-CNN with a feature pyramid, on COCO.")
@click.option("--data", metavar="DIR", help="Images and annotations in the layout of COCO 2017.")
@click.option("--train-images", metavar="DIR", help="In place of --data, with the next three.")
@click.option("--train-annotations", metavar="FILE", help="As COCO's instances_train2017.json.")
@click.option("--val-images", metavar="DIR", help="To evaluate the detector on.")
@click.option("--val-annotations", metavar="FILE", help="Annotations of those images.")
@backbone_options
@preset_option(["tiny", "paper"])
@recipe_options
@click.option(
    "--norms", type=click.Choice(["frozen", "trained"]), help="Batch normalisation of the network.  [default: trained]"
)
@click.option("--shorter-side", type=int, metavar="PIXELS", help="To which images are scaled.")
@click.option("--longer-side", type=int, metavar="PIXELS", help="Which it may not pass.")
@click.option("--anchor-scale", type=float, help="Side of anchors, in pixels of their map.")
@click.option("--pyramid-channels", type=int, help="Width of the feature pyramid.")
@click.option("--head-width", type=int, help="Width of the layers that classify a proposal.")
@click.option("--rpn-samples", type=int, help="Anchors of an image that losses are taken on.")
@click.option("--box-samples", type=int, help="Proposals of an image that losses are taken on.")
@click.option("--proposals", type=int, help="Proposals of an image in training; half as many in evaluation.")
@run_options("detection")
def detection(
    data: str | None,
    train_images: str | None,
    train_annotations: str | None,
    val_images: str | None,
    val_annotations: str | None,
    backbone: BackboneChoice,
    preset: str,
    recipe: dict[str, Any],
    norms: str | None,
    out: Path | None,
    seed: int,
    as_json: bool,
    **own: Any,
) -> None:
    """Train a detector on images with boxes, and give its average precision as COCO counts it.

    Called again with the same options, it resumes where it was stopped. On several GPUs:
    torchrun --nproc-per-node 8 -m bpnas.search.cli transfer detection ...
    """
    wait_passively()
    from bpnas.search.transfer.detection.coco import coco_files
    from bpnas.search.transfer.detection.run import check_libraries, run_detection
    from bpnas.search.transfer.detection.settings import DetectionSettings

    values = settings_values(recipe, own)
    if norms is not None:
        values["frozen_norms"] = norms == "frozen"
    settings = DetectionSettings.load(preset).override(values)
    train = coco_files(data, train_images, train_annotations, "train")
    val = coco_files(data, val_images, val_annotations, "val")
    check_libraries()
    folder = run_path(out, "detection", backbone, seed)
    from bpnas.search.training.distributed import is_main, process_group

    with process_group(), display(backbone.mock) as progress:
        speaks = is_main()
        result = run_detection(
            train,
            val,
            settings,
            out=folder,
            model=backbone.model,
            network=backbone.network,
            weights=backbone.weights,
            from_scratch=not backbone.pretrained,
            seed=seed,
            progress=progress,
        )
    if speaks:
        print_result(result, as_json, _summary(result, folder))


def _summary(result: dict[str, Any], folder: Path) -> str:
    scores = ", ".join(
        f"{name} {'none of that size' if value is None else format(value, '.3f')}"
        for name, value in result["metrics"].items()
    )
    return "\n".join(
        [
            network_line(result),
            f"On {result.get('judged_on') or str(result['images']['val']) + ' images'}: {scores}",
            *closing_lines(result),
            f"Files: {folder}/result.json, detections.json, detector.safetensors",
        ]
    )
