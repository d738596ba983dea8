from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from bpnas.base.cores import usable_cores
from bpnas.base.errors import UsageError
from bpnas.search import DataError, load_data
from bpnas.search.data.batches import augmented, batches, on_device
from bpnas.search.data.dataset import Split
from bpnas.search.errors import RunError
from bpnas.search.presets import Preset, TrainSettings
from bpnas.search.training.threads import set_threads, threads_kept
from bpnas.search.training.train import accuracy, learning_rate, make_sgd, train
from tests.programs import run
from tests.root import FIND_TESTS
from tests.training_helpers import SETTINGS, KilledError, flat_model, killed_until_done, model, small, trained, weights

CPU = torch.device("cpu")
EVERYTHING = replace(SETTINGS, warmup_epochs=1, label_smoothing=0.1, ema_decay=0.9, decay_norms=False, accumulate=2)


def numbered(count, size=16):
    """Images whose pixels are all different, so that a crop can be told from where it was cut."""
    return (torch.arange(size * size).view(1, 1, size, size).expand(count, 3, -1, -1) + 0).to(torch.uint8)


def test_a_crop_is_what_padding_cutting_and_mirroring_one_image_gives():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 16, 16), generator=generator, dtype=torch.uint8)
    shifts = torch.randint(0, 5, (2, 40), generator=generator)
    mirrored = torch.arange(40) % 2 == 0
    for given in (images, images.to(memory_format=torch.channels_last)):
        result = augmented(given, shifts, mirrored)
        assert result.is_contiguous(memory_format=torch.channels_last) and result.dtype == torch.uint8
        for number in range(40):
            row, column = shifts[:, number].tolist()
            expected = torch.zeros(3, 20, 20, dtype=torch.uint8)
            expected[:, 2:18, 2:18] = images[number]
            expected = expected[:, row : row + 16, column : column + 16]
            assert torch.equal(result[number], expected.flip(2) if mirrored[number] else expected)


def test_images_too_small_to_be_padded_stay():
    images = torch.randint(0, 256, (3, 3, 4, 4), dtype=torch.uint8)
    result = augmented(images, torch.zeros(2, 3, dtype=torch.int64), torch.tensor([False, True, False]))
    assert torch.equal(result[0], images[0]) and torch.equal(result[1], images[1].flip(2))


def test_an_epoch_is_drawn_by_its_generator_alone():
    dataset = small()

    def epoch(seed, first=0):
        return list(batches(dataset, dataset.train, 16, torch.Generator().manual_seed(seed), CPU, first))

    one, two, other = epoch(1), epoch(1), epoch(2)
    assert [len(labels) for _, labels in one] == [16, 16, 16, 16, 6]
    assert all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(one, two, strict=True))
    assert not torch.equal(one[0][0], other[0][0])
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(one[3:], epoch(1, first=3), strict=True))
    assert sorted(torch.cat([labels for _, labels in one]).tolist()) == sorted(dataset.train.labels.tolist())


def test_all_shifts_occur_and_only_what_may_be_mirrored_is():
    images = (numbered(400), torch.zeros(400, dtype=torch.int64))
    for flip, steps in ((True, {1.0, -1.0}), (False, {1.0})):
        dataset = replace(small(), train=Split(*images), mean=(0.0,) * 3, std=(1 / 255,) * 3, flip=flip)
        batch, _ = next(batches(dataset, dataset.train, 400, torch.Generator().manual_seed(0), CPU))
        assert set((batch[:, 0, 8, 8] - batch[:, 0, 8, 7]).round().tolist()) == steps
    corners = {float(value) for value in batch[:, 0, 8, 8].round()}
    assert corners == {136.0 + 16 * dy + dx for dy in range(-2, 3) for dx in range(-2, 3)}


def test_normalisation():
    dataset = small()
    for images in (dataset.train.images, on_device(dataset.train, CPU).images):
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (dataset.mean, dataset.std))
        normal = dataset.normalized(images)
        assert normal.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(normal, (images.float() / 255 - mean) / std, rtol=1e-5, atol=1e-5)


