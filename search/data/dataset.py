"""Images for the search: scikit-learn's digits, CIFAR-10, Fashion-MNIST, image folders, ImageNet.

Images are decoded once and held in memory as uint8 tensors; ImageNet's, and those of a large folder, stay on disk (see
`bpnas.search.data.disk_images`). Their order is shuffled once for all: the first n training images are then a fair
subset, and two stages that take a part each never overlap by accident.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bpnas.base.errors import UsageError
from bpnas.search.data.decoding import centre_crop, decoded
from bpnas.search.data.disk_images import DiskSplit, read_images
from bpnas.search.data.image_files import Listing, list_images, one_line, readable
from bpnas.search.data.sources import Source
from bpnas.search.errors import DataError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# More images of a folder than fit into this many bytes stay on disk. A fixed number, for what is trained on must not
# depend on the machine: images on disk are cut out of the whole picture, those in memory out of its middle.
IN_MEMORY_BYTES = 8 * 2**30
_IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STATISTICS_IMAGES = 1000
_SHUFFLE_SEED = 20_201_124
_DIGITS_TEST_SHARE = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Images as uint8 of shape (N, 3, S, S), best channels last in memory, and labels as int64 of shape (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_size(self) -> int:
        """Height and width S of the images, in pixels."""
        return int(self.images.shape[-1])

    def first(self, count: int | None) -> Split:
        """The first `count` images; all if None or if there are fewer."""
        return Split(self.images[:count], self.labels[:count])

    def parted(self, share: float) -> tuple[Split, Split]:
        """The first `share` of the images and the rest, each at least one image.

        Raises:
            DataError: there are fewer than two images.
        """
        if len(self) < 2:
            raise DataError(f"{len(self)} training images cannot be parted in two")
        cut = min(max(round(len(self) * share), 1), len(self) - 1)
        return Split(self.images[:cut], self.labels[:cut]), Split(self.images[cut:], self.labels[cut:])


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Training and test images of one source.

    Attributes:
        source: as the user named it.
        train, test: the images, both in memory or both on disk.
        class_names: one per label.
        mean, std: of the training images per channel, on the scale 0..1; models get (x / 255 - mean) / std.
        flip: whether a mirrored image is still of its class.
        test_name: what the source calls its images for testing: `test` or `validation`.
    """

    source: str
    train: Split | DiskSplit
    test: Split | DiskSplit
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    test_name: str = "test"

    @property
    def input_size(self) -> int:
        """Height and width S of the images, in pixels."""
        return self.train.input_size

    def normalized(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, S, S) -> float32 of the same shape, channels last in memory."""
        count, channels, height, width = images.shape
        scale, shift = _scale_and_shift(self.mean, self.std, width, images.device)
        # Whole rows of width * 3 numbers, since operations on the last 3 alone would not be vectorised.
        rows = images.permute(0, 2, 3, 1).contiguous().view(count, height, width * channels)
        normal = torch.addcmul(shift, rows.float(), scale)
        return normal.view(count, height, width, channels).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(x / 255 - mean) / std as x * scale + shift, for a row of pixels; kept, to be moved to the device just once."""
    deviation = torch.tensor(std)
    scale, shift = 1 / (255 * deviation), -torch.tensor(mean) / deviation
    return scale.repeat(width).to(device), shift.repeat(width).to(device)


def load_data(source: str, input_size: int | None = None, train_images: int | None = None) -> Dataset:
    """Load `digits`, `cifar10:DIR`, `fashion-mnist:DIR`, `folder:DIR`, `imagenet:DIR` or `imagenet100:DIR`.

    Args:
        source: the images (see `Source`).
        input_size: side that images are resized to, in pixels; default the source's own size.
        train_images: take only this many training images, chosen once for all; None for all.

    Raises:
        UsageError: the source is unknown.
        DataError: its directory, a file or a column is missing, or an image cannot be decoded.
    """
    parsed = Source.parse(source)
    size = parsed.native_size if input_size is None else input_size
    train, test, names, test_name = _load(parsed, size, train_images)
    train = train.first(train_images)
    for name, split in (("training", train), ("test", test)):
        if not len(split):
            raise DataError(f"{source}: holds no {name} images")
        if int(split.labels.min()) < 0 or int(split.labels.max()) >= len(names):
            raise DataError(f"{source}: a {name} label is outside 0..{len(names) - 1}")
    mean, std = _IMAGENET_STATISTICS if parsed.is_imagenet else _statistics(train)
    # A mirrored digit is none.
    return Dataset(source, train, test, names, mean, std, parsed.kind != "digits", test_name)


