"""What a search wrote is checked when it is read: changed files, files of an earlier bpnas, files of nobody."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from click.testing import Result

from bpnas.search.networks.network_file import load_network, network_values, save_weights
from bpnas.search.run_directory import RunDirectory
from tests.finished_search import finish_search, search_words, write_search_table
from tests.network_factory import stored_network
from tests.search_helpers import as_of_an_earlier_bpnas, tiny_backbone

MICRO = search_words(retrain_epochs=3)
QUICK = ("--serial", "mock:s9", "--runs", "3", "--seconds", "0", "--warmup-seconds", "0", "--sessions", "1")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_search_table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish_search(table, tmp_path_factory.mktemp("run") / "run", MICRO)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def search(table: Path, run: Path, cli: Callable[..., Result]) -> Callable[[], Result]:
    """The same command again."""
    return lambda: cli("run-search", "--table", table, "--out", run, *MICRO)


def assert_refused(done: Result, file: Path) -> str:
    """Exit code 1, and at the end a sentence that names the file and advises nobody to delete it."""
    assert done.exit_code == 1, done.output
    sentence = done.stderr.splitlines()[-1]
    assert f"{file}: " in sentence and "Traceback" not in done.output and "delete" not in sentence
    return sentence


# Each file, and those that must be missing for it to be read.
READ = {
    "config.json": (),
    "proposals.json": (),
    "connections.json": ("network.json",),
    "network.json": (),
    "trials.jsonl": ("proposals.json",),
    "evaluations.jsonl": ("proposals.json",),
    "connections.jsonl": ("connections.json", "network.json"),
    "retraining.jsonl": ("network.json",),
    "timings.jsonl": (),
}


@pytest.mark.parametrize("name", READ)
def test_a_changed_digit_is_seen(name: str, run: Path, search: Callable[[], Result]) -> None:
    for missing in READ[name]:
        (run / missing).unlink()
    content = (run / name).read_text()
    # Behind a colon it is no part of a block's text or of a hash.
    digits = [match.end() - 1 for match in re.finditer(r"(?<=[:\[,\n] )-?\d", content)]
    for place in random.Random(0).sample(digits, 3):
        changed = content[:place] + str((int(content[place]) + 1) % 10) + content[place + 1 :]
        (run / name).write_text(changed)
        sentence = assert_refused(search(), run / name)
        assert "was changed since it was written" in sentence and "restore a copy" in sentence
        assert (run / name).read_text() == changed
    (run / name).write_text(content)
    assert search().exit_code == 0


@pytest.mark.parametrize("name", [name for name in READ if name.endswith(".json")])
def test_a_key_of_the_hash_itself_is_not_lost_unseen(name: str, run: Path, search: Callable[[], Result]) -> None:
    for missing in READ[name]:
        (run / missing).unlink()
    content = (run / name).read_text()
    for key in ("format", "file_sha256"):
        (run / name).write_text(content.replace(f'"{key}"', f'"{key[:-1]}_"'))
        assert_refused(search(), run / name)


def test_what_moved_away_is_made_again(run: Path, search: Callable[[], Result]) -> None:
    before = {name: (run / name).read_bytes() for name in ("proposals.json", "connections.json", "network.json")}
    trials = (run / "trials.jsonl").read_bytes()
    for name in (*before, "trials.jsonl"):
        (run / name).rename(run / f"{name}.away")
    done = search()
    assert done.exit_code == 0, done.stderr
    assert {name: (run / name).read_bytes() for name in before} == before
    assert (run / "trials.jsonl").read_bytes() == trials


def test_a_changed_bit_of_a_checkpoint_is_seen(run: Path, search: Callable[[], Result]) -> None:
    for each in ("connections.json", "network.json"):
        (run / each).unlink()
    file = run / "checkpoints" / "connections.pt"
    whole = file.read_bytes()
    for place in (100, len(whole) // 2, len(whole) - 45, len(whole) - 37, len(whole) - 5):
        content = bytearray(whole)
        content[place] ^= 1
        file.write_bytes(content)
        assert "checkpoints/connections.pt: the checkpoint is damaged" in search().stderr
    file.write_bytes(whole)
    assert search().exit_code == 0


@pytest.mark.parametrize(
    ("name", "command", "remedy"),
    [
        ("network.safetensors", ("export",), "run-search retrain"),
        ("network.onnx", ("measure", *QUICK), "run-search export"),
        ("network.tflite", ("measure", *QUICK), "run-search export"),
    ],
)
def test_a_changed_bit_of_a_file_of_the_network_is_seen(
    name: str, command: tuple[str, ...], remedy: str, run: Path, cli: Any
) -> None:
    content = bytearray((run / name).read_bytes())
    content[-9] ^= 1
    (run / name).write_bytes(content)
    sentence = assert_refused(cli("run-search", command[0], run, *command[1:]), run / name)
    assert "is not the file that network.json was written with" in sentence and remedy in sentence
    if name != "network.safetensors":
        assert cli("run-search", "export", run).exit_code == 0
        assert cli("run-search", command[0], run, *command[1:]).exit_code == 0


def test_network_json_has_the_hashes_of_its_files(run: Path, cli: Any) -> None:
    def hashes() -> dict[str, str]:
        return {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in run.glob("network.*")
            if file.suffix not in (".json", ".lock")
        }

    values = json.loads((run / "network.json").read_text())
    assert values["files"] == hashes() and values["format"] == 2
    assert set(values["files"]) == {"network.safetensors", "network.onnx", "network.tflite"}
    rest = {name: value for name, value in values.items() if name != "file_sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    assert values["file_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    if cli("run-search", "export", run, "--int8", "--calibration-images", 8, "--test-images", 4).exit_code == 0:
        assert json.loads((run / "network.json").read_text())["files"] == hashes()
        assert "network.int8.onnx" in hashes()
    assert cli("run-search", "measure", run, *QUICK).exit_code == 0
    assert json.loads((run / "network.json").read_text())["measured"]
    assert load_network(run)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize("command", [("export",), ("measure", *QUICK), ("retrain", "--retrain-epochs", "1")])
def test_who_edits_a_network_is_told_how_to_make_one(command: tuple[str, ...], run: Path, cli: Any) -> None:
    file = run / "network.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "predicted_latency_ms": values["predicted_latency_ms"] / 2}))
    sentence = assert_refused(cli("run-search", command[0], run, *command[1:]), file)
    assert "was changed since it was written" in sentence
    assert "search again" in sentence and "run-search retrain" in sentence


def test_an_editor_may_lay_a_file_out_in_another_way(run: Path, search: Callable[[], Result]) -> None:
    for name in ("config.json", "proposals.json", "network.json"):
        (run / name).write_text(json.dumps(json.loads((run / name).read_text()), indent=7, sort_keys=True))
    assert search().exit_code == 0


def test_a_run_of_an_earlier_bpnas_is_read(run: Path, search: Callable[[], Result], cli: Any) -> None:
    as_of_an_earlier_bpnas(*run.glob("*.json"), *run.glob("*.jsonl"))
    for file in run.glob("checkpoints/*.pt"):
        file.write_bytes(file.read_bytes()[:-40])
    done = search()
    assert done.exit_code == 0, done.stderr
    assert "on images that an earlier bpnas did not note" in done.stdout
    for name in ("network.json", "connections.json", "proposals.json", "trials.jsonl"):
        (run / name).unlink()
    assert search().exit_code == 0
    as_of_an_earlier_bpnas(run / "network.json")
    assert cli("run-search", "export", run).exit_code == 0
    assert cli("run-search", "measure", run, *QUICK).exit_code == 0
    assert "file_sha256" not in json.loads((run / "network.json").read_text()), "nobody has checked what it says"


def test_lines_of_an_earlier_bpnas_come_before_those_with_a_check_only(run: Path, search: Any) -> None:
    (run / "proposals.json").unlink()
    file = run / "evaluations.jsonl"
    checked = file.read_text().splitlines()
    as_of_an_earlier_bpnas(file)
    old = file.read_text().splitlines()
    file.write_text("\n".join([*old[:1], *checked[1:]]) + "\n")
    assert search().exit_code == 0
    (run / "proposals.json").unlink()
    file.write_text("\n".join([*checked[:1], *old[1:]]) + "\n")
    assert "line 2 is damaged (it has no whole check at its end)" in assert_refused(search(), file)


def test_a_line_may_be_taken_out_as_the_message_says(run: Path, search: Callable[[], Result]) -> None:
    (run / "proposals.json").unlink()
    file = run / "evaluations.jsonl"
    lines, before = file.read_text().splitlines(), (run / "trials.jsonl").read_bytes()
    file.write_text("\n".join(["{}", *lines[1:]]) + "\n")
    assert "take this line out" in assert_refused(search(), file)
    file.write_text("\n".join(lines[1:]) + "\n")
    assert search().exit_code == 0
    assert sorted(file.read_text().splitlines()) == sorted(lines)
    assert (run / "trials.jsonl").read_bytes() == before


def test_pandas_reads_the_lines(run: Path) -> None:
    pandas = pytest.importorskip("pandas")
    trials = pandas.read_json(run / "trials.jsonl", lines=True)
    assert trials.score.between(0, 1).all() and trials.check.str.len().eq(16).all()
    evaluations = pandas.read_json(run / "evaluations.jsonl", lines=True, dtype=False)
    assert set(evaluations.block) == set(trials.block) and evaluations.judged_on.eq(10).all()


HOSTILE = {
    "null": b"null",
    "a list": b"[]",
    "a text": b'"network"',
    "nothing": b"",
    "half": b'{"a": 1',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "quite deep": b'{"a":' * 200 + b"1" + b"}" * 200,
    "a long number": b'{"target_ms": ' + b"9" * 5000 + b"}",
    "10**400": b'{"target_ms": 1' + b"0" * 400 + b"}",
    "1e999": b'{"target_ms": 1e999}',
    "NaN": b'{"target_ms": NaN}',
    "a key twice": b'{"seed": 0, "seed": 0}',
    "no UTF-8": b'{"a": "\xff"}',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", ["config.json", "proposals.json", "connections.json", "network.json"])
def test_what_is_no_file_of_a_search_is_one_sentence(
    name: str, content: bytes, run: Path, search: Callable[[], Result]
) -> None:
    for missing in READ[name]:
        (run / missing).unlink()
    (run / name).write_bytes(content)
    sentence = assert_refused(search(), run / name)
    assert len(sentence) < 600 and (run / name).read_bytes() == content


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no blocks": ({"blocks": []}, "'blocks' must have 4 entries"),
    "null as blocks": ({"blocks": None}, "'blocks' must be a list, not null"),
    "an unknown block": ({"blocks": ["K3G1", "skip", "K4G1", "skip"]}, "kernel 4"),
    "a number as block": ({"blocks": ["K3G1", "skip", 7, "skip"]}, "'blocks[2]' must be a text, not 7"),
    "skip where it cannot be": ({"blocks": ["skip"] * 4}, "'blocks[0]' is skip at a site that changes the shape"),
    "classes": ({"classes": ["a", "b"]}, "'classes' must have 10 entries, not 2"),
    "a number as class": ({"classes": list(range(10))}, "'classes[0]' must be a text, not 0"),
    "zero std": ({"input": {"mean": [0.5] * 3, "std": [0.2, 0.0, 0.2]}}, "'input.std[1]' must be a number"),
    "negative std": ({"input": {"mean": [0.5] * 3, "std": [-0.2, 0.2, 0.2]}}, "'input.std[0]' must be a number"),
    "two channels": ({"input": {"mean": [0.5] * 2, "std": [0.2] * 3}}, "'input.mean' must have 3 entries, not 2"),
    "mean as text": ({"input": {"mean": "0.5", "std": [0.2] * 3}}, "'input.mean' must be a list"),
    "no input": ({"input": None}, "'input' must be an object, not null"),
    "mock": ({"mock": "no"}, "'mock' must be true or false"),
    "no latency": ({"predicted_latency_ms": 0}, "'predicted_latency_ms' must be a latency"),
    "negative latency": ({"predicted_latency_ms": -34.19}, "'predicted_latency_ms' must be a latency"),
    "true as latency": ({"predicted_latency_ms": True}, "'predicted_latency_ms' must be a latency"),
    "target": ({"target_ms": "20"}, "'target_ms' must be a latency"),
    "accuracy": ({"accuracy": 1.01}, "'accuracy' must be a number from 0 to 1"),
    "data": ({"data": 5}, "'data' must be a text, not 5"),
    "images": ({"accuracy_on": {"data": "places", "split": "test", "images": 1, "input_size": 8}}, "no data source"),
    "backbone": ({"backbone": []}, "'backbone' must be an object, not a list"),
    "a huge network": (
        {"backbone": tiny_backbone().to_dict() | {"head_channels": 65536, "classes": 1_000_000}, "classes": None},
        "parameters",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_fields_of_a_network_are_checked_without_a_hash(case: str, cli: Any, tmp_path: Path) -> None:
    path, _ = stored_network(tmp_path, backbone=tiny_backbone())
    change, message = WRONG[case]
    values = json.loads(path.read_text()) | change
    if case == "a huge network":
        values["classes"] = [str(number) for number in range(1_000_000)]
    path.write_text(json.dumps(values))
    sentence = assert_refused(cli("run-search", "export", path), path)
    assert "is no network of run-search" in sentence and message in sentence


def test_weights_that_are_not_finite_are_refused(cli: Any, tmp_path: Path) -> None:
    path, _ = stored_network(tmp_path, backbone=tiny_backbone())
    content = bytearray(path.with_suffix(".safetensors").read_bytes())
    content[-4:] = b"\x00\x00\xc0\x7f"
    path.with_suffix(".safetensors").write_bytes(content)
    done = cli("run-search", "export", path)
    assert done.exit_code == 1 and "network.safetensors: " in done.stderr and "finite" in done.stderr
    assert "run-search retrain" in done.stderr or "train the network again" in done.stderr


OLD_LINES: dict[str, tuple[dict[str, Any], str]] = {
    "score": ({"score": 1.5}, "'score' must be a number from 0 to 1"),
    "score as text": ({"score": "0.5"}, "'score' must be a number from 0 to 1"),
    "latency": ({"latency_ms": -1.0}, "'latency_ms' must be a latency"),
    "above its limit": ({"latency_ms": 1e6}, "within the limit"),
    "genotype": ({"genotype": 2**23}, "'genotype' must be a whole number"),
    "another genotype": ({"genotype": 2**22}, "'genotype' is not that of"),
    "limit": ({"limit": 99}, "'limit' must be a whole number"),
    "block": ({"block": "K9G1"}, "kernel 9"),
    "a field more": ({"check_": "0"}, "'check_' is unknown"),
}


@pytest.mark.parametrize("case", OLD_LINES)
def test_fields_of_a_trial_are_checked_without_a_hash(case: str, run: Path, search: Callable[[], Result]) -> None:
    (run / "proposals.json").unlink()
    file = run / "trials.jsonl"
    as_of_an_earlier_bpnas(file)
    change, message = OLD_LINES[case]
    first, *others = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps(json.loads(first) | change), *others]) + "\n")
    sentence = assert_refused(search(), file)
    assert "line 1 is no trial of this run" in sentence and message in sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": "K1"}, "is no path"),
        ({"score": 7}, "'score' must be a number from 0 to 1"),
        ({"rungs": [[1]]}, "'rungs[0]' must have 2 entries"),
        ({"images": -1}, "'images' must be a whole number"),
        ({"judged": 10}, "'judged' is unknown"),
    ],
)
def test_fields_of_an_evaluation_are_checked_without_a_hash(
    change: dict[str, Any], message: str, run: Path, search: Callable[[], Result]
) -> None:
    (run / "proposals.json").unlink()
    file = run / "evaluations.jsonl"
    as_of_an_earlier_bpnas(file)
    first, *others = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps(json.loads(first) | change), *others]) + "\n")
    sentence = assert_refused(search(), file)
    assert "line 1 is no evaluation of this run" in sentence and message in sentence


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("network.json", {"predicted_latency_ms": 0.5}, "ms of blocks that take"),
        ("network.json", {"target_ms": 1e3}, "not that of this search"),
        ("network.json", {"accuracy": None}, "'accuracy' must be a number"),
        ("network.json", {"argmax": []}, "'argmax' must be an object"),
        ("connections.json", {"chosen": {"blocks": ["K1G1"] * 2, "latency_ms": 1}}, "'blocks' must have"),
        ("connections.json", {"argmax": None}, "'argmax' must be an object"),
        ("connections.json", {"target_ms": 1e3}, "'target_ms' is not the"),
        ("proposals.json", {"proposals": [{"block": "K1G1", "limit_ms": 1, "latency_ms": 2}]}, "above its limit"),
        ("proposals.json", {"proposals": [{"block": 3}]}, "'proposals[0].block' must be a text"),
        ("config.json", {"window": "many"}, "'window' must be a whole number"),
    ],
)
def test_fields_of_other_files_are_checked_without_a_hash(
    name: str, change: dict[str, Any], message: str, run: Path, search: Callable[[], Result]
) -> None:
    for missing in READ[name]:
        (run / missing).unlink()
    as_of_an_earlier_bpnas(run / name)
    (run / name).write_text(json.dumps(json.loads((run / name).read_text()) | change))
    assert message in assert_refused(search(), run / name)


def test_a_network_that_takes_more_than_its_limit_is_not_taken_from_an_earlier_run(
    run: Path, search: Callable[[], Result]
) -> None:
    (run / "network.json").unlink()
    as_of_an_earlier_bpnas(run / "connections.json")
    found = json.loads((run / "connections.json").read_text())
    sites = len(found["chosen"]["blocks"])
    found["chosen"] = {"blocks": ["K5E2G1+K5E2G1"] * sites, "latency_ms": found["chosen"]["latency_ms"]}
    (run / "connections.json").write_text(json.dumps(found))
    assert "ms of blocks that take" in assert_refused(search(), run / "connections.json")
    assert not (run / "network.json").exists()


def test_a_changed_result_of_a_transfer_task_is_seen(tmp_path: Path) -> None:
    from bpnas.search import RunError
    from bpnas.search.run_directory import RunDirectory

    directory = RunDirectory(tmp_path)
    directory.write_json("result.json", {"rank_1": 0.25})
    assert directory.read_json("result.json") == {"rank_1": 0.25}
    (tmp_path / "result.json").write_text((tmp_path / "result.json").read_text().replace("0.25", "0.75"))
    with pytest.raises(RunError, match=r"result\.json: was changed since it was written"):
        directory.read_json("result.json")


def test_a_network_is_noted_in_as_long_as_it_is_whole(run: Path) -> None:
    from bpnas.search import RunError

    path = run / "network.json"
    with network_values(path) as values:
        values["measured"] = []
    load_network(path)
    path.write_text(path.read_text().replace('"measured": []', '"measured": 0'))
    with pytest.raises(RunError, match="was changed since"), network_values(path):
        pass
    before = path.read_bytes()
    save_weights(run / "network.safetensors", load_network_of(run))
    assert path.read_bytes() == before


def load_network_of(run: Path) -> Any:
    from bpnas.profiler import Backbone, build_module
    from bpnas.search.networks.network_file import parse_blocks

    values = json.loads((run / "network.json").read_text())
    return build_module(parse_blocks(values["blocks"]), Backbone.from_dict(values["backbone"]))


@pytest.mark.parametrize("how", ["sealed", "as an earlier bpnas wrote it"])
def test_a_file_may_have_hashes_of_its_own(how, tmp_path):
    values = {"task": "detection", "sha256": {"train.json": "0" * 64}}
    directory = RunDirectory(tmp_path)
    if how == "sealed":
        directory.write_json("own.json", values)
    else:
        (tmp_path / "own.json").write_text(json.dumps(values))
    assert directory.read_json("own.json") == values
