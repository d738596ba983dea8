import json

import pytest

torch = pytest.importorskip("torch")

from bpnas.base.errors import UsageError
from bpnas.profiler import Block
from bpnas.search import Preset, RunError
from bpnas.search.networks.network_file import NetworkFile, block_texts, load_network
from bpnas.search.networks.retrain import retrain
from bpnas.search.training.threads import set_threads, threads_kept
from tests.image_folders import write_folder, write_imagenet
from tests.search_helpers import FormulaTable, Steps, tiny_backbone

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
    from bpnas.search.training import resumable

    set_threads(1)
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0)
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


BRIEFLY = ("--retrain-epochs", 1, "--retrain-images", 12, "--retrain-batch", 4)


def own_folder(found, tmp_path, config=None, **changes):
    """A search that had a folder of images with two classes."""
    images = write_folder(tmp_path / "images", size=(32, 32))
    backbone = tiny_backbone(classes=2).to_dict()
    values = {"backbone": backbone, "classes": ["cat", "dog"], "data": f"folder:{images}", **changes}
    found.write_text(json.dumps(json.loads(found.read_text()) | values))
    if config is not None:
        found.with_name("config.json").write_text(json.dumps(config))
    return images


def test_without_data_it_takes_the_images_of_the_search_and_names_them(found, cli, tmp_path, monkeypatch):
    images = own_folder(found, tmp_path)
    done = cli("run-search", "retrain", found.parent, *BRIEFLY)
    assert done.exit_code == 0, done.stderr
    values = json.loads((tmp_path / "run-retrained/network.json").read_text())
    assert values["classes"] == ["cat", "dog"] and values["data"] == f"folder:{images}"
    count = values["accuracy_on"]["images"]
    evaluated = {"data": f"folder:{images}", "split": "validation", "images": count, "input_size": 32}
    assert values["accuracy_on"] == evaluated and count == len(list(images.glob("val/*/*.png")))
    assert f"% on {count} validation images of folder:{images} at 32 px, 0.25 ms by table" in done.stdout
    # What was retrained is retrained on the same again.
    again = cli("run-search", "retrain", tmp_path / "run-retrained", *BRIEFLY, "--json")
    assert json.loads(again.stdout)["accuracy_on"] == evaluated


@pytest.mark.parametrize("place", [".", "networks/12ms"])
def test_the_images_of_a_search_are_those_of_its_configuration(found, cli, tmp_path, monkeypatch, place):
    # The data as an earlier bpnas noted it, with a path from wherever the search was called.
    images = own_folder(found, tmp_path, data="folder:images")
    config = {"data": "digits", "connections_data": f"folder:{images}"}
    found.with_name("config.json").write_text(json.dumps(config))
    network = found.parent / place / "network.json"
    network.parent.mkdir(parents=True, exist_ok=True)
    network.write_text(found.read_text())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = cli("run-search", "retrain", network, *BRIEFLY, "--out", tmp_path / "again")
    assert done.exit_code == 0, done.stderr
    assert f"validation images of folder:{images} at 32 px" in done.stdout


def test_images_that_are_gone_are_asked_for(found, cli, tmp_path):
    images = own_folder(found, tmp_path)
    images.rename(tmp_path / "moved")
    done = cli("run-search", "retrain", found, *BRIEFLY)
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert f"{images}: there is no such directory of images any more" in done.stderr
    assert "--data folder:DIR" in done.stderr and not (tmp_path / "run-retrained").exists()
    done = cli("run-search", "retrain", found, *BRIEFLY, "--data", f"folder:{tmp_path / 'moved'}")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "config.json: cannot be read"),
        ('{"data": 7}', "'data' must be a text"),
        ('{"data": "x"}', "cannot be told"),
    ],
)
def test_a_damaged_configuration_is_named(found, cli, config, message):
    found.with_name("config.json").write_text(config)
    done = cli("run-search", "retrain", found, *BRIEFLY)
    assert done.exit_code == 1 and message in done.stderr and done.stderr.count("\n") == 1