@threads_kept()
def test_training_learns_and_its_seed_decides():
    set_threads(1)  # how much it learns in so few steps depends on the order of sums
    digits = load_data("digits", train_images=300)
    modules, losses = [], []
    for seed in (0, 0, 1):
        module = model()
        settings = replace(SETTINGS, epochs=8, learning_rate=0.1)
        train(module, digits, digits.train, settings, seed=seed, on_epoch=lambda r: losses.append(r.loss))
        modules.append(module)
    assert torch.equal(weights(modules[0]), weights(modules[1]))
    assert not torch.equal(weights(modules[0]), weights(modules[2]))
    assert losses[7] < losses[0] - 0.2
    assert accuracy(modules[0], digits, digits.test) > 0.2


def test_another_process_with_as_many_threads_trains_the_same(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(f"""{FIND_TESTS}
import torch
torch.set_num_threads(int(sys.argv[1]))
from tests.training_helpers import trained
torch.save(trained(), sys.argv[2])
""")
    file, threads = tmp_path / "weights.pt", usable_cores()
    run(program, threads, file)
    with threads_kept():
        set_threads(threads)
        assert torch.equal(torch.load(file, weights_only=True), trained())


@pytest.mark.parametrize(("seed", "settings"), [(0, SETTINGS), (1, SETTINGS), (2, EVERYTHING), (3, EVERYTHING)])
def test_a_training_killed_at_any_step_ends_as_an_undisturbed_one(seed, settings, tmp_path, monkeypatch):
    file = tmp_path / "training.pt"

    def run():
        return trained(settings, checkpoint=file, checkpoint_seconds=0)

    result, kills = killed_until_done(run, seed, 4, monkeypatch)
    assert kills >= 2 and torch.equal(result, trained(settings))


def test_the_report_of_an_epoch_survives_an_interruption(tmp_path, monkeypatch):
    from bpnas.search.training import resumable

    whole, parts, file = [], [], tmp_path / "training.pt"
    trained(on_epoch=whole.append)
    original = resumable.save_checkpoint

    def save(path, state):
        original(path, state)
        if state["step"] == 2 and state["epoch"] == 0:
            raise KilledError

    monkeypatch.setattr(resumable, "save_checkpoint", save)
    with pytest.raises(KilledError):
        trained(checkpoint=file, checkpoint_seconds=0, on_epoch=parts.append)
    trained(checkpoint=file, on_epoch=parts.append)
    assert [(r.epoch, r.loss) for r in parts] == [(r.epoch, r.loss) for r in whole]
    assert [r.images for r in parts] == [70, 70 - 32]


def test_an_epoch_tells_how_it_goes(monkeypatch):
    from bpnas.search.training import resumable

    told, reports = [], []
    monkeypatch.setattr(resumable, "PROGRESS_SECONDS", 1000)
    trained(on_step=lambda *so_far: told.append(so_far))
    assert not told
    monkeypatch.setattr(resumable, "PROGRESS_SECONDS", 0)
    trained(on_step=lambda *so_far: told.append(so_far), on_epoch=reports.append)
    assert [share for share, _ in told] == pytest.approx([n * 16 / 70 for n in (1, 2, 3, 4)] * 2)
    assert told[3][1].startswith("64 of 70 images, loss 2.")
    assert float(told[3][1].split()[-1]) == pytest.approx(reports[0].loss, abs=0.2)


def test_nothing_is_written_before_its_time(tmp_path):
    trained(checkpoint=tmp_path / "training.pt", checkpoint_seconds=1000)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_training_is_not_gone_on_from(tmp_path):
    file = tmp_path / "training.pt"
    trained(replace(SETTINGS, epochs=1, learning_rate=0.01), checkpoint=file, checkpoint_seconds=0)
    assert file.exists()
    assert torch.equal(trained(checkpoint=file), trained())


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "training.pt").write_bytes(b"PK")
    with pytest.raises(RunError, match=r"training\.pt: the checkpoint is damaged"):
        trained(checkpoint=tmp_path / "training.pt")


def test_one_image_is_too_few():
    dataset = small()
    with pytest.raises(DataError, match="at least two images"):
        train(model(), dataset, dataset.train.first(1), SETTINGS, seed=0)


def test_bfloat16_trains_and_leaves_float32():
    module, dataset = model(), small()
    train(module, dataset, dataset.train, replace(SETTINGS, precision="bfloat16"), seed=3)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert bool(torch.isfinite(weights(module)).all()) and not torch.equal(weights(module), trained())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch, of torch
