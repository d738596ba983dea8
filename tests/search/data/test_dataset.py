import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bpnas.base.errors import UsageError
from bpnas.search import DataError, load_data
from bpnas.search.data.sources import Source
from tests.image_folders import write_folder
from tests.root import ROOT

CIFAR = Path(os.environ.get("BPNAS_TEST_DATA", ROOT.parent / "shared/data")) / "cifar10"


def write_fashion(root, count=20, images=None):
    rng = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        pixels = rng.integers(0, 256, (count, 28, 28), np.uint8) if images is None else images
        labels = rng.integers(0, 10, len(pixels), np.uint8)
        content = struct.pack(">4I", 0x803, len(pixels), 28, 28) + pixels.tobytes()
        (root / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
        (root / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, len(labels)) + labels.tobytes())
    return root


def write_parquet(root, columns=("img", "label"), damaged=False, label=0):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (9, 8, 7)).save(buffer, "PNG")
    content = b"no picture" if damaged else buffer.getvalue()
    for part in ("train", "test"):
        values = [[{"bytes": content, "path": "a.png"}] * 3, [label] * 3]
        pq.write_table(pa.table(dict(zip(columns, values, strict=True))), root / f"{part}-00000-of-00001.parquet")
    return root


def check(dataset, size):
    for split in (dataset.train, dataset.test):
        assert split.images.dtype == torch.uint8 and split.images.shape == (len(split), 3, size, size)
        assert split.labels.dtype == torch.int64
    normal = dataset.normalized(dataset.train.images)
    assert normal.dtype == torch.float32 and normal.is_contiguous(memory_format=torch.channels_last)
    assert normal.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=0.05)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def test_digits(digits):
    check(digits, 32)
    assert len(digits.train) + len(digits.test) == 1797
    assert len(digits.class_names) == 10 and not digits.flip
    assert set(digits.test.labels.tolist()) == set(range(10))


def test_loading_is_repeatable_and_a_part_is_the_start_of_the_whole(digits):
    part = load_data("digits", train_images=100)
    assert torch.equal(part.train.images, digits.train.images[:100])
    assert torch.equal(part.test.labels, digits.test.labels)


def test_parts_do_not_overlap(digits):
    first, rest = digits.train.first(10).parted(0.8)
    assert (len(first), len(rest)) == (8, 2)
    assert torch.equal(torch.cat([first.images, rest.images]), digits.train.images[:10])


@pytest.mark.skipif(not CIFAR.is_dir(), reason="no CIFAR-10 next to the repository or under BPNAS_TEST_DATA")
def test_cifar10():
    dataset = load_data(f"cifar10:{CIFAR}", train_images=500)
    check(dataset, 32)
    assert (len(dataset.train), len(dataset.test)) == (500, 10_000)
    assert dataset.flip and dataset.class_names[3] == "cat"
    assert min(torch.bincount(dataset.train.labels, minlength=10)) > 20


def test_parquet(tmp_path):
    dataset = load_data(f"cifar10:{write_parquet(tmp_path)}")
    assert dataset.train.images[0, :, 5, 5].tolist() == [9, 8, 7]


def test_folder(tmp_path):
    dataset = load_data(f"folder:{write_folder(tmp_path)}", input_size=48)
    assert dataset.train.images.shape == (12, 3, 48, 48) and dataset.test.images.shape == (6, 3, 48, 48)
    assert dataset.class_names == ("cat", "dog")
    for image, label in zip(dataset.train.images, dataset.train.labels.tolist(), strict=True):
        assert int(image[0, 20, 20]) == 40 + 100 * label
    assert load_data(f"folder:{tmp_path}").input_size == 224


def test_what_other_programs_leave_is_neither_a_class_nor_an_image(tmp_path):
    root = write_folder(tmp_path / "set")
    content = (root / "train/dog/0.png").read_bytes()
    for part in ("train", "val"):
        for left in (".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/0.png", "@eaDir/0.png", ".Trash/1.png"):
            for folder in (root / part, root / part / "cat"):
                (folder / left).parent.mkdir()
                (folder / left).write_bytes(content)
        (root / part / "cat/._0.png").write_bytes(b"\0\5\x16\7" + bytes(100))
    dataset = load_data(f"folder:{root}", input_size=32)
    assert dataset.class_names == ("cat", "dog") and Source.parse(f"folder:{root}").class_count() == 2
    assert (len(dataset.train), len(dataset.test)) == (12, 6)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_grey_of_16_bits_keeps_its_range(ending, tmp_path):
    from PIL import Image

    root = write_folder(tmp_path)
    file = root / f"val/cat/9.{ending}"
    for old in (root / "val/cat").iterdir():
        old.unlink()
    values = np.array([[0, 255, 256, 32_896, 65_535]], np.uint16).repeat(5, axis=0)
    Image.fromarray(values).save(file)
    pixels = load_data(f"folder:{root}", input_size=5).test
    (image,) = pixels.images[pixels.labels == 0]
    assert [image[channel, 2].tolist() for channel in range(3)] == [[0, 1, 1, 128, 255]] * 3


@pytest.mark.parametrize("values", [np.linspace(0, 1, 16, dtype=np.float32), np.full(16, 70_000, np.int32)])
def test_pixels_without_a_known_white_are_refused(values, tmp_path):
    from PIL import Image

    Image.fromarray(values.reshape(4, 4)).save(write_folder(tmp_path) / "train/cat/x.tif")
    with pytest.raises(DataError, match=r"train/cat/x\.tif cannot be decoded .*from 0 to 65535; save it with 8 or 16"):
        load_data(f"folder:{tmp_path}", input_size=32)


def test_fashion_mnist(tmp_path):
    dataset = load_data(f"fashion-mnist:{write_fashion(tmp_path)}")
    check(dataset, 32)
    assert dataset.class_names[9] == "Ankle boot"
    assert int(dataset.train.images[:, :, :2].max()) == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mnist", "no data source is called 'mnist'"),
        ("cifar10", "needs a directory"),
        ("digits:here", "takes no directory"),
    ],
)
def test_unknown_sources(source, message):
    with pytest.raises(UsageError, match=message):
        load_data(source)


BAD = {
    "no directory": (lambda d: f"cifar10:{d}/none", "no such directory"),
    "no parquet": (lambda d: f"cifar10:{d}", r"holds no train\*.parquet"),
    "columns": (lambda d: f"cifar10:{write_parquet(d, ('image', 'label'))}", "has no column img"),
    "picture": (lambda d: f"cifar10:{write_parquet(d, damaged=True)}", "image a.png cannot be decoded"),
    "label": (lambda d: f"cifar10:{write_parquet(d, label=10)}", r"outside 0\.\.9"),
    "no split": (lambda d: f"folder:{d}", "needs the folders train and val"),
    "no idx": (lambda d: f"fashion-mnist:{d}", "holds neither train-images-idx3-ubyte.gz"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_one_sentence(case, tmp_path):
    make, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        load_data(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_truncated_files(tmp_path):
    for name, source, write in (
        ("train-00000-of-00001.parquet", "cifar10", write_parquet),
        ("train-images-idx3-ubyte.gz", "fashion-mnist", write_fashion),
    ):
        folder = tmp_path / source
        folder.mkdir()
        file = write(folder) / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(DataError, match=name):
            load_data(f"{source}:{folder}")
    image = write_folder(tmp_path / "folder") / "val/dog/1.png"
    image.write_bytes(image.read_bytes()[:40])
    with pytest.raises(DataError, match=r"dog/1\.png cannot be decoded"):
        load_data(f"folder:{tmp_path / 'folder'}", input_size=32)
