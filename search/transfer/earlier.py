"""Runs of transfer tasks that an earlier bpnas has begun: their recipes had other fields, with shares as milestones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from bpnas.search.run_directory import RunDirectory
from bpnas.search.transfer.recipe import Recipe

_RENAMED = {"short_side": "shorter_side", "long_side": "longer_side", "warmup_steps": "warmup_iterations"}
_GONE = ("decay_at", "warmup")


def bring_up_to_date(directory: RunDirectory) -> None:
    """Give the configuration and the checkpoints of an earlier bpnas the fields of this one.

    Raises:
        RunError: a file is damaged.
    """
    from bpnas.search.training.checkpoint import load_checkpoint, save_checkpoint

    if not directory.has("config.json"):
        return
    config = directory.read_json("config.json")
    if (current := _current(config)) is None:
        return
    for path in directory.checkpoints.glob("*.pt"):
        state = load_checkpoint(path)
        if state is not None and (of := _current(state["of"])) is not None:
            save_checkpoint(path, {**state, "of": of})
    directory.write_json("config.json", current)  # last, since it says that all is done


def _current(values: Any) -> dict[str, Any] | None:
    """Values with a recipe in them in this bpnas's form; None where they have it, or have no recipe."""
    if not isinstance(values, dict):
        return None
    recipe, settings = values.get("recipe"), values.get("settings")
    if _is_earlier(values):  # of a detector's checkpoint
        return _recipe(values)
    if _is_earlier(recipe):
        return {**values, "recipe": _recipe(recipe)}
    if not (isinstance(settings, dict) and _is_earlier(settings.get("train"))):
        return None
    train = {**_recipe(settings["train"]), "whole_network": False, "neck": True}
    loss = {"loss": "triplet"} if values.get("task") == "reid" else {}
    return {**values, "settings": {**settings, "train": train, **loss}}


def _is_earlier(recipe: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(recipe, dict) and {"decay_at", "epochs"} <= recipe.keys()


def _recipe(earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Detectors fell at whole epochs, embeddings anywhere."""
    epochs, shares = earlier["epochs"], earlier["decay_at"]
    of_detector = "warmup_steps" in earlier
    milestones = tuple(round(share * epochs) if of_detector else round(share * epochs, 6) for share in shares)
    kept = {_RENAMED.get(name, name): value for name, value in earlier.items() if name not in _GONE}
    new = Recipe(batch=1, learning_rate=1.0)
    return {
        "iterations": None,
        "schedule": new.schedule,
        "milestones": milestones if epochs else (),
        "warmup_epochs": round(earlier.get("warmup", 0.0) * epochs, 6),
        "warmup_iterations": 0,
        "sync_bn": new.sync_bn,
        **kept,
    }
