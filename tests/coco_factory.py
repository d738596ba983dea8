"""Images of coloured shapes on noise, with annotations as COCO has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

# Category ids with gaps, as COCO's own.
SHAPES = {3: ("disc", (220, 40, 40)), 7: ("square", (40, 200, 40)), 12: ("triangle", (50, 60, 230))}


def coco_data(folder: Path, train: int = 40, val: int = 16, seed: int = 0, size: int | None = None) -> Path:
    """`folder` in the layout of COCO 2017; every image shows one to three shapes, which may hide each other.

    Args:
        size: of all images, which else have 96 to 128 pixels a side.
    """
    rng = np.random.default_rng(seed)
    for part, count in (("train2017", train), ("val2017", val)):
        (folder / part).mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, count + 1):
            width, height = (size or int(side) for side in rng.integers(96, 129, size=2))
            picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            for _ in range(rng.integers(1, 4)):
                category, box = int(rng.choice(list(SHAPES))), _draw(picture, rng)
                _paint(picture, category, box)
                annotations.append(annotation(len(annotations) + 1, number, category, box))
            name = f"{number:012d}.png"
            picture.save(folder / part / name)
            images.append({"id": number, "file_name": name, "width": width, "height": height})
        write_annotations(folder, part, images, annotations)
    return folder


def annotation(number: int, image: int, category: int, box: list[float]) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
    }


def write_annotations(folder: Path, part: str, images: list[Any], annotations: list[Any]) -> Path:
    path = folder / "annotations" / f"instances_{part}.json"
    path.parent.mkdir(exist_ok=True)
    categories = [{"id": number, "name": name} for number, (name, _) in SHAPES.items()]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def _draw(picture: Image.Image, rng: np.random.Generator) -> list[float]:
    side = int(rng.integers(24, 56))
    left, top = (int(rng.integers(0, length - side)) for length in picture.size)
    return [float(left), float(top), float(side), float(side)]


def _paint(picture: Image.Image, category: int, box: list[float]) -> None:
    left, top, right, bottom = box[0], box[1], box[0] + box[2] - 1, box[1] + box[3] - 1
    shape, colour = SHAPES[category]
    pen = ImageDraw.Draw(picture)
    if shape == "disc":
        pen.ellipse((left, top, right, bottom), fill=colour)
    elif shape == "square":
        pen.rectangle((left, top, right, bottom), fill=colour)
    else:
        pen.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=colour)
