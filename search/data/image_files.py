"""Images that are read one by one: a folder per class, or the parquet edition of ImageNet. Nothing is decoded here."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from bpnas.base.plain_text import shown
from bpnas.base.randomness import derived_seed, sample
from bpnas.base.strict_json import parsed
from bpnas.search.data.image_names import is_image_name, is_leftover
from bpnas.search.errors import DataError

if TYPE_CHECKING:
    import datasets
    import pyarrow

T = TypeVar("T")
Rows = npt.NDArray[np.int64]

_SUBSET_CLASSES = 100


class ImageStore(Protocol):
    """Encoded images by number."""

    def name(self, row: int) -> str:
        """For messages."""

    def read(self, row: int) -> bytes:
        """The content of the file."""


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """All images of a source.

    Attributes:
        store: the training images, then the test images.
        labels: (rows of the store,), from 0.
        train_count: how many are for training.
        class_names: one per label.
        test_name: what the images behind those for training are: `validation` or `test`.
    """

    store: ImageStore
    labels: Rows
    train_count: int
    class_names: tuple[str, ...]
    test_name: str


class _Files:
    """Files below a folder."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        # One array, since a list of a million texts would be copied into every process that touches it.
        self._root, self._names = root, np.array([os.fsencode(name) for name in names])

    def name(self, row: int) -> str:
        return str(self._root / os.fsdecode(self._names[row]))

    def read(self, row: int) -> bytes:
        return Path(self.name(row)).read_bytes()


class _ParquetRows:
    """Rows of parquet files, by way of the memory-mapped copy that `datasets` keeps of them."""

    def __init__(self, rows: datasets.Dataset, folder: Path) -> None:
        self._rows, self._folder = rows, folder

    def name(self, row: int) -> str:
        return f"{self._folder}: {self._rows[row]['image'].get('path') or f'row {row}'}"

    def read(self, row: int) -> bytes:
        content: bytes = self._rows[row]["image"]["bytes"]
        return content


def choose_classes(count: int, seed: int) -> list[int]:
    """Which 100 of `count` classes make up the ImageNet-100 of a seed, in ascending order, on every machine.

    A partial Fisher-Yates shuffle (`bpnas.base.randomness.sample`) of 0 .. count - 1 by `random.Random`, seeded with a
    hash of the seed; the numbers are the labels in the order of the folders' names, which is ImageNet's own.
    """
    return sorted(sample(random.Random(derived_seed(seed, "imagenet100")), range(count), _SUBSET_CLASSES))


def list_images(directory: Path, class_seed: int | None = None) -> Listing:
    """Find the images below `directory`.

    Args:
        directory: has the folders `train` and `val` (or `test`), with a folder per class in each; or parquet files
            `train-*.parquet` and `validation-*.parquet`, there or in `data`, with columns `image` and `label`. Of
            those, `datasets` makes a copy in its cache, as large as what is asked for.
        class_seed: of ImageNet-100 (see `choose_classes`); None for all classes.

    Raises:
        DataError: there are no such folders or files, a class is missing, or there are fewer than 100 classes to
            choose from.
    """
    files = _parquet_files(directory)
    if files is None:
        return _list_folders(directory, class_seed)
    return _list_parquet(directory, *files, class_seed)


def count_classes(directory: Path) -> int:
    """How many classes `directory` has (see `list_images`).

    Raises:
        DataError: there are fewer than two, or a parquet file is damaged.
    """
    files = _parquet_files(directory)
    names = _class_names(directory) if files is None else _parquet_class_names(files[0])
    if len(names) < 2:
        there = f"only one class, {names[0]}" if names else "no classes"
        raise DataError(f"{directory}: holds {there}; images of two classes or more are needed")
    return len(names)


def readable(where: Path, action: Callable[[], T]) -> T:
    """Run a reader, whose errors are many and come from several libraries, as one `DataError`."""
    try:
        return action()
    except Exception as error:
        raise DataError(f"{where}: cannot be read ({one_line(error)})") from error


