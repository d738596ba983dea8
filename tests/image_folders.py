"""Folders of images, as people have them and as ImageNet comes."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def write_folder(root, classes=("cat", "dog"), size=(40, 30)):
    for part, count in (("train", 6), ("val", 3)):
        for label, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", size, (40 + 100 * label, number, 0)).save(folder / f"{number}.png")
    return root


def picture(number, size=(40, 30)):
    """A smooth one of which every crop is different, and whose brightness says what it is."""
    across, down = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    pixels = np.stack([across * 100 + number, down * 100 + 50, np.full(across.shape, 2.0 * number)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(number, form="PNG"):
    """A file's content; its form is not told by its name."""
    buffer = io.BytesIO()
    picture(number).save(buffer, form)
    return buffer.getvalue()


def write_imagenet(root, classes=110, train=2, val=1, form="PNG"):
    for part, count in (("train", train), ("val", val)):
        for label in range(classes):
            folder = root / part / f"n{label:03d}"
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.JPEG").write_bytes(encoded(label, form))
    return root
