"""Runs that were begun when recipes had other fields are resumed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")

from safetensors.torch import load_file

from bpnas.search.run_directory import RunDirectory
from bpnas.search.training import resumable
from bpnas.search.training.checkpoint import load_checkpoint, save_checkpoint
from bpnas.search.training.threads import set_threads, threads_kept
from bpnas.search.transfer.detection.settings import DetectionSettings
from bpnas.search.transfer.earlier import bring_up_to_date
from tests.training_helpers import KilledError
from tests.transfer_images import faces, market, small_network


def earlier(train: dict[str, Any]) -> dict[str, Any]:
    """The recipe of an embedding as it was written then; shares in place of milestones."""
    train = dict(train)
    for name in ("iterations", "schedule", "milestones", "warmup_epochs", "warmup_iterations", "sync_bn"):
        del train[name]
    for name in ("whole_network", "neck"):
        del train[name]
    return {**train, "warmup": 0.1, "decay_at": (0.6, 0.9)}


def make_earlier(run: Path) -> None:
    """What an earlier bpnas would have left in a directory."""
    directory, checkpoint = RunDirectory(run), run / "checkpoints" / "embedder.pt"
    state = load_checkpoint(checkpoint)
    assert state is not None
    config = state["of"]
    settings = {**config["settings"], "train": earlier(config["settings"]["train"])}
    if config["task"] == "reid":
        assert settings.pop("loss") == "triplet"
    config = {**config, "settings": settings}
    del state["spent"]
    save_checkpoint(checkpoint, {**state, "of": config})
    directory.write_json("config.json", config)


@pytest.mark.parametrize("task", ["face", "reid"])
@threads_kept()
def test_an_embedding_goes_on_from_an_earlier_version_s_checkpoint(
    task: str, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_threads(1)
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)
    data = (faces if task == "face" else market)(tmp_path / "data", 4, 8, 3)
    command = ["transfer", task, "--data", data, "--network", small_network(tmp_path), "--batch", 8, "--epochs", 3]
    assert cli("run-search", *command, "--out", tmp_path / "whole").exit_code == 0
    save, done = resumable.save_checkpoint, 0

    def interrupted(path: Path, state: dict[str, Any]) -> None:
        nonlocal done
        save(path, state)
        done += 1
        if done == 6:
            raise KilledError

    with monkeypatch.context() as context:
        context.setattr(resumable, "save_checkpoint", interrupted)
        with pytest.raises(KilledError):
            cli("run-search", *command, "--out", tmp_path / "cut")
    make_earlier(tmp_path / "cut")
    ended = cli("run-search", *command, "--out", tmp_path / "cut")
    assert ended.exit_code == 0, ended.stderr
    assert f"{task} [mock] 2/3: epoch 2" in ended.stderr and "epoch 1:" not in ended.stderr
    whole, cut = (load_file(tmp_path / name / "embedder.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    refused = cli("run-search", *command, "--batch", 16, "--out", tmp_path / "cut")
    assert refused.exit_code == 1 and "settings.train.batch = 8, now it is 16" in refused.stderr


def test_a_detector_s_recipe_is_read_in_its_new_form(tmp_path: Path) -> None:
    now = asdict(DetectionSettings.load("tiny"))
    new = ("iterations", "schedule", "milestones", "warmup_epochs", "warmup_iterations", "sync_bn")
    recipe = {name: value for name, value in now.items() if name not in (*new, "shorter_side", "longer_side")}
    recipe |= {"warmup_steps": 10, "decay_at": (8 / 12, 11 / 12), "short_side": 128, "long_side": 213}
    directory = RunDirectory(tmp_path)
    directory.write_json("config.json", {"task": "detection", "seed": 3, "recipe": recipe})
    save_checkpoint(directory.checkpoints / "detection.pt", {"of": {"seed": 3, **recipe}, "epoch": 4})
    for _ in range(2):
        bring_up_to_date(directory)
        config = directory.read_json("config.json")
        assert config == {"task": "detection", "seed": 3, "recipe": json.loads(json.dumps(now))}
        state = load_checkpoint(directory.checkpoints / "detection.pt")
        assert state == {"of": {"seed": 3, **now}, "epoch": 4}