@pytest.fixture
def table_of_3(monkeypatch):
    """A table with a head of 3 classes, by which the network takes more than it did."""
    table = FormulaTable.tiny(classes=3)
    monkeypatch.setattr("bpnas.tables.LatencyTable.load", lambda file, additivity=None: table)
    return table


def test_a_network_above_its_limit_is_refused_before_it_is_trained(found, cli, tmp_path, table_of_3):
    source = f"imagenet:{write_imagenet(tmp_path / 'images', classes=3, train=4)}"
    predicted = table_of_3.network(BLOCKS)
    found.write_text(json.dumps(json.loads(found.read_text()) | {"target_ms": predicted * 0.9}))
    call = ("run-search", "retrain", found, "--data", source, "--table", "t.parquet", *BRIEFLY)
    done = cli(*call)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and not (tmp_path / "run-retrained").exists()
    for part in (f"takes {predicted:.6g} ms", f"limit of {predicted * 0.9:.6g} ms", "3 classes", "--allow-above-limit"):
        assert part in done.stderr
    done = cli(*call, "--allow-above-limit", "--json")
    assert done.exit_code == 0, done.stderr
    assert f"above its limit of {predicted * 0.9:.6g} ms" in done.stderr
    values = json.loads((tmp_path / "run-retrained/network.json").read_text())
    for answer in (json.loads(done.stdout), values):
        assert answer["within_limit"] is False and answer["limit_ms"] == predicted * 0.9
        assert answer["predicted_latency_ms"] == predicted
    # Whoever writes that network again says so, too.
    assert "above its limit" in cli("run-search", "export", tmp_path / "run-retrained").stderr


def test_a_network_within_its_limit_says_so(found, cli, tmp_path, table_of_3):
    source = f"imagenet:{write_imagenet(tmp_path / 'images', classes=3, train=4)}"
    done = cli("run-search", "retrain", found, "--data", source, "--table", "t.parquet", *BRIEFLY)
    assert done.exit_code == 0 and "above" not in done.stderr and "limit 0.3 ms" in done.stdout
    values = json.loads((tmp_path / "run-retrained/network.json").read_text())
    assert values["within_limit"] is True and values["limit_ms"] == 0.3


def test_without_a_table_the_latency_of_another_head_is_unknown(found, cli, tmp_path):
    source = f"imagenet:{write_imagenet(tmp_path / 'images', classes=3, train=4)}"
    call = ("run-search", "retrain", found, "--data", source, *BRIEFLY)
    done = cli(*call)
    assert done.exit_code == 2 and "--table TABLE" in done.stderr and "--allow-above-limit" in done.stderr
    done = cli(*call, "--allow-above-limit")
    assert done.exit_code == 0, done.stderr
    assert "latency unknown, limit 0.3 ms" in done.stdout and "0.25" not in done.stdout
    values = json.loads((tmp_path / "run-retrained/network.json").read_text())
    assert values["predicted_latency_ms"] is None and values["within_limit"] is None


def test_a_network_that_an_earlier_bpnas_left_above_its_limit_is_told_of(found, cli, tmp_path):
    found.write_text(json.dumps(json.loads(found.read_text()) | {"predicted_latency_ms": 0.31}))
    done = cli("run-search", "retrain", found, "--data", "digits", *BRIEFLY)
    assert done.exit_code == 2 and "takes 0.31 ms by table, above its limit of 0.3 ms" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--retrain-ema", "2"], "must be between 0 and 1"),
        (["--retrain-warmup-epochs", "10"], "must be shorter than its 10 epochs"),
        (["--data", "imagenet100@x:here"], "only imagenet100 takes a seed"),
    ],
)
def test_bad_usage_is_one_sentence(found, cli, options, message):
    done = cli("run-search", "retrain", found, "--data", "digits", *options)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_file_that_is_no_network_is_named(cli, tmp_path):
    (tmp_path / "network.json").write_text("{}")
    done = cli("run-search", "retrain", tmp_path)
    assert done.exit_code == 1 and "network.json: is no network of run-search" in done.stderr
