"""The runner's program on a device: put there, tried, and called."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.measurement import RunRequest, RunSettings
from bpnas.android_bench.phone.facts import PhoneFacts
from bpnas.android_bench.remote import FileToPush, Remote, quote
from bpnas.android_bench.runner.benchmark_model import BenchmarkModel, is_benchmark_model
from bpnas.android_bench.runner.lines import Answer, Hello, parse_line
from bpnas.android_bench.runner.program import RunnerProgram
from bpnas.android_bench.runner.session import MayNotStartError, start_error

NEW_RUNNER = "make a new one with profile-device bundle"


class InstalledRunner:
    """A program that is ready on a device.

    Args:
        remote: the device.
        base: folder there that it goes into, in one of its own.
        program: what to put there.
        facts: of the device.
        affinity: the mask of cores that it is to keep to, or empty.

    Attributes:
        version: of runtime and runner, as they say it.
        reads_words: whether it watches files that hold a word.
        reads_feeds: whether it takes sizes and values of inputs, weights beside a model, and a limit of memory.
        affinity: the mask of the cores that it runs on, as it says; empty if it does not.

    Raises:
        RuntimeUnavailableError: the runtime does not start there.
        DeviceError: the program cannot be put there or does not run, or the cores are not given to it.
    """

    def __init__(self, remote: Remote, base: str, program: RunnerProgram, facts: PhoneFacts, affinity: str) -> None:
        self._remote, self._program, self._affinity = remote, program, affinity
        self._place = f"{base}/{program.name}"
        self._command = program.command(self._place)
        self._benchmark_model: BenchmarkModel | None = None  # where the user's program is that one
        self._install()
        hello = self._probe(facts)
        self.affinity = hello.affinity
        self.version = f"{program.runtime} {hello.version} (bpnas-runner {hello.runner})"
        self.reads_words, self.reads_feeds = hello.reads_words, hello.reads_feeds

    @property
    def is_ours(self) -> bool:
        """Whether it is bpnas-runner, with all that it can do."""
        return self._benchmark_model is None

    def why_not(self, request: RunRequest) -> str:
        """Why it cannot time that; empty if it can."""
        if self.reads_feeds or not (request.feeds or request.data):
            return ""
        what = "sizes or values of inputs" if request.feeds else "weights beside a model"
        if not self.is_ours:
            return f"benchmark_model takes no {what} from bpnas; leave out --runner"
        return f"this runner takes no {what}, for it is of an older bpnas; {NEW_RUNNER}"

    def check(self, hello: Hello) -> None:
        """Raises DeviceError if it is held on other cores than asked for."""
        if self._affinity and hello.affinity.lstrip("0") != self._affinity:
            raise DeviceError(
                f"{self._remote.serial}: processes are held on cores {hello.affinity}, not {self._affinity}; choose "
                "others with --affinity, or none with --affinity none"
            )

    def call(
        self, files: Sequence[str], first: int, settings: RunSettings, arguments: str
    ) -> tuple[str, Callable[[bytes], Answer | None]]:
        """A shell command that times the model files of the current folder from number `first` on, and what makes
        answers of the lines that it prints.

        Args:
            files: by name, in the order of the file `list` next to them; fewer than that is fine.
            first: number of the first one to time.
            settings: how.
            arguments: the same, and the rest, as bpnas-runner takes it.
        """
        if self._benchmark_model is not None:
            batch = self._benchmark_model.batch([str(n) for n in range(len(files))], files, first, settings)
            return batch.command, batch.parse
        command = f"exec {self._command} --list now --first {first} {arguments}"
        return f"head -n {len(files)} list > now || exit 1\n{command}", parse_line

    def _install(self) -> None:
        """Put the files there, unless they are there unharmed."""
        files = {f"{self._place}/{name}": file for name, file in self._program.files.items()}
        summed = self._remote.shell(f"sha256sum {' '.join(map(quote, files))}", timeout_seconds=120.0)
        there = {line[66:].strip(): line[:64] for line in summed.text.splitlines()}
        missing = [
            FileToPush(file.path, name, file.mode) for name, file in files.items() if there.get(name) != file.sha256
        ]
        if missing:
            self._remote.push(missing)

    def _probe(self, facts: PhoneFacts) -> Hello:
        pinned = f" --affinity {self._affinity}" if self._affinity else ""
        result = self._remote.shell(f"{self._command} --probe{pinned}", timeout_seconds=120.0)
        answers = [parse_line(line) for line in result.output.splitlines()]
        hello = next((answer for answer in answers if isinstance(answer, Hello)), None)
        if hello is not None:
            self.check(hello)
            return hello
        if self._program.runtime == "tflite" and is_benchmark_model(self._remote, self._command):
            self._benchmark_model = BenchmarkModel(self._command, facts, self._affinity)
            return self._benchmark_model.hello()
        lines = (result.errors or result.output).decode(errors="replace").strip().splitlines()
        said = lines[-1] if lines else f"exit code {result.exit_code}"
        raise start_error(self._remote.serial, self._program.runtime, MayNotStartError(result.exit_code, said))
