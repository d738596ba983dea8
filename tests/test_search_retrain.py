import json

import pytest

torch = pytest.importorskip("torch")

from bpnas.android_bench.errors import UsageError
from bpnas.profiler import Block
from bpnas.search import Preset, RunError
from bpnas.search.executor import set_threads, threads_kept
from bpnas.search.network_file import NetworkFile, block_texts, load_network
from bpnas.search.retrain import retrain
from tests.search_helpers import FormulaTable, Steps, tiny_backbone
from tests.test_search_disk_images import write_imagenet

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

BLOCKS = [Block.parse("K3G1"), None, Block.parse("K3E2G1"), None]
BRIEF = {"retraining.epochs": 2, "retraining.train_images": 60, "test_images": 50, "retraining.ema_decay": 0.9}


@pytest.fixture
def found(tmp_path):
    """The network of a search."""
    values = {
        "mock": True,
        "device": "a formula",
        "runtime": "onnxruntime",
        "table_sha256": "0" * 64,
        "backbone": tiny_backbone().to_dict(),
        "blocks": block_texts(BLOCKS),
        "predicted_latency_ms": 0.25,
        "additivity": "sum",
        "target_ms": 0.3,
        "accuracy": 0.5,
        "measured": "of other weights",
        "data": "cifar10:elsewhere",
        "classes": list("abcdefghij"),
        "input": {"mean": [0.5] * 3, "std": [0.2] * 3},
    }
    (tmp_path / "run").mkdir()
    file = tmp_path / "run/network.json"
    file.write_text(json.dumps(values))
    return file


def brief(**more):
    return Preset.load("tiny").override(BRIEF | more)


def test_a_network_is_trained_again(found, tmp_path):
    progress = Steps(lambda step: None)
    result = retrain(found.parent, out=tmp_path / "again", data="digits", preset=brief(), progress=progress)
    assert result.predicted_latency_ms == 0.25 and result.mock and progress.steps == 2
    values = json.loads((tmp_path / "again/network.json").read_text())
    assert values["accuracy"] == result.accuracy and values["data"] == "digits"
    assert values["classes"] == list("0123456789") and values["target_ms"] == 0.3 and "measured" not in values
    file = NetworkFile.load(tmp_path / "again")
    assert file.blocks == tuple(BLOCKS) and file.backbone == tiny_backbone()
    assert load_network(file.path)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert (tmp_path / "again/network.onnx").exists() and (tmp_path / "again/network.tflite").exists()

    assert retrain(found, out=tmp_path / "again", data="digits", preset=brief(), progress=progress) == result
    assert progress.notes == ["the network is there already"] and progress.steps == 2
    found.write_text(json.dumps(json.loads(found.read_text()) | {"measured": [], "int8": None}))
    assert retrain(found, out=tmp_path / "again", data="digits", preset=brief()) == result, "measured in between"
    with pytest.raises(RunError, match=r"started with retraining\.ema_decay = 0\.9, now it is 0\.5"):
        retrain(found, out=tmp_path / "again", data="digits", preset=brief(**{"retraining.ema_decay": 0.5}))


@threads_kept()
def test_a_killed_one_ends_as_an_undisturbed_one(found, tmp_path, monkeypatch):
    from bpnas.search import train as train_module

    set_threads(1)
    monkeypatch.setattr(train_module, "CHECKPOINT_SECONDS", 0)
    retrain(found, out=tmp_path / "whole", data="digits", preset=brief())

    def interrupt(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrain(found, out=tmp_path / "parts", data="digits", preset=brief(), progress=Steps(interrupt))
    retrain(found, out=tmp_path / "parts", data="digits", preset=brief())
    for name in ("network.json", "network.safetensors", "retraining.jsonl"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_other_classes_need_a_table(found, tmp_path):
    source = f"imagenet:{write_imagenet(tmp_path / 'images', classes=3, train=4)}"
    with pytest.raises(UsageError, match="searched for 10 classes, and the images have 3: name the table"):
        retrain(found, out=tmp_path / "again", data=source, preset=brief())
    table = FormulaTable.tiny(classes=3)
    result = retrain(found, out=tmp_path / "again", data=source, preset=brief(), table=table)
    assert result.predicted_latency_ms == table.network(BLOCKS) != 0.25
    assert NetworkFile.load(tmp_path / "again").backbone.classes == 3
    assert load_network(tmp_path / "again")(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_the_network_itself_is_not_overwritten(found):
    with pytest.raises(UsageError, match="holds the network itself"):
        retrain(found, out=found.parent, data="digits", preset=brief())


def test_command(found, cli, tmp_path):
    options = (
        "--data digits --retrain-epochs 1 --retrain-images 40 --retrain-label-smoothing 0.1 --no-retrain-norm-decay "
        "--json"
    ).split()
    done = cli("run-search", "retrain", found, *options)
    assert done.exit_code == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["out"] == str(tmp_path / "run-retrained") and facts["mock"] and facts["predicted_latency_ms"] == 0.25
    recipe = json.loads((tmp_path / "run-retrained/config.json").read_text())["retraining"]
    assert recipe["label_smoothing"] == 0.1 and recipe["decay_norms"] is False and recipe["ema_decay"] is None
    assert "(mock: computed, not measured)" in cli("run-search", "retrain", found, *options[:-1]).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--retrain-ema", "2"], "must be between 0 and 1"),
        (["--retrain-warmup-epochs", "10"], "must be shorter than its 10 epochs"),
        (["--data", "imagenet100@x:here"], "only imagenet100 takes a seed"),
    ],
)
def test_bad_usage_is_one_sentence(found, cli, options, message):
    done = cli("run-search", "retrain", found, *options)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_file_that_is_no_network_is_named(cli, tmp_path):
    (tmp_path / "network.json").write_text("{}")
    done = cli("run-search", "retrain", tmp_path)
    assert done.exit_code == 1 and "network.json: is no network of run-search" in done.stderr
