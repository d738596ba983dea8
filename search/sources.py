"""How a user names images: `digits`, or a kind and a directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bpnas.android_bench.errors import UsageError
from bpnas.search.errors import DataError

_NATIVE_SIZES = {"digits": 32, "cifar10": 32, "fashion-mnist": 32, "folder": 224}


@dataclass(frozen=True, slots=True)
class Source:
    """One source of images.

    Attributes:
        kind: `digits` (embedded), `cifar10`, `fashion-mnist` or `folder`.
        directory: where the files are; "" for digits.
    """

    kind: str
    directory: str = ""

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read `digits`, `cifar10:DIR`, `fashion-mnist:DIR` or `folder:DIR`.

        Raises:
            UsageError: it is none of these.
        """
        kind, _, directory = text.partition(":")
        if kind not in _NATIVE_SIZES:
            raise UsageError(
                f"no data source is called {kind!r}: use digits, cifar10:DIR, fashion-mnist:DIR or folder:DIR"
            )
        if kind == "digits" and directory:
            raise UsageError("the data source digits is embedded and takes no directory")
        if kind != "digits" and not directory:
            raise UsageError(f"the data source {kind} needs a directory: write {kind}:DIR")
        return cls(kind, directory)

    @property
    def native_size(self) -> int:
        """Height and width of its images when nothing else is asked for, in pixels."""
        return _NATIVE_SIZES[self.kind]

    @property
    def absolute(self) -> str:
        """Its name, the same from wherever a command is called."""
        return f"{self.kind}:{Path(self.directory).expanduser().resolve()}" if self.directory else self.kind

    def existing_directory(self) -> Path:
        """Its directory.

        Raises:
            DataError: there is none.
        """
        path = Path(self.directory).expanduser()
        if not path.is_dir():
            raise DataError(f"{path}: there is no such directory of images")
        return path

    def class_count(self) -> int:
        """How many classes its images have; for a folder, how many folders `train` holds.

        Raises:
            DataError: the directory is missing.
        """
        if self.kind != "folder":
            return 10
        train = self.existing_directory() / "train"
        return sum(child.is_dir() for child in train.iterdir()) if train.is_dir() else 0
