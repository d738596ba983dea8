"""Embeddings of faces and persons: what they are trained for, how they are evaluated, and that training helps."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")
retrieval_metrics = pytest.importorskip("torchmetrics.functional.retrieval")

from safetensors.torch import load_file
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from bpnas.base.errors import UsageError
from bpnas.search.errors import DataError, DivergedError, RunError
from bpnas.search.training.threads import set_threads, threads_kept
from bpnas.search.transfer.backbones import BackboneChoice, load_features
from bpnas.search.transfer.embedding.augment import augmented, erased_rectangles
from bpnas.search.transfer.embedding.face import run_face
from bpnas.search.transfer.embedding.identification import gallery_sizes, rank_1_rates
from bpnas.search.transfer.embedding.layout import identity_folders, market_images
from bpnas.search.transfer.embedding.model import Embedder, embed
from bpnas.search.transfer.embedding.objectives import ArcFace, TripletAndIdentity
from bpnas.search.transfer.embedding.reid import run_reid
from bpnas.search.transfer.embedding.retrieval import retrieval_scores
from bpnas.search.transfer.embedding.sampling import pk_batches, shuffled_batches
from bpnas.search.transfer.embedding.settings import FACE_PRESETS, REID_PRESETS
from bpnas.search.transfer.embedding.train import train_embedder
from tests.search_helpers import Steps
from tests.transfer_images import faces, market, small_network


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads_kept():
        set_threads(1)
        yield


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_network(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def face_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def market_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return market(tmp_path_factory.mktemp("market"))


def unit(rows: int, size: int = 8) -> torch.Tensor:
    return F.normalize(torch.randn(rows, size))


# Losses


def test_arcface_is_the_cross_entropy_of_shifted_angles() -> None:
    settings = FACE_PRESETS["paper"]
    objective = ArcFace(settings, identities=5, size=8)
    embeddings, labels = torch.randn(7, 8), torch.tensor([0, 1, 2, 3, 4, 0, 1])
    cosine = F.normalize(embeddings) @ F.normalize(objective.loss.W, dim=0)
    angles = cosine.acos()
    angles[torch.arange(7), labels] += 0.5
    assert angles.max() < math.pi  # beyond it the loss is continued by another formula
    expected = F.cross_entropy(64 * angles.cos(), labels)
    torch.testing.assert_close(objective(torch.zeros(7, 8), embeddings, labels), expected)


def test_persons_are_told_apart_by_the_hardest_triplets_and_by_identity() -> None:
    objective = TripletAndIdentity(REID_PRESETS["bag-of-tricks"], identities=3, size=8)
    torch.nn.init.normal_(objective.classifier.weight)
    plain, neck, labels = 0.2 * torch.randn(12, 8), torch.randn(12, 8), torch.arange(12) // 4
    distances = (plain[:, None] - plain[None]).pow(2).sum(2).sqrt()
    triplets = []
    for anchor in range(12):
        same = labels == labels[anchor]
        triplets.append(F.relu(distances[anchor][same].max() - distances[anchor][~same].min() + 0.3))
    expected = torch.stack(triplets).mean()
    expected = expected + F.cross_entropy(neck @ objective.classifier.weight.T, labels, label_smoothing=0.1)
    torch.testing.assert_close(objective(plain, neck, labels), expected)


# Batches


def test_pk_batches_hold_as_many_images_of_each_identity() -> None:
    labels = [0] * 9 + [1] * 4 + [2] * 1 + [3] * 6 + [4] * 5
    batches = pk_batches(labels, 3, 4, torch.Generator().manual_seed(0))
    assert len(batches) >= 2
    for batch in batches:
        counts = np.unique([labels[index] for index in batch], return_counts=True)[1]
        assert counts.tolist() == [4, 4, 4]
    assert pk_batches(labels, 3, 4, torch.Generator().manual_seed(0)) == batches
    assert pk_batches(labels, 3, 4, torch.Generator().manual_seed(1)) != batches


def test_fewer_identities_than_a_batch_wants_make_smaller_batches() -> None:
    (batch,) = pk_batches([0, 0, 1, 1], 8, 2, torch.Generator().manual_seed(0))
    assert sorted(batch) == [0, 1, 2, 3]


def test_shuffled_batches_hold_every_image_but_a_lonely_last_one() -> None:
    generator = torch.Generator().manual_seed(0)
    assert sorted(itertools.chain(*shuffled_batches(10, 4, generator))) == list(range(10))
    assert [len(batch) for batch in shuffled_batches(9, 4, generator)] == [4, 4]


# Augmentation


def test_erased_rectangles_have_the_area_and_aspect_asked_for() -> None:
    erased = erased_rectangles(500, 64, 32, torch.Generator().manual_seed(0))
    heights, widths = erased.any(2).sum(1), erased.any(1).sum(1)
    assert torch.equal(heights * widths, erased.sum((1, 2)))  # filled rectangles
    share = erased.float().mean((1, 2))
    assert 0.01 < share.min() < 0.05 and 0.3 < share.max() < 0.43
    assert 0.17 < share.mean() < 0.24
    assert erased.any(0).any(0).all() and erased.any(0).any(1).all()  # up to every edge


def test_augmented_images_are_moved_mirrored_and_erased_by_the_generator_alone() -> None:
    settings = REID_PRESETS["bag-of-tricks"].train
    images = torch.rand(64, 3, 40, 20) + 1
    first, again = (augmented(images, settings, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.shape == images.shape
    assert torch.equal(first, again)
    # With neither shift nor rectangle, an image is itself or its mirror image.
    plain = augmented(images, FACE_PRESETS["paper"].train, torch.Generator().manual_seed(3))
    same, mirrored = ((plain == other).all((1, 2, 3)) for other in (images, images.flip(3)))
    assert (same ^ mirrored).all() and same.any() and mirrored.any()


def test_a_shift_cuts_out_of_the_padded_image() -> None:
    settings = FACE_PRESETS["tiny"].train
    images = torch.ones(200, 3, 8, 8)
    moved = augmented(images, settings, torch.Generator().manual_seed(0))
    rows = (moved.sum((1, 3)) > 0).sum(1)
    assert rows.min() == 8 - settings.padding and rows.max() == 8


# Measures


def test_rank_1_is_the_share_of_mates_nearer_than_all_distractors() -> None:
    identities = torch.tensor([0, 0, 0, 1, 1, 2])
    probes, distractors = unit(6), unit(30)
    rates = rank_1_rates(probes, identities, distractors, (3, 10, 30))
    for size, rate in rates.items():
        hits = [
            bool(probes[probe] @ probes[mate] > (distractors[:size] @ probes[probe]).max())
            for probe in range(6)
            for mate in range(6)
            if probe != mate and identities[probe] == identities[mate]
        ]
        assert len(hits) == 8
        assert rate == sum(hits) / 8
    assert rank_1_rates(probes, identities, distractors, (3, 10, 30), chunk=4) == rates


def test_a_distractor_as_near_as_the_mate_beats_it() -> None:
    probes = torch.eye(4)[:1].repeat(2, 1)
    assert rank_1_rates(probes, torch.tensor([5, 5]), probes[:1], (1,)) == {1: 0.0}
    assert rank_1_rates(probes, torch.tensor([5, 5]), torch.eye(4)[1:2], (1,)) == {1: 1.0}


def test_probes_without_mates_are_refused() -> None:
    with pytest.raises(DataError, match="two probe images"):
        rank_1_rates(unit(2), torch.tensor([0, 1]), unit(3), (3,))


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, (1,)), (10, (10,)), (11, (10, 11)), (1000, (10, 100, 1000)), (1500, (10, 100, 1000, 1500))]
)
def test_rates_are_reported_at_powers_of_ten(count: int, sizes: tuple[int, ...]) -> None:
    assert gallery_sizes(count) == sizes


def independent_scores(
    query: np.ndarray, query_names: list[Any], gallery: np.ndarray, gallery_names: list[Any]
) -> dict[str, float]:
    """mAP and CMC by torchmetrics and, for the former, by scikit-learn; names are (identity, camera)."""
    precisions, hits = [], {1: [], 5: [], 10: []}
    for embedding, (identity, camera) in zip(query, query_names, strict=True):
        kept = [n for n, name in enumerate(gallery_names) if name != (identity, camera)]
        # Ranks, for torchmetrics takes what has a score of 0 or less for irrelevant.
        scores = torch.from_numpy(rankdata(gallery[kept] @ embedding))
        target = torch.tensor([gallery_names[n][0] == identity for n in kept])
        if not target.any():
            continue
        precisions.append(float(retrieval_metrics.retrieval_average_precision(scores, target)))
        assert precisions[-1] == pytest.approx(average_precision_score(target.numpy(), scores.numpy()), abs=1e-6)
        for rank, found in hits.items():
            found.append(float(retrieval_metrics.retrieval_hit_rate(scores, target, top_k=rank)))
    return {"mean_average_precision": np.mean(precisions)} | {f"rank_{r}": np.mean(found) for r, found in hits.items()}


@pytest.mark.parametrize("seed", range(3))
def test_retrieval_agrees_with_torchmetrics_on_random_embeddings(seed: int) -> None:
    torch.manual_seed(seed)
    query, gallery = unit(40).numpy(), unit(150).numpy()
    query_names = [tuple(pair) for pair in torch.randint(1, 5, (40, 2)).tolist()]
    query_names[7] = (99, 1)  # seen by no other camera: does not count
    gallery_names = [tuple(pair) for pair in torch.randint(0, 5, (150, 2)).tolist()]
    gallery_names[3] = (99, 1)
    terms = (query, *zip(*query_names, strict=True), gallery, *zip(*gallery_names, strict=True))
    scores = retrieval_scores(*terms)
    expected = independent_scores(query, query_names, gallery, gallery_names)
    assert scores.queries == 39
    assert scores.mean_average_precision == pytest.approx(expected["mean_average_precision"], abs=1e-6)
    assert {f"rank_{rank}": share for rank, share in scores.cmc.items()} == pytest.approx(
        {name: share for name, share in expected.items() if name.startswith("rank")}
    )
    chunked = retrieval_scores(*terms, chunk=7)
    assert chunked.cmc == scores.cmc
    assert chunked.mean_average_precision == pytest.approx(scores.mean_average_precision)


def test_queries_that_no_other_camera_saw_are_refused() -> None:
    with pytest.raises(DataError, match="another camera"):
        retrieval_scores(unit(1).numpy(), [1], [1], unit(2).numpy(), [1, 2], [1, 2])


# The programs


def test_face_training_finds_more_faces_than_the_untrained_network(face_folder, network, tmp_path) -> None:
    backbone, settings = BackboneChoice("bpnas", network), FACE_PRESETS["tiny"]
    before = run_face(face_folder, backbone, settings.override({"epochs": 0}), out=tmp_path / "before", seed=0)
    after = run_face(face_folder, backbone, settings.override({"epochs": 10}), out=tmp_path / "after", seed=0)
    assert [row["distractors"] for row in after["rank_1"]] == [10, 60]
    for untrained, trained in zip(before["rank_1"], after["rank_1"], strict=True):
        assert trained["rate"] > untrained["rate"] + 0.05
    assert after["rank_1"][0]["rate"] > before["rank_1"][0]["rate"] + 0.15
    assert after["mock"] is True
    assert after["predicted_latency_ms"] == 1.5
    assert after["settings"]["margin"] == 0.5
    assert json.loads((tmp_path / "after" / "result.json").read_text()) == after


@pytest.mark.slow
def test_reid_training_finds_more_persons_and_torchmetrics_agrees(market_folder, network, tmp_path) -> None:
    backbone, settings = BackboneChoice("bpnas", network), REID_PRESETS["tiny"]
    settings = settings.override({"height": 48, "width": 24})
    before = run_reid(market_folder, backbone, settings.override({"epochs": 0}), out=tmp_path / "before", seed=0)
    after = run_reid(market_folder, backbone, settings, out=tmp_path / "after", seed=0)
    assert after["mean_average_precision"] > before["mean_average_precision"] + 0.1
    assert after["rank_1"] > before["rank_1"] + 0.1

    # The weights on disk give the same figures, counted by another library.
    model = Embedder(load_features("bpnas", network=network, pretrained=False), settings.train.embedding)
    model.load_state_dict(load_file(tmp_path / "after" / "embedder.safetensors"))
    query = market_images(market_folder / "query", distractors=False)
    gallery = market_images(market_folder / "bounding_box_test", distractors=True)
    embeddings = [embed(model, part.paths, 48, 24).numpy() for part in (query, gallery)]
    names = [list(zip(part.identities, part.cameras, strict=True)) for part in (query, gallery)]
    expected = independent_scores(embeddings[0], names[0], embeddings[1], names[1])
    assert {name: after[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert (after["queries"], after["gallery"]) == (48, 56)


class KilledError(Exception):
    pass


def result_but_time(run: Path) -> dict[str, Any]:
    result = json.loads((run / "result.json").read_text())
    assert result.pop("cost")["hours"] > 0
    return {name: value for name, value in result.items() if name != "file_sha256"}


@pytest.mark.parametrize("task", ["face", "reid"])
def test_a_run_that_was_killed_ends_where_an_undisturbed_one_does(
    task: str, face_folder: Path, market_folder: Path, network: Path, tmp_path: Path
) -> None:
    data, presets, run = (
        (face_folder, FACE_PRESETS, run_face) if task == "face" else (market_folder, REID_PRESETS, run_reid)
    )
    settings, backbone = presets["tiny"].override({"epochs": 3, "batch": 128}), BackboneChoice("bpnas", network)

    def kill(step: int) -> None:
        if step == 2:
            raise KilledError

    run(data, backbone, settings, out=tmp_path / "whole", seed=4)
    with pytest.raises(KilledError):
        run(data, backbone, settings, out=tmp_path / "cut", seed=4, progress=Steps(kill))
    run(data, backbone, settings, out=tmp_path / "cut", seed=4)
    weights = [(tmp_path / name / "embedder.safetensors").read_bytes() for name in ("cut", "whole")]
    assert weights[0] == weights[1]
    assert result_but_time(tmp_path / "cut") == result_but_time(tmp_path / "whole")
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "cut" / "epochs.jsonl").read_text().splitlines()]
    assert epochs == [0, 1, 2]


def test_a_training_is_resumed_in_the_middle_of_an_epoch(
    face_folder: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpnas.search.training.resumable.CHECKPOINT_SECONDS", 0.0)
    settings = FACE_PRESETS["tiny"].override({"epochs": 2, "batch": 48})
    images = identity_folders(face_folder / "train")

    def train(checkpoint: Path, steps: int | None = None, name: str = "one") -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = Embedder(load_features("bpnas", network=network), 16)
        objective = ArcFace(settings, 24, 16)
        done = 0

        def count(module: object, inputs: object) -> None:
            nonlocal done
            done += 1
            if steps is not None and done > steps:
                raise KilledError

        objective.register_forward_pre_hook(count)
        train_embedder(
            *(model, objective, images, settings.train),
            seed=0,
            of={"name": name},
            checkpoint=checkpoint,
        )
        return model.state_dict()

    whole = train(tmp_path / "whole.pt")
    for steps in (3, 4):
        with pytest.raises(KilledError):
            train(tmp_path / "cut.pt", steps)
    state = torch.load(tmp_path / "cut.pt", weights_only=True)
    assert (state["epoch"], state["step"]) == (0, 2)  # five steps an epoch
    for name, value in train(tmp_path / "cut.pt").items():
        assert torch.equal(value, whole[name]), name
    with pytest.raises(KilledError):  # the state of another training is as good as none
        train(tmp_path / "cut.pt", 3, "another")
    state = torch.load(tmp_path / "cut.pt", weights_only=True)
    assert (state["epoch"], state["step"]) == (-1, 3)


def test_the_command_trains_and_prints_what_it_wrote(cli, face_folder, network, tmp_path) -> None:
    words = ["transfer", "face", "--data", face_folder, "--network", network, "--epochs", 1, "--out", tmp_path / "run"]
    done = cli("run-search", *words, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == json.loads((tmp_path / "run" / "result.json").read_text())
    assert "[mock]" in done.stderr
    again = cli("run-search", *words)
    assert "already" in again.stderr
    assert "1.5 ms by table at 32 pixels (mock: computed, not measured)" in again.stdout
    other = cli("run-search", *words, "--seed", 1)
    assert other.exit_code == 1
    assert "started with --seed 0, now it is 1" in other.stderr


def test_an_unreadable_image_is_named(cli, network, tmp_path) -> None:
    data = market(tmp_path / "market", train=4, each=2, test=2)
    (data / "bounding_box_train" / "0001_c1s1_000099_00.jpg").write_bytes(b"no image")
    done = cli("run-search", "transfer", "reid", "--data", data, "--network", network, "--out", tmp_path / "run")
    assert done.exit_code == 1
    assert "0001_c1s1_000099_00.jpg: the image cannot be decoded" in done.stderr.splitlines()[-1]


def test_a_missing_library_is_named(cli, face_folder, network, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    done = cli("run-search", "transfer", "face", "--data", face_folder, "--network", network, "--out", tmp_path / "run")
    assert done.exit_code == 1
    assert "needs pytorch-metric-learning" in done.stderr
    assert "pip install" in done.stderr


@pytest.mark.parametrize("task", ["face", "reid"])
def test_a_training_that_diverges_says_so_and_leaves_nothing(
    task: str, face_folder: Path, market_folder: Path, network: Path, tmp_path: Path
) -> None:
    data, presets, run = (
        (face_folder, FACE_PRESETS, run_face) if task == "face" else (market_folder, REID_PRESETS, run_reid)
    )
    settings, backbone = presets["tiny"].override({"epochs": 1, "batch": 64}), BackboneChoice("bpnas", network)
    for _ in range(2):
        with pytest.raises(DivergedError, match=rf"training of {task} diverged in epoch 1, .* smaller --rate$"):
            run(data, backbone, settings.override({"learning_rate": 1e30}), out=tmp_path, seed=0)
        left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        assert not left & {"result.json", "embedder.safetensors", "epochs.jsonl", "embedder.pt"}
    assert run(data, backbone, settings, out=tmp_path, seed=0)["settings"]["train"]["learning_rate"] < 1


def test_no_checkpoint_is_written_of_a_training_that_diverged(
    face_folder: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpnas.search.training.resumable.CHECKPOINT_SECONDS", 0.0)
    settings = FACE_PRESETS["tiny"].override({"epochs": 2, "batch": 48, "warmup_epochs": 0.0})
    images = identity_folders(face_folder / "train")
    model = Embedder(load_features("bpnas", network=network), 16)
    passes = itertools.count(1)

    def spoil(module: torch.nn.Module, inputs: object) -> None:
        if next(passes) == 8:  # five steps an epoch
            with torch.no_grad():
                model.neck.running_var[0] = torch.inf

    model.features.register_forward_pre_hook(spoil)
    with pytest.raises(DivergedError, match=r"in epoch 2, step 3: a weight is not finite after it, .*rate of"):
        train_embedder(
            *(model, ArcFace(settings, 24, 16), images, settings.train),
            seed=0,
            of={},
            checkpoint=tmp_path / "c.pt",
        )
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    assert (state["epoch"], state["step"]) == (0, 2)
    assert all(bool(value.isfinite().all()) for value in state["trained"].values())


def test_weights_that_are_not_finite_are_no_start(network: Path, tmp_path: Path) -> None:
    state = load_file(network.with_suffix(".safetensors"))
    torch.save({name: value * torch.nan for name, value in state.items()}, tmp_path / "nan.pt")
    with pytest.raises(RunError, match=r"nan\.pt: its weight .* is not finite"):
        load_features("bpnas", network=network, weights=tmp_path / "nan.pt")


def test_embeddings_that_are_not_finite_are_not_evaluated(face_folder: Path, network: Path) -> None:
    model = Embedder(load_features("bpnas", network=network), 16)
    with torch.no_grad():
        model.project.weight[:] = 3e38
    with pytest.raises(DivergedError, match="embedding of an image is not finite"):
        embed(model, identity_folders(face_folder / "train").paths[:2], 32, 32)


# The network under it


def test_a_searched_network_starts_from_its_own_weights_or_others_or_none(network: Path, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 32, 32)

    def last_map(**options: Any) -> torch.Tensor:
        return load_features("bpnas", network=network, **options).eval()(images)[-1]

    own, random = last_map(), last_map(pretrained=False)
    assert not torch.equal(own, random)
    state = load_file(network.with_suffix(".safetensors"))
    torch.save(state, tmp_path / "same.pt")
    torch.testing.assert_close(last_map(weights=tmp_path / "same.pt"), own)
    torch.save({name: value for name, value in state.items() if "stem" not in name}, tmp_path / "part.pt")
    with pytest.raises(RunError, match=r"part\.pt: holds the weights of another network"):
        last_map(weights=tmp_path / "part.pt")
    (tmp_path / "bad.pt").write_bytes(b"no archive")
    with pytest.raises(RunError, match=r"bad\.pt"):
        last_map(weights=tmp_path / "bad.pt")
    with pytest.raises(RunError, match=r"none\.safetensors: the weights cannot be read"):
        last_map(weights=tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "bpnas"}, "needs --network"),
        ({"model": "mobilenetv2_100", "network": Path("network.json")}, "belongs to --model bpnas"),
        ({"model": "bpnas", "weights": Path("w.pt"), "pretrained": False}, "exclude each other"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_features(**options)
