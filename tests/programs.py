"""Python programs, such as our commands, as processes of their own that need no seconds to load torch.

They are forked from a process that has loaded what they will want, and has done nothing else. So they have that much
in common: the seed of the hashes of texts, and what libraries take from the environment as they are loaded. A `fresh`
one loads everything itself. Else each is as any other process: with arguments, an environment, signals and an end of
its own, and it knows of no parent.
"""

from __future__ import annotations

import atexit
import gc
import glob
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

_LOADED = (
    "torch._dynamo",  # which the first optimizer loads
    "torch.onnx",
    "torch.utils.tensorboard",
    "safetensors.torch",
    "pyarrow.parquet",
    "pyarrow.pandas_compat",
    "sklearn.datasets",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "bpnas.profiler.cli",
    "bpnas.profiler.models.onnx_export",
    "bpnas.profiler.models.tflite_export",
    "bpnas.search.cli",
    "bpnas.search.run",
    "bpnas.search.studies.connections.study",
    "bpnas.search.studies.proposals.study",
    "bpnas.tables.latency_table",
)
# No threads: a fork would not have them. The last one is of Arrow's allocator.
_THREADLESS = {
    "OMP_WAIT_POLICY": "passive",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
_MESSAGE_BYTES = 1 << 17


# In the process of the tests


class Program:
    """A program that was started.

    Attributes:
        pid: its process.
        returncode: as of `subprocess.Popen`: None as long as it runs, -N if it died of signal N.
    """

    def __init__(self, server: socket.socket, pid: int, outputs: tuple[IO[bytes], IO[bytes]]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server, self._outputs = server, outputs

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask(self._server, {"ended": self.pid})
        return self.returncode

    def wait(self) -> int:
        """Its `returncode`, as soon as there is one."""
        from tests.patience import PATIENCE

        deadline = time.monotonic() + PATIENCE
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, f"still at work: {self.stderr}"
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    @property
    def stdout(self) -> str:
        """What it has said so far."""
        return _content(self._outputs[0])

    @property
    def stderr(self) -> str:
        """See `stdout`."""
        return _content(self._outputs[1])


@contextmanager
def started(
    file: str | Path,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    session: bool = False,
    fresh: bool = False,
    halt: Mapping[str, Any] | None = None,
) -> Iterator[Program]:
    """A program at work; what is left of it in the end is killed.

    Args:
        file: the program, which may be a console script.
        arguments: its own.
        env: its environment, if it is another one than ours. OMP_NUM_THREADS is obeyed.
        session: it gets a session, and so a process group, of its own.
        fresh: it loads all that it needs itself.
        halt: see `halted`.
    """
    order = {
        "argv": [str(file), *map(str, arguments)],
        "cwd": str(Path.cwd()),
        "env": dict(os.environ if env is None else env),
        "session": session,
        "fresh": fresh,
        "halt": halt,
    }
    server = _server(fresh)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        program = Program(server, _ask(server, order, out.fileno(), err.fileno()), (out, err))
        try:
            yield program
        finally:
            program.kill()
            program.wait()


@contextmanager
def halted(where: Path, lines: int, file: str | Path, *arguments: object, **options: Any) -> Iterator[Program]:
    """A program that is held up once `where`, which may be a pattern, has that many lines; it waits for a signal.

    Args:
        where: a file that it writes.
        lines: see there.
        file: as the others, of `started`.
    """
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "halted"
        halt = {"where": str(where), "lines": lines, "mark": str(mark)}
        with started(file, *arguments, halt=halt, **options) as program:
            while not mark.exists():
                code = program.poll()
                assert code is None, f"it ended with {code} before {where} had {lines} lines: {program.stderr}"
                time.sleep(0.01)
            yield program


def run(file: str | Path, *arguments: object, **options: Any) -> str:
    """What a program says on its standard output; it must end well. The options are those of `started`."""
    with started(file, *arguments, **options) as program:
        code = program.wait()
        assert code == 0, f"{Path(file).name} ended with {code}: {program.stderr}"
        return program.stdout


def run_together(processes: int, file: str | Path, *arguments: object) -> list[str]:
    """What a program says as so many processes that train together, each with the variables that torchrun gives it.

    All must end well.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common = {**os.environ, **address, "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        programs = [
            stack.enter_context(started(file, *arguments, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
            for rank in range(processes)
        ]
        codes = [program.wait() for program in programs]
        assert codes == [0] * processes, "\n".join(program.stderr for program in programs)
        return [program.stdout for program in programs]


def script(name: str) -> Path:
    """A console script."""
    return Path(sys.executable).with_name(name)


def _content(file: IO[bytes]) -> str:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()


def _ask(server: socket.socket, question: Mapping[str, Any], *descriptors: int) -> Any:
    socket.send_fds(server, [json.dumps(question).encode()], descriptors)
    return json.loads(server.recv(_MESSAGE_BYTES))


@cache
def _server(fresh: bool) -> socket.socket:
    """A connection to the process that programs are forked from."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno()), *([] if fresh else _LOADED)],
            env={**os.environ, **_THREADLESS},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# In the process that they are forked from, and in theirs


def _serve(tests: socket.socket) -> dict[str, Any] | None:
    """Answer until the tests end; returns in every fork, with what it is to do."""
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # by Ctrl-C, which is for the tests
    while True:
        content, descriptors, _, _ = socket.recv_fds(tests, _MESSAGE_BYTES, 2)
        if not content:
            return None
        question = json.loads(content)
        if "ended" in question:
            pid, status = os.waitpid(question["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                signal.signal(signal.SIGINT, interrupted)
                os.dup2(descriptors[0], 1)
                os.dup2(descriptors[1], 2)
        for descriptor in descriptors:
            os.close(descriptor)
        if answer == 0 and "ended" not in question:
            return question
        tests.send(json.dumps(answer).encode())


def _begin(order: Mapping[str, Any]) -> None:
    if order["session"]:
        os.setsid()
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = order["argv"]
    if not order["fresh"]:
        _catch_up()
    if order["halt"]:
        sys.addaudithook(_Halt(**order["halt"]))


def _catch_up() -> None:
    """Do what libraries would have done while they were loaded."""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads and (torch := sys.modules.get("torch")):
        torch.set_num_threads(int(threads))


class _Halt:
    """Makes the file `mark` and waits for a signal: once, as a file is opened and one of `where` has `lines` lines."""

    def __init__(self, where: str, lines: int, mark: str) -> None:
        self._where, self._lines, self._mark = where, lines, mark
        self._process, self._looks = os.getpid(), True

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not self._looks or threading.current_thread() is not threading.main_thread():
            return
        if os.getpid() != self._process:  # but a fork of it
            return
        self._looks = False  # for what is opened here
        if any(Path(path).read_bytes().count(b"\n") >= self._lines for path in glob.glob(self._where)):  # noqa: PTH207
            Path(self._mark).touch()
            while True:
                time.sleep(1.0)
        self._looks = True


def _end_quickly(code: int) -> None:
    """End in order, but for the time that it takes to take all modules apart."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _main(tests: int, *loaded: str) -> None:
    for name in loaded:
        with suppress(ImportError):
            import_module(name)
    gc.freeze()  # or the first collection of a program would copy all of it
    with socket.socket(fileno=tests) as connection:
        order = _serve(connection)
    if order is None:
        return
    _begin(order)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if not loaded or not isinstance(end.code, int):
            raise
        _end_quickly(end.code)
    if loaded:
        _end_quickly(0)


if __name__ == "__main__":
    _main(int(sys.argv[1]), *sys.argv[2:])
