"""Images that stay on disk: folders, the parquet edition of ImageNet, and what is made of them."""

import json
import os
import random
import re
import signal
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image

from bpnas.base.errors import UsageError
from bpnas.search import DataError, Preset, load_data, run_search
from bpnas.search.data import dataset as data_module
from bpnas.search.data.batches import batches, in_order, on_device
from bpnas.search.data.dataset import Split
from bpnas.search.data.decoding import centre_crop, random_box, random_crop
from bpnas.search.data.disk_images import CHUNK, DiskSplit, decode_workers, read_images
from bpnas.search.data.image_files import choose_classes, count_classes
from bpnas.search.data.sources import Source
from bpnas.search.presets import TrainSettings
from bpnas.search.training.threads import threads_kept
from bpnas.search.training.train import accuracy, train
from tests.image_folders import encoded, picture, write_folder, write_imagenet
from tests.root import ROOT
from tests.search_helpers import FormulaTable, tiny_backbone
from tests.training_helpers import killed_until_done, model, weights

CPU = torch.device("cpu")
# Of Python 3.12, about a process that has threads; torch starts its workers so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # where there are fewer cores
]


def write_parquet(root, classes=110, train=2, named=True, column="image", words=False):
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    names = [f"thing {label}" for label in range(classes)]
    label = Value("string") if words else ClassLabel(names=names) if named else Value("int64")
    (root / "data").mkdir(parents=True)
    for part, count in (("train", train), ("validation", 1)):
        labels = list(range(classes)) * count
        cells = [{"bytes": encoded(label), "path": f"{part}_{label}.JPEG"} for label in labels]
        values = [names[number] for number in labels] if words else labels
        rows = Dataset.from_dict({column: cells, "label": values}, Features({column: ImageFeature(), "label": label}))
        pq.write_table(rows.data.table, root / "data" / f"{part}-00000-of-00001.parquet")
    return root


@pytest.fixture
def folder(tmp_path):
    return write_imagenet(tmp_path / "images", classes=3, train=30, val=4)


@pytest.fixture
def arrow_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def workers(monkeypatch):
    return lambda count: monkeypatch.setenv("BPNAS_DECODE_WORKERS", str(count))


def epoch(dataset, seed=0, first=0, share=(0, 1)):
    generator = torch.Generator().manual_seed(seed)
    return list(batches(dataset, dataset.train, 40, generator, CPU, first, share))


def equal(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(one, other, strict=True)
    )


def test_an_epoch_depends_on_its_seed_not_on_who_decodes(folder, workers):
    dataset = load_data(f"imagenet:{folder}", input_size=32)
    workers(0)
    alone = epoch(dataset)
    assert [len(labels) for _, labels in alone] == [40, 40, 10] and alone[0][0].shape == (40, 3, 32, 32)
    assert alone[0][0].is_contiguous(memory_format=torch.channels_last)
    assert CHUNK < 40  # a batch is put together
    for count in (1, 3):
        workers(count)
        state = torch.get_rng_state()
        assert equal(epoch(dataset), alone)
        assert torch.equal(torch.get_rng_state(), state)
    assert equal(epoch(dataset, first=2), alone[2:])
    assert not torch.equal(epoch(dataset, seed=1)[0][0], alone[0][0])


def test_processes_share_every_batch(folder, workers):
    workers(0)
    dataset = load_data(f"imagenet:{folder}", input_size=32)
    whole, shares = epoch(dataset), [epoch(dataset, share=(rank, 3)) for rank in range(3)]
    for number, (images, labels) in enumerate(whole):
        for rank in range(3):
            assert torch.equal(shares[rank][number][0], images[rank::3])
            assert torch.equal(shares[rank][number][1], labels[rank::3])


