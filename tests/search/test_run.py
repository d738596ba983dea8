import json
from multiprocessing import active_children

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bpnas.base.cores import usable_cores
from bpnas.base.errors import UsageError
from bpnas.profiler import Block
from bpnas.search import DataError, InfeasibleLimitError, Preset, RunError, run_search
from bpnas.search.proposals.space import BlockSpace
from tests.search_helpers import FormulaTable, Steps, as_of_an_earlier_bpnas

PATHS = "K1G1,K3G1,K3G4,K3E1G1,K3E3G2,K5E2G1"
MICRO = Preset.load("tiny").override(
    {
        "proposals.population": 2,
        "proposals.sample": 1,
        "proposals.cycles": 4,
        "proposals.train.epochs": 1,
        "proposals.train.train_images": 40,
        "connections.train.train_images": 40,
        "retraining.epochs": 2,
        "retraining.train_images": 40,
        "test_images": 50,
    }
)
TRAJECTORY = ("trials.jsonl", "connections.jsonl", "proposals.json", "connections.json", "network.json")


@pytest.fixture(scope="module")
def table():
    return FormulaTable.tiny(PATHS)


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "a"
    return run_search(table, out=out, preset=MICRO, constraints=(0.2, 0.3), seed=1)


class Stop:
    """Interrupts after a number of steps, as Ctrl-C does."""

    def __init__(self, steps=10**9):
        self.left = steps
        self.stages = []

    def stage(self, title, steps, done=0):
        self.stages.append((title, steps, done))

    def step(self, text):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def within(self, share, text):
        pass

    def note(self, text):
        pass


def test_a_run_leaves_all_its_files(finished, table):
    config = json.loads((finished.directory / "config.json").read_text())
    assert config["mock"] is True and config["table_sha256"] == table.sha256
    assert config["preset"]["proposals"]["cycles"] == 4 and config["constraints_ms"] == [0.2, 0.3]
    lines = [json.loads(line) for line in (finished.directory / "trials.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [*range(4), *range(4)]
    assert all(line["latency_ms"] <= line["limit_ms"] for line in lines)
    assert (finished.directory / "checkpoints/connections.pt").exists()
    assert json.loads((finished.directory / "proposals.json").read_text())["mock"] is True


def test_the_network_meets_its_target_by_table(finished, table):
    network = json.loads((finished.directory / "network.json").read_text())
    blocks = [None if text == "skip" else Block.parse(text) for text in network["blocks"]]
    assert network["predicted_latency_ms"] == table.network(blocks) <= network["target_ms"] == 0.3
    assert network["mock"] is True and (network["device"], network["runtime"]) == ("a formula", "onnxruntime")
    assert 0 <= network["accuracy"] <= 1
    assert finished.network.blocks == tuple(blocks)


def test_both_model_files_run_and_agree(finished):
    onnxruntime = pytest.importorskip("onnxruntime")
    x = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(finished.directory / "network.onnx"), providers=["CPUExecutionProvider"])
    (onnx,) = session.run(None, {session.get_inputs()[0].name: x})
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(str(finished.directory / "network.tflite"))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x.transpose(0, 2, 3, 1).copy())
    interpreter.invoke()
    tflite = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert onnx.shape == (1, 10)
    assert np.abs(onnx - tflite).max() <= 1e-4 * np.abs(onnx).max()


@pytest.mark.parametrize("steps", [0, 3, 5, 8, 10, 12])
def test_an_interrupted_run_ends_as_an_undisturbed_one(steps, finished, table, tmp_path):
    arguments = {"out": tmp_path / "b", "preset": MICRO, "constraints": (0.2, 0.3), "seed": 1}
    with pytest.raises(KeyboardInterrupt):
        run_search(table, progress=Stop(steps), **arguments)
    torch.rand(3)  # the global generator must not matter
    again = run_search(table, **arguments)
    assert again.network == finished.network
    for name in TRAJECTORY:
        assert (tmp_path / "b" / name).read_text() == (finished.directory / name).read_text(), name
    assert (tmp_path / "b/network.onnx").read_bytes() == (finished.directory / "network.onnx").read_bytes()


def test_a_half_written_last_line_is_dropped(finished, table, tmp_path):
    arguments = {"out": tmp_path / "b", "preset": MICRO, "constraints": (0.2, 0.3), "seed": 1, "stage": "proposals"}
    with pytest.raises(KeyboardInterrupt):
        run_search(table, progress=Stop(2), **arguments)
    with (tmp_path / "b/trials.jsonl").open("a") as file:
        file.write('{"limit": 0, "ind')
    run_search(table, **arguments)
    assert (tmp_path / "b/trials.jsonl").read_text() == (finished.directory / "trials.jsonl").read_text()