def one_line(error: Exception) -> str:
    """An error of another library, for a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _chosen(directory: Path, names: Sequence[str], class_seed: int | None) -> list[int]:
    if class_seed is None:
        return list(range(len(names)))
    if len(names) < _SUBSET_CLASSES:
        raise DataError(f"{directory}: has {len(names)} classes; imagenet100 chooses {_SUBSET_CLASSES} of them")
    return choose_classes(len(names), class_seed)


def _class_names(directory: Path) -> list[str]:
    _test_folder(directory)
    names = _class_folders(directory / "train")
    if not names:
        raise DataError(f"{directory / 'train'}: holds no folder; there must be one per class")
    return names


def _class_folders(part: Path) -> list[str]:
    """Their names, in order."""
    if not part.is_dir():
        return []
    return sorted(child.name for child in part.iterdir() if child.is_dir() and not is_leftover(child.name))


def _list_folders(directory: Path, class_seed: int | None) -> Listing:
    names, test_folder = _class_names(directory), _test_folder(directory)
    unknown = sorted(set(_class_folders(directory / test_folder)) - set(names))
    if unknown:
        raise DataError(f"{directory / test_folder / unknown[0]}: is the folder of a class that train does not have")
    chosen = [names[number] for number in _chosen(directory, names, class_seed)]
    found: list[str] = []
    labels: list[int] = []
    counts = []
    for part in ("train", test_folder):
        for label, name in enumerate(chosen):
            files = _image_files(directory, f"{part}/{name}")
            if not files:
                raise DataError(f"{directory / part / name}: holds no images; every class needs some in train and test")
            found += files
            labels += [label] * len(files)
        counts.append(len(found))
    return Listing(_Files(directory, found), np.array(labels, np.int64), counts[0], tuple(chosen), test_name(directory))


def _image_files(root: Path, folder: str) -> list[str]:
    """Images below `folder`, relative to `root`, in the same order everywhere."""
    found = []
    for where, folders, names in os.walk(root / folder, followlinks=True):
        folders[:] = [name for name in folders if not is_leftover(name)]
        inside = os.path.relpath(where, root)
        found += [f"{inside}/{name}" for name in names if is_image_name(name)]
    return sorted(found)


def _parquet_files(directory: Path) -> tuple[list[Path], list[Path]] | None:
    if (directory / "train").is_dir():
        return None
    for folder in (directory / "data", directory):
        train = sorted(folder.glob("train-*.parquet"))
        # ImageNet's own test images have no labels.
        for prefix in ("validation", "val", "test"):
            if train and (test := sorted(folder.glob(f"{prefix}-*.parquet"))):
                return train, test
    return None


def _parquet_schema(file: Path) -> pyarrow.Schema:
    import pyarrow.parquet as pq

    schema = readable(file, partial(pq.read_schema, file))
    missing = {"image", "label"} - set(schema.names)
    if missing:
        raise DataError(f"{file}: has no column {' and '.join(sorted(missing))}; columns image and label are needed")
    return schema


def _parquet_class_names(files: Sequence[Path]) -> tuple[str, ...]:
    """As the files name them; else the words that are labels in these files, or the numbers up to the largest label."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema = _parquet_schema(files[0])
    if names := _described_names(files[0], schema):
        return names
    labels = [readable(file, partial(pq.read_table, file, columns=["label"]))["label"] for file in files]
    if _is_text(labels[0].type):
        return tuple(sorted({word for column in labels for word in pc.unique(column).to_pylist() if word is not None}))
    return tuple(map(str, range(max(int(pc.max(column).as_py() or 0) for column in labels) + 1)))


def _described_names(file: Path, schema: pyarrow.Schema) -> tuple[str, ...]:
    """The names of the classes that `datasets` noted in a file; none if it noted none."""
    try:
        found: Any = parsed((schema.metadata or {}).get(b"huggingface", b"{}"), finite=False)
    except ValueError:
        found = None
    for name in ("info", "features", "label", "names"):
        found = found.get(name) if isinstance(found, dict) else None
    if found is None or found == []:
        return ()
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise DataError(
            f"{file}: its field 'huggingface' names the classes by {shown(found)}, which is no list of texts; write "
            "the file again with datasets"
        )
    return tuple(found)


def _list_parquet(directory: Path, train: list[Path], test: list[Path], class_seed: int | None) -> Listing:
    from datasets import Dataset, Image, concatenate_datasets

    names = _parquet_class_names(train)
    chosen = _chosen(directory, names, class_seed)
    words = _is_text(_parquet_schema(train[0]).field("label").type)
    filters = None if class_seed is None else [("label", "in", [names[n] for n in chosen] if words else chosen)]
    parts = []
    for files in (train, test):
        for file in files:  # a damaged one would not be named otherwise
            _parquet_schema(file)
        read = partial(Dataset.from_parquet, [str(file) for file in files], columns=["image", "label"], filters=filters)
        rows = readable(files[0].parent, read)
        parts.append(
            rows.cast_column("image", Image(decode=False)) if isinstance(rows.features["image"], Image) else rows
        )
    if words:
        labels = _numbers_of_words(directory, [word for part in parts for word in part["label"]], names)
    else:
        labels = np.concatenate([part.data.column("label").to_numpy() for part in parts]).astype(np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        raise DataError(f"{directory}: a label is outside 0..{len(names) - 1}")
    # Positions among the chosen ones, which are in ascending order.
    return Listing(
        _ParquetRows(concatenate_datasets(parts), directory),
        np.searchsorted(chosen, labels).astype(np.int64),
        len(parts[0]),
        tuple(names[number] for number in chosen),
        test_name(directory),
    )


def _is_text(kind: pyarrow.DataType) -> bool:
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _numbers_of_words(directory: Path, words: Sequence[str], names: Sequence[str]) -> Rows:
    numbers = {name: number for number, name in enumerate(names)}
    try:
        return np.array([numbers[word] for word in words], np.int64)
    except KeyError as error:
        raise DataError(
            f"{directory}: label {error.args[0]!r} is not one of the classes of the training images"
        ) from error


def test_name(directory: Path) -> str:
    """What the images of `directory` that are not for training are: `validation` or `test`.

    Raises:
        DataError: it has none.
    """
    files = _parquet_files(directory)
    name = _test_folder(directory) if files is None else files[1][0].name.partition("-")[0]
    return "test" if name == "test" else "validation"


def _test_folder(directory: Path) -> str:
    name = next((name for name in ("val", "test") if (directory / name).is_dir()), None)
    if not (directory / "train").is_dir() or name is None:
        raise DataError(
            f"{directory}: needs the folders train and val (or test), with one folder per class in each, or the files "
            "train-*.parquet and validation-*.parquet"
        )
    return name
