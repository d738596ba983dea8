import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from bpnas.profiler import Block
from bpnas.search import DataError, Preset, SearchError, Supernet
from bpnas.search.connections.connect import candidate_latencies, connect, new_supernet
from bpnas.search.connections.inherited_accuracy import inherited_accuracy
from bpnas.search.data.dataset import load_data
from bpnas.search.training.checkpoint import save_checkpoint
from bpnas.search.training.threads import set_threads, threads_kept
from tests.search_helpers import FormulaTable

PROPOSALS = tuple(map(Block.parse, ("K3G1", "K1G1+K3E2G2", "K5E1G1")))
SETTINGS = (
    Preset.load("tiny").override({"connections.train.train_images": 80, "connections.train.epochs": 3}).connections
)
TABLE = FormulaTable.tiny()
BACKBONE = TABLE.backbone()


@pytest.fixture(autouse=True)
def one_thread():
    with threads_kept():
        set_threads(1)
        yield


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", 32)


def supernet():
    torch.manual_seed(0)
    return Supernet(BACKBONE, PROPOSALS)


def run(dataset, settings=SETTINGS, model=None, seed=1, target_ms=0.2, **options):
    reports = []
    model = supernet() if model is None else model
    learned = connect(
        model,
        dataset,
        candidate_latencies(TABLE, BACKBONE, PROPOSALS),
        settings,
        target_ms=target_ms,
        fixed_ms=TABLE.fixed(),
        seed=seed,
        on_epoch=reports.append,
        **options,
    )
    return learned, reports


def timeless(reports):
    return [replace(report, images=0, seconds=0.0) for report in reports]


def test_weights_and_alphas_take_turns(digits):
    model = supernet()
    before = [weight.clone() for weight in model.weights]
    learned, reports = run(digits, model=model)
    warmup, *later = reports
    assert warmup.alpha_loss is None and all(report.alpha_loss > 0 for report in later)
    assert all(alpha == 0 for row in warmup.alphas for alpha in row)
    assert warmup.entropies == pytest.approx([math.log(len(row)) for row in warmup.alphas])
    assert any(alpha != 0 for row in later[-1].alphas for alpha in row)
    assert sum(later[-1].entropies) < sum(warmup.entropies)
    assert [report.images for report in reports] == [64, 80, 80]
    assert all(not torch.equal(a, b) for a, b in zip(before, model.weights, strict=True))
    assert all(weight.requires_grad for weight in model.parameters())
    for row, alphas in zip(learned.log_probabilities, later[-1].alphas, strict=True):
        assert row.tolist() == pytest.approx(torch.tensor(alphas, dtype=torch.float64).log_softmax(0).tolist())


def test_the_report_is_of_the_alphas_reached(digits):
    _, reports = run(digits)
    rows = candidate_latencies(TABLE, BACKBONE, PROPOSALS)
    for report in reports:
        probabilities = [torch.tensor(row, dtype=torch.float64).softmax(0) for row in report.alphas]
        expected = sum(float(p @ torch.from_numpy(row)) for p, row in zip(probabilities, rows, strict=True))
        assert report.latency_ms == pytest.approx(TABLE.fixed() + expected)
        best = sum(row[int(p.argmax())] for p, row in zip(probabilities, rows, strict=True))
        assert report.argmax_latency_ms == pytest.approx(TABLE.fixed() + best)
        assert report.entropies == pytest.approx([float(-(p * p.log()).sum()) for p in probabilities])


@pytest.mark.parametrize("noise_free", [False, True])
def test_alphas_go_where_the_target_is(noise_free, digits):
    train = replace(SETTINGS.train, epochs=4)
    settings = replace(SETTINGS, alpha_learning_rate=0.5, noise_free_latency=noise_free, train=train)
    slow, fast = (run(digits, settings, target_ms=target)[1][-1].latency_ms for target in (100.0, 0.012))
    assert fast < 0.8 * slow


def test_a_latency_without_noise_is_not_above_the_target_where_only_a_draw_is(digits):
    # Nothing is gained below the target, and alphas that hardly move expect a latency that stays below it.
    settings = replace(SETTINGS, lambda_below=0.0, alpha_learning_rate=1e-3, tau_start=0.1)
    uniform = TABLE.fixed() + sum(float(row.mean()) for row in candidate_latencies(TABLE, BACKBONE, PROPOSALS))

    def alphas(noise_free, target_ms):
        _, reports = run(digits, replace(settings, noise_free_latency=noise_free), target_ms=target_ms)
        assert all(report.latency_ms < target_ms for report in reports)
        return reports[-1].alphas

    assert alphas(True, 1.05 * uniform) == alphas(True, 1e9) == alphas(False, 1e9)
    assert alphas(False, 1.05 * uniform) != alphas(False, 1e9)


