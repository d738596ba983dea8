"""Faster R-CNN on generated images: it learns, resumes after an interruption, and is evaluated as COCO does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision", exc_type=Exception)
pytest.importorskip("pycocotools")

from click.testing import Result
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import load as load_tensors
from torch import nn

from bpnas.base.errors import UsageError
from bpnas.profiler import Backbone
from bpnas.profiler.backbone import Stage
from bpnas.search.errors import DivergedError
from bpnas.search.training import resumable
from bpnas.search.training.threads import set_threads, threads_kept
from bpnas.search.transfer.backbones import load_features
from bpnas.search.transfer.detection.coco import CocoSet, coco_files
from bpnas.search.transfer.detection.model import build_detector, detection_features
from bpnas.search.transfer.detection.run import run_detection
from bpnas.search.transfer.detection.score import METRICS, coco_metrics, detect
from bpnas.search.transfer.detection.settings import DetectionSettings
from bpnas.search.transfer.detection.train import train_detector
from tests.coco_factory import coco_data
from tests.network_factory import stored_network
from tests.programs import run_together, script

Command = Callable[..., Result]
SETTINGS = DetectionSettings.load("tiny").override({"shorter_side": 96, "epochs": 14})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads_kept():
        set_threads(1)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coco_data(tmp_path_factory.mktemp("coco") / "data")


def few(folder: Path) -> Path:
    return coco_data(folder / "few", train=6, val=3)


def network(folder: Path, stem_stride: int = 2) -> Path:
    """network.json of a small network."""
    stages = (Stage(16, 1, 1), Stage(24, 1, 2), Stage(32, 1, 2), Stage(48, 1, 2), Stage(64, 1, 2))
    return stored_network(folder, backbone=Backbone("narrow", 64, 16, stem_stride, stages, 64, 10))[0]


def files(data: Path, part: str) -> tuple[Path, Path]:
    return coco_files(str(data), None, None, part)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def but_time(result: dict[str, Any]) -> dict[str, Any]:
    assert result["cost"]["hours"] > 0
    return {name: value for name, value in result.items() if name not in ("cost", "file_sha256")}


@pytest.mark.slow
def test_a_detector_on_a_searched_network_learns(data: Path, tmp_path: Path) -> None:
    path = network(tmp_path)

    def run(name: str, settings: DetectionSettings) -> dict[str, Any]:
        return run_detection(files(data, "train"), files(data, "val"), settings, out=tmp_path / name, network=path)

    before, result = run("untrained", SETTINGS.override({"epochs": 0})), run("run", SETTINGS)

    losses = [line["loss"] for line in lines(tmp_path / "run" / "epochs.jsonl")]
    assert len(losses) == SETTINGS.epochs
    assert losses[-1] < 0.75 * losses[0]
    assert before["metrics"]["AP50"] < 0.1
    assert result["metrics"]["AP50"] > 0.3
    assert result["mock"]
    assert result["categories"] == ["disc", "square", "triangle"]

    # pycocotools reads the files as they are, and comes to the same figures.
    truth = COCO(str(files(data, "val")[1]))
    score = COCOeval(truth, truth.loadRes(str(tmp_path / "run" / "detections.json")), "bbox")
    score.evaluate()
    score.accumulate()
    score.summarize()
    assert [value if value >= 0 else None for value in score.stats[:6]] == list(result["metrics"].values())


def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, path = few(tmp_path), network(tmp_path)
    settings = SETTINGS.override({"epochs": 2, "batch": 2, "shorter_side": 64})

    def run(out: Path) -> dict[str, Any]:
        return run_detection(files(data, "train"), files(data, "val"), settings, out=out, network=path, seed=3)

    whole = run(tmp_path / "whole")
    save = resumable.save_checkpoint

    def interrupted(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(resumable, "save_checkpoint", interrupted)
    for _ in range(6):  # steps
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "again")
    assert but_time(run(tmp_path / "again")) == but_time(whole)
    for name in ("detector.safetensors", "detections.json", "epochs.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    # What is there already is not made again.
    (tmp_path / "again" / "detections.json").unlink()
    assert but_time(run(tmp_path / "again")) == but_time(whole)
    assert not (tmp_path / "again" / "detections.json").exists()


def test_a_training_that_diverges_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, path = few(tmp_path), network(tmp_path)
    settings = SETTINGS.override({"epochs": 1, "batch": 2, "shorter_side": 64})
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)

    def run(settings: DetectionSettings) -> dict[str, Any]:
        return run_detection(files(data, "train"), files(data, "val"), settings, out=tmp_path / "run", network=path)

    for _ in range(2):
        with pytest.raises(DivergedError, match=r"training of the detector diverged in epoch 1, step \d: .*-rate$"):
            run(settings.override({"learning_rate": 1e30}))
        left = {file.name for file in (tmp_path / "run").rglob("*") if file.is_file()}
        assert not left & {"result.json", "detector.safetensors", "epochs.jsonl", "detection.pt"}
    assert run(settings)["recipe"]["learning_rate"] == settings.learning_rate


def test_a_detector_with_a_weight_that_is_not_finite_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "PROGRESS_SECONDS", 1000.0)  # the weights are looked at whenever progress is shown
    data, path = few(tmp_path), network(tmp_path)
    settings = SETTINGS.override({"epochs": 1, "batch": 2, "shorter_side": 64})
    images = CocoSet.load(*files(data, "train")).images_with_boxes()
    features = load_features("bpnas", network=path)
    detection_features(features)
    detector = build_detector(features, 3, settings)
    detector.register_buffer("unused", torch.tensor([0.0, float("nan")]))
    told: list[Any] = []
    with pytest.raises(DivergedError, match="in epoch 1, step 3: a weight is not finite"):
        train_detector(detector, images, settings, seed=0, checkpoint=tmp_path / "c.pt", on_epoch=told.append)
    assert not told and not (tmp_path / "c.pt").exists()


def test_the_baseline_runs_through_the_same_command(cli: Command, tmp_path: Path) -> None:
    pytest.importorskip("timm", exc_type=Exception)
    data, out = few(tmp_path), tmp_path / "run"
    options = ["--model", "mobilenetv2_100", "--epochs", 1, "--batch", 3, "--out", out]
    done = cli("run-search", "transfer", "detection", "--data", data, *options, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads((out / "result.json").read_text())
    assert (result["model"], result["network"], result["mock"]) == ("mobilenetv2_100", None, None)
    assert result["metrics"].keys() == set(METRICS)
    assert result["recipe"]["epochs"] == 1
    weights = load_tensors((out / "detector.safetensors").read_bytes())
    assert any(name.startswith("backbone.body") for name in weights)
    # Called with another recipe, the run is not overwritten.
    done = cli("run-search", "transfer", "detection", "--data", data, *options, "--rate", 0.1)
    assert done.exit_code == 1
    assert "recipe.learning_rate" in done.stderr


@pytest.mark.slow
def test_two_processes_train_a_detector_as_one_does(cli: Command, tmp_path: Path) -> None:
    data = coco_data(tmp_path / "even", train=7, val=3, size=96)  # of the last batch one process has two images
    options = ["--network", network(tmp_path), "--iterations", 3, "--batch", 4, "--shorter-side", 96]
    words = ["--data", data, *options, "--longer-side", 96, "--warmup-iterations", 0, "--rate", 0.001, "--out"]
    done = cli("run-search", "transfer", "detection", *words, tmp_path / "one")
    assert done.exit_code == 0, done.stderr
    said = run_together(2, script("run-search"), "transfer", "detection", *words, tmp_path / "two")
    assert "Files: " in said[0] and said[1] == ""
    one, two = (load_tensors((tmp_path / name / "detector.safetensors").read_bytes()) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)
    losses = [[line["loss"] for line in lines(tmp_path / name / "epochs.jsonl")] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    seen = [json.loads((tmp_path / name / "detections.json").read_text()) for name in ("one", "two")]
    assert abs(len(seen[0]) - len(seen[1])) <= 0.05 * len(seen[0])
    assert json.loads((tmp_path / "two" / "result.json").read_text())["cost"]["processes"] == 2


@pytest.mark.slow
def test_normalisation_of_timm_s_models_is_synchronised(cli: Command, tmp_path: Path) -> None:
    pytest.importorskip("timm", exc_type=Exception)
    data = coco_data(tmp_path / "even", train=4, val=2, size=96)
    options = ["--model", "mobilenetv2_050", "--iterations", 1, "--batch", 4, "--shorter-side", 96]
    words = ["--data", data, *options, "--longer-side", 96, "--warmup-iterations", 0, "--rate", 0.0001, "--out"]
    done = cli("run-search", "transfer", "detection", *words, tmp_path / "one")
    assert done.exit_code == 0, done.stderr
    run_together(2, script("run-search"), "transfer", "detection", *words, tmp_path / "two")
    one, two = (load_tensors((tmp_path / name / "detector.safetensors").read_bytes()) for name in ("one", "two"))
    assert one.keys() == two.keys() and any(name.endswith("running_var") for name in one)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_batch_of_one_image_on_the_smallest_side_is_trained(cli: Command, tmp_path: Path) -> None:
    data = coco_data(tmp_path / "square", train=2, val=1, size=96)
    options = ["--network", network(tmp_path), "--iterations", 2, "--batch", 1, "--shorter-side", 64]
    done = cli("run-search", "transfer", "detection", "--data", data, *options, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    refused = cli("run-search", "transfer", "detection", "--data", data, "--shorter-side", 32)
    assert refused.exit_code == 2 and "shorter side must be at least 64 and at most 65,536, not 32" in refused.stderr


class Seer(nn.Module):
    """A detector that knows the answers."""

    def __init__(self, found: CocoSet, labels: Callable[[int], int] = lambda label: label) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self._images, self._labels = iter(found.images), labels

    def forward(self, pixels: list[Any]) -> list[dict[str, Any]]:
        answers = []
        for image, seen in zip(self._images, pixels, strict=False):
            assert seen.shape == (3, image.height, image.width)
            labels = torch.tensor([self._labels(int(label)) for label in image.labels])
            answers.append(
                {"boxes": torch.from_numpy(image.boxes).clone(), "labels": labels, "scores": torch.ones(len(labels))}
            )
        return answers


def test_right_answers_score_one_and_none_zero(data: Path) -> None:
    found = CocoSet.load(*files(data, "val"))
    right = coco_metrics(found, detect(Seer(found), found, batch=100))
    assert right["AP"] == right["AP50"] == right["APM"] == pytest.approx(1.0)
    assert right["APL"] is None  # no shape is that large
    confused = coco_metrics(found, detect(Seer(found, lambda label: label % 3 + 1), found, batch=100))
    assert confused["AP"] < 0.1
    assert coco_metrics(found, [])["AP"] == 0.0


def test_a_network_of_small_images_reaches_stride_32(tmp_path: Path) -> None:
    features = load_features("bpnas", network=network(tmp_path, stem_stride=1))
    assert features.strides == (1, 2, 4, 8, 16)
    (note,) = detection_features(features)
    assert "stride 2" in note
    detector = build_detector(features, 3, SETTINGS).eval()
    shapes = [tuple(found.shape[2:]) for found in detector.backbone(torch.zeros(1, 3, 128, 128)).values()]
    assert shapes == [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]
    assert detection_features(features) == ()


def test_frozen_normalisation_stays_and_the_rest_moves(tmp_path: Path) -> None:
    data, path = few(tmp_path), network(tmp_path)
    settings = SETTINGS.override({"epochs": 1, "shorter_side": 64, "frozen_norms": True})
    run_detection(files(data, "train"), files(data, "val"), settings, out=tmp_path / "run", network=path)
    before = load_tensors(path.with_suffix(".safetensors").read_bytes())
    after = load_tensors((tmp_path / "run" / "detector.safetensors").read_bytes())
    for name, value in before.items():
        if not name.startswith("head"):
            assert torch.equal(after[f"backbone.body.{name}"], value) == (".norm." in name), name


def test_random_weights_are_not_frozen(tmp_path: Path) -> None:
    data = few(tmp_path)
    settings = SETTINGS.override({"frozen_norms": True})
    with pytest.raises(UsageError, match="give its --weights, or --norms trained"):
        run_detection(
            files(data, "train"),
            files(data, "val"),
            settings,
            out=tmp_path / "run",
            network=network(tmp_path),
            from_scratch=True,
        )
    assert not (tmp_path / "run").exists()
