"""How a user names images: `digits`, or a kind and a directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bpnas.base.errors import UsageError
from bpnas.search.errors import DataError

_NATIVE_SIZES = {
    "digits": 32,
    "cifar10": 32,
    "fashion-mnist": 32,
    "folder": 224,
    "imagenet": 224,
    "imagenet100": 224,
}


@dataclass(frozen=True, slots=True)
class Source:
    """One source of images.

    Attributes:
        kind: `digits` (embedded), `cifar10`, `fashion-mnist`, `folder`, `imagenet` or `imagenet100`.
        directory: where the files are; "" for digits.
        class_seed: chooses the classes of `imagenet100` (see `bpnas.search.data.image_files.choose_classes`).
    """

    kind: str
    directory: str = ""
    class_seed: int = 0

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read `digits`, or one of the other kinds with its directory, as in `cifar10:DIR`.

        ImageNet-100 may name the seed of its classes: `imagenet100@7:DIR`.

        Raises:
            UsageError: it is none of these.
        """
        kind, _, directory = text.partition(":")
        kind, at, seed = kind.partition("@")
        if kind not in _NATIVE_SIZES:
            raise UsageError(
                f"no data source is called {kind!r}: use digits, cifar10:DIR, fashion-mnist:DIR, folder:DIR, "
                "imagenet:DIR or imagenet100:DIR"
            )
        if at and (kind != "imagenet100" or not seed.isdecimal()):
            raise UsageError(f"{text!r}: only imagenet100 takes a seed, a whole number, as in imagenet100@7:DIR")
        if kind == "digits" and directory:
            raise UsageError("the data source digits is embedded and takes no directory")
        if kind != "digits" and not directory:
            raise UsageError(f"the data source {kind} needs a directory: write {kind}:DIR")
        return cls(kind, directory, int(seed or 0))

    @property
    def is_imagenet(self) -> bool:
        """Whether these are images of ImageNet, or of 100 of its classes."""
        return self.kind in ("imagenet", "imagenet100")

    @property
    def native_size(self) -> int:
        """Height and width of its images when nothing else is asked for, in pixels."""
        return _NATIVE_SIZES[self.kind]

    @property
    def absolute(self) -> str:
        """Its name, the same from wherever a command is called."""
        if not self.directory:
            return self.kind
        seed = f"@{self.class_seed}" if self.kind == "imagenet100" else ""
        return f"{self.kind}{seed}:{Path(self.directory).expanduser().resolve()}"

    @property
    def title(self) -> str:
        """Its name for people: of a folder the whole one, since only its path says what it holds."""
        if self.kind == "folder":
            return self.absolute
        return f"{self.kind}@{self.class_seed}" if self.class_seed else self.kind

    def existing_directory(self) -> Path:
        """Its directory.

        Raises:
            DataError: there is none.
        """
        path = Path(self.directory).expanduser()
        if not path.is_dir():
            raise DataError(f"{path}: there is no such directory of images")
        return path

    def test_name(self) -> str:
        """What its images are that are not for training: `test` or `validation`.

        Raises:
            DataError: the directory is missing, or has none.
        """
        if self.kind not in ("folder", "imagenet", "imagenet100"):
            return "test"
        from bpnas.search.data.image_files import test_name

        return test_name(self.existing_directory())

    def class_count(self) -> int:
        """How many classes its images have.

        Raises:
            DataError: the directory is missing, a file damaged, or there are fewer than two classes.
        """
        if self.kind == "imagenet100":
            return 100
        if self.kind not in ("folder", "imagenet"):
            return 10
        from bpnas.search.data.image_files import count_classes

        return count_classes(self.existing_directory())
