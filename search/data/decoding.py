"""One picture from its file to a square of pixels: for an evaluation as it is, for a training cut at random."""

from __future__ import annotations

import io
import math
import random

import numpy as np
import numpy.typing as npt
from PIL import Image

from bpnas.base.randomness import below

Pixels = npt.NDArray[np.uint8]

_AREA = (0.08, 1.0)
_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
_TRIES = 10
_WHITE_OF_16_BITS = 2**16 - 1


def decoded(content: bytes) -> Image.Image:
    """The picture in a file's content, in colours of 8 bits; grey of 16 bits is scaled, so that its range is kept.

    Raises:
        ValueError: its pixels are numbers of which nobody knows what is white.
        OSError: and almost anything else of Pillow's decoders: it is damaged.
    """
    with Image.open(io.BytesIO(content)) as opened:
        if opened.mode.partition(";")[0] in ("I", "F"):
            return _from_wide_grey(opened)
        return opened.convert("RGB")


def _from_wide_grey(opened: Image.Image) -> Image.Image:
    """Pillow's own conversion makes white of all that is above 255."""
    values = np.asarray(opened)
    if values.dtype.kind == "f" or (values.size and not 0 <= values.min() <= values.max() <= _WHITE_OF_16_BITS):
        raise ValueError("its pixels are no whole numbers from 0 to 65535; save it with 8 or 16 bits a channel")
    scaled = (values.astype(np.uint32) * 255 + _WHITE_OF_16_BITS // 2) // _WHITE_OF_16_BITS
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def centre_crop(picture: Image.Image, size: int, resize: int | None = None) -> Pixels:
    """The middle: the shorter side scaled to `resize` pixels (default `size`), then `size` x `size` cut out.

    To the pixel as torchvision's `Resize` and `CenterCrop` do.

    Returns:
        (size, size, 3).
    """
    if picture.size != (size, size) or resize not in (None, size):
        shorter, wanted = min(picture.size), resize or size
        width, height = (wanted * side // shorter for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - size) / 2), round((height - size) / 2)
        picture = picture.crop((left, top, left + size, top + size))
    return np.array(picture)


def random_crop(picture: Image.Image, size: int, rng: random.Random, mirror: bool) -> Pixels:
    """A random part of the picture, scaled to `size` x `size`, and mirrored half the time if `mirror`.

    As Inception was trained: the part has 8% to 100% of the area, and sides in a ratio of 3:4 to 4:3. Where ten draws
    do not fit into the picture, it is the middle, as large as such a ratio lets it be.

    Returns:
        (size, size, 3).
    """
    part = picture.crop(random_box(*picture.size, rng)).resize((size, size), Image.Resampling.BILINEAR)
    if mirror and rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(part)


def random_box(width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the part that `random_crop` takes."""
    for _ in range(_TRIES):
        area = width * height * (_AREA[0] + (_AREA[1] - _AREA[0]) * rng.random())
        ratio = math.exp(_LOG_RATIO[0] + (_LOG_RATIO[1] - _LOG_RATIO[0]) * rng.random())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = below(rng, width - w + 1), below(rng, height - h + 1)
            return left, top, left + w, top + h
    w = min(width, round(height * math.exp(_LOG_RATIO[1])))
    h = min(height, round(width / math.exp(_LOG_RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