@pytest.mark.parametrize("saves", [1, 4, 5, 6, 9, 12])
def test_a_search_that_stopped_in_the_middle_ends_as_an_undisturbed_one(saves, digits, tmp_path, monkeypatch):
    whole_model, model = supernet(), supernet()
    learned, reports = run(digits, model=whole_model)
    done = []

    def save_and_stop(path, state):
        save_checkpoint(path, state)
        done.append(path)
        if len(done) == saves:
            raise KeyboardInterrupt

    monkeypatch.setattr("bpnas.search.training.resumable.save_checkpoint", save_and_stop)
    monkeypatch.setattr("bpnas.search.training.resumable.CHECKPOINT_SECONDS", 0.0)
    options = {"checkpoint": tmp_path / "c.pt"}
    with pytest.raises(KeyboardInterrupt):
        run(digits, **options)
    monkeypatch.undo()
    again, rest = run(digits, model=model, **options)
    assert timeless(rest) == timeless(reports)[-len(rest) :]
    assert sum(report.images for report in rest) < sum(report.images for report in reports)
    for one, other in zip(learned.log_probabilities, again.log_probabilities, strict=True):
        assert one.tolist() == other.tolist()
    for (name, one), other in zip(whole_model.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    # All is done: nothing is trained again.
    assert run(digits, model=supernet(), **options)[1] == []


def test_long_epochs_tell_how_they_go(digits, monkeypatch):
    monkeypatch.setattr("bpnas.search.training.resumable.PROGRESS_SECONDS", 0.0)
    told = []
    run(digits, on_step=lambda share, text: told.append((share, text)))
    # 64 images for weights and 16 for alphas, in batches of 16; the first epoch is a warm-up.
    assert [share for share, _ in told] == [0.25, 0.5, 0.75, 1.0, *([0.2, 0.4, 0.6, 0.8, 1.0] * 2)]
    assert told[4][1].startswith("step 1 of 4 of weights, loss") and told[8][1].startswith(
        "step 1 of 1 of alphas, loss"
    )


def test_a_checkpoint_of_another_search_is_none(digits, tmp_path):
    run(digits, checkpoint=tmp_path / "c.pt")
    assert len(run(digits, seed=2, checkpoint=tmp_path / "c.pt")[1]) == 3


def test_bfloat16_is_less_precise_than_float32_and_close(digits):
    _, exact = run(digits)
    _, rough = run(digits, replace(SETTINGS, train=replace(SETTINGS.train, precision="bfloat16")))
    assert rough[0].weight_loss != exact[0].weight_loss
    assert rough[0].weight_loss == pytest.approx(exact[0].weight_loss, rel=0.1)


def test_a_search_that_diverges_says_so(digits):
    wild = replace(SETTINGS, train=replace(SETTINGS.train, learning_rate=1e30))
    with pytest.raises(SearchError, match="diverged in epoch 1"):
        run(digits, wild)


def test_too_few_images(digits):
    with pytest.raises(DataError, match="too few"):
        run(digits, replace(SETTINGS, train=replace(SETTINGS.train, train_images=2)))


def test_the_supernet_evaluates_networks_with_its_own_weights(digits):
    model = supernet()
    train = replace(SETTINGS.train, epochs=7, train_images=1000, learning_rate=0.1)
    learned, _ = run(digits, replace(SETTINGS, train=train), model, target_ms=1.0)
    best = [int(row.argmax()) for row in learned.log_probabilities]
    held_out = digits.train.first(1000).parted(0.8)[1]
    weights = [weight.clone() for weight in model.weights]
    assert inherited_accuracy(model, best, digits, held_out, 16) > 0.4
    assert inherited_accuracy(supernet(), best, digits, held_out, 16) < 0.25
    assert all(torch.equal(a, b) for a, b in zip(weights, model.weights, strict=True))
    # Neither what was evaluated before nor running statistics matter.
    first = inherited_accuracy(model, [1, 1, 2, 3], digits, held_out, 16)
    inherited_accuracy(model, [0, 2, 0, 1], digits, held_out.first(32), 16)
    assert inherited_accuracy(model, [1, 1, 2, 3], digits, held_out, 16) == first


def test_the_papers_recipe():
    """SPEC 6."""
    paper = Preset.load("paper").connections
    train = paper.train
    assert (paper.warmup_epochs, paper.weight_share, paper.lambda_below) == (10, 0.8, 0.01)
    assert (train.epochs, train.batch, train.learning_rate, train.final_learning_rate) == (120, 640, 0.2, 1e-4)
    assert (train.schedule, train.momentum, train.nesterov, train.weight_decay) == ("cosine", 0.9, True, 1e-4)
    assert (paper.alpha_learning_rate, paper.alpha_weight_decay) == (0.02, 5e-4)
    assert (paper.sampled_paths, paper.k_best, train.train_images, train.precision) == (None, 1, None, "float32")
    # tau starts at 5, in epoch 0, and is multiplied by exp(-0.045) each epoch: the last of 120 has 0.02362.
    assert [paper.tau(epoch) for epoch in (0, 1, 10, 60, 119)] == pytest.approx(
        [5, 4.780, 3.188, 0.3360, 0.02362], rel=2e-4
    )
    retraining = Preset.load("paper").retraining
    assert (retraining.batch, retraining.weight_decay, retraining.schedule) == (2048, 4e-5, "cosine")
    assert (retraining.nesterov, retraining.momentum) == (True, 0.9)


def kept_for_backward(settings):
    """Numbers that a forward pass keeps, parameters left out, and the output."""
    model = new_supernet(BACKBONE, PROPOSALS, settings, seed=3).train()
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    kept = {}

    def note(tensor):
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    gates = [p.detach() for p in model.draw(1.0, torch.Generator().manual_seed(0))]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(torch.ones(4, 3, 32, 32), gates)
    return sum(kept.values()), output


def test_a_setting_keeps_the_inputs_of_sites_only():
    whole, output = kept_for_backward(SETTINGS)
    little, same = kept_for_backward(replace(SETTINGS, checkpoint_activations=True))
    assert little < 0.6 * whole
    assert torch.equal(output, same)