def test_labels_belong_to_their_images(folder, workers):
    workers(0)
    dataset = load_data(f"imagenet:{folder}", input_size=32)
    for split in (dataset.train, dataset.test, *dataset.train.parted(0.3)):
        for images, labels in in_order(split, 16, CPU):
            assert ((images[:, 2].float().mean(dim=(1, 2)) / 2).round() == labels).all()
    for images, labels in epoch(replace(dataset, mean=(0.0,) * 3, std=(1 / 255,) * 3)):
        assert ((images[:, 2].mean(dim=(1, 2)) / 2).round() == labels).all()
    assert sorted(torch.cat([labels for _, labels in epoch(dataset)]).tolist()) == [0] * 30 + [1] * 30 + [2] * 30


def test_an_evaluation_sees_the_middle_of_every_image_once(tmp_path, workers):
    workers(0)
    dataset = load_data(f"imagenet:{write_imagenet(tmp_path, 3, val=4, form='JPEG')}", input_size=28)
    seen = list(in_order(dataset.test, 5, CPU))
    assert [len(labels) for _, labels in seen] == [5, 5, 2]
    middle = picture(int(seen[0][1][0])).resize((42, 32), Image.Resampling.BILINEAR).crop((7, 2, 35, 30))
    found = seen[0][0][0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - np.array(middle)).max() <= 6  # JPEG, in pixels of 256
    for rank in range(3):  # of the last batch, of two images, the last process has none
        share = list(in_order(dataset.test, 5, CPU, (rank, 3)))
        assert equal(share, [(x[rank::3], y[rank::3]) for x, y in seen[: 3 if rank < 2 else 2]])


def test_no_images_make_no_batches(folder):
    dataset = load_data(f"imagenet:{folder}", input_size=32)
    assert list(in_order(dataset.test.first(2), 5, CPU, (2, 3))) == []


def test_parts_are_as_in_memory(folder):
    split = load_data(f"imagenet:{folder}", input_size=32).train
    assert isinstance(split, DiskSplit) and on_device(split, CPU) is split
    first, rest = split.first(10).parted(0.8)
    assert (len(first), len(rest), len(split.first(None))) == (8, 2, 90)
    assert torch.equal(torch.cat([first.rows, rest.rows]), split.rows[:10])
    assert split.rows[:30].tolist() != sorted(split.rows[:30].tolist())
    with pytest.raises(DataError, match="cannot be parted"):
        split.first(1).parted(0.5)


def test_a_folder_stays_on_disk_when_it_is_large(tmp_path, monkeypatch):
    source = f"folder:{write_folder(tmp_path)}"
    in_memory = load_data(source, input_size=32)
    assert isinstance(in_memory.train, Split)
    monkeypatch.setattr(data_module, "IN_MEMORY_BYTES", 18 * 3 * 32 * 32 - 1)
    on_disk = load_data(source, input_size=32)
    assert isinstance(on_disk.train, DiskSplit) and on_disk.input_size == 32 and on_disk.flip
    assert torch.equal(on_disk.train.labels, in_memory.train.labels)  # in the same order, too
    assert on_disk.class_names == in_memory.class_names
    assert on_disk.mean == pytest.approx(in_memory.mean, abs=0.01)
    assert isinstance(load_data(source, 32, train_images=11).train, Split)


def test_imagenet100_takes_classes_by_seed(tmp_path):
    write_imagenet(tmp_path)
    sets = [
        load_data(f"{kind}:{tmp_path}", input_size=32) for kind in ("imagenet100", "imagenet100@0", "imagenet100@7")
    ]
    assert sets[0].class_names == sets[1].class_names != sets[2].class_names
    assert sets[2].class_names == tuple(f"n{number:03d}" for number in choose_classes(110, 7))
    assert (len(sets[2].train), len(sets[2].test)) == (200, 100)
    for images, labels in in_order(sets[2].test, 100, CPU):
        names = [f"n{round(float(blue) / 2):03d}" for blue in images[:, 2].float().mean(dim=(1, 2))]
        assert names == [sets[2].class_names[label] for label in labels]
    assert len(load_data(f"imagenet:{tmp_path}", input_size=32).class_names) == 110


