"""The images of both tasks on disk: folders of identities, and Market-1501's names."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bpnas.search.data.image_names import is_image_name, is_leftover
from bpnas.search.errors import DataError

_MARKET_NAME = re.compile(r"(-1|\d+)_c(\d+)")
_JUNK, _DISTRACTOR = -1, 0


@dataclass(frozen=True, slots=True)
class IdentityImages:
    """Images of faces or persons by identity.

    Attributes:
        folder: which they are in.
        paths: of the images, sorted.
        identities: of each. Faces are numbered from 0 in the order of their folders' names; of persons 0 stands for
            anything that is nobody's.
        cameras: of each, for persons.
    """

    folder: Path
    paths: tuple[Path, ...]
    identities: tuple[int, ...]
    cameras: tuple[int, ...] = ()

    @property
    def labels(self) -> tuple[int, ...]:
        """The identities numbered from 0, in their order."""
        numbers = {identity: number for number, identity in enumerate(sorted(set(self.identities)))}
        return tuple(numbers[identity] for identity in self.identities)

    def to_learn(self) -> Self:
        """These images, if something can be learnt from them: it takes two identities, one of them with two images.

        Raises:
            DataError: there are fewer.
        """
        identities = Counter(self.identities)
        if len(identities) < 2 or max(identities.values()) < 2:
            raise DataError(
                f"{self.folder}: training needs two identities, and two images of one; here are {len(self.paths)} "
                f"images of {len(identities)}"
            )
        return self

    def to_pair(self) -> Self:
        """These images, if one can be sought by another.

        Raises:
            DataError: no identity has two images.
        """
        if max(Counter(self.identities).values()) < 2:
            raise DataError(f"{self.folder}: no identity has two images, of which one could be sought by the other")
        return self


def identity_folders(folder: Path) -> IdentityImages:
    """The images of `folder/IDENTITY/*`.

    Raises:
        DataError: the folder is missing, or holds no such images.
    """
    names = sorted(path for path in _existing(folder).iterdir() if path.is_dir() and not is_leftover(path.name))
    found = [images for name in names if (images := _images(name))]
    if not found:
        raise DataError(f"{folder}: holds no images in folders, one folder per identity")
    return IdentityImages(
        folder,
        tuple(path for images in found for path in images),
        tuple(label for label, images in enumerate(found) for _ in images),
    )


def images_below(folder: Path) -> tuple[Path, ...]:
    """The images of `folder` and of all folders in it, sorted.

    Raises:
        DataError: the folder is missing, or holds none.
    """
    found = tuple(
        sorted(path for path in _existing(folder).rglob("*") if _is_image(path) and not _is_left(path, folder))
    )
    if not found:
        raise DataError(f"{folder}: holds no images")
    return found


def market_images(folder: Path, *, distractors: bool) -> IdentityImages:
    """The images of one folder of Market-1501 or of a data set in its layout, as `0002_c1s1_000451_03.jpg`.

    Those of identity -1 (junk) are left out.

    Args:
        folder: `bounding_box_train`, `query` or `bounding_box_test`.
        distractors: whether identity 0 is kept, as the gallery wants it.

    Raises:
        DataError: the folder is missing, holds no images, or an image with another name.
    """
    images = _images(_existing(folder))
    kept: list[tuple[Path, int, int]] = []
    for path in images:
        parts = _MARKET_NAME.match(path.name)
        if parts is None:
            raise DataError(f"{path}: is not named IDENTITY_cCAMERA..., as in 0002_c1s1_000451_03.jpg")
        identity = int(parts[1])
        if identity != _JUNK and (distractors or identity != _DISTRACTOR):
            kept.append((path, identity, int(parts[2])))
    if not kept:
        raise DataError(f"{folder}: holds no images of persons")
    paths, identities, cameras = zip(*kept, strict=True)
    return IdentityImages(folder, paths, identities, cameras)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; the command's --help describes the layout")
    return folder


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_image(path))


def _is_image(path: Path) -> bool:
    return is_image_name(path.name) and path.is_file()


def _is_left(path: Path, folder: Path) -> bool:
    """In a folder that another program left."""
    return any(is_leftover(name) for name in path.relative_to(folder).parts)
