"""Images with boxes, as COCO's annotation files list them: read, checked, and made ready for a detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bpnas.base.errors import UsageError
from bpnas.base.fields import LONGEST_TEXT, is_utf8
from bpnas.base.plain_text import shortened, shown
from bpnas.base.strict_json import parsed
from bpnas.search.errors import DataError

SMALLEST_SIDE = 1.0
"""Pixels: a box that is narrower or lower within its image is no object to learn from [ours]."""
_LARGEST_SIDE = 1_000_000
_LARGEST_ID = 2**53  # pycocotools keeps ids as floats


@dataclass(frozen=True, slots=True, eq=False)
class CocoImage:
    """One image.

    Attributes:
        id: its number in the file.
        path: where it is.
        width, height: in pixels.
        boxes: (n, 4) float32, left, top, right, bottom in pixels, within the image; crowds and degenerate ones are not
            among them.
        labels: (n,) int64, from 1; 0 is a detector's background.
    """

    id: int
    path: Path
    width: int
    height: int
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class CocoSet:
    """The images of one annotation file.

    Attributes:
        file: the annotations.
        images: in the order of the file, also those without boxes.
        category_ids, category_names: by label, label 1 first; the order is that of the ids.
        dataset: the content of the file as pycocotools takes it, without segmentations.
        notes: what was left out, in words.
    """

    file: Path
    images: tuple[CocoImage, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    dataset: dict[str, Any]
    notes: tuple[str, ...]

    @classmethod
    def load(cls, images: str | Path, annotations: str | Path) -> CocoSet:
        """Read `annotations`, and see that every image is there.

        Args:
            images: their directory.
            annotations: a file as COCO's instances_*.json. `iscrowd` may be missing (then 0), and `area` (then that of
                the box); no segmentation is needed.

        Raises:
            DataError: the file is missing, damaged or contradicts itself, or an image is missing.
        """
        folder, file = Path(images).expanduser(), Path(annotations).expanduser()
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such directory of images")
        dataset = _read(file)
        categories = {
            _whole(file, entry, "categories", "id"): _text(file, entry, "categories", "name")
            for entry in dataset["categories"]
        }
        if len(categories) < len(dataset["categories"]):
            raise DataError(f"{file}: two categories have one id")
        ids = tuple(sorted(categories))
        boxes = _Boxes(file, {number: label for label, number in enumerate(ids, start=1)})
        for entry in dataset["images"]:
            boxes.add_image(entry)
        for entry in dataset["annotations"]:
            boxes.add(entry)
        found = tuple(boxes.image(entry, folder) for entry in dataset["images"])
        return cls(file, found, ids, tuple(categories[number] for number in ids), dataset, boxes.notes)

    def images_with_boxes(self) -> tuple[CocoImage, ...]:
        """The images to train on: those that show something [ours, as in torchvision's own recipe].

        Raises:
            DataError: there are none.
        """
        found = tuple(image for image in self.images if len(image.boxes))
        if not found:
            raise DataError(
                f"{self.file}: holds no boxes of a pixel or more apart from crowds; are they in pixels, as [left, top, "
                "width, height]?"
            )
        return found

    def check_categories(self, trained: CocoSet) -> None:
        """See that a detector trained on `trained` knows all categories of this set.

        Raises:
            DataError: it does not.
        """
        known = dict(zip(trained.category_ids, trained.category_names, strict=True))
        for number, name in zip(self.category_ids, self.category_names, strict=True):
            if known.get(number) != name:
                raise DataError(
                    f"{self.file}: category {number}, {name!r}, is unknown to {trained.file}, on which is trained"
                )


class _Boxes:
    """The boxes of all images, image by image; counts what it leaves out."""

    def __init__(self, file: Path, labels: Mapping[int, int]) -> None:
        self._file, self._labels = file, labels
        self._sizes: dict[int, tuple[int, int]] = {}
        self._boxes: dict[int, list[tuple[float, ...]]] = {}
        self._found: dict[int, list[int]] = {}
        self._ids: set[int] = set()
        self._crowds = self._degenerate = self._without_area = 0

    def add_image(self, entry: Any) -> None:
        number = _whole(self._file, entry, "images", "id")
        if number in self._sizes:
            raise DataError(f"{self._file}: two images have the id {number}")
        size = _whole(self._file, entry, "images", "width"), _whole(self._file, entry, "images", "height")
        if not 1 <= min(size) <= max(size) <= _LARGEST_SIDE:
            raise DataError(
                f"{self._file}: image {number} is {size[0]}x{size[1]} pixels; a side has 1 to {_LARGEST_SIDE:,}"
            )
        self._sizes[number], self._boxes[number], self._found[number] = size, [], []

    def add(self, entry: Any) -> None:
        number = _whole(self._file, entry, "annotations", "id")
        image = _whole(self._file, entry, "annotations", "image_id")
        category = _whole(self._file, entry, "annotations", "category_id")
        if number in self._ids:
            raise DataError(f"{self._file}: two annotations have the id {number}")
        self._ids.add(number)
        if image not in self._sizes:
            raise DataError(f"{self._file}: annotation {number} is of image {image}, which is not listed")
        if category not in self._labels:
            raise DataError(f"{self._file}: annotation {number} is of category {category}, which is not listed")
        box = _field(self._file, entry, "annotations", "bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_pixels, box))):
            raise DataError(
                f"{self._file}: annotation {number} has the bbox {shown(box)}; write [left, top, width, height]"
            )
        left, top, width, height = map(float, box)
        entry.pop("segmentation", None)  # most of COCO's file, and of the memory for it
        # What pycocotools asks for, where other programs leave it out.
        if entry.get("area") is None:
            entry["area"] = width * height
            self._without_area += 1
        if not _is_pixels(entry["area"], _LARGEST_SIDE**2):
            raise DataError(
                f"{self._file}: annotation {number} has the area {shown(entry['area'])}; write pixels, or leave it out"
            )
        crowd = entry.get("iscrowd")
        if crowd not in (None, 0, 1):
            raise DataError(f"{self._file}: annotation {number} has the iscrowd {shown(crowd)}; write 0 or 1")
        entry["iscrowd"] = int(crowd or 0)
        if crowd:
            self._crowds += 1
            return
        limit_x, limit_y = self._sizes[image]
        right, bottom = min(left + width, limit_x), min(top + height, limit_y)
        left, top = max(left, 0.0), max(top, 0.0)
        if min(right - left, bottom - top) < SMALLEST_SIDE:
            self._degenerate += 1
            return
        self._boxes[image].append((left, top, right, bottom))
        self._found[image].append(self._labels[category])

    def image(self, entry: Mapping[str, Any], folder: Path) -> CocoImage:
        number, name = entry["id"], _text(self._file, entry, "images", "file_name")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{self._file}: image {number} is {shown(name)}, which is not below {folder}")
        path = folder / name
        if not _is_file(path):
            raise DataError(f"{folder / shortened(name)}: the image is missing, which {self._file} lists")
        boxes = np.array(self._boxes[number], dtype=np.float32).reshape(-1, 4)
        return CocoImage(number, path, *self._sizes[number], boxes, np.array(self._found[number], dtype=np.int64))

    @property
    def notes(self) -> tuple[str, ...]:
        counts = {
            "degenerate boxes, under a pixel wide or high within their image, are left out of training": (
                self._degenerate
            ),
            "crowds are left out of training": self._crowds,
            "annotations have no area: that of their box stands in": self._without_area,
        }
        return tuple(f"{self._file}: {count} {what}" for what, count in counts.items() if count)


def coco_files(data: str | None, images: str | None, annotations: str | None, part: str) -> tuple[Path, Path]:
    """Directory of images and annotation file of one split.

    Args:
        data: a directory in the layout of COCO 2017.
        images, annotations: the two themselves, in its place.
        part: "train" or "val", as in the options' names.

    Raises:
        UsageError: neither is given whole.
    """
    if (images is None) != (annotations is None):
        raise UsageError(f"--{part}-images and --{part}-annotations belong together")
    if images is not None and annotations is not None:
        return Path(images), Path(annotations)
    if data is None:
        raise UsageError(f"no images: give --data DIR, or --{part}-images DIR with --{part}-annotations FILE")
    return Path(data) / f"{part}2017", Path(data) / "annotations" / f"instances_{part}2017.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        values = parsed(file.read_bytes(), finite=False)  # what is of use is checked by itself
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: the annotations cannot be read ({shortened(str(error))})") from error
    for name in ("images", "annotations", "categories"):
        if not (isinstance(values, dict) and isinstance(values.get(name), list)):
            raise DataError(f"{file}: has no list {name!r}, which COCO's format asks for")
        if not values[name]:
            raise DataError(f"{file}: its list {name!r} is empty")
    return dict(values)


def _field(file: Path, entry: Any, kind: str, name: str) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        which = f" {shown(entry['id'])}" if isinstance(entry, dict) and "id" in entry else ""
        raise DataError(f"{file}: an entry{which} of {kind!r} has no {name!r}")
    return entry[name]


def _text(file: Path, entry: Any, kind: str, name: str) -> str:
    value = _field(file, entry, kind, name)
    if not isinstance(value, str) or not value or len(value) > LONGEST_TEXT or not is_utf8(value):
        wanted = f"not a text of at most {LONGEST_TEXT:,} characters in UTF-8"
        raise DataError(f"{file}: {name!r} of an entry of {kind!r} is {shown(value)}, {wanted}")
    return value


def _whole(file: Path, entry: Any, kind: str, name: str) -> int:
    value = _field(file, entry, kind, name)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LARGEST_ID:
        raise DataError(f"{file}: {name!r} of an entry of {kind!r} is {shown(value)}, not a whole number")
    return value


def _is_pixels(value: Any, most: float = _LARGEST_SIDE) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # as of a name that is too long
        return False