def test_the_classes_of_a_seed_are_the_same_for_ever():
    chosen = choose_classes(1000, 0)
    assert chosen == sorted(set(chosen)) and len(chosen) == 100
    assert chosen[:6] == [5, 33, 38, 57, 98, 102]


@pytest.mark.parametrize("named", [True, False])
def test_the_parquet_edition_gives_the_same_classes(tmp_path, arrow_cache, workers, named):
    workers(0)
    dataset = load_data(f"imagenet100@7:{write_parquet(tmp_path / 'set', named=named)}", input_size=32)
    chosen = choose_classes(110, 7)
    assert dataset.class_names == tuple(f"thing {n}" if named else str(n) for n in chosen)
    assert (len(dataset.train), len(dataset.test)) == (200, 100)
    for split in (dataset.train, dataset.test):
        for images, labels in in_order(split, 100, CPU):
            blue = (images[:, 2].float().mean(dim=(1, 2)) / 2).round().int().tolist()
            assert blue == [chosen[label] for label in labels]
    assert Source.parse(f"imagenet:{tmp_path / 'set'}").class_count() == 110


@pytest.mark.parametrize("source", ["imagenet", "imagenet100@7"])
def test_labels_may_be_words(source, tmp_path, arrow_cache, workers):
    workers(0)
    dataset = load_data(f"{source}:{write_parquet(tmp_path / 'set', words=True)}", input_size=32)
    every = sorted(f"thing {number}" for number in range(110))
    assert dataset.class_names == tuple(every if source == "imagenet" else [every[n] for n in choose_classes(110, 7)])
    for images, labels in in_order(dataset.test, 200, CPU):
        blue = (images[:, 2].float().mean(dim=(1, 2)) / 2).round().int().tolist()
        assert [f"thing {number}" for number in blue] == [dataset.class_names[label] for label in labels]


def test_a_word_that_is_no_class_is_named(tmp_path, arrow_cache, workers):
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = write_parquet(tmp_path / "set", classes=3, words=True)
    file = root / "data/validation-00000-of-00001.parquet"
    table = pq.read_table(file)
    labels = pa.array(["thing 0", "bird", None])
    pq.write_table(table.set_column(table.schema.get_field_index("label"), "label", labels), file)
    with pytest.raises(DataError, match="label 'bird' is not one of the classes of the training images"):
        load_data(f"imagenet:{root}", input_size=32)


def test_a_training_killed_at_any_step_ends_as_an_undisturbed_one(folder, tmp_path, monkeypatch, workers):
    workers(0)
    dataset = load_data(f"imagenet:{folder}", input_size=32, train_images=50)
    settings, file = TrainSettings(epochs=2, batch=16, learning_rate=0.05), tmp_path / "t.pt"

    def trained(**arguments):
        module = model()
        train(module, dataset, dataset.train, settings, seed=3, **arguments)
        return module

    expected = trained()
    result, kills = killed_until_done(lambda: trained(checkpoint=file, checkpoint_seconds=0), 0, 3, monkeypatch)
    assert kills >= 2 and torch.equal(weights(result), weights(expected))
    assert accuracy(result, dataset, dataset.test) == accuracy(expected, dataset, dataset.test)


@pytest.mark.parametrize("count", [0, 2])
def test_a_damaged_image_is_named(folder, workers, count):
    workers(count)
    dataset = load_data(f"imagenet:{folder}", input_size=32)
    bad = folder / "train/n001/7.JPEG"
    bad.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"train/n001/7\.JPEG cannot be decoded \(UnidentifiedImageError") as caught:
        epoch(dataset)
    assert "\n" not in str(caught.value)
    bad.unlink()
    with pytest.raises(DataError, match=r"train/n001/7\.JPEG cannot be decoded \(FileNotFoundError"):
        epoch(dataset)


