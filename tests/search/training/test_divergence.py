"""A training that diverges stops, says so in one sentence, and leaves nothing that passes for a result."""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from bpnas.base.errors import UsageError
from bpnas.profiler import Block, to_onnx
from bpnas.search import CandidateEvaluator, Preset, RunError, load_data, run_search
from bpnas.search.connections.latency_loss import LatencyLoss
from bpnas.search.errors import DivergedError
from bpnas.search.networks.network_file import NetworkFile, load_network, save_weights
from bpnas.search.networks.retrain import retrain
from bpnas.search.proposals import evaluator as evaluate_module
from bpnas.search.studies.connections.arms import lambda_study
from bpnas.search.studies.connections.study import run_connections_study
from bpnas.search.studies.proposals.arms import load_study
from bpnas.search.studies.proposals.study import run_proposals_study
from bpnas.search.studies.study import StudyRequest
from bpnas.search.training.checkpoint import load_checkpoint, save_checkpoint
from bpnas.search.training.train import accuracy, train
from tests.network_factory import stored_network
from tests.programs import run_together
from tests.root import FIND_TESTS
from tests.search_helpers import FormulaTable, Steps, tiny_backbone
from tests.training_helpers import SETTINGS, flat_model, small, trained

PATHS = "K1G1,K3G1,K3G4,K3E1G1,K3E3G2,K5E2G1"
TINY = {
    "proposals.population": 2,
    "proposals.sample": 1,
    "proposals.cycles": 4,
    "proposals.train.epochs": 1,
    "proposals.train.train_images": 40,
    "connections.train.epochs": 2,
    "connections.train.train_images": 40,
    "retraining.epochs": 2,
    "retraining.train_images": 40,
    "test_images": 50,
}
WILD = 1e30
PROPOSALS = ("K3G1", "K1G1", "K3E1G1")
CANDIDATES = {"proposals.train.learning_rate": WILD}
SUPERNET = {"connections.train.learning_rate": WILD}
NETWORK = {"retraining.learning_rate": WILD}


def preset(*changes):
    values = dict(TINY)
    for change in changes:
        values |= change
    return Preset.load("tiny").override(values)


def wild(settings=SETTINGS):
    return replace(settings, learning_rate=WILD)


