"""Generated images of identities for the transfer tasks, and a small network for them.

An identity is the hue of its stripes above and that of those below. Background, brightness and place of the stripes
differ from image to image: a network that was not trained sees the background first.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from bpnas.profiler import Backbone, Block, build_module
from bpnas.profiler.backbone import Stage
from bpnas.search.networks.network_file import block_texts, save_weights

HUES = 10


def identities(count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """So many different identities, each two hues."""
    everyone = list(itertools.product(range(HUES), repeat=2))
    return [everyone[place] for place in rng.permutation(len(everyone))[:count]]


def draw(identity: tuple[int, int], height: int, width: int, rng: np.random.Generator) -> Image.Image:
    """One image of `identity`: its upper half striped across, the lower one along."""
    image = Image.new("RGB", (width, height), tuple(rng.integers(0, 256, 3)))
    pen = ImageDraw.Draw(image)
    upper, lower = (ImageColor.getrgb(f"hsv({hue * 360 // HUES}, 100%, {rng.integers(60, 101)}%)") for hue in identity)
    start, half, margin = int(rng.integers(4)), height // 2, width // 8
    for y in range(start, half - 1, 4):
        pen.rectangle((margin, y, width - margin, y + 1), fill=upper)
    for x in range(margin + start, width - margin, 4):
        pen.rectangle((x, half, x + 1, height), fill=lower)
    return image


def faces(root: Path, train: int = 24, each: int = 10, probes: int = 12, distractors: int = 60) -> Path:
    """A folder as `run-search transfer face` wants it; nobody is in two of its parts."""
    rng = np.random.default_rng(0)
    everyone = identities(train + probes + distractors, rng)
    folders = {"train": (everyone[:train], each), "probes": (everyone[train : train + probes], 4)}
    for part, (people, images) in folders.items():
        for number, person in enumerate(people):
            folder = root / part / f"person{number:03d}"
            folder.mkdir(parents=True)
            for image in range(images):
                draw(person, 32, 32, rng).save(folder / f"{image}.png")
    (root / "distractors").mkdir()
    for number, person in enumerate(everyone[train + probes :]):
        draw(person, 32, 32, rng).save(root / "distractors" / f"{number}.png")
    return root


def market(root: Path, train: int = 24, each: int = 10, test: int = 16) -> Path:
    """A folder as `run-search transfer reid` wants it: three cameras, with junk and distractors in the gallery."""
    rng = np.random.default_rng(1)
    people = identities(train + test + 8, rng)

    def save(part: str, identity: int, camera: int, person: tuple[int, int]) -> None:
        folder = root / part
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{identity if identity < 0 else f'{identity:04d}'}_c{camera}s1_{len(list(folder.iterdir())):06d}_00.png"
        draw(person, 48, 24, rng).save(folder / name)

    for number, person in enumerate(people[:train], start=1):
        for image in range(each):
            save("bounding_box_train", number, image % 3 + 1, person)
    for number, person in enumerate(people[train : train + test], start=train + 1):
        for camera in (1, 2, 3):
            save("query", number, camera, person)
            save("bounding_box_test", number, camera, person)
    for person in people[train + test :]:
        save("bounding_box_test", 0, 1, person)
        save("bounding_box_test", -1, 2, person)
    return root


def small_network(folder: Path) -> Path:
    """network.json of a network that trains in seconds, with random weights beside it."""
    import torch

    backbone = Backbone("small", 32, 16, 2, (Stage(16, 2, 1), Stage(32, 2, 2)), 16, 10)
    blocks = [Block.parse("K3E2G1")] * len(backbone.sites)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "network.json"
    values = {
        "mock": True,
        "predicted_latency_ms": 1.5,
        "backbone": backbone.to_dict(),
        "blocks": block_texts(blocks),
        "classes": [str(number) for number in range(backbone.classes)],
        "input": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    path.write_text(json.dumps(values))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_weights(path.with_suffix(".safetensors"), build_module(blocks, backbone))
    return path
