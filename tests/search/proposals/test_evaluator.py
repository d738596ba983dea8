from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from bpnas.base.errors import UsageError
from bpnas.profiler import Block
from bpnas.search import CandidateEvaluator, load_data
from bpnas.search.presets import PRESETS, Preset, TrainSettings
from bpnas.search.training import resumable
from tests.search_helpers import tiny_backbone
from tests.training_helpers import killed_until_done

BLOCK = Block.parse("K3G1")
SETTINGS = replace(
    Preset.load("tiny").proposals,
    validation_share=0.5,
    train=TrainSettings(epochs=4, batch=16, learning_rate=0.05, train_images=120),
)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", train_images=400)


def evaluator(digits, **changes):
    return CandidateEvaluator(tiny_backbone(), digits, replace(SETTINGS, **changes), seed=7)


@pytest.fixture(scope="module")
def whole(digits):
    return evaluator(digits, halving=2)(BLOCK)


def test_the_proxies_are_off():
    for preset in PRESETS.values():
        proposals = preset.override({}).proposals  # which checks all values
        assert proposals.subset is proposals.halving is proposals.patience is None
        assert proposals.train.precision == "float32" and not proposals.train.compile


def test_measuring_on_the_way_changes_no_score(digits, whole):
    plain = evaluator(digits)(BLOCK)
    assert plain.score == whole.score and plain.rungs == ()
    assert [epochs for epochs, _ in whole.rungs] == [1, 2]
    assert (plain.epochs, plain.images) == (whole.epochs, whole.images) == (4, 4 * 60)


def test_the_score_does_not_depend_on_what_was_evaluated_before(digits, whole):
    evaluate = evaluator(digits)
    evaluate(Block.parse("K1G1"))
    assert evaluate(BLOCK).score == whole.score


def test_a_candidate_below_the_threshold_ends_at_its_rung(digits, whole):
    first = whole.rungs[0][1]
    evaluate = evaluator(digits)
    stopped = evaluate(BLOCK, ((1, first + 0.001),))
    assert (stopped.score, stopped.epochs, stopped.images, stopped.rungs) == (first, 1, 60, ((1, first),))
    passed = evaluate(BLOCK, ((1, first), (3, 0.0)))
    assert (passed.score, passed.epochs) == (whole.score, 4)
    assert [epochs for epochs, _ in passed.rungs] == [1, 3]


def test_patience_ends_what_does_not_improve(digits):
    still = replace(SETTINGS.train, learning_rate=1e-12, epochs=9)
    evaluated = evaluator(digits, patience=2, train=still)(BLOCK)
    assert evaluated.epochs < 9 and evaluated.rungs == ()


def test_a_subset_is_judged_on_the_same_images(digits):
    whole, part = evaluator(digits), evaluator(digits, subset=20)
    assert torch.equal(whole._validation.images, part._validation.images)
    assert part(BLOCK).images == 4 * 20


@pytest.mark.parametrize("seed", range(3))
def test_a_candidate_killed_at_any_moment_gets_the_same_score(seed, digits, whole, tmp_path, monkeypatch):
    file = tmp_path / "candidate.pt"
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)
    evaluated, kills = killed_until_done(
        lambda: evaluator(digits, halving=2)(BLOCK, checkpoint=file), seed, 5, monkeypatch, KeyboardInterrupt
    )
    assert kills >= 2 and not file.exists()
    assert (evaluated.score, evaluated.rungs, evaluated.epochs) == (whole.score, whole.rungs, whole.epochs)


def test_one_interrupted_after_its_last_step_needs_no_other(digits, whole, tmp_path, monkeypatch):
    original, file = resumable.save_checkpoint, tmp_path / "candidate.pt"
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)

    def save(path, state):
        original(path, state)
        if state["epoch"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(resumable, "save_checkpoint", save)
    with pytest.raises(KeyboardInterrupt):
        evaluator(digits)(BLOCK, checkpoint=file)
    evaluated = evaluator(digits)(BLOCK, checkpoint=file)
    assert (evaluated.score, evaluated.epochs) == (whole.score, 4)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("proposals.halving", 1, "halving must be at least 2"),
        ("proposals.patience", 0, "patience must be at least 1"),
        ("proposals.subset", 1, "subset must be at least 2"),
        ("proposals.train.precision", "float16", "precision of proposals must be one of float32, bfloat16"),
    ],
)
def test_settings_out_of_range(setting, value, message):
    with pytest.raises(UsageError, match=message):
        Preset.load("tiny").override({setting: value})