def files(folder):
    """But for the curves, which show how it came to that."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith("tensorboard")}


def search(out, *changes, **options):
    options = {"proposals": PROPOSALS, "stage": "connections", "target_ms": 0.25, "seed": 1} | options
    return run_search(FormulaTable.tiny(PATHS), out=out, preset=preset(*changes), **options)


# One training


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9}, {"accumulate": 2}, {"precision": "bfloat16"}])
def test_a_training_ends_with_the_epoch_of_the_first_loss_that_is_not_finite(changes, tmp_path):
    reports, evaluated, file = [], [], tmp_path / "t.pt"
    with pytest.raises(DivergedError, match=r"diverged in epoch 1, step [1-4]: the loss is not finite, .*rate of") as e:
        trained(
            replace(wild(), **changes),
            on_epoch=reports.append,
            ended=lambda *so_far: evaluated.append(so_far),
            checkpoint=file,
        )
    assert not reports and not evaluated and not file.exists() and e.value.epoch == 0 and e.value.exit_code == 1


def later(step_in_all, act):
    """A model that is as `flat_model` until a forward pass in training, of which there is one a step."""

    class Later(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.passes = flat_model(), 0
            self.register_buffer("unused", torch.zeros(2))

        def forward(self, x):
            self.passes += self.training
            out = self.inner(x)
            return act(self, out) if self.training and self.passes >= step_in_all else out

    return Later()


def to_infinity(module, out):
    return out * torch.inf


def spoilt(module, out):
    with torch.no_grad():
        module.unused[1] = torch.nan
    return out


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (to_infinity, "diverged in epoch 2, step 3: the loss is not finite, at a learning rate of 0.0"),
        (spoilt, "diverged in epoch 2, step 5: a weight is not finite after it, at a learning rate of 0.0"),
    ],
)
def test_the_step_is_named_to_the_number_and_buffers_count(act, said):
    reports, dataset = [], small()  # five steps an epoch
    with pytest.raises(DivergedError, match=said):
        train(later(8, act), dataset, dataset.train, SETTINGS, seed=0, on_epoch=reports.append)
    assert [report.epoch for report in reports] == [0]


@pytest.mark.parametrize("act", [to_infinity, spoilt])
def test_no_checkpoint_is_written_of_a_poisoned_state(act, tmp_path):
    """With one after every step, the last one is that of the step before."""
    dataset, file = small(), tmp_path / "t.pt"
    with pytest.raises(DivergedError, match="in epoch 2, step 3: "):
        train(later(8, act), dataset, dataset.train, SETTINGS, seed=0, checkpoint=file, checkpoint_seconds=0)
    state = torch.load(file, weights_only=True)
    assert (state["epoch"], state["step"]) == (0, 2)
    assert all(bool(value.isfinite().all()) for value in state["model"].values())


def test_a_poisoned_checkpoint_of_an_earlier_version_is_as_good_as_none(tmp_path):
    file = tmp_path / "t.pt"
    trained(replace(SETTINGS), checkpoint=file, checkpoint_seconds=0)
    state = load_checkpoint(file)
    for name, poisoned in (
        ("loss", {"loss": state["loss"] * torch.nan}),
        ("weights", {"model": {k: v * torch.inf if v.is_floating_point() else v for k, v in state["model"].items()}}),
    ):
        save_checkpoint(file, state | poisoned)
        assert load_checkpoint(file) is None, name
        assert torch.equal(trained(checkpoint=file), trained())


def test_answers_that_are_not_finite_have_no_accuracy():
    module, dataset = flat_model(), small()
    with torch.no_grad():
        module[-1].weight[:] = 3e38  # finite, but not what comes out
    with pytest.raises(DivergedError, match="in epoch 3: the network's answers are not finite"):
        accuracy(module, dataset, dataset.test, epochs=3)


def test_the_error_can_be_sent_to_another_process():
    error = DivergedError("in epoch 1", "a stage", "retry", epoch=4)
    same = copy.copy(error)  # as it is made again at the other end
    assert (str(same), same.epoch, same.seen) == ("a stage diverged in epoch 1; retry", 4, "in epoch 1")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, 0.0, -1.0])
@pytest.mark.parametrize("place", ["proposals.train", "connections.train", "retraining"])
def test_a_rate_that_is_none_is_refused(place, value):
    with pytest.raises(UsageError, match=r"the learning rate of .* must be above 0 and at most 1e\+30, not"):
        Preset.load("tiny").override({f"{place}.learning_rate": value})


# Stage 1


def test_a_candidate_that_diverges_is_an_answer():
    digits = load_data("digits", train_images=100)
    settings = replace(preset().proposals, train=wild(preset().proposals.train), halving=2)
    found = CandidateEvaluator(tiny_backbone(), digits, settings, seed=0)(Block.parse("K3G1"))
    assert (found.score, found.epochs, found.rungs) == (0.0, 1, ())
    assert found.diverged.startswith("in epoch 1, step ") and "the loss is not finite" in found.diverged


@pytest.fixture
def some_diverge(monkeypatch):
    """The trainings of all blocks but those of one kind get a rate that none stands."""

    def call(tame):
        def other(model, dataset, split, settings, **options):
            good = tame(sum(parameter.numel() for parameter in model.parameters()))
            return train(model, dataset, split, settings if good else wild(settings), **options)

        monkeypatch.setattr(evaluate_module, "train", other)

    return call


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_stage1(out, cycles=6, progress=None, **options):
    chosen = preset({"proposals.cycles": cycles})
    table = FormulaTable.tiny(PATHS)
    return run_search(
        table, out=out, preset=chosen, stage="proposals", constraints=(0.3,), seed=1, progress=progress, **options
    )


@pytest.mark.parametrize("asynchronous", [False, True])
def test_candidates_that_diverge_are_trials_that_never_win(asynchronous, some_diverge, tmp_path):
    told = []
    progress = Steps(lambda step: None)
    progress.step = told.append
    some_diverge(lambda size: size % 3 != 0)
    result = run_stage1(tmp_path / "whole", progress=progress, asynchronous=asynchronous)
    trials, evaluations = lines(tmp_path / "whole/trials.jsonl"), lines(tmp_path / "whole/evaluations.jsonl")
    bad = {line["block"] for line in evaluations if "diverged" in line}
    assert bad and len(bad) < len(evaluations), "the test needs both kinds"
    for line in evaluations:
        good = "diverged" not in line
        assert good or ("the loss is not finite" in line["diverged"] and line["score"] == 0.0)
    assert {line["block"] for line in trials if line.get("diverged")} == bad & {line["block"] for line in trials}
    assert str(result.proposals[0].block) not in bad  # though others may have put no image into its class either
    assert sum("diverged in epoch 1" in text for text in told) == sum("diverged" in line for line in trials)


def test_a_search_with_such_candidates_goes_on_as_if_undisturbed(some_diverge, tmp_path):
    some_diverge(lambda size: size % 3 != 0)
    run_stage1(tmp_path / "whole")

    def stop(step):
        raise KeyboardInterrupt

    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run_stage1(tmp_path / "cut", progress=Steps(stop))
    run_stage1(tmp_path / "cut")
    for name in ("trials.jsonl", "evaluations.jsonl", "proposals.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("cycles", [4, 20])
def test_where_no_candidate_can_be_trained_the_search_says_so_soon_and_again(cycles, tmp_path, monkeypatch):
    counted = Counter()

    def count(*arguments, **options):
        counted["trainings"] += 1
        return train(*arguments, **options)

    monkeypatch.setattr(evaluate_module, "train", count)
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"the training of each .*\(the last one in epoch 1, .*--proposal-rate"):
            run_search(
                FormulaTable.tiny(PATHS),
                out=tmp_path,
                preset=preset(CANDIDATES, {"proposals.cycles": cycles}),
                constraints=(0.3,),
            )
        assert counted["trainings"] == min(cycles, 8)
    assert not (tmp_path / "proposals.json").exists()


def test_a_worker_sends_what_became_of_a_candidate(tmp_path):
    with pytest.raises(DivergedError, match=r"each candidate under the limit of 0\.3 ms diverged"):
        run_search(
            FormulaTable.tiny(PATHS),
            out=tmp_path,
            preset=preset(CANDIDATES, {"proposals.cycles": 2}),
            constraints=(0.3,),
            executor="processes",
            workers=1,
        )
    assert all("not finite" in line["diverged"] for line in lines(tmp_path / "evaluations.jsonl"))


# Stage 2, and the last training


def test_a_supernet_that_diverges_is_searched_again_with_another_rate(tmp_path):
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"connection search diverged in epoch 1, .*--connection-rate$"):
            search(tmp_path, SUPERNET)
    assert not {"connections.json", "connections.jsonl", "network.json"} & files(tmp_path)
    assert search(tmp_path).network is not None


def test_alphas_count_as_weights_do(tmp_path, monkeypatch):
    of_latency = LatencyLoss.__call__
    with monkeypatch.context() as patch:
        patch.setattr(LatencyLoss, "__call__", lambda self, latency_ms: of_latency(self, latency_ms) * torch.inf)
        with pytest.raises(DivergedError, match=r"epoch 2, step 1 of alphas: .* at a learning rate of 0\.1; "):
            search(tmp_path)
    assert len(lines(tmp_path / "connections.diverged.jsonl")) == 1
    assert not {"connections.json", "connections.jsonl", "checkpoints/connections.pt"} & files(tmp_path)
    assert search(tmp_path).network is not None and len(lines(tmp_path / "connections.jsonl")) == 2


def test_a_network_that_diverges_leaves_no_file_of_it(tmp_path):
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"^the retraining diverged in epoch 1, .*smaller --retrain-rate$"):
            search(tmp_path / "run", NETWORK)
    left = files(tmp_path / "run")
    assert "connections.json" in left and not {name for name in left if "network" in name or "retraining" in name}
    kept = (tmp_path / "run/connections.jsonl").read_bytes()
    assert search(tmp_path / "run").network == search(tmp_path / "at once").network
    assert (tmp_path / "run/connections.jsonl").read_bytes() == kept
    for name in ("network.safetensors", "retraining.jsonl", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()
    with pytest.raises(RunError, match=r"started with preset\.retraining\.learning_rate"):
        search(tmp_path / "run", NETWORK)


def test_networks_of_one_run_are_trained_alike(tmp_path, monkeypatch):
    targets = {"targets_ms": (0.25, 0.3)}
    search(tmp_path)

    def poisoned(model, dataset, split, settings, **options):
        return train(model, dataset, split, wild(settings), **options)

    monkeypatch.setattr("bpnas.search.networks.final_training.train", poisoned)
    with pytest.raises(DivergedError, match=r"networks that are finished are kept.*another --out"):
        search(tmp_path, **targets)
    assert "network.json" in files(tmp_path) and "networks/0.3ms/network.json" not in files(tmp_path)


@pytest.fixture
def found(tmp_path):
    (tmp_path / "found").mkdir()
    path, _ = stored_network(tmp_path / "found", backbone=tiny_backbone())
    latency = {"predicted_latency_ms": 0.25, "target_ms": 0.3}
    path.write_text(json.dumps(json.loads(path.read_text()) | latency))
    return path


def test_a_retraining_in_a_directory_of_its_own(found, tmp_path):
    out = tmp_path / "again"
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"^the retraining diverged in epoch 1, .*--retrain-rate$"):
            retrain(found, out=out, data="digits", preset=preset(NETWORK))
    assert not {name for name in files(out) if "network" in name}
    assert 0 <= retrain(found, out=out, data="digits", preset=preset()).accuracy <= 1


def test_the_command_says_it_in_one_sentence(found, tmp_path, cli):
    words = (
        "retrain",
        found,
        "--data",
        "digits",
        "--retrain-rate",
        "1e30",
        "--retrain-epochs",
        1,
        "--retrain-images",
        400,
    )
    done = cli("run-search", *words, "--out", tmp_path / "again")
    assert done.exit_code == 1 and done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert said.startswith("Error: the retraining diverged in epoch 1, step ") and said.endswith("--retrain-rate")


# Studies


def test_a_study_of_stage_1(some_diverge, tmp_path):
    def study(out, *changes):
        recipe = preset({"proposals.cycles": 5}, *changes)
        request = StudyRequest(FormulaTable.tiny(PATHS), out, recipe, seeds=(0,))
        return run_proposals_study(load_study("random-stage1"), request, constraints=(0.3,)).found.summary

    with pytest.raises(DivergedError, match=r"under the limit of 0\.3 ms diverged.*--proposal-rate"):
        study(tmp_path / "all", CANDIDATES)
    some_diverge(lambda size: size % 3 != 0)
    result = study(tmp_path / "some")
    bad = {line["block"] for line in lines(tmp_path / "some/evaluations.jsonl") if "diverged" in line}
    assert bad and not bad & {outcome.block for outcome in result.outcomes}
    assert study(tmp_path / "some") == result


def test_a_winner_that_diverges_on_test_images_ends_its_study(tmp_path, monkeypatch):
    def other(model, dataset, split, settings, **options):
        on_test = (
            len(dataset.train) > 100
        )  # the images that a candidate is evaluated on are a part of the 40 training images
        return train(model, dataset, split, wild(settings) if on_test else settings, **options)

    monkeypatch.setattr(evaluate_module, "train", other)
    recipe = preset({"proposals.cycles": 3, "test_images": 500})
    request = StudyRequest(FormulaTable.tiny(PATHS), tmp_path, recipe, seeds=(0,))
    with pytest.raises(DivergedError, match=r"the training of the winner .* diverged in epoch 1.*another study"):
        run_proposals_study(load_study("random-stage1"), request, constraints=(0.3,))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (SUPERNET, "the supernet of lambda 0.01 with seed 0 .*--connection-rate"),
        (NETWORK, "the network .*--retrain-rate"),
    ],
)
def test_a_study_of_stage_2(change, said, tmp_path):
    blocks = tuple(map(Block.parse, PROPOSALS))
    request = StudyRequest(FormulaTable.tiny(PATHS), tmp_path, preset(change), seeds=(0,))
    with pytest.raises(DivergedError, match=said):
        run_connections_study(lambda _: lambda_study(blocks, (0.01,)), request, proposals=blocks, target_ms=0.25)
    assert not list((tmp_path / "checkpoints").iterdir()) and not (tmp_path / "evaluations.jsonl").exists()


# Networks that are damaged so


@pytest.fixture
def broken(tmp_path):
    path, module = stored_network(tmp_path, backbone=tiny_backbone())
    path.with_suffix(".onnx").write_bytes(to_onnx(module, (1, 3, 32, 32)))
    weights = load_file(path.with_suffix(".safetensors"))
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name][0] = torch.nan
    save_file(weights, path.with_suffix(".safetensors"))
    return path


@pytest.mark.parametrize("words", [("export",), ("export", "--int8", "--data", "digits"), ("measure",)])
def test_commands_refuse_a_network_whose_weights_are_not_finite(words, broken, cli):
    command, *options = words
    done = cli("run-search", command, broken.parent, *options)
    assert done.exit_code == 1 and done.stdout == ""
    said = done.stderr.splitlines()[-1]
    assert "network.safetensors: its weight " in said and "running_var is not finite" in said
    assert "--retrain-rate" in said


def test_python_refuses_it_too_and_writes_none(broken, tmp_path):
    with pytest.raises(RunError, match="is not finite"):
        load_network(broken)
    module = load_network(broken, pretrained=False)
    with torch.no_grad():
        next(module.parameters())[0] = torch.inf
    with pytest.raises(DivergedError, match="is not finite"):
        save_weights(tmp_path / "none.safetensors", module)
    assert not (tmp_path / "none.safetensors").exists()
    assert NetworkFile.load(broken).blocks


def test_a_run_that_ended_with_such_a_network_is_not_there_already(tmp_path):
    search(tmp_path)
    weights = load_file(tmp_path / "network.safetensors")
    save_file({name: value * torch.nan for name, value in weights.items()}, tmp_path / "network.safetensors")
    with pytest.raises(RunError, match="is not finite"):
        search(tmp_path)


# Several processes

PROGRAM = f"""{FIND_TESTS}
import bpnas.search.training.resumable as resumable
from bpnas.search.training.distributed import process_group, rank
from bpnas.search.errors import DivergedError
from tests.search.training import test_divergence as tests

# The first one looks after every step, the other at the end of the phase.
resumable.CHECKPOINT_SECONDS = resumable.PROGRESS_SECONDS = 0

with process_group():
    for change in (tests.SUPERNET, tests.NETWORK):
        try:
            tests.search(sys.argv[1], change)
        except DivergedError as error:
            print(f"process {{rank()}}: {{error}}")
"""


@pytest.mark.slow
def test_all_processes_stop_together(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    outputs = run_together(2, program, tmp_path / "out")
    for process in range(2):
        for stage in ("the connection search", "the retraining"):
            assert f"process {process}: {stage} diverged in epoch 1, step " in outputs[process]
    assert "another process" not in "".join(outputs)
    assert not {name for name in files(tmp_path / "out") if "network" in name or "retraining" in name}
