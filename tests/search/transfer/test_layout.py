"""The folders of the transfer tasks with embeddings, and what their commands refuse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bpnas.base.errors import UsageError
from bpnas.search.errors import DataError
from bpnas.search.transfer.embedding.layout import identity_folders, images_below, market_images
from bpnas.search.transfer.embedding.settings import FACE_PRESETS, REID_PRESETS


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_each_folder_is_an_identity(tmp_path: Path) -> None:
    touch(tmp_path / "b" / "2.JPG", tmp_path / "b" / "1.png", tmp_path / "a" / "x.jpeg", tmp_path / "a" / "list.txt")
    touch(tmp_path / "c" / "Thumbs.db", tmp_path / "a" / "._x.jpg", tmp_path / "loose.jpg")
    faces = identity_folders(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in faces.paths] == ["a/x.jpeg", "b/1.png", "b/2.JPG"]
    assert faces.labels == (0, 1, 1)
    assert len(images_below(tmp_path)) == 4
    touch(
        tmp_path / ".ipynb_checkpoints" / "1.png", tmp_path / "@eaDir" / "1.png", tmp_path / "b" / "__MACOSX" / "1.png"
    )
    assert identity_folders(tmp_path) == faces and len(images_below(tmp_path)) == 4


def test_market_names_give_identity_and_camera(tmp_path: Path) -> None:
    names = ["0002_c1s1_000451_03.jpg", "-1_c3s2_000001_00.jpg", "0000_c6s1_000001_01.jpg", "1501_c12_f1.jpg"]
    touch(*(tmp_path / name for name in [*names, "Thumbs.db"]))
    gallery = market_images(tmp_path, distractors=True)
    assert [path.name[:4] for path in gallery.paths] == ["0000", "0002", "1501"]
    assert gallery.identities == (0, 2, 1501)
    assert gallery.cameras == (6, 1, 12)
    assert market_images(tmp_path, distractors=False).identities == (2, 1501)


def test_an_image_with_another_name_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "person7.jpg")
    with pytest.raises(DataError, match=r"person7\.jpg: is not named IDENTITY_cCAMERA"):
        market_images(tmp_path, distractors=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"epochs": -1}, "epochs"), ({"batch": 30}, "multiple of 4"), ({"batch": 4}, "8"), ({"learning_rate": 0.0}, "0")],
)
def test_settings_out_of_range_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        REID_PRESETS["tiny"].override(values)


def test_settings_that_are_not_given_stay() -> None:
    changed = FACE_PRESETS["paper"].override({"epochs": 3, "batch": None})
    assert (changed.train.epochs, changed.train.batch, changed.margin) == (3, 512, 0.5)


FACE_FOLDERS = {
    "train/a/1.jpg",
    "train/a/2.jpg",
    "train/b/1.jpg",
    "probes/c/1.jpg",
    "probes/c/2.jpg",
    "distractors/1.jpg",
}
REID_FOLDERS = {
    "bounding_box_train/0001_c1_1.jpg",
    "bounding_box_train/0001_c2_1.jpg",
    "bounding_box_train/0002_c1_1.jpg",
    "query/0003_c1_1.jpg",
    "bounding_box_test/0003_c2_1.jpg",
}


@pytest.mark.parametrize(
    ("task", "names", "message"),
    [
        ("face", set(), r"train: there is no such folder"),
        ("face", FACE_FOLDERS - {"train/a/2.jpg"}, r"train: training needs two identities, and two images of one"),
        ("face", FACE_FOLDERS - {"train/b/1.jpg"}, r"train: training needs two identities"),
        ("face", FACE_FOLDERS - {"probes/c/2.jpg"}, r"probes: no identity has two images"),
        ("face", FACE_FOLDERS - {"distractors/1.jpg"}, r"distractors: there is no such folder"),
        ("reid", REID_FOLDERS - {"query/0003_c1_1.jpg"}, r"query: there is no such folder"),
        (
            "reid",
            (REID_FOLDERS - {"query/0003_c1_1.jpg"}) | {"query/-1_c1_1.jpg"},
            r"query: holds no images of persons",
        ),
        ("reid", REID_FOLDERS | {"query/who.png"}, r"who\.png: is not named"),
    ],
)
def test_a_folder_that_will_not_do_ends_in_one_sentence(cli, tmp_path, task, names, message) -> None:
    touch(*(tmp_path / name for name in names))
    done = cli("run-search", "transfer", task, "--data", tmp_path, "--out", tmp_path / "out")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert re.search(message, line)
