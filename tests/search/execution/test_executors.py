import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bpnas.base.cores import usable_cores
from bpnas.base.errors import UsageError
from bpnas.profiler import Block
from bpnas.search.errors import DataError, SearchError, WorkerLostError
from bpnas.search.execution.executor import LocalExecutor, check_executor, default_threads
from bpnas.search.execution.process_executor import ProcessExecutor
from bpnas.search.training.threads import set_threads, threads_kept
from tests.patience import PATIENCE
from tests.root import ROOT

STUBS = ROOT / "tests/stubs"
BLOCKS = [Block.parse(text) for text in ("K1G1", "K3G1", "K3E1G1", "K1G1+K3E2G2", "K5E1G1")]


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """The evaluator, as workers can import it."""
    monkeypatch.syspath_prepend(STUBS)
    from stub_evaluator import Stub

    return Stub(tmp_path)


def written(folder, code):
    """A file that runs `code`, for which blocks and the executor are imported."""
    path = folder / "program.py"
    path.write_text(
        "from bpnas.profiler import Block\nfrom bpnas.search.execution.process_executor import ProcessExecutor\n" + code
    )
    return path


def gone(pid):
    """Whether the process ends within some seconds."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answers(executor, blocks=BLOCKS):
    for number, block in enumerate(blocks):
        executor.submit(number, block)
    return dict(executor.next() for _ in blocks)


def test_all_executors_answer_alike(stub):
    from stub_evaluator import score_of

    expected = {number: score_of(block) for number, block in enumerate(BLOCKS)}
    with LocalExecutor(stub) as local, ProcessExecutor(stub, 2) as processes:
        for executor in (local, processes):
            assert {number: found.score for number, found in answers(executor).items()} == expected
            with pytest.raises(LookupError):
                executor.next()
    workers = {pid for pid, *_ in stub.evaluated()} - {str(os.getpid())}
    assert len(workers) == 2 and all(map(gone, workers))


def test_options_reach_the_evaluator_and_each_worker_its_device(stub):
    (stub.folder / f"hold-{BLOCKS[0]}").touch()
    (stub.folder / f"hold-{BLOCKS[1]}").touch()
    (stub.folder / f"hold-{BLOCKS[2]}").touch()
    with ProcessExecutor(stub, 3, devices=("4", "7")) as executor:
        for number, block in enumerate(BLOCKS[:3]):
            executor.submit(number, block, epochs=number)
        until(lambda: len(stub.evaluated()) == 3)
        seen = {block: (device, options) for _, block, device, options in stub.evaluated()}
    assert seen == {str(b): (d, f"{{'epochs': {n}}}") for n, (b, d) in enumerate(zip(BLOCKS, "474", strict=False))}


@pytest.mark.parametrize("executor", ["local", "processes"])
def test_what_an_evaluation_raises_reaches_the_caller(executor, stub):
    make = {"local": LocalExecutor, "processes": lambda stub: ProcessExecutor(stub, 1)}[executor]
    with make(stub) as pool:
        for kind, expected, message in (
            ("data", DataError, "no images there"),
            ("usage", UsageError, "makes no sense"),
            ("odd", SearchError, "no block meets the latency limit of 1 ms: the smallest feasible latency is 2 ms"),
        ):
            (stub.folder / f"raise-{BLOCKS[0]}").write_text(kind)
            pool.submit(0, BLOCKS[0])
            with pytest.raises(expected) as caught:
                pool.next()
            assert str(caught.value).endswith(message) and "\n" not in str(caught.value)


def test_a_lost_worker_costs_one_evaluation(stub):
    (stub.folder / f"kill-{BLOCKS[1]}").write_text("2")
    losses = []
    with ProcessExecutor(stub, 2, on_loss=losses.append) as executor:
        found = answers(executor)
    assert sorted(found) == list(range(len(BLOCKS)))
    assert [(loss.block, loss.attempt, loss.reason) for loss in losses] == [
        (BLOCKS[1], 1, "killed by signal 9"),
        (BLOCKS[1], 2, "killed by signal 9"),
    ]
    evaluated = [block for _, block, *_ in stub.evaluated()]
    assert {block: evaluated.count(block) for block in evaluated} == {str(b): 1 + 2 * (b == BLOCKS[1]) for b in BLOCKS}


@pytest.mark.parametrize(("how", "reason"), [("kill", "killed by signal 9"), ("memory", "out of memory")])
def test_an_evaluation_that_always_loses_its_worker_ends_in_a_sentence(how, reason, stub):
    if how == "kill":
        (stub.folder / f"kill-{BLOCKS[3]}").write_text("9")
    else:
        (stub.folder / f"raise-{BLOCKS[3]}").write_text(how)
    losses = []
    with ProcessExecutor(stub, 1, on_loss=losses.append) as executor:
        executor.submit(0, BLOCKS[3])
        with pytest.raises(WorkerLostError, match=rf"K1G1\+K3E2G2 lost its worker 3 times, at last {reason}"):
            executor.next()
    assert [loss.attempt for loss in losses] == [1, 2, 3]
    assert len({pid for pid, *_ in stub.evaluated()}) == 3


def test_a_worker_that_dies_while_idle_is_replaced(stub):
    with ProcessExecutor(stub, 1) as executor:
        answers(executor, BLOCKS[:1])
        pid = int(stub.evaluated()[0][0])
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        assert answers(executor, BLOCKS[1:2])


def test_locks_of_killed_workers_are_not_missed(tmp_path):
    code = (
        "import multiprocessing\n"
        "def make():\n"
        "    lock = multiprocessing.RLock()  # as tqdm does\n"
        "    return lambda block: (lock, None)[1]\n"
        "if __name__ == '__main__':\n"
        "    with ProcessExecutor(make, 1) as executor:\n"
        "        executor.submit(0, Block.parse('K1G1'))\n"
        "        print(executor.next())\n"
    )
    out = subprocess.run([sys.executable, written(tmp_path, code)], capture_output=True, text=True, timeout=PATIENCE)
    assert (out.stdout, out.stderr) == ("(0, None)\n", "")


def test_interrupts_are_blocked_in_all_workers(tmp_path):
    # In a program of its own, as the first worker that a process starts is special.
    code = (
        "import signal\n"
        "def make():\n"
        "    return lambda block: signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
        "if __name__ == '__main__':\n"
        "    with ProcessExecutor(make, 2) as executor:\n"
        "        executor.submit(0, Block.parse('K1G1'))\n"
        "        executor.submit(1, Block.parse('K3G1'))\n"
        "        print(executor.next()[1], executor.next()[1])\n"
    )
    out = subprocess.run([sys.executable, written(tmp_path, code)], capture_output=True, text=True, timeout=PATIENCE)
    assert (out.stdout.split(), out.stderr) == (["True", "True"], "")


def test_leaving_ends_what_is_under_way(stub):
    (stub.folder / f"hold-{BLOCKS[0]}").touch()
    with ProcessExecutor(stub, 1) as executor:
        executor.submit(0, BLOCKS[0])
        executor.submit(1, BLOCKS[1])
        until(stub.evaluated)
    assert gone(stub.evaluated()[0][0])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_do_not_outlive_the_program(number, stub, tmp_path):
    (stub.folder / f"hold-{BLOCKS[0]}").touch()
    code = (
        f"import sys; sys.path.insert(0, {str(STUBS)!r})\n"
        "from pathlib import Path\n"
        "from stub_evaluator import Stub\n"
        "if __name__ == '__main__':\n"
        f"    with ProcessExecutor(Stub(Path({str(tmp_path)!r})), 2) as executor:\n"
        "        executor.submit(0, Block.parse('K1G1'))\n"
        "        executor.submit(1, Block.parse('K3G1'))\n"
        "        while True:\n"
        "            try:\n"
        "                executor.next()\n"
        "            except KeyboardInterrupt:\n"
        "                sys.exit(7)\n"
    )
    # A group of its own, so that the signal reaches parent and children, as Ctrl-C does.
    with subprocess.Popen([sys.executable, written(tmp_path, code)], start_new_session=True, stderr=-1) as program:
        try:
            until(lambda: len(stub.evaluated()) == 2)
            if number == signal.SIGINT:
                os.killpg(program.pid, number)
            else:
                program.send_signal(number)
            _, errors = program.communicate(timeout=PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
    assert program.returncode == (7 if number == signal.SIGINT else -signal.SIGKILL)
    assert errors == b""
    assert all(gone(pid) for pid, *_ in stub.evaluated())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cluster", None, None), "'cluster' is unknown"),
        (("local", 2, None), "without workers"),
        (("processes", 0, None), "0 workers"),
        (("processes", 2, "auto"), "no --ray-address"),
        (("local", None, "auto"), "no --ray-address"),
    ],
)
def test_senseless_executors(arguments, message):
    with pytest.raises(UsageError, match=message):
        check_executor(*arguments)


def test_without_ray_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr("bpnas.search.execution.ray_executor.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'bpnas\[ray\]'"):
        check_executor("ray", None, None)


def test_more_threads_than_cores_are_not_trained_with_and_left_as_they_were():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(usable_cores() + 3)
        assert default_threads("local", None) == usable_cores()
        with threads_kept():
            set_threads(1)
        assert torch.get_num_threads() == usable_cores() + 3
    finally:
        torch.set_num_threads(before)


def test_threads_are_left_as_they_were_where_torch_is_loaded_in_between():
    pytest.importorskip("torch")
    code = (
        "from bpnas.search.training.threads import set_threads, threads_kept\n"
        "with threads_kept():\n"
        "    set_threads(1)\n"
        "import torch\n"
        "print(torch.get_num_threads())\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, env=env)
    assert (out.stdout, out.stderr) == ("2\n", "")
