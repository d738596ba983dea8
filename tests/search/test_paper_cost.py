import pytest

pytest.importorskip("torch")

from bpnas.search.paper_cost import stage_images
from bpnas.search.presets import Preset

PAPER = Preset.load("paper")


def test_images_of_the_paper_recipe():
    assert stage_images(PAPER, 5) == {
        "proposals": 5 * 300 * 30 * 45_000,
        "connections": 120 * 50_000,
        "retraining": 240 * 50_000,
    }


def test_fewer_images_cost_less():
    fewer = PAPER.override({"proposals.train.train_images": 10_000})
    assert stage_images(fewer, 5)["proposals"] == 5 * 300 * 30 * 9_000
