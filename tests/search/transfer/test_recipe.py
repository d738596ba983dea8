"""The paper's recipes, their schedules, and what of them can be changed; see the table in docs/transfer.md."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bpnas.base.errors import UsageError
from bpnas.search.transfer.detection.settings import DetectionSettings
from bpnas.search.transfer.embedding.settings import FACE_PRESETS, REID_PRESETS
from bpnas.search.transfer.paper_figures import PAPER_FIGURES, paper_line
from bpnas.search.transfer.recipe import Course, Recipe, check_share, overridden

PAPER = DetectionSettings.load("paper")
FACE, REID = FACE_PRESETS["paper"], REID_PRESETS["paper"]


def course(recipe: Recipe, steps: int) -> Course:
    return Course(recipe, steps)


def rates(recipe: Recipe, steps: int, *iterations: int) -> list[float]:
    """The rate of each iteration, from 0, where an epoch has so many `steps`."""
    return [course(recipe, steps).rate(*divmod(iteration, steps)) for iteration in iterations]


def test_detection_is_trained_as_in_the_paper() -> None:
    assert (PAPER.batch, PAPER.sync_bn, PAPER.frozen_norms, PAPER.shorter_side) == (8 * 4, True, False, 800)
    assert (PAPER.momentum, PAPER.weight_decay, PAPER.length_text) == (0.9, 1e-4, "90,000 iterations")
    steps = 3665  # of COCO
    assert rates(PAPER, steps, 1000, 59_999, 60_000, 79_999, 80_000, 89_999) == pytest.approx(
        [0.04, 0.04, 0.004, 0.004, 0.0004, 0.0004]
    )
    assert rates(PAPER, steps, 0, 250, 500) == pytest.approx([0.04 / 501, 0.04 * 251 / 501, 0.04])  # [ours]
    course_of = course(PAPER, steps)
    assert course_of.epochs == 25 and sum(map(course_of.steps, range(25))) == 90_000
    assert course_of.steps(24) == 90_000 - 24 * steps


def test_faces_are_trained_as_in_the_paper() -> None:
    train = FACE.train
    assert (FACE.margin, train.optimizer, train.momentum, train.weight_decay) == (0.5, "sgd", 0.9, 5e-4)
    assert train.length_text == "200,000 iterations"
    seen = rates(train, 11_000, 0, 99_999, 100_000, 139_999, 140_000, 159_999, 160_000, 199_999)
    assert seen == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_persons_are_trained_as_in_the_paper() -> None:
    train = REID.train
    assert (REID.loss, train.whole_network, train.neck, train.images_per_identity) == ("identity", True, False, None)
    assert (train.batch, train.optimizer, train.momentum, train.weight_decay) == (32, "sgd", 0.9, 5e-4)
    steps = 404
    seen = rates(train, steps, 0, 45 * steps - 1, 45 * steps, 60 * steps - 1, 60 * steps, 90 * steps - 1)
    assert seen == pytest.approx([3e-4, 3e-4, 3e-5, 3e-5, 3e-6, 3e-6])
    assert course(train, steps).epochs == 90


def test_epochs_may_differ_in_length_and_be_very_many() -> None:
    lengths = [3, 4, 2, 5]
    course_of = Course(Recipe(batch=2, learning_rate=1.0, iterations=8, milestones=(4,)), lengths.__getitem__)
    assert [course_of.ends_before(epoch) for epoch in range(4)] == [False, False, False, True]
    assert [course_of.steps(epoch) for epoch in range(3)] == [3, 4, 1]
    assert [course_of.rate(*place) for place in ((0, 2), (1, 0), (1, 1), (2, 0))] == pytest.approx([1, 1, 0.1, 0.1])
    assert course(Recipe(batch=2, learning_rate=1.0, iterations=10**9), 1).epochs == 10**9


def test_the_paper_s_figures_are_told() -> None:
    assert PAPER_FIGURES["detection"].rows["BPN-A"] == (34.3,)
    assert "MobileNetV2 1.0 64.3 / 42.3; BPN-A 67.2 / 45.4" in paper_line("reid")


def test_another_length_keeps_the_shares_of_milestones_and_warm_up() -> None:
    shorter = PAPER.override({"iterations": 900})
    assert (shorter.milestones, shorter.warmup_iterations) == ((600, 800), 5)
    epochs = PAPER.override({"epochs": 9})
    assert (epochs.iterations, epochs.milestones, epochs.warmup_epochs) == (None, (6, 8), 0.05)
    tiny = FACE_PRESETS["tiny"].override({"iterations": 150}).train
    assert (tiny.epochs, tiny.milestones, tiny.warmup_iterations, tiny.warmup_epochs) == (None, (90, 135), 15, 0)
    assert PAPER.override({"iterations": 100, "milestones": (10,)}).milestones == (10,)
    assert PAPER.override({"iterations": 1}).milestones == ()
    assert PAPER.override({"epochs": 0}).milestones == ()


def test_a_schedule_may_be_another() -> None:
    cosine = PAPER.override({"iterations": 100, "schedule": "cosine", "warmup_iterations": 0})
    assert rates(cosine, 7, 0, 50, 99) == pytest.approx([0.04, 0.02, 0.02 * (1 + math.cos(math.pi * 0.99))])
    constant = REID.override({"schedule": "constant", "warmup_epochs": 2})
    assert rates(constant.train, 10, 0, 9, 19, 899) == pytest.approx([3e-4 / 20, 1.5e-4, 3e-4, 3e-4])
    steps = REID.override({"schedule": "constant"}).override({"milestones": (3,)})
    assert steps.train.schedule == "steps"


def test_milestones_after_the_end_are_told() -> None:
    (note,) = PAPER.override({"iterations": 70_000, "milestones": (60_000, 80_000)}).notes()
    assert note == "the milestone 80,000 is not before the end of 70,000 iterations and has no effect"
    (note,) = REID.override({"epochs": 1, "milestones": (45, 60)}).train.notes()
    assert note.startswith("the milestones 45 and 60 are not before the end of 1 epoch")
    assert PAPER.notes() == () == PAPER.override({"epochs": 0}).notes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 1, "iterations": 1}, "--epochs and --iterations exclude each other"),
        ({"warmup_epochs": 1, "warmup_iterations": 1}, "--warmup-epochs and --warmup-iterations exclude each other"),
        ({"iterations": -1}, "iterations must be from 0"),
        ({"iterations": 10**12}, "iterations must be from 0 to 1,000,000,000"),
        ({"milestones": (5, 5)}, "numbers of iterations above 0 that increase, not 5,5"),
        ({"milestones": (2.5,)}, "whole numbers of iterations"),
        ({"milestones": (0,)}, "above 0"),
        ({"schedule": "cosine", "milestones": (5,)}, "--milestones belongs to --schedule steps"),
        ({"momentum": 1.0}, "momentum must be from 0 to less than 1"),
        ({"weight_decay": -1.0}, "weight decay must be from 0 to 1"),
        ({"warmup_iterations": -1}, "warm-up must be from 0 to 1,000,000,000 iterations"),
        ({"learning_rate": math.inf}, "learning rate"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"batch": 10**30}, "at most 1,000,000,000"),
        ({"warmup_epochs": math.nan}, "warm-up must be from 0 to 1,000,000,000 epochs"),
        ({"momentum": math.nan}, "momentum"),
        ({"weight_decay": math.nan}, "weight decay"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        overridden(PAPER, values)


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    recipe = Recipe(batch=30, learning_rate=0.1, epochs=1)
    check_share(recipe, 3)
    with pytest.raises(UsageError, match=r"30 images cannot be shared evenly by 4 processes: .* multiple of 4"):
        check_share(recipe, 4)
    alone = Recipe(batch=4, learning_rate=0.1, epochs=1, sync_bn=False)
    with pytest.raises(UsageError, match=r"each process normalises its own images, .* only one: choose a larger"):
        check_share(alone, 4)
    check_share(alone, 4, trains_norms=False)


@pytest.mark.parametrize(
    ("preset", "values", "message"),
    [
        (FACE, {"margin": 4.0}, "margin must be from 0 to 3 radians"),
        (FACE, {"scale": 0.0}, "scale must be above 0"),
        (FACE, {"height": 4}, "height must be at least 8"),
        (FACE, {"embedding": 0}, "embedding must be at least 1"),
        (FACE, {"batch": 1}, "batch must be a multiple of 1 and at least 2"),
        (REID, {"label_smoothing": 1.0}, "label smoothing"),
        (REID, {"triplet_margin": -1.0}, "triplet margin"),
        (REID, {"erasing": 2.0}, "erasing"),
        (REID, {"padding": 129}, "padding"),
        (REID, {"images_per_identity": 0}, "images per identity"),
    ],
)
def test_settings_of_embeddings_that_make_no_sense_are_refused(
    preset: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        preset.override(values)