EXECUTION = {"constraints": (0.2, 0.3), "seed": 1, "stage": "proposals", "preset": MICRO, "threads": 1}


@pytest.fixture(scope="module")
def windowed(table, tmp_path_factory):
    """Stage 1 with three candidates under way, in this process."""
    out = tmp_path_factory.mktemp("run") / "windowed"
    run_search(table, out=out, window=3, **EXECUTION)
    return out


def same_trials(one, other):
    return all((one / name).read_text() == (other / name).read_text() for name in ("trials.jsonl", "proposals.json"))


def test_every_block_is_trained_once_and_kept(windowed):
    trained = [json.loads(line) for line in (windowed / "evaluations.jsonl").read_text().splitlines()]
    trials = [json.loads(line) for line in (windowed / "trials.jsonl").read_text().splitlines()]
    scores = {line["block"]: line["score"] for line in trained}
    assert len(scores) == len(trained) and {line["block"]: line["score"] for line in trials} == scores
    assert all("seconds" not in line for line in trained)
    times = [json.loads(line) for line in (windowed / "timings.jsonl").read_text().splitlines()]
    assert [line["block"] for line in times] == [line["block"] for line in trained]


def test_processes_find_the_same_and_a_lost_one_changes_nothing(windowed, table, tmp_path):
    def kill(step):
        if step == 2:
            active_children()[0].kill()

    watcher = Steps(kill)
    arguments = {**EXECUTION, "executor": "processes", "workers": 2, "window": 3}
    run_search(table, out=tmp_path, progress=watcher, **arguments)
    assert active_children() == []
    assert same_trials(tmp_path, windowed)
    assert (tmp_path / "config.json").read_text() == (windowed / "config.json").read_text()
    (note,) = watcher.notes
    assert "is lost (killed by signal 9)" in note and "attempt 2 of 3" in note
    (loss,) = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert (loss["attempt"], loss["reason"]) == (1, "killed by signal 9")


