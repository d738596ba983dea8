"""What detection does before torchvision has its turn: annotations, recipes, the command's refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from bpnas.base.errors import UsageError
from bpnas.search.errors import DataError
from bpnas.search.transfer.detection.coco import CocoSet
from bpnas.search.transfer.detection.settings import DetectionSettings
from tests.coco_factory import SHAPES, annotation, coco_data, write_annotations

Command = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return coco_data(tmp_path / "data", train=3, val=1)


def load(data: Path, part: str = "train2017") -> CocoSet:
    return CocoSet.load(data / part, data / "annotations" / f"instances_{part}.json")


def changed(data: Path, change: Callable[[dict[str, Any]], None], part: str = "train2017") -> Path:
    path = data / "annotations" / f"instances_{part}.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    return path


def test_categories_become_labels_from_one_in_the_order_of_their_ids(data: Path) -> None:
    values = json.loads((data / "annotations" / "instances_train2017.json").read_text())
    changed(data, lambda values: values["categories"].reverse())
    found = load(data)
    assert found.category_ids == tuple(SHAPES)
    assert found.category_names == ("disc", "square", "triangle")
    for image in found.images:
        there = [entry for entry in values["annotations"] if entry["image_id"] == image.id]
        assert [found.category_ids[label - 1] for label in image.labels] == [entry["category_id"] for entry in there]
        boxes = np.array([entry["bbox"] for entry in there])
        assert np.array_equal(image.boxes[:, :2], boxes[:, :2])
        assert np.array_equal(image.boxes[:, 2:], boxes[:, :2] + boxes[:, 2:])


def test_crowds_and_degenerate_boxes_are_left_out_with_a_note(data: Path) -> None:
    images = [{"id": number, "file_name": f"{number:012d}.png", "width": 96, "height": 96} for number in (1, 2, 3)]
    boxes = [
        annotation(1, 1, 3, [-10.0, 5.0, 30.0, 20.0]),  # ends outside
        annotation(2, 1, 3, [5.0, 5.0, 0.0, 20.0]),
        annotation(3, 1, 3, [5.0, 5.0, 20.0, -3.0]),
        annotation(4, 1, 3, [100.0, 5.0, 20.0, 20.0]),  # outside
        {**annotation(5, 2, 7, [0.0, 0.0, 96.0, 96.0]), "iscrowd": 1},
    ]
    for entry in boxes[:2]:
        del entry["area"], entry["iscrowd"]
    write_annotations(data, "train2017", images, boxes)
    found = load(data)
    assert [image.boxes.tolist() for image in found.images] == [[[0, 5, 20, 25]], [], []]
    assert [image.id for image in found.images_with_boxes()] == [1]
    assert [note.partition(": ")[2] for note in found.notes] == [
        "3 degenerate boxes, under a pixel wide or high within their image, are left out of training",
        "1 crowds are left out of training",
        "2 annotations have no area: that of their box stands in",
    ]
    # The evaluation counts crowds and areas in its own way, so it gets all annotations.
    assert [(entry["area"], entry["iscrowd"]) for entry in found.dataset["annotations"]] == [
        (600.0, 0), (0.0, 0), (-60.0, 0), (400.0, 0), (9216.0, 1)
    ]  # fmt: skip


def remove(kind: str, name: str) -> Callable[[dict[str, Any]], None]:
    return lambda values: values[kind][0].pop(name)


def put(kind: str, name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda values: values[kind][0].update({name: value})


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no images": (lambda v: v.pop("images"), "no list 'images'"),
    "categories empty": (lambda v: v["categories"].clear(), "list 'categories' is empty"),
    "no annotations": (lambda v: v["annotations"].clear(), "list 'annotations' is empty"),
    "no file name": (remove("images", "file_name"), "entry 1 of 'images' has no 'file_name'"),
    "no width": (remove("images", "width"), "entry 1 of 'images' has no 'width'"),
    "no height": (put("images", "height", 0), "image 1 is .*x0 pixels"),
    "no id": (remove("images", "id"), "an entry of 'images' has no 'id'"),
    "text as id": (put("images", "id", "one"), "'id' of an entry of 'images' is 'one', not a whole number"),
    "image twice": (lambda v: v["images"].append(v["images"][0]), "two images have the id 1"),
    "category twice": (lambda v: v["categories"].append(v["categories"][0]), "two categories have one id"),
    "annotation twice": (lambda v: v["annotations"].append(v["annotations"][0]), "two annotations have the id 1"),
    "no box": (remove("annotations", "bbox"), "entry 1 of 'annotations' has no 'bbox'"),
    "half a box": (put("annotations", "bbox", [1, 2]), r"annotation 1 has the bbox \[1, 2\]"),
    "box of text": (put("annotations", "bbox", [1, 2, 3, "4"]), "annotation 1 has the bbox"),
    "box without end": (put("annotations", "bbox", [1, 2, 3, float("nan")]), "annotation 1 has the bbox"),
    "box beyond": (put("annotations", "bbox", [1, 2, 10**400, 4]), "annotation 1 has the bbox"),
    "box too far": (put("annotations", "bbox", [1e308, 2, 1e308, 4]), "annotation 1 has the bbox"),
    "area of text": (put("annotations", "area", "x"), "annotation 1 has the area 'x'; write pixels, or leave it out"),
    "area without end": (put("annotations", "area", float("nan")), "annotation 1 has the area nan"),
    "crowd of text": (put("annotations", "iscrowd", "yes"), "annotation 1 has the iscrowd 'yes'; write 0 or 1"),
    "crowd of a list": (put("annotations", "iscrowd", [1]), r"annotation 1 has the iscrowd \[1\]"),
    "above the folder": (put("images", "file_name", "../secret.png"), "image 1 is '../secret.png', which is not below"),
    "elsewhere": (put("images", "file_name", "/etc/passwd"), "image 1 is '/etc/passwd', which is not below"),
    "name of a list": (
        put("images", "file_name", ["a"]),
        r"'file_name' of an entry of 'images' is \['a'\], not a text",
    ),
    "name with a null": (put("images", "file_name", "a\0b"), "the image is missing"),
    "name too long": (put("images", "file_name", "a" * 5000), "the image is missing"),
    "huge id": (put("images", "id", 10**30), "'id' of an entry of 'images' is 1000.*, not a whole number"),
    "huge side": (put("images", "width", 10**9), "image 1 is 1000000000x.* pixels; a side has 1 to 1,000,000"),
    "nameless category": (put("categories", "name", {"a": 1}), "'name' of an entry of 'categories' is .*, not a text"),
    "unknown image": (put("annotations", "image_id", 99), "annotation 1 is of image 99, which is not listed"),
    "unknown category": (put("annotations", "category_id", 5), "annotation 1 is of category 5, which is not listed"),
    "missing image": (put("images", "file_name", "none.png"), "none.png: the image is missing, which"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_damaged_annotations_are_named(data: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    path = changed(data, change)
    with pytest.raises(DataError, match=message) as caught:
        load(data)
    assert str(path) in str(caught.value)


def test_areas_and_crowds_may_be_left_open_or_be_flags(data: Path) -> None:
    changed(data, lambda values: values["annotations"][0].update({"area": None, "iscrowd": None}))
    changed(data, lambda values: values["annotations"][1].update({"iscrowd": True}))
    found = load(data).dataset["annotations"]
    assert (found[0]["area"], found[0]["iscrowd"], found[1]["iscrowd"]) == (
        found[0]["bbox"][2] * found[0]["bbox"][3],
        0,
        1,
    )


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff", b"[" * 100_000 + b"]" * 100_000])
def test_a_file_that_is_no_annotations_is_named(data: Path, content: bytes | None) -> None:
    path = data / "annotations" / "instances_train2017.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"instances_train2017.json: (the annotations cannot be read|has no list)"):
        load(data)


def test_a_missing_directory_of_images_is_named(data: Path) -> None:
    with pytest.raises(DataError, match="none: there is no such directory"):
        CocoSet.load(data / "none", data / "annotations" / "instances_train2017.json")


def test_boxes_that_are_no_pixels_are_none(data: Path) -> None:
    def to_shares(values: dict[str, Any]) -> None:
        for entry in values["annotations"]:
            entry["bbox"] = [side / 128 for side in entry["bbox"]]

    changed(data, to_shares)
    with pytest.raises(DataError, match=r"no boxes of a pixel or more.*are they in pixels"):
        load(data).images_with_boxes()


def test_a_category_that_was_not_trained_is_named(data: Path) -> None:
    changed(data, lambda values: values["categories"].append({"id": 20, "name": "star"}), "val2017")
    with pytest.raises(DataError, match=r"category 20, 'star', is unknown to .*instances_train2017\.json"):
        load(data, "val2017").check_categories(load(data))
    load(data).check_categories(load(data, "val2017"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": -1}, "epochs must be from 0 to 1,000,000,000, not -1"),
        ({"batch": 0}, "batch"),
        ({"learning_rate": -1.0}, "learning rate"),
        ({"learning_rate": float("nan")}, "learning rate"),
        ({"longer_side": 100}, "longer side of 100 is below"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DetectionSettings.load("tiny").override(values)


def test_the_command_refuses_what_it_cannot_do(cli: Command, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpnas.search.transfer.detection.run.find_spec", lambda name: None)
    for options, code, message in (
        ((), 2, "no images: give --data DIR, or --train-images DIR with --train-annotations FILE"),
        (("--train-images", data), 2, "--train-images and --train-annotations belong together"),
        (("--data", data, "--val-images", data), 2, "--val-images and --val-annotations belong together"),
        (("--data", data, "--batch", 0), 2, "batch must be at least 1"),
        (("--data", data, "--epochs", -1), 2, "epochs must be from 0"),
        (("--data", data), 1, "detection needs torchvision and pycocotools: pip install 'bpnas[vision]'"),
    ):
        done = cli("run-search", "transfer", "detection", *options)
        assert (done.exit_code, done.stderr.count("\n")) == (code, 1), done.stderr
        assert message in done.stderr


def test_batches_hold_every_image_once_and_keep_wide_ones_apart(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from bpnas.search.transfer.detection.images import epoch_order

    images = load(coco_data(tmp_path / "many", train=30, val=1)).images
    order = epoch_order(images, 4, torch.Generator().manual_seed(1))
    assert sorted(number for batch in order for number in batch) == list(range(30))
    assert sorted(map(len, order)) == [2] + [4] * 7
    mixed = [batch for batch in order if len({images[n].width >= images[n].height for n in batch}) > 1]
    assert len(mixed) <= 2
    assert order != epoch_order(images, 4, torch.Generator().manual_seed(2))


def test_boxes_are_mirrored_with_their_image(data: Path) -> None:
    torch = pytest.importorskip("torch")
    from bpnas.search.transfer.detection.images import example, read_image

    image = load(data).images[0]
    pixels, cpu = read_image(image), torch.device("cpu")
    plain, shown = example(pixels, image, False, cpu)
    mirrored, moved = example(pixels, image, True, cpu)
    for before, after in zip(shown["boxes"].int().tolist(), moved["boxes"].int().tolist(), strict=True):
        there = plain[:, before[1] : before[3], before[0] : before[2]]
        assert torch.equal(mirrored[:, after[1] : after[3], after[0] : after[2]].flip(2), there)


def test_an_image_of_another_size_or_none_is_named(data: Path) -> None:
    pytest.importorskip("torch")
    from bpnas.search.transfer.detection.images import read_image

    changed(data, put("images", "width", 300))
    images = load(data).images
    with pytest.raises(DataError, match=r"000000000001\.png: is of .* pixels, its annotations are for 300x"):
        read_image(images[0])
    images[1].path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"000000000002\.png: the image cannot be decoded"):
        read_image(images[1])
