"""The command `run-search transfer detection`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bpnas.base.command import Command, print_result
from bpnas.search.commands.display import display
from bpnas.search.commands.options import wait_passively
from bpnas.search.commands.transfer_options import backbone_options, network_line, preset_option, run_options, run_path
from bpnas.search.transfer.backbones import BackboneChoice


@click.command(cls=Command, short_help="Faster R-CNN with a feature pyramid, on COCO.")
@click.option("--data", metavar="DIR", help="Images and annotations in the layout of COCO 2017.")
@click.option("--train-images", metavar="DIR", help="In place of --data, with the next three.")
@click.option("--train-annotations", metavar="FILE", help="As COCO's instances_train2017.json.")
@click.option("--val-images", metavar="DIR", help="To evaluate the detector on.")
@click.option("--val-annotations", metavar="FILE", help="Annotations of those images.")
@backbone_options
@preset_option("'paper' (COCO on a GPU)")
@click.option(
    "--epochs", type=int, help="Overrides the preset, as the next three; 0 evaluates a detector as it is drawn."
)
@click.option("--batch", type=int, help="Images a step; change the rate in proportion.")
@click.option("--learning-rate", type=float, help="After the warm-up.")
@click.option(
    "--norms",
    type=click.Choice(["frozen", "trained"]),
    help="Batch normalisation of the network.  [default: frozen in 'paper']",
)
@run_options("detection")
def detection(
    data: str | None,
    train_images: str | None,
    train_annotations: str | None,
    val_images: str | None,
    val_annotations: str | None,
    backbone: BackboneChoice,
    preset: str,
    norms: str | None,
    out: Path | None,
    seed: int,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Train a detector on images with boxes, and give its average precision as COCO counts it.

    Called again with the same options, it resumes where it was stopped.
    """
    wait_passively()
    from bpnas.search.transfer.detection.coco import coco_files
    from bpnas.search.transfer.detection.run import check_libraries, run_detection
    from bpnas.search.transfer.detection.settings import DetectionSettings

    values = {name: value for name, value in overrides.items() if value is not None}
    if norms is not None:
        values["frozen_norms"] = norms == "frozen"
    settings = DetectionSettings.load(preset).override(values)
    train = coco_files(data, train_images, train_annotations, "train")
    val = coco_files(data, val_images, val_annotations, "val")
    check_libraries()
    folder = run_path(out, "detection", backbone, seed)
    with display(backbone.mock) as progress:
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
            f"Files: {folder}/result.json, detections.json, detector.safetensors",
        ]
    )
