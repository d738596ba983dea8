"""The commands on the real sets of shared/data: blood cells, COCO, faces, and persons made of faces."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision", exc_type=Exception)
pytest.importorskip("pycocotools")
pytest.importorskip("pytorch_metric_learning")

from bpnas.search.training.threads import set_threads, threads_kept
from tests.transfer_images import small_network


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    with threads_kept():
        set_threads(1)
        yield


def result(cli: Any, task: str, out: Path, *words: Any) -> dict[str, Any]:
    done = cli("run-search", "transfer", task, *words, "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("network", ["mobilenetv2", "bpnas"])
def test_blood_cells_are_a_set_to_detect_on(network: str, shared_data: Path, cli: Any, tmp_path: Path) -> None:
    which = ["--network", small_network(tmp_path)] if network == "bpnas" else ["--model", network]
    part = few(shared_data / "bccd", tmp_path / "few", 8)
    words = ["--data", part, *which, "--iterations", 3, "--shorter-side", 64, "--longer-side", 128]
    found = result(cli, "detection", tmp_path / "run", *words)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "epochs.jsonl").read_text().splitlines()]
    assert len(losses) == 2  # of two iterations, and one
    assert found["images"] == {"train": 8, "val": 8} and found["categories"] == ["RBC", "WBC", "Platelets"]
    assert found["recipe"]["iterations"] == 3 and found["cost"]["hours"] > 0
    assert 0 <= found["metrics"]["AP"] < 0.2


def few(data: Path, folder: Path, count: int) -> Path:
    """The first images of a set in COCO's form."""
    (folder / "annotations").mkdir(parents=True)
    for part in ("train2017", "val2017"):
        (folder / part).symlink_to(data / part)
        values = json.loads((data / "annotations" / f"instances_{part}.json").read_text())
        values["images"] = values["images"][:count]
        kept = {image["id"] for image in values["images"]}
        values["annotations"] = [entry for entry in values["annotations"] if entry["image_id"] in kept]
        (folder / "annotations" / f"instances_{part}.json").write_text(json.dumps(values))
    return folder


@pytest.mark.slow
def test_a_detector_learns_blood_cells(shared_data: Path, cli: Any, tmp_path: Path) -> None:
    words = ["--data", few(shared_data / "bccd", tmp_path / "few", 60), "--network", small_network(tmp_path)]
    words += ["--iterations", 60, "--warmup-iterations", 5, "--shorter-side", 96]
    found = result(cli, "detection", tmp_path / "run", *words)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "epochs.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]
    assert found["metrics"]["AP50"] > 0.02


def test_crowds_and_an_empty_image_of_coco_do_no_harm(shared_data: Path, cli: Any, tmp_path: Path) -> None:
    words = ["--data", shared_data / "coco", "--network", small_network(tmp_path), "--iterations", 2]
    found = result(cli, "detection", tmp_path / "run", *words, "--shorter-side", 64, "--batch", 1)
    notes = " ".join(found["notes"])
    assert "1 image without boxes is left out of training" in notes and "crowds are left out of training" in notes
    assert found["images"] == {"train": 49, "val": 50} and len(found["categories"]) == 80


@pytest.mark.slow
def test_real_faces_are_told_apart(shared_data: Path, cli: Any, tmp_path: Path) -> None:
    words = ["--data", shared_data / "faces", "--network", small_network(tmp_path)]
    before = result(cli, "face", tmp_path / "before", *words, "--iterations", 0)
    after = result(cli, "face", tmp_path / "after", *words, "--iterations", 105)
    assert [row["distractors"] for row in after["rank_1"]] == [10, 100, 495]
    assert after["rank_1"][-1]["rate"] > before["rank_1"][-1]["rate"] + 0.1


def persons(faces: Path, folder: Path) -> Path:
    """Faces in the layout of Market-1501: of each person's images every other one is of the second camera."""
    for part, place in (("train", "bounding_box_train"), ("probes", "")):
        for person in sorted((faces / part).iterdir()):
            for number, image in enumerate(sorted(person.iterdir())):
                camera = number % 2 + 1
                target = folder / (place or ("query" if camera == 1 else "bounding_box_test"))
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(image, target / f"{int(person.name[1:]):04d}_c{camera}s1_{number:06d}_00.jpg")
    return folder


def test_the_paper_s_recipe_for_persons_runs_on_real_images(shared_data: Path, cli: Any, tmp_path: Path) -> None:
    data = persons(shared_data / "faces", tmp_path / "persons")
    words = ["--data", data, "--network", small_network(tmp_path), "--preset", "paper", "--height", 32, "--width", 32]
    found = result(cli, "reid", tmp_path / "run", *words, "--epochs", 2)
    assert (found["queries"], found["gallery"], found["embedding"]) == (50, 50, 16)
    assert found["settings"]["train"]["milestones"] == [1.0, 1.333333]
    assert found["rank_1"] > 0.3
