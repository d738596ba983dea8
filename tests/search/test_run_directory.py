"""Which settings bind a run once it has begun, for each kind of run, and whose directory it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from bpnas.search.connections.run import SEARCH_LAYOUT
from bpnas.search.errors import RunError
from bpnas.search.networks import retrain
from bpnas.search.run_directory import RunDirectory
from bpnas.search.studies.study import STUDY_LAYOUT
from bpnas.search.transfer import run as transfer

SEARCH = {
    "data": "digits",
    "connections_data": "digits",
    "target_ms": 2.0,
    "window": 4,
    "preset": {"proposals": {"cycles": 9}, "connections": {"k_best": 1}, "retraining": {"epochs": 5}},
}
LATER = "target_ms connections_data preset.connections.k_best preset.retraining.epochs"
EVERYTHING = f"data window preset.proposals.cycles {LATER}"
STUDY = {"study": "strategies", "data": "digits", "target_ms": 2.0}
TRANSFER = {"task": "face", "data": "faces", "network": None, "seed": 0}
RETRAIN = {"network": "abc", "data": "digits", "retraining": {"epochs": 5}, "target_ms": 2.0}
RETRAIN_LAYOUT, TRANSFER_LAYOUT = retrain._LAYOUT, transfer._LAYOUT
KINDS = {
    "search": (SEARCH_LAYOUT, SEARCH, "trials.jsonl"),
    "study": (STUDY_LAYOUT, STUDY, "searches.jsonl"),
    "transfer": (TRANSFER_LAYOUT, TRANSFER, "epochs.jsonl"),
    "retrain": (RETRAIN_LAYOUT, RETRAIN, "retraining.jsonl"),
}


def changed(values: dict[str, Any], name: str) -> dict[str, Any]:
    """`values` with another one at `name`, as in preset.connections.k_best."""
    first, _, rest = name.partition(".")
    return {**values, first: changed(values[first], rest) if rest else "another"}


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def spoken(name: str) -> str:
    """How a message calls a setting: by its option, if it has one."""
    options = {
        "data": "--data",
        "seed": "--seed",
        "target_ms": "--target",
        "constraints_ms": "--constraints",
        "connections_data": "--connections-data",
        "window": "--window",
    }
    return options.get(name, f"{name} =")


@pytest.mark.parametrize(
    ("there", "free"),
    [
        ((), EVERYTHING),
        (("timings.jsonl", "losses.jsonl"), EVERYTHING),
        (("evaluations.jsonl",), LATER),
        (("proposals.json",), LATER),
        (("connections.jsonl",), "preset.retraining.epochs"),
        (("trials.jsonl", "connections.json"), "preset.retraining.epochs"),
        (("connections.json", "retraining.jsonl"), ""),
        (("connections.json", "networks/1ms/connections.json"), "preset.retraining.epochs"),
        (("connections.json", "networks/1ms/retraining.jsonl"), ""),
        (("network.json",), ""),
    ],
)
def test_what_of_a_search_was_not_used_yet_may_change(there, free, tmp_path):
    directory = RunDirectory(tmp_path, SEARCH_LAYOUT)
    directory.agree(SEARCH)
    for name in there:
        touch(tmp_path / name)
    bound = bool(there) and there[0] != "timings.jsonl"
    for name in EVERYTHING.split():
        if name in free.split() or not bound:
            directory.agree(changed(SEARCH, name))
            directory.agree(SEARCH)
        else:
            with pytest.raises(
                RunError, match=rf"started with {spoken(name)} .*, now it is another; call it as before"
            ):
                directory.agree(changed(SEARCH, name))
    assert directory.has_trained() == (not free)
    assert directory.settled("window") == (4 if bound else None)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "search"])
def test_all_of_another_run_is_fixed_by_its_first_result(kind, tmp_path):
    layout, config, result = KINDS[kind]
    directory = RunDirectory(tmp_path, layout)
    directory.agree(config)
    for name in config:
        directory.agree(changed(config, name))
    directory.agree(config)
    touch(tmp_path / result)
    for name in config:
        with pytest.raises(RunError, match=rf"started with {spoken(name)} "):
            directory.agree(changed(config, name))


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_a_run_of_another_kind_is_not_replaced(kind: str, other: str, begun: bool, tmp_path: Path) -> None:
    if kind == other:
        return
    layout, config, result = KINDS[kind]
    RunDirectory(tmp_path, layout).agree(config)
    if begun:
        touch(tmp_path / result)
    other_layout, other_config, _ = KINDS[other]
    with pytest.raises(RunError, match=r"was started with .*choose another directory with --out"):
        RunDirectory(tmp_path, other_layout).agree(other_config)
    assert RunDirectory(tmp_path).read_json("config.json") == json.loads(json.dumps(config))


def test_a_directory_for_reading_has_no_stages(tmp_path: Path) -> None:
    touch(tmp_path / "network.json")
    assert not RunDirectory(tmp_path).has_trained()
    assert RunDirectory(tmp_path).settled("seed") is None


def test_another_preset_is_called_one_and_not_by_a_limit_that_follows_from_it(tmp_path: Path) -> None:
    before = {**SEARCH, "constraints_ms": [1.5, 2.0], "preset": {**SEARCH["preset"], "name": "tiny"}}
    after = {**before, "constraints_ms": [9.0], "seed": 1, "preset": {**SEARCH["preset"], "name": "small"}}
    directory = RunDirectory(tmp_path, SEARCH_LAYOUT)
    directory.agree(before)
    touch(tmp_path / "trials.jsonl")
    with pytest.raises(RunError, match="started with --preset tiny, now it is small; "):
        directory.agree(after)
    with pytest.raises(RunError, match=r"started with --constraints 1\.5,2, now it is 9; "):
        directory.agree({**before, "constraints_ms": [9.0]})
