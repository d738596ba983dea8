from dataclasses import replace

import pytest

pytest.importorskip("torch")

from bpnas.search.paper_cost import candidate_images, estimate_from_candidates, stage_images
from bpnas.search.presets import Preset

PAPER = Preset.load("paper")


def test_images_of_the_paper_recipe():
    assert candidate_images(PAPER) == 30 * 45_000
    assert stage_images(PAPER, 5) == {
        "proposals": 5 * 300 * 30 * 45_000,
        "connections": 120 * 50_000,
        "retraining": 240 * 50_000,
    }


def test_fewer_images_cost_less():
    fewer = PAPER.override({"proposals.train.train_images": 10_000})
    assert candidate_images(fewer) == 30 * 9_000


def test_the_whole_search_from_one_candidate_per_limit():
    cost = estimate_from_candidates(PAPER, [200.0, 100.0, 50.0])
    assert cost.seconds == pytest.approx(
        {
            "proposals": 300 * 30 * 45_000 * (1 / 200 + 1 / 100 + 1 / 50),
            "connections": 120 * 50_000 * (1 / 200 + 1 / 100 + 1 / 50),
            "retraining": 240 * 50_000 / 100,
        }
    )
    assert cost.total_seconds == pytest.approx(sum(cost.seconds.values()))
    twice = estimate_from_candidates(replace(PAPER), [400.0, 200.0, 100.0])
    assert twice.total_seconds == pytest.approx(cost.total_seconds / 2)
