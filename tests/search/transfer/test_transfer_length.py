"""Trainings whose length is given in iterations, through the commands: cut short, killed and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")

from safetensors.torch import load_file

from bpnas.search.training import resumable
from bpnas.search.training.threads import set_threads, threads_kept
from tests.training_helpers import KilledError, killed_until_done
from tests.transfer_images import faces, market, small_network


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Data and network of both tasks. An epoch of faces has 6 iterations of 8."""
    root = tmp_path_factory.mktemp("length")
    network = small_network(root)
    face = faces(root / "faces", train=6, each=8, probes=3, distractors=12)
    reid = market(root / "market", train=6, each=8, test=3)
    return {
        "face": ["--data", face, "--network", network, "--batch", 8],
        "reid": ["--data", reid, "--network", network, "--batch", 8],
    }


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "epochs.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("iterations", "images"), [(3, [24]), (6, [48]), (14, [48, 48, 16])])
def test_a_training_ends_after_its_iterations(
    iterations: int, images: list[int], words: Any, cli: Any, tmp_path: Path
) -> None:
    options = ["--iterations", iterations, "--out", tmp_path / "run"]
    done = cli("run-search", "transfer", "face", *words["face"], *options)
    assert done.exit_code == 0, done.stderr
    assert [line["images"] for line in lines(tmp_path / "run")] == images
    assert f"identities, {iterations} iterations" in done.stdout
    assert "Cost: " in done.stdout and "BPN-A 92.4" in done.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["settings"]["train"]["iterations"] == iterations and result["settings"]["train"]["epochs"] is None
    assert result["cost"].keys() == {"hours", "gpu_hours", "device", "processes"}


@pytest.mark.parametrize("task", ["face", "reid"])
@threads_kept()
def test_a_training_of_iterations_is_killed_in_its_epochs_and_resumed(
    task: str, words: Any, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_threads(1)
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)

    def run(out: Path) -> int:
        done = cli(
            "run-search", "transfer", task, *words[task], "--iterations", 15, "--milestones", "4,9", "--out", out
        )
        assert done.exit_code == 0, done.stderr
        return done.exit_code

    run(tmp_path / "whole")
    _, kills = killed_until_done(lambda: run(tmp_path / "cut"), 1, 5, monkeypatch)
    assert kills >= 3
    whole, cut = (load_file(tmp_path / name / "embedder.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    assert [line["epoch"] for line in lines(tmp_path / "cut")] == [line["epoch"] for line in lines(tmp_path / "whole")]


def test_time_before_a_kill_counts(words: Any, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("bpnas.search.transfer.cost.perf_counter", lambda: next(clock))
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)
    save, done = resumable.save_checkpoint, 0

    def interrupted(path: Path, state: dict[str, Any]) -> None:
        nonlocal done
        save(path, state)
        done += 1
        if done == 4:
            raise KilledError

    monkeypatch.setattr(resumable, "save_checkpoint", interrupted)
    command = ["transfer", "face", *words["face"], "--iterations", 10, "--out", tmp_path / "run"]
    with pytest.raises(KilledError):
        cli("run-search", *command)
    assert cli("run-search", *command).exit_code == 0
    # Each of ten iterations and the evaluation took ten seconds.
    assert json.loads((tmp_path / "run" / "result.json").read_text())["cost"]["hours"] == pytest.approx(110 / 3600)


def test_a_milestone_after_the_end_is_told(words: Any, cli: Any, tmp_path: Path) -> None:
    options = ["--iterations", 2, "--milestones", "1,5", "--out", tmp_path / "run"]
    done = cli("run-search", "transfer", "face", *words["face"], *options)
    note = "the milestone 5 is not before the end of 2 iterations and has no effect"
    assert done.exit_code == 0 and note in done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["notes"] == [note]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--milestones", "a,b"], "--milestones 'a,b': write numbers with commas between, as in 60000,80000"),
        (["--epochs", 1, "--iterations", 1], "--epochs and --iterations exclude each other"),
        (["--iterations", -5], "iterations must be from 0"),
        (["--batch", 1], "batch must be a multiple of 1 and at least 2, not 1"),
        (["--margin", 9], "margin must be from 0 to 3 radians, not 9"),
        (["--momentum", 1], "momentum must be from 0 to less than 1, not 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: list[Any], message: str, words: Any, cli: Any, tmp_path: Path
) -> None:
    done = cli("run-search", "transfer", "face", *words["face"], *options, "--out", tmp_path / "run")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1) and message in done.stderr
    assert not (tmp_path / "run").exists()


def test_one_identity_teaches_nothing(words: Any, cli: Any, tmp_path: Path) -> None:
    data = faces(tmp_path / "one", train=1, each=5, probes=2, distractors=3)
    done = cli("run-search", "transfer", "face", "--data", data, *words["face"][2:], "--out", tmp_path / "run")
    assert done.exit_code == 1 and "training needs two identities, and two images of one" in done.stderr


def test_every_setting_has_an_option(words: Any, cli: Any, tmp_path: Path) -> None:
    options = "--schedule cosine --warmup-epochs 0.5 --momentum 0.8 --weight-decay 0.001 --no-sync-bn --height 24"
    options += " --width 16 --embedding 8 --optimizer adam --padding 1 --erasing 0.1 --whole-network --no-neck"
    options += " --rate 0.002 --epochs 1 --margin 0.3 --scale 8"
    done = cli("run-search", "transfer", "face", *words["face"], *options.split(), "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["settings"]
    assert (found["margin"], found["scale"]) == (0.3, 8)
    assert found["train"] == {
        "batch": 8, "learning_rate": 0.002, "epochs": 1, "iterations": None, "schedule": "cosine", "milestones": [],
        "warmup_epochs": 0.5, "warmup_iterations": 0, "momentum": 0.8, "weight_decay": 0.001, "sync_bn": False,
        "height": 24, "width": 16, "embedding": 8, "images_per_identity": None, "optimizer": "adam", "padding": 1,
        "erasing": 0.1, "whole_network": True, "neck": False,
    }  # fmt: skip
