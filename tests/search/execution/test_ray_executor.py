import os
import signal
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")
pytest.importorskip("torch")

from bpnas.base.errors import UsageError
from bpnas.profiler import Block
from bpnas.search import Preset, run_search
from bpnas.search.errors import DataError, SearchError, WorkerLostError
from bpnas.search.execution.ray_executor import RayExecutor
from tests.root import ROOT
from tests.search_helpers import FormulaTable, Steps

STUBS = ROOT / "tests/stubs"
BLOCKS = [Block.parse(text) for text in ("K1G1", "K3G1", "K3E1G1", "K1G1+K3E2G2", "K5E1G1")]
# Ray opens sockets and pipes that it leaves to the garbage collector, and takes its time where cores are few.
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory, monkeypatch):
    # Short, for the names of sockets begin with it.
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def workers():
    """Ray's workers below this process that hold one of ours."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:
                continue

    def is_below(pid):
        while pid in parents:
            pid = parents[pid]
            if pid == os.getpid():
                return True
        return False

    return [pid for pid, title in titles.items() if title.startswith(b"ray::Worker") and is_below(pid)]


@pytest.mark.slow
def test_actors_answer_and_lost_ones_are_replaced(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(STUBS)
    monkeypatch.setenv("PYTHONPATH", str(STUBS))
    from stub_evaluator import Stub, score_of

    stub, losses = Stub(tmp_path), []
    (tmp_path / f"kill-{BLOCKS[1]}").write_text("1")
    with RayExecutor(stub, 2, on_loss=losses.append) as executor:
        for number, block in enumerate(BLOCKS):
            executor.submit(number, block)
        found = dict(executor.next() for _ in BLOCKS)
        assert {n: e.score for n, e in found.items()} == {n: score_of(b) for n, b in enumerate(BLOCKS)}
        assert [(loss.block, loss.attempt) for loss in losses] == [(BLOCKS[1], 1)]
        assert losses[0].reason.startswith("ActorDiedError: ")
        assert 1 <= len(workers()) <= 2  # the lost one is replaced when there is work for it

        (tmp_path / f"raise-{BLOCKS[0]}").write_text("data")
        executor.submit(7, BLOCKS[0])
        with pytest.raises(DataError) as caught:
            executor.next()
        assert str(caught.value) == "no images there"

        (tmp_path / f"kill-{BLOCKS[2]}").write_text("3")
        executor.submit(8, BLOCKS[2])
        with pytest.raises(WorkerLostError, match="K3E1G1 lost its worker 3 times, at last ActorDiedError"):
            executor.next()

        # Ray that runs already is used, and left running.
        with pytest.raises(UsageError, match="too few for 99 workers"):
            RayExecutor(stub, 99)
        with RayExecutor(stub, 1) as second:
            second.submit(0, BLOCKS[4])
            assert second.next()[1].score == score_of(BLOCKS[4])
        assert ray.is_initialized()
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_search_on_ray_that_loses_a_worker_ends_with_the_same_trials(tmp_path):
    table = FormulaTable.tiny("K1G1,K3G1,K3E1G1,K3E3G2")
    small = {"population": 2, "sample": 1, "cycles": 6, "train.epochs": 1, "train.train_images": 40}
    preset = Preset.load("tiny").override({f"proposals.{name}": value for name, value in small.items()})
    arguments = {"preset": preset, "constraints": (0.3,), "stage": "proposals", "window": 2, "threads": 1}

    def kill(step):
        if step == 3:
            os.kill(workers()[0], signal.SIGKILL)

    watcher = Steps(kill)
    run_search(table, out=tmp_path / "ray", executor="ray", workers=2, progress=watcher, **arguments)
    run_search(table, out=tmp_path / "local", **arguments)
    assert "is lost (ActorDiedError: " in watcher.notes[0]
    assert (tmp_path / "ray/losses.jsonl").read_text().count("\n") == 1
    for name in ("config.json", "trials.jsonl", "proposals.json"):
        assert (tmp_path / "ray" / name).read_text() == (tmp_path / "local" / name).read_text()


def test_a_cluster_that_is_not_there(deaf_port):
    with pytest.raises(SearchError, match=r"Ray at 127\.0\.0\.1:\d+ does not answer"):
        RayExecutor(lambda: None, 1, f"127.0.0.1:{deaf_port}")
