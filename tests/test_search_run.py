import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bpnas.android_bench.errors import UsageError
from bpnas.profiler import Block
from bpnas.search import InfeasibleLimitError, Preset, RunError, run_search
from bpnas.search.space import BlockSpace
from tests.search_helpers import FormulaTable

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


def test_stages_one_by_one_are_the_whole(finished, table, tmp_path):
    arguments = {"out": tmp_path / "b", "preset": MICRO, "constraints": (0.2, 0.3), "seed": 1}
    assert run_search(table, stage="proposals", **arguments).network is None
    assert run_search(table, stage="connections", **arguments).network == finished.network


def test_a_finished_run_is_read_not_repeated(finished, table):
    progress = Stop()
    arguments = {"preset": MICRO, "constraints": (0.2, 0.3), "seed": 1}
    assert run_search(table, out=finished.directory, progress=progress, **arguments) == finished
    assert progress.stages == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 2}, "seed = 1, now it is 2"),
        ({"constraints": (0.2, 0.4)}, "constraints_ms"),
        ({"target_ms": 0.25}, "target_ms = 0.3, now it is 0.25"),
        ({"preset": MICRO.override({"proposals.cycles": 5})}, "preset.proposals.cycles = 4, now it is 5"),
        ({"table": FormulaTable.tiny(PATHS + ",K5G8")}, None),
    ],
)
def test_a_changed_configuration_is_named(change, field, finished, table):
    arguments = {"out": finished.directory, "preset": MICRO, "constraints": (0.2, 0.3), "seed": 1, "table": table}
    if field is None:
        change, field = {"table": FormulaTable(table.backbones, table.chosen, "1" * 64)}, "table_sha256"
    with pytest.raises(RunError, match=field):
        run_search(**{**arguments, **change})


def test_damaged_run_directories_are_named(finished, table, tmp_path):
    arguments = {"out": tmp_path / "b", "preset": MICRO, "constraints": (0.2, 0.3), "seed": 1, "stage": "proposals"}
    run_search(table, **arguments)
    (tmp_path / "b/proposals.json").unlink()
    trials = tmp_path / "b/trials.jsonl"
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
        ({"data": "imagenet"}, "no data source"),
        ({"constraints": (-1.0,)}, "positive"),
        ({"target_ms": float("nan")}, "positive"),
        ({"proposals": ("K3",), "stage": "connections"}, "no path"),
        ({"proposals": ("K3G1",), "stage": "proposals"}, "nothing to do"),
        ({"proposals": ("K3G1",), "constraints": (1.0,)}, "leave --constraints out"),
        ({"stage": "connections"}, "holds no proposals yet"),
    ],
)
def test_senseless_requests(request_, message, table, tmp_path):
    with pytest.raises(UsageError, match=message):
        run_search(table, out=tmp_path / "x", **request_)


def test_default_limits_ascend_and_admit_a_choice(table):
    from bpnas.search.run import default_limits

    space = BlockSpace(table)
    limits = default_limits(space, Preset.load("tiny").proposals.limit_quantiles)
    assert list(limits) == sorted(set(limits))
    for number, limit in enumerate(limits, start=1):
        assert space.feasible(limit).size >= min(10 * number, space.size)
    lone = BlockSpace(FormulaTable.tiny("K1G1"))
    assert all(lone.feasible(limit).size == 1 for limit in default_limits(lone, (0.1, 0.5)))


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
    with pytest.raises(RunError, match="target_ms"):
        run_search(table, **{**changed, "target_ms": slowest * 2})
    with pytest.raises(RunError, match=r"preset\.proposals\.cycles"):
        run_search(table, **{**changed, "preset": MICRO.override({"proposals.cycles": 9, "retraining.epochs": 1})})