@pytest.mark.parametrize("steps", [0, 2, 5])
def test_a_run_goes_on_elsewhere_with_the_window_it_began_with(steps, windowed, table, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_search(table, out=tmp_path, progress=Stop(steps), window=3, **EXECUTION)
    for name in ("evaluations.jsonl", "trials.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write('{"block": "K1')
    known = (tmp_path / "evaluations.jsonl").read_text().splitlines()[:-1]
    elsewhere = {key: value for key, value in EXECUTION.items() if key != "threads"}
    run_search(table, out=tmp_path, executor="processes", workers=1, **elsewhere)
    assert same_trials(tmp_path, windowed)
    trained = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    assert trained[: len(known)] == known and len(set(trained)) == len(trained)
    with pytest.raises(RunError, match="--window 3, now it is 2"):
        run_search(table, out=tmp_path, window=2, **EXECUTION)
    with pytest.raises(RunError, match="schedule = ordered, now it is asynchronous: the trials depend on timing"):
        run_search(table, out=tmp_path, asynchronous=True, **EXECUTION)


@pytest.mark.parametrize("steps", [0, 3, 6])
def test_an_asynchronous_run_that_stopped_keeps_its_trials(steps, table, tmp_path):
    arguments = {**EXECUTION, "window": 3, "asynchronous": True}
    with pytest.raises(KeyboardInterrupt):
        run_search(table, out=tmp_path, progress=Stop(steps), **arguments)
    before = (tmp_path / "trials.jsonl").read_text()
    assert len(run_search(table, out=tmp_path, **arguments).proposals) == 2
    after = (tmp_path / "trials.jsonl").read_text()
    assert after.startswith(before)
    lines = [json.loads(line) for line in after.splitlines()]
    assert [line["limit"] for line in lines] == [0] * 4 + [1] * 4
    assert len({(line["limit"], line["index"]) for line in lines}) == 8


def test_bands_spread_the_proposals(table, tmp_path):
    found = run_search(table, out=tmp_path, bands=True, **{**EXECUTION, "constraints": (0.15, 0.2, 0.3)}).proposals
    assert found[0].latency_ms <= 0.15 <= found[1].latency_ms <= 0.2 <= found[2].latency_ms <= 0.3
    latencies = np.sort(np.unique(BlockSpace(table).latencies()))
    gap = int(np.diff(latencies).argmax())
    low, high = latencies[gap : gap + 2]
    empty = (low + (high - low) / 3, low + (high - low) / 2)
    with pytest.raises(InfeasibleLimitError):
        run_search(table, out=tmp_path / "x", bands=True, **{**EXECUTION, "constraints": empty})


def test_threads_of_candidates_are_not_those_of_the_second_stage(table, tmp_path):
    before = torch.get_num_threads()
    run_search(table, out=tmp_path, **{**EXECUTION, "constraints": (0.2,)})
    assert torch.get_num_threads() == before


def test_more_threads_than_cores_are_refused(table, tmp_path):
    # Torch crashed, in the process of the search or again and again in its workers.
    for executor in ("local", "processes"):
        with pytest.raises(UsageError, match="--threads 5000: a training here has "):
            run_search(table, out=tmp_path / executor, executor=executor, **{**EXECUTION, "threads": 5000})


def test_what_workers_cannot_load_is_said_as_it_is(table, tmp_path):
    arguments = {"data": f"cifar10:{tmp_path / 'none'}", "stage": "proposals", "preset": MICRO}
    for executor in ("local", "processes"):
        with pytest.raises(DataError, match="no such directory of images"):
            run_search(table, out=tmp_path / executor, executor=executor, **arguments)


def test_evaluations_and_trials_that_do_not_agree(windowed, table, tmp_path):
    for file in windowed.iterdir():
        if file.suffix == ".jsonl" or file.name == "config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    kept = tmp_path / "evaluations.jsonl"
    as_of_an_earlier_bpnas(kept)
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    for first, message in (({**lines[0], "score": 0.75}, r"scored .* but 0\.75"), ({}, "line 1 is no evaluation")):
        kept.write_text("".join(json.dumps(line) + "\n" for line in (first, *lines[1:])))
        with pytest.raises(RunError, match=message):
            run_search(table, out=tmp_path, **EXECUTION)


def test_stages_one_by_one_are_the_whole(finished, table, tmp_path):
    arguments = {"out": tmp_path / "b", "preset": MICRO, "constraints": (0.2, 0.3), "seed": 1}
    assert run_search(table, stage="proposals", **arguments).network is None
    assert run_search(table, stage="connections", **arguments).network == finished.network


SECOND = {"preset": MICRO, "proposals": ("K3G1", "K3E1G1", "K3E3G2"), "stage": "connections"}


def test_several_networks_out_of_one_supernet(table, tmp_path):
    targets = (0.1, 0.2, 0.45)
    result = run_search(table, out=tmp_path / "a", targets_ms=targets, **SECOND)
    assert [network.target_ms for network in result.networks] == list(targets)
    assert result.network == result.networks[1]  # what the latency loss aims at
    for network, place in zip(result.networks, ("networks/0.1ms", ".", "networks/0.45ms"), strict=True):
        stored = json.loads((tmp_path / "a" / place / "network.json").read_text())
        blocks = [None if text == "skip" else Block.parse(text) for text in stored["blocks"]]
        assert network.predicted_latency_ms == table.network(blocks) <= network.target_ms == stored["target_ms"]
        assert (tmp_path / "a" / place / "network.onnx").exists()
    assert len({network.blocks for network in result.networks}) > 1
    assert len((tmp_path / "a/connections.jsonl").read_text().splitlines()) == MICRO.connections.train.epochs
    # The same as with one target, and further ones may come later.
    alone = run_search(table, out=tmp_path / "b", target_ms=0.2, **SECOND)
    assert alone.network == result.network and alone.networks == (result.network,)
    later = run_search(table, out=tmp_path / "b", target_ms=0.2, targets_ms=(0.1, 0.45), **SECOND)
    assert later.networks == result.networks
    with pytest.raises(RunError, match="--target "):
        run_search(table, out=tmp_path / "b", targets_ms=(0.1, 0.45), **SECOND)


@pytest.mark.parametrize("steps", [2, 5, 7])
def test_several_networks_are_gone_on_with(steps, table, tmp_path):
    arguments = {"out": tmp_path, "targets_ms": (0.1, 0.2), **SECOND}
    with pytest.raises(KeyboardInterrupt):
        run_search(table, progress=Stop(steps), **arguments)
    result = run_search(table, **arguments)
    assert [network.target_ms for network in result.networks] == [0.1, 0.2]
    assert_logged(tmp_path)


def test_a_target_that_no_network_meets_is_refused_among_others(table, tmp_path):
    with pytest.raises(InfeasibleLimitError, match="network"):
        run_search(table, out=tmp_path / "x", targets_ms=(0.012, 0.2), **SECOND)
    assert not (tmp_path / "x").exists()


def test_the_supernet_chooses_among_the_k_most_probable(table, tmp_path):
    arguments = {**SECOND, "preset": MICRO.override({"connections.k_best": 4}), "target_ms": 0.2}
    with pytest.raises(KeyboardInterrupt):
        run_search(table, out=tmp_path / "a", progress=Stop(4), **arguments)
    result = run_search(table, out=tmp_path / "a", **arguments)
    found = json.loads((tmp_path / "a/connections.json").read_text())
    evaluated = found["judged"]
    assert len({tuple(one["blocks"]) for one in evaluated}) == 4
    assert all(one["latency_ms"] <= 0.2 for one in evaluated)
    chances = [one["log_probability"] for one in evaluated]
    assert chances == sorted(chances, reverse=True)
    assert found["chosen"]["inherited_accuracy"] == max(one["inherited_accuracy"] for one in evaluated)
    assert found["chosen"] in evaluated
    assert [None if t == "skip" else Block.parse(t) for t in found["chosen"]["blocks"]] == list(result.network.blocks)
    run_search(table, out=tmp_path / "b", **arguments)
    assert (tmp_path / "b/connections.json").read_text() == (tmp_path / "a/connections.json").read_text()


def curves(directory):
    """Per tag: the steps and values of all event files in a directory, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = {}
    for file in sorted(directory.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                (number,) = value.tensor.float_val
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def assert_logged(directory):
    """Every epoch once, in lines and as curves."""
    lines = [json.loads(line) for line in (directory / "connections.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    shown = curves(directory / "tensorboard/connections")
    for name in ("tau", "weight_loss", "expected_latency_ms", "argmax_latency_ms", "entropy"):
        assert shown[name] == [(line["epoch"], pytest.approx(line[name], rel=1e-6)) for line in lines]
    assert [step for step, _ in shown["alpha_loss"]] == [1, 2, 3]
    for line in lines:
        assert line["entropy"] == pytest.approx(sum(line["entropies"]) / 4)
        for site, row in enumerate(line["alphas"]):
            assert shown[f"entropies/{site:02d}"][line["epoch"]][1] == pytest.approx(line["entropies"][site], rel=1e-6)
            for number, alpha in enumerate(row):
                assert shown[f"alphas/{site:02d}/{number:02d}"][line["epoch"]][1] == pytest.approx(alpha, rel=1e-6)
    losses = [json.loads(line) for line in (directory / "retraining.jsonl").read_text().splitlines()]
    shown = curves(directory / "tensorboard/retraining")
    assert shown["loss"] == [(line["epoch"], pytest.approx(line["loss"], rel=1e-6)) for line in losses]
    assert [line["epoch"] for line in losses] == [0, 1]
    accuracy = json.loads((directory / "network.json").read_text())["accuracy"]
    assert shown["accuracy"] == [(1, pytest.approx(accuracy, rel=1e-6))]


def test_every_epoch_of_a_run_is_logged(finished):
    assert_logged(finished.directory)


def test_no_stage_trains_with_more_threads_than_cores(table, tmp_path):
    before, seen = torch.get_num_threads(), set()
    watcher = Steps(lambda number: seen.add(torch.get_num_threads()))
    try:
        torch.set_num_threads(usable_cores() + 3)
        run_search(table, out=tmp_path, preset=MICRO, constraints=(0.2,), progress=watcher)
        assert torch.get_num_threads() == usable_cores() + 3
    finally:
        torch.set_num_threads(before)
    assert seen == {usable_cores()}


def test_a_finished_run_is_read_not_repeated(finished, table):
    progress = Stop()
    arguments = {"preset": MICRO, "constraints": (0.2, 0.3), "seed": 1}
    assert run_search(table, out=finished.directory, progress=progress, **arguments) == finished
    assert progress.stages == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 2}, "--seed 1, now it is 2"),
        ({"constraints": (0.2, 0.4)}, "--constraints "),
        ({"target_ms": 0.25}, "--target 0.3, now it is 0.25"),
        ({"preset": MICRO.override({"proposals.cycles": 5})}, "preset.proposals.cycles = 4, now it is 5"),
        ({"table": FormulaTable.tiny(PATHS + ",K5G8")}, None),
    ],
)
def test_a_changed_configuration_is_named(change, field, finished, table):
    arguments = {"out": finished.directory, "preset": MICRO, "constraints": (0.2, 0.3), "seed": 1, "table": table}
    if field is None:
        change, field = {"table": FormulaTable(table.backbones, table.chosen, "1" * 64)}, "a --table of SHA-256 0000"
    with pytest.raises(RunError, match=field):
        run_search(**{**arguments, **change})


def test_damaged_run_directories_are_named(finished, table, tmp_path):
    arguments = {"out": tmp_path / "b", "preset": MICRO, "constraints": (0.2, 0.3), "seed": 1, "stage": "proposals"}
    run_search(table, **arguments)
    (tmp_path / "b/proposals.json").unlink()
    trials = tmp_path / "b/trials.jsonl"
    as_of_an_earlier_bpnas(trials)
    lines = trials.read_bytes().splitlines(keepends=True)
    for damage, message in (
        (b"".join([lines[0], b"{no json}\n", *lines[2:]]), "line 2 is damaged"),
        (b"".join([lines[0], *lines[2:]]), "line 2 is trial 2"),
        (b"".join([lines[0], b"{}\n"]), "line 2 is no trial"),
        (b"".join([lines[0], lines[0].replace(b'"index": 0', b'"index": 1')]), "trial 1 of the earlier history"),
    ):
        trials.write_bytes(damage)
        with pytest.raises(RunError, match=message):
            run_search(table, **arguments)
    (tmp_path / "b/config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json"):
        run_search(table, **arguments)


def test_a_damaged_checkpoint_is_named(table, tmp_path):
    arguments = {"out": tmp_path, "preset": MICRO, "proposals": ("K3G1", "K3E1G1"), "target_ms": 1.0}
    with pytest.raises(KeyboardInterrupt):
        run_search(table, stage="connections", progress=Stop(2), **arguments)
    file = tmp_path / "checkpoints/connections.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"connections\.pt: the checkpoint is damaged"):
        run_search(table, stage="connections", **arguments)


def test_two_processes_in_one_directory(finished, table):
    from bpnas.search.run_directory import RunDirectory

    with RunDirectory(finished.directory).locked(), pytest.raises(RunError, match="another run-search"):
        run_search(table, out=finished.directory, preset=MICRO, constraints=(0.2, 0.3), seed=1)


def test_nothing_starts_under_an_infeasible_limit(table, tmp_path):
    smallest = float(BlockSpace(table).latencies().min())
    fastest_network = table.fixed() + sum(
        min(table.path(path, site) for path in table.chosen) for site in table.backbone().sites if not site.is_residual
    )
    for request, expected in (
        ({"constraints": (0.3, 0.001)}, smallest),
        ({"constraints": (0.3,), "target_ms": 0.012}, fastest_network),
        ({"proposals": ("K3G1",), "target_ms": 0.012, "stage": "connections"}, None),
    ):
        with pytest.raises(InfeasibleLimitError, match="the smallest feasible latency is") as caught:
            run_search(table, out=tmp_path / "x", preset=MICRO, **request)
        assert expected is None or caught.value.smallest_ms == pytest.approx(expected)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"stage": "third"}, "stage 'third' is unknown"),
        ({"preset": "huge"}, "no preset is called 'huge'"),
        ({"data": "mnist"}, "no data source"),
        ({"constraints": (-1.0,)}, "positive"),
        ({"target_ms": float("nan")}, "positive"),
        ({"proposals": ("K3",), "stage": "connections"}, "no path"),
        ({"proposals": ("K3G1",), "stage": "proposals"}, "nothing to do"),
        ({"proposals": ("K3G1",), "constraints": (1.0,)}, "leave --constraints out"),
        ({"stage": "connections"}, "holds no proposals yet"),
        ({"executor": "cluster"}, "executor 'cluster' is unknown"),
        ({"workers": 2}, "without workers"),
        ({"window": 0}, "window must be at least 1"),
        ({"threads": -1}, "threads must be at least 1"),
    ],
)
def test_senseless_requests(request_, message, table, tmp_path):
    with pytest.raises(UsageError, match=message):
        run_search(table, out=tmp_path / "x", **request_)


def test_settings_are_overridden_by_name():
    preset = Preset.load("paper").override({"connections.train.epochs": 50})
    assert preset.connections.train.epochs == 50 and preset.connections.train.batch == 640
    for wrong in ({"proposals.size": 1}, {"proposals.sample": 101}, {"retraining.epochs": 0}, {"x": 1},
                  {"connections.train.epochs": 10}, {"connections.lambda_below": 2.0}):  # fmt: skip
        with pytest.raises(UsageError):
            Preset.load("paper").override(wrong)


def test_a_request_that_failed_before_it_found_anything_binds_nothing(table, tmp_path):
    with pytest.raises(UsageError, match="holds no proposals yet"):
        run_search(table, out=tmp_path, preset=MICRO, stage="connections", seed=3)
    arguments = {"out": tmp_path, "preset": MICRO, "constraints": (0.2,), "stage": "proposals", "seed": 4}
    assert len(run_search(table, **arguments).proposals) == 1


def test_the_second_stage_may_be_changed_until_it_begins(table, tmp_path):
    arguments = {"out": tmp_path, "preset": MICRO, "constraints": (0.2, 0.3), "seed": 1}
    proposals = run_search(table, stage="proposals", **arguments).proposals
    slowest = max(proposal.latency_ms for proposal in proposals)
    needed = [site for site in table.backbone().sites if not site.is_residual]
    fastest = table.fixed() + sum(min(table.block(proposal.block, site) for proposal in proposals) for site in needed)
    with pytest.raises(InfeasibleLimitError, match="no network"):
        run_search(table, stage="connections", target_ms=fastest * 0.999, **arguments)
    changed = {**arguments, "target_ms": slowest, "preset": MICRO.override({"retraining.epochs": 1})}
    assert run_search(table, stage="connections", **changed).network.predicted_latency_ms <= slowest
    with pytest.raises(RunError, match="--target "):
        run_search(table, **{**changed, "target_ms": slowest * 2})
    with pytest.raises(RunError, match=r"preset\.proposals\.cycles"):
        run_search(table, **{**changed, "preset": MICRO.override({"proposals.cycles": 9, "retraining.epochs": 1})})


PROXIES = MICRO.override({"proposals.cycles": 12, "proposals.train.epochs": 4, "proposals.halving": 2})


def evaluations(out):
    return [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]


def test_successive_halving_trains_few_candidates_to_the_end(table, tmp_path):
    arguments = {"preset": PROXIES, "constraints": (0.3, 0.4), "seed": 1, "stage": "proposals"}
    run_search(table, out=tmp_path / "whole", **arguments)
    done = evaluations(tmp_path / "whole")
    assert {line["epochs"] for line in done} == {1, 2, 4} or {line["epochs"] for line in done} == {1, 4}
    assert all([epochs for epochs, _ in line["rungs"]] == [e for e in (1, 2) if e <= line["epochs"]] for line in done)
    stopped = next(line for line in done if line["epochs"] == 1)
    assert stopped["score"] == stopped["rungs"][0][1]
    with pytest.raises(KeyboardInterrupt):
        run_search(table, out=tmp_path / "stopped", progress=Stop(9), **arguments)
    run_search(table, out=tmp_path / "stopped", **arguments)
    for name in ("evaluations.jsonl", "trials.jsonl", "proposals.json"):
        assert (tmp_path / "stopped" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_candidate_goes_on_in_the_middle_of_its_training(table, tmp_path, monkeypatch):
    preset = MICRO.override({"proposals.train.epochs": 3})
    arguments = {"preset": preset, "constraints": (0.3,), "seed": 1, "stage": "proposals"}
    run_search(table, out=tmp_path / "whole", **arguments)
    monkeypatch.setattr("bpnas.search.training.resumable.CHECKPOINT_SECONDS", 0.0)
    saved = []

    def save_and_stop(path, state):
        save_checkpoint(path, state)
        saved.append(path)
        if len(saved) == 3:
            raise KeyboardInterrupt

    from bpnas.search.training.checkpoint import save_checkpoint

    monkeypatch.setattr("bpnas.search.training.resumable.save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run_search(table, out=tmp_path / "stopped", **arguments)
    assert saved[-1].is_relative_to(tmp_path / "stopped") and saved[-1].exists()
    run_search(table, out=tmp_path / "stopped", **arguments)
    assert not saved[-1].exists()
    for name in ("evaluations.jsonl", "trials.jsonl"):
        assert (tmp_path / "stopped" / name).read_text() == (tmp_path / "whole" / name).read_text()