class Deadly:
    """A store that costs the process that reads it its life, as a lack of memory does."""

    def name(self, row):
        return str(row)

    def read(self, row):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_lost_decoder_is_told(workers):
    workers(2)
    split = DiskSplit(Deadly(), torch.arange(100), torch.zeros(100, dtype=torch.int64), 32)
    with pytest.raises(DataError, match="a process that decodes images was lost"):
        list(read_images(split, [torch.arange(100)], CPU))


def test_a_decoder_that_is_lost_while_the_others_start_is_told(workers, monkeypatch):
    def lost(loader):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    workers(2)
    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", lost)
    split = DiskSplit(Deadly(), torch.arange(100), torch.zeros(100, dtype=torch.int64), 32)
    with pytest.raises(DataError, match="a process that decodes images was lost"):
        list(read_images(split, [torch.arange(100)], CPU))


def without_class(root):
    for file in (write_imagenet(root, classes=3) / "val/n001").iterdir():
        file.unlink()
    return root


def with_another_class(root):
    (write_imagenet(root, classes=3) / "val/x").mkdir()
    return root


def cut_off(root):
    file = write_parquet(root, classes=2) / "data/train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:200])
    return root


BAD = {
    "nothing": ("imagenet", lambda d: d, "needs the folders train and val"),
    "missing class": ("imagenet", without_class, "val/n001: holds no images"),
    "unknown class": ("imagenet", with_another_class, "val/x: is the folder of a class that train does not have"),
    "few classes": ("imagenet100", lambda d: write_imagenet(d, 5), "has 5 classes; imagenet100 chooses 100"),
    "few rows": ("imagenet100", lambda d: write_parquet(d, 5), "has 5 classes; imagenet100 chooses 100"),
    "column": ("imagenet", lambda d: write_parquet(d, 5, column="picture"), "has no column image"),
    "cut off": ("imagenet", cut_off, r"train-00000-of-00001\.parquet: cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_one_sentence(case, tmp_path, arrow_cache):
    kind, make, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        load_data(f"{kind}:{make(tmp_path)}", input_size=32)
    assert "\n" not in str(caught.value)


def test_sources():
    assert Source.parse("imagenet100@7:here") == Source("imagenet100", "here", 7)
    assert Source.parse("imagenet100:/a").absolute == "imagenet100@0:/a"
    assert Source.parse("imagenet100:/a").class_count() == 100 and Source.parse("imagenet:/a").native_size == 224
    for text in ("imagenet@7:here", "imagenet100@x:here", "imagenet100@:here"):
        with pytest.raises(UsageError, match="only imagenet100 takes a seed"):
            Source.parse(text)


def test_the_number_of_decoders(monkeypatch, workers):
    workers(5)
    assert decode_workers() == 5
    workers("many")
    with pytest.raises(UsageError, match="BPNAS_DECODE_WORKERS='many'"):
        decode_workers()
    monkeypatch.delenv("BPNAS_DECODE_WORKERS")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert decode_workers() == 1


def test_random_parts_have_the_areas_and_ratios_of_inception():
    rng, areas, ratios = random.Random(0), [], []
    for _ in range(3000):
        left, top, right, bottom = random_box(500, 400, rng)
        assert 0 <= left < right <= 500 and 0 <= top < bottom <= 400
        areas.append((right - left) * (bottom - top) / 200_000)
        ratios.append((right - left) / (bottom - top))
    assert (
        0.079 < min(areas) < 0.1 and 0.95 < max(areas) <= 1 and 0.74 < min(ratios) < 0.76 and 1.3 < max(ratios) < 1.35
    )
    assert random_box(1000, 10, rng) == (493, 0, 506, 10) and random_box(1, 1, rng) == (0, 0, 1, 1)


def test_a_part_is_cut_scaled_and_mirrored():
    whole = Image.fromarray((np.arange(60 * 80, dtype=np.uint8).reshape(60, 80, 1) % 250).repeat(3, axis=2))
    mirrored = 0
    for seed in range(20):
        part = random_crop(whole, 16, random.Random(seed), mirror=False)
        box = random_box(80, 60, random.Random(seed))
        assert np.array_equal(part, np.array(whole.crop(box).resize((16, 16), Image.Resampling.BILINEAR)))
        other = random_crop(whole, 16, random.Random(seed), mirror=True)
        mirrored += np.array_equal(other, part[:, ::-1])
        assert np.array_equal(other, part) or np.array_equal(other, part[:, ::-1])
    assert 3 <= mirrored <= 17
    assert centre_crop(whole, 16).shape == (16, 16, 3)


def test_a_search_runs_on_images_on_disk(tmp_path, workers):
    workers(0)
    write_imagenet(tmp_path / "images", classes=10, train=4)
    preset = Preset.load("tiny").override({"connections.train.epochs": 2, "retraining.epochs": 1})
    result = run_search(
        FormulaTable.tiny("K3G1,K3E1G1"),
        out=tmp_path / "run",
        stage="connections",
        preset=preset,
        data=f"imagenet:{tmp_path / 'images'}",
        input_size=32,
        proposals=["K3G1", "K3E1G1"],
        target_ms=0.5,
    )
    assert result.network is not None and 0 <= result.network.accuracy <= 1
    written = json.loads((tmp_path / "run/network.json").read_text())
    assert written["classes"] == [f"n{number:03d}" for number in range(10)]
    assert written["input"]["mean"] == [0.485, 0.456, 0.406]


def test_a_study_of_blocks_refuses_them_in_a_sentence(tmp_path):
    from bpnas.search.studies.proposals.trainer import StudyTraining

    write_imagenet(tmp_path, classes=10, train=4)
    training = StudyTraining(tiny_backbone(), f"imagenet:{tmp_path}", Preset.load("tiny"))
    with threads_kept(), pytest.raises(DataError, match="a study evaluates winners on images in memory"):
        training()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ((), "needs the folders train and val"),
        (("train", "val"), "train: holds no folder; there must be one per class"),
        (("train/a", "val/a"), "holds only one class, a; images of two classes or more are needed"),
    ],
    ids=["empty", "no classes", "one class"],
)
@pytest.mark.parametrize("kind", ["folder", "imagenet"])
def test_a_folder_without_classes_is_told_before_a_table_is_asked_for_them(cli, kind, folders, message, tmp_path):
    for folder in folders:
        (tmp_path / "images" / folder).mkdir(parents=True)
    (tmp_path / "images").mkdir(exist_ok=True)
    done = cli(
        "run-search", "--table", ROOT / "tables/mock_s9.parquet", "--data", f"{kind}:{tmp_path / 'images'}", "--plan"
    )
    assert done.exit_code == 1 and message in done.stderr and "--classes" not in done.stderr


@pytest.mark.parametrize(
    ("noted", "told"),
    [
        (b"null", None),
        (b"[]", None),
        (b"{", None),
        (b"[" * 100_000, None),
        (b'{"info": []}', None),
        (b'{"info": {"features": {"label": {"names": null}}}}', None),
        (
            b'{"info": {"features": {"label": {"names": "abc"}}}}',
            "names the classes by 'abc', which is no list",
        ),
        (b'{"info": {"features": {"label": {"names": [1, 2]}}}}', "names the classes by [1, 2]"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_datasets_noted_in_a_file_may_be_anything(noted, told, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.table({"image": [{"bytes": encoded(0), "path": "a.jpg"}] * 2, "label": [0, 1]})
    for part in ("train", "validation"):
        pq.write_table(rows.replace_schema_metadata({b"huggingface": noted}), tmp_path / f"{part}-0.parquet")
    if told is None:
        assert count_classes(tmp_path) == 2
    else:
        with pytest.raises(DataError, match=re.escape(told)) as caught:
            count_classes(tmp_path)
        assert "train-0.parquet" in str(caught.value)