def _statistics(train: Split | DiskSplit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of the first images, on the scale 0..1."""
    if isinstance(train, DiskSplit):
        numbers = torch.arange(min(len(train), _STATISTICS_IMAGES))
        images = torch.cat([images for images, _ in read_images(train, [numbers], torch.device("cpu"))])
    else:
        images = train.images[:10_000]
    sample = images.double() / 255
    mean, std = sample.mean(dim=(0, 2, 3)), sample.std(dim=(0, 2, 3)).clamp_min(1e-3)
    return tuple(mean.tolist()), tuple(std.tolist())


Loaded = tuple[Split, Split, tuple[str, ...], str] | tuple[DiskSplit, DiskSplit, tuple[str, ...], str]


def _load(source: Source, size: int, train_images: int | None) -> Loaded:
    match source.kind:
        case "digits":
            return _digits(size)
        case "cifar10":
            return _cifar10(source.existing_directory(), size, train_images)
        case "fashion-mnist":
            return _fashion_mnist(source.existing_directory(), size)
        case "folder":
            return _folder(source.existing_directory(), size, train_images)
        case _:
            seed = source.class_seed if source.kind == "imagenet100" else None
            return _on_disk(list_images(source.existing_directory(), seed), size)


def _digits(size: int) -> Loaded:
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images).float() * (255 / 16)
    images, labels = _grey_to_rgb(grey, size), torch.from_numpy(digits.target).long()
    order = _order(len(labels))
    train, test = Split(images[order], labels[order]).parted(1 - _DIGITS_TEST_SHARE)
    return train, test, tuple(map(str, range(10))), "test"


def _cifar10(directory: Path, size: int, train_images: int | None) -> Loaded:
    def split(prefix: str, count: int | None) -> Split:
        files = sorted(directory.glob(f"{prefix}*.parquet"))
        if not files:
            raise DataError(f"{directory}: holds no {prefix}*.parquet, as the public parquet edition of CIFAR-10 does")
        import pyarrow.parquet as pq
        from datasets import Image, IterableDataset

        for file in files:  # `datasets` would log a line of its own about a damaged file, and name none in its error
            readable(file, partial(pq.read_schema, file))
        # Not `load_dataset`, which counts its calls on a server and fills a cache.
        rows = readable(files[0].parent, lambda: IterableDataset.from_parquet([str(file) for file in files]))
        missing = {"img", "label"} - set(rows.column_names or ())
        if missing:
            raise DataError(
                f"{files[0]}: has no column {' and '.join(sorted(missing))}; columns img and label are needed"
            )
        if isinstance((rows.features or {}).get("img"), Image):
            rows = rows.cast_column("img", Image(decode=False))
        return _decoded(files[0], rows, "img", size, count)

    return split("train", train_images), split("test", None), CIFAR10_CLASSES, "test"


def _folder(directory: Path, size: int, train_images: int | None) -> Loaded:
    found = list_images(directory)
    count = min(found.train_count, train_images or found.train_count) + len(found.labels) - found.train_count
    if count * 3 * size * size > IN_MEMORY_BYTES:
        return _on_disk(found, size)

    def split(start: int, end: int, count: int | None) -> Split:
        order = (start + _order(end - start)[:count]).tolist()
        images = torch.empty((len(order), 3, size, size), dtype=torch.uint8, memory_format=torch.channels_last)
        for place, row in enumerate(order):
            try:
                images[place] = _image(found.store.read(row), size)
            except Exception as error:  # Pillow's decoders raise almost anything
                raise DataError(f"{found.store.name(row)} cannot be decoded ({one_line(error)})") from error
        return Split(images, torch.from_numpy(found.labels[order]))

    cut = found.train_count
    return split(0, cut, train_images), split(cut, len(found.labels), None), found.class_names, found.test_name


def _on_disk(found: Listing, size: int) -> tuple[DiskSplit, DiskSplit, tuple[str, ...], str]:
    labels = torch.from_numpy(found.labels)

    def split(start: int, end: int) -> DiskSplit:
        rows = start + _order(end - start)
        return DiskSplit(found.store, rows, labels[rows], size)

    return split(0, found.train_count), split(found.train_count, len(labels)), found.class_names, found.test_name


def _fashion_mnist(directory: Path, size: int) -> Loaded:
    def split(prefix: str) -> Split:
        images = _idx(directory, f"{prefix}-images-idx3-ubyte", 3)
        labels = _idx(directory, f"{prefix}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise DataError(f"{directory}: {len(images)} {prefix} images, but {len(labels)} labels")
        # 28 -> 32 pixels by a border of 2, as is usual: no resampling.
        grey = F.pad(images.float(), (2, 2, 2, 2)) if images.shape[1:] == (28, 28) else images.float()
        order = _order(len(labels))
        return Split(_grey_to_rgb(grey[order], size), labels[order].long())

    return split("train"), split("t10k"), FASHION_CLASSES, "test"


def _idx(directory: Path, name: str, dimensions: int) -> Tensor:
    """A file of the IDX format (big-endian sizes, then bytes), compressed or not."""
    file = next((f for f in (directory / f"{name}.gz", directory / name) if f.is_file()), None)
    if file is None:
        raise DataError(f"{directory}: holds neither {name}.gz nor {name}")
    try:
        content = file.read_bytes()
        content = gzip.decompress(content) if file.suffix == ".gz" else content
        magic, *sizes = struct.unpack_from(f">{1 + dimensions}I", content)
        if magic != 0x0800 + dimensions:
            raise ValueError(f"magic number {magic:#x}")
        values = np.frombuffer(content, np.uint8, offset=4 * (1 + dimensions)).reshape(sizes)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"{file}: not a whole IDX file ({error})") from error
    return torch.from_numpy(values.copy())


def _decoded(where: Path, rows: Iterable[dict[str, Any]], column: str, size: int, count: int | None) -> Split:
    """All images of `rows`, or `count` chosen once for all, in shuffled order."""
    kept: list[dict[str, Any]] = readable(where, lambda: list(rows))
    order = _order(len(kept))[:count].tolist()
    images = torch.empty((len(order), 3, size, size), dtype=torch.uint8, memory_format=torch.channels_last)
    for place, number in enumerate(order):
        cell = kept[number][column]
        try:
            images[place] = _image(cell["bytes"], size)
        except Exception as error:  # Pillow's decoders raise almost anything
            name = cell.get("path") if isinstance(cell, dict) else None
            raise DataError(f"{where}: image {name or number} cannot be decoded ({one_line(error)})") from error
    try:
        labels = torch.tensor([int(kept[number]["label"]) for number in order], dtype=torch.int64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: a label is no whole number ({error})") from error
    return Split(images, labels)


def _image(content: bytes, size: int) -> Tensor:
    """(3, size, size) uint8: the middle of the picture, its shorter side scaled to `size`."""
    return torch.from_numpy(centre_crop(decoded(content), size)).permute(2, 0, 1)


def _grey_to_rgb(grey: Tensor, size: int) -> Tensor:
    """Float (N, H, W) on the scale 0..255 -> uint8 (N, 3, size, size)."""
    images = grey[:, None]
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False)
    return images.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()


def _order(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SHUFFLE_SEED))


def check_classes(dataset: Dataset, classes: int, input_size: int) -> None:
    """Refuse images whose classes a head of `classes` outputs does not fit.

    Raises:
        UsageError: it does not.
    """
    found = len(dataset.class_names)
    if found != classes:
        raise UsageError(
            f"{dataset.source} has {found} classes, but the head of the network at {input_size} pixels has {classes}; "
            "if the images have changed meanwhile, call the same command again"
        )
