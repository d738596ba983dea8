"""Pictures are cut as torchvision cuts them. Runs where torchvision does (tox environment `vision`)."""

import random

import numpy as np
import pytest

transforms = pytest.importorskip("torchvision.transforms", exc_type=Exception)

from PIL import Image

from bpnas.search.data.decoding import centre_crop, random_box


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (224, 224), (640, 225), (97, 1011)])
def test_the_middle_is_torchvisions(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    whole = Image.fromarray(pixels)
    for edge, crop in ((256, 224), (224, 224), (37, 32)):
        expected = transforms.Compose([transforms.Resize(edge), transforms.CenterCrop(crop)])(whole)
        assert np.array_equal(centre_crop(whole, crop, edge), np.array(expected))


@pytest.mark.parametrize("size", [(500, 375), (60, 400)])
def test_random_parts_are_spread_as_torchvisions_are(size):
    """Areas, ratios and places agree in their means, within five standard errors of the difference."""
    width, height = size
    whole, rng, ours, theirs = Image.new("L", size), random.Random(0), [], []
    for _ in range(4000):
        left, top, right, bottom = random_box(width, height, rng)
        ours.append(features(left, top, right - left, bottom - top))
        top, left, h, w = transforms.RandomResizedCrop.get_params(whole, [0.08, 1.0], [3 / 4, 4 / 3])
        theirs.append(features(left, top, w, h))
    one, other = np.array(ours), np.array(theirs)
    error = np.sqrt((one.var(axis=0) + other.var(axis=0)) / len(one))
    assert (np.abs(one.mean(axis=0) - other.mean(axis=0)) < 5 * error).all()


def features(left, top, width, height):
    area, ratio = width * height, np.log(width / height)
    return [left, top, width, height, area, area**2, ratio, ratio**2]
