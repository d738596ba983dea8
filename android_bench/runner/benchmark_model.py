"""TensorFlow's own `benchmark_model` in the place of bpnas-runner, for those who have a build that they trust.

It prints means, no samples. So it is called several times for each model, and each call's mean counts as one sample; of
how many inferences it is the mean is in the conditions, as `inferences_per_sample`. Source: TensorFlow,
tensorflow/lite/tools/benchmark/README.md.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Sequence

from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.measurement import RunSettings
from bpnas.android_bench.phone.facts import PhoneFacts
from bpnas.android_bench.remote import Remote, quote
from bpnas.android_bench.runner.lines import Answer, Begin, End, Hello, Refused, Timed, TimedOut
from bpnas.base.plain_text import printable

CALLS = 5
"""Calls, and so samples, for each model."""

_STATISTICS = re.compile(r"\bcount=(\d{1,12})\b.*?\bavg=([0-9.]+(?:e[+-]?[0-9]+)?)")
_INIT = re.compile(r"\bInit: ([0-9.]+)")
_GIVEN_UP = (124, 143)  # what timeout(1) of GNU and toybox, and of busybox, ends with


def is_benchmark_model(remote: Remote, command: str) -> bool:
    """Whether the program at the end of `command` is one, by what it says of its options."""
    result = remote.shell(f"{command} --help 2>&1", timeout_seconds=60.0)
    return b"--graph" in result.output and b"--num_runs" in result.output


class BenchmarkModel:
    """How it is called for a batch of models.

    Args:
        program: beginning of a shell command that runs it.
        facts: of the device.
        affinity: mask of cores, or empty.

    Raises:
        DeviceError: the device lacks what keeps it on its cores, or what ends it when it hangs.
    """

    def __init__(self, program: str, facts: PhoneFacts, affinity: str) -> None:
        if affinity and "taskset" not in facts.tools:
            raise DeviceError("benchmark_model cannot be pinned, for the device lacks taskset; use --affinity none")
        if "timeout" not in facts.tools:
            raise DeviceError("benchmark_model needs the program timeout, which the device lacks; leave out --runner")
        self._program = f"taskset {affinity} {program}" if affinity else program
        self._affinity = affinity

    def hello(self) -> Hello:
        """What is known of it: it does not tell its version."""
        return Hello("as built", f"benchmark_model x {CALLS}", self._affinity)

    def batch(self, names: Sequence[str], files: Sequence[str], first: int, settings: RunSettings) -> BenchmarkBatch:
        """The models from number `first` on, by their names and their files."""
        return BenchmarkBatch(self._program, names, files, first, settings)


class BenchmarkBatch:
    """One shell that calls it for one model after the other.

    Attributes:
        command: for that shell.
    """

    def __init__(
        self, program: str, names: Sequence[str], files: Sequence[str], first: int, settings: RunSettings
    ) -> None:
        self._names, self._settings = names, settings
        self._mark = f"bpnas-{secrets.token_hex(8)}"
        self._calls: list[tuple[int, float]] = []
        self._last: tuple[int, float] | None = None
        self._init_ns, self._said = 0, ""
        options = (
            f"--num_threads={settings.threads} --warmup_runs={max(1, math.ceil(settings.warmup_runs / CALLS))} "
            f"--warmup_min_secs={settings.warmup_seconds / CALLS:g} --num_runs={math.ceil(settings.runs / CALLS)} "
            f"--min_secs={settings.seconds / CALLS:g}"
        )
        limit = math.ceil(settings.timeout_seconds / CALLS)
        models = "\n".join(f"time_model {index} {quote(files[index])}" for index in range(first, len(files)))
        self.command = f"""
time_model() {{
    echo {self._mark} begin "$1"
    for call in {" ".join(map(str, range(CALLS)))}; do
        timeout {limit} {program} --graph="$2" {options} 2>&1
        code=$?
        if [ $code -ne 0 ]; then
            echo {self._mark} failed "$1" $code
            if [ $code -ge 124 ]; then exit $code; fi
            return
        fi
        echo {self._mark} call "$1"
    done
    echo {self._mark} done "$1"
}}
{models}
echo {self._mark} end
"""

    def parse(self, line: bytes) -> Answer | None:
        """One line of its output; None for what says nothing by itself."""
        text = line.decode(errors="replace").strip()
        if not text.startswith(self._mark):
            self._read_statistics(text)
            return None
        try:
            verb, *numbers = text[len(self._mark) :].split()
            index, *codes = map(int, numbers or ["0"])
            return self._marked(verb, index, codes[0] if codes else 0)
        except ValueError:
            return None

    def _marked(self, verb: str, index: int, code: int) -> Answer | None:
        if verb == "end":
            return End()
        if verb == "begin":
            self._calls, self._last, self._init_ns, self._said = [], None, 0, ""
            return Begin(index)
        if verb == "call" and self._last is not None and len(self._calls) < CALLS:
            self._calls.append(self._last)  # the last one printed: those of the warm-up come before it
            self._last = None
        elif verb == "done" and len(self._calls) == CALLS:
            return self._timed(index)
        elif verb == "failed" and code in _GIVEN_UP:
            return TimedOut(index, self._names[index])
        elif verb == "failed" and code < 124:
            return Refused(index, self._names[index], f"exit code {code}: {printable(self._said)}")
        return None

    def _read_statistics(self, text: str) -> None:
        self._said = text or self._said
        if found := _STATISTICS.search(text):
            self._last = int(found[1]), float(found[2]) * 1000  # it counts in microseconds
        elif found := _INIT.search(text):
            self._init_ns = round(float(found[1]) * 1000)

    def _timed(self, index: int) -> Timed | Refused | None:
        counts, means = zip(*self._calls, strict=True)
        if min(means) == 0:
            message = "it takes less than a microsecond, the step of benchmark_model's clock; leave out --runner"
            return Refused(index, self._names[index], message)
        if not all(0 < mean < 1e15 for mean in means):
            return None
        return Timed(
            index=index,
            name=self._names[index],
            samples_ns=tuple(max(1, round(mean)) for mean in means),
            repeats=1,
            warmup_runs=self._settings.warmup_runs,
            warmup_ns=round(self._settings.warmup_seconds * 1e9),
            load_ns=self._init_ns,
            before={},
            after={"inferences_per_sample": float(min(counts))},
        )
