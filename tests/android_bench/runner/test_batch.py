"""A batch on its way to a device: what it takes along, and what an older runner cannot be asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bpnas.android_bench.measurement import Feed, RunRequest
from bpnas.android_bench.model_file import open_model_file
from bpnas.android_bench.remote import FileToPush
from bpnas.android_bench.runner.batch import ModelBatch
from bpnas.android_bench.runner.installed import InstalledRunner
from bpnas.android_bench.runner.lines import Hello, parse_line, runner_arguments
from tests.model_graphs import convolution, request_for, write_graph
from tests.people_models import with_data


class Pushed:
    """A device that keeps what it is given."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def push(self, files: Sequence[FileToPush]) -> None:
        for file in files:
            content = file.source.read_bytes() if isinstance(file.source, Path) else file.source
            assert self.files.setdefault(file.path, content) == content, "one path, two files"


def pushed(requests: Sequence[RunRequest]) -> dict[str, bytes]:
    batch, device = ModelBatch.take(iter(requests), 64, 0, ".onnx"), Pushed()
    assert batch is not None and not batch.failures
    batch.push(device, "/place")  # type: ignore[arg-type]
    return device.files


def test_a_model_with_weights_beside_it_has_a_folder_of_its_own(tmp_path: Path) -> None:
    requests = []
    for number, name in enumerate(("net.onnx", "a b.onnx")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with_data(folder / name, "w/net.data")
        requests.append(open_model_file(folder / name).request(name, 0, tmp_path / f"copy-{number}"))
    plain = request_for(write_graph(convolution(), "onnxruntime"), tmp_path, "onnxruntime")
    files = pushed([requests[0], plain, requests[1]])
    assert files["/place/list"].decode().splitlines() == [
        "0\t0\t0\t0/model.onnx",
        "1\t0\t0\t1.onnx",
        "2\t0\t0\t2/model.onnx",
    ]
    assert files["/place/2/w/net.data"] == requests[1].paths[1].read_bytes()


def test_sizes_and_values_are_in_the_list(tmp_path: Path) -> None:
    plain = request_for(write_graph(convolution(), "onnxruntime"), tmp_path, "onnxruntime")
    feeds = (Feed((1, 3, 8, 8)), Feed((), (16000,)), Feed((2,), (-1, 0.5)))
    files = pushed([RunRequest("k", 0, plain.path, plain.sha256, feeds), plain])
    assert files["/place/list"] == b"0\t0\t0\t0.onnx\t1x3x8x8;=16000;2=-1,0.5\n1\t0\t0\t1.onnx\n"


# --- runners of before


def hello(**more: Any) -> Hello:
    import json
    import zlib

    body = json.dumps({"hello": 1, "runner": "1", "runtime": "tflite", "version": "2", "affinity": "f", **more})[:-1]
    found = parse_line(f'{body},"crc32":"{zlib.crc32(body.encode()):08x}"}}'.encode())
    assert isinstance(found, Hello)
    return found


def test_a_runner_says_what_it_takes() -> None:
    assert (hello().reads_feeds, hello(feeds=True).reads_feeds, hello(feeds=1).reads_feeds) == (False, True, False)


@pytest.mark.parametrize(
    ("request_", "ours", "sentence"),
    [
        (RunRequest("k", 0, Path("m"), ""), True, ""),
        (RunRequest("k", 0, Path("m"), "", (Feed((1,)),)), True, "takes no sizes or values of inputs, for it is of an"),
        (RunRequest("k", 0, Path("m"), "", (), ("w",)), True, "make a new one with profile-device bundle"),
        (RunRequest("k", 0, Path("m"), "", (Feed((1,)),)), False, "benchmark_model takes no sizes or values of inputs"),
    ],
)
def test_an_older_runner_is_not_asked_for_what_it_lacks(request_: RunRequest, ours: bool, sentence: str) -> None:
    def why_not(reads_feeds: bool) -> str:
        runner: Any = SimpleNamespace(reads_feeds=reads_feeds, is_ours=ours)
        return InstalledRunner.why_not(runner, request_)

    assert why_not(True) == ""
    assert sentence in why_not(False) and bool(sentence) == bool(why_not(False))


def test_the_limit_of_memory_is_no_option_of_an_older_runner() -> None:
    from bpnas.android_bench.measurement import RunSettings

    assert "--max-memory" not in runner_arguments(RunSettings())
    assert runner_arguments(RunSettings(), max_memory="usual").endswith("--max-memory usual")