def test_a_compiled_model_trains_to_about_the_same():
    torch.testing.assert_close(
        trained(replace(SETTINGS, compile=True, epochs=1)), trained(replace(SETTINGS, epochs=1)), rtol=0.01, atol=0.01
    )


def test_the_rate_rises_then_follows_its_schedule():
    plain = TrainSettings(epochs=8, batch=16, learning_rate=0.4)
    warm = replace(plain, epochs=10, warmup_epochs=2)
    assert [learning_rate(warm, p) for p in (0, 0.1)] == pytest.approx([0.004, 0.202])
    for share in (0, 0.25, 0.7, 1):  # behind the warm-up, that of the epochs that are left
        assert learning_rate(warm, 0.2 + 0.8 * share) == pytest.approx(learning_rate(plain, share))


def test_the_average_is_that_of_the_weights_after_every_step():
    """One step an epoch at a constant rate: the weights after step n are those of a training of n epochs."""
    constant = TrainSettings(epochs=3, batch=70, learning_rate=0.05, schedule="constant")
    expected, *later = (trained(replace(constant, epochs=steps)) for steps in (1, 2, 3))
    for kept, current in zip((2 / 11, 0.22), later, strict=True):  # the second update would keep 3 / 12
        expected = kept * expected + (1 - kept) * current
    counts = weights(model()) == 0  # of batches, in whole numbers; and biases
    averaged = trained(replace(constant, ema_decay=0.22))
    assert not torch.allclose(averaged, later[-1], rtol=1e-3)
    torch.testing.assert_close(averaged[~counts], expected[~counts], rtol=1e-5, atol=1e-6)


def test_the_average_is_evaluated_and_the_training_goes_on_from_the_weights():
    module, dataset, seen = model(), small(), []

    def ended(epochs, curve):
        seen.append(weights(module))
        return False

    settings = replace(SETTINGS, ema_decay=0.5)
    train(module, dataset, dataset.train, settings, seed=3, ended=ended)
    assert torch.equal(seen[-1], weights(module)) and not torch.equal(seen[-1], trained())
    assert torch.equal(weights(module), trained(settings))


def test_labels_are_smoothed():
    """With one class in all images, the smoothed loss cannot fall below its entropy."""
    dataset, losses = small(), []
    one_class = replace(dataset, train=Split(dataset.train.images, torch.zeros_like(dataset.train.labels)))
    settings = replace(SETTINGS, epochs=6, label_smoothing=0.5)
    train(model(), one_class, one_class.train, settings, seed=0, on_epoch=lambda r: losses.append(r.loss))
    target = torch.full((10,), 0.05, dtype=torch.float64)
    target[0] += 0.5
    entropy = float(-(target * target.log()).sum())
    assert entropy < losses[-1] < losses[0]


def test_a_batch_in_parts_has_the_gradient_of_the_whole():
    """As there is no batch normalisation; the last batch, of 6 images, makes 3 parts of two."""
    dataset, results = small(), []
    for parts in (1, 4):
        module = flat_model()
        train(module, dataset, dataset.train, replace(SETTINGS, accumulate=parts), seed=3)
        results.append(weights(module))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


def test_weight_decay_can_leave_norms_and_biases_alone():
    parameters = list(model().parameters())
    decayed, free = make_sgd(parameters, replace(SETTINGS, decay_norms=False)).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (5e-4, 0.0)
    assert {p.ndim for p in free["params"]} == {1} and {p.ndim for p in decayed["params"]} == {2, 4}
    assert len(decayed["params"]) + len(free["params"]) == len(parameters)
    (group,) = make_sgd(parameters, SETTINGS).param_groups
    assert group["weight_decay"] == 5e-4 and len(group["params"]) == len(parameters)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("retraining.ema_decay", 1.0, "moving average of retraining must be between 0 and 1"),
        ("retraining.label_smoothing", 1.0, "label smoothing of retraining must be from 0"),
        ("retraining.warmup_epochs", 10, "warm-up of retraining must be shorter than its 10 epochs"),
        ("retraining.accumulate", 17, "can be taken in 1 to 16 parts"),
        ("connections.train.ema_decay", 0.9, "not for the connection search"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(name, value, message):
    with pytest.raises(UsageError, match=message):
        Preset.load("tiny").override({name: value})
