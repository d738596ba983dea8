"""The command `run-search transfer detection`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bpnas.base.command import Command, print_result
from bpnas.search.commands.display import display
from bpnas.search.commands.options import json_option, wait_passively
from bpnas.search.commands.transfer_options import backbone_options
from bpnas.search.networks.network_file import NetworkFile


@click.command(cls=Command, short_help="Faster R-CNN with a feature pyramid, on COCO.")
@click.option("--data", metavar="DIR", help="Images and annotations in the layout of COCO 2017.")
@click.option("--train-images", metavar="DIR", help="In place of --data, with the next three.")
@click.option("--train-annotations", metavar="FILE", help="As COCO's instances_train2017.json.")
@click.option("--val-images", metavar="DIR", help="To judge the detector on.")
@click.option("--val-annotations", metavar="FILE", help="Of those images.")
@backbone_options
@click.option(
    "--preset",
    type=click.Choice(["tiny", "paper"]),
    default="tiny",
    show_default=True,
    help="'tiny' (a CPU, small images) or 'paper' (COCO on a GPU).",
)
@click.option("--epochs", type=int, help="Overrides the preset, as the next three; 0 judges a detector as it is drawn.")
@click.option("--batch", type=int, help="Images a step; change the rate in proportion.")
@click.option("--learning-rate", type=float, help="After the warm-up.")
@click.option(
    "--norms",
    type=click.Choice(["frozen", "trained"]),
    help="Batch normalisation of the network.  [default: frozen in 'paper']",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the run.  [default: runs/detection-MODEL-seedN]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn.")
@json_option
def detection(
    data: str | None,
    train_images: str | None,
    train_annotations: str | None,
    val_images: str | None,
    val_annotations: str | None,
    model: str,
    network: Path | None,
    weights: Path | None,
    from_scratch: bool,
    preset: str,
    norms: str | None,
    out: Path | None,
    seed: int,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Train a detector on images with boxes, and give its average precision as COCO counts it.

    Called again with the same options, it goes on where it was stopped.
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
    mock = network is not None and NetworkFile.load(network).mock
    directory = out or Path("runs") / f"detection-{model}-seed{seed}"
    with display(mock) as progress:
        result = run_detection(
            train,
            val,
            settings,
            out=directory,
            model=model,
            network=network,
            weights=weights,
            from_scratch=from_scratch,
            seed=seed,
            progress=progress,
        )
    print_result(result, as_json, _summary(result, directory))


def _summary(result: dict[str, Any], out: Path) -> str:
    mark = " (mock: computed, not measured)" if result["mock"] else ""
    latency = result["predicted_latency_ms"]
    predicted = "" if latency is None else f", {latency:.4g} ms by table at {result['input_size']} pixels{mark}"
    scores = ", ".join(
        f"{name} {'none of that size' if value is None else format(value, '.3f')}"
        for name, value in result["metrics"].items()
    )
    return "\n".join(
        [
            f"Network: {result['network'] or result['model']}{predicted}",
            f"On {result.get('judged_on') or str(result['images']['val']) + ' images'}: {scores}",
            f"Files: {out}/result.json, detections.json, detector.safetensors",
        ]
    )
