"""What bpnas-runner is told and what it answers; see docs/native.md. An answer is taken for what it says only where its
checksum, its place and its numbers are right: a phone, or anything between it and here, may send anything.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bpnas.android_bench.measurement import RunSettings
from bpnas.android_bench.remote import quote
from bpnas.base.plain_text import printable
from bpnas.base.strict_json import parsed

MAX_LINE_BYTES = 16 << 20
"""The longest line that makes sense: a million samples."""

MAX_NOISE_BYTES = 4 << 20
"""Output that is no answer is ignored up to this size for each model: some runtimes print."""

_MAX_NUMBER = 2**53
_MAX_CONDITIONS = 32
_CHECKSUM = b',"crc32":"'
_WORDS = re.compile(r"[A-Za-z0-9_-]{1,32}(\+[A-Za-z0-9_-]{1,32}){0,15}")  # of several files under one name


class AnswerError(Exception):
    """What came cannot be an answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The runner has loaded the runtime; `version` and `affinity` are as it says. `reads_words`: it knows
    `--watch-text`, which the first ones did not; `reads_feeds`: it fills inputs of any type, takes their sizes and
    values, finds weights in files beside a model, and knows `--max-memory`.
    """

    version: str
    runner: str
    affinity: str
    reads_words: bool = False
    reads_feeds: bool = False


@dataclass(frozen=True, slots=True)
class Begin:
    """Model number `index` is next."""

    index: int


@dataclass(frozen=True, slots=True)
class Cooling:
    """The runner waits for the device to cool down before model number `index`."""

    index: int


@dataclass(frozen=True, slots=True)
class Timed:
    """Model number `index` was timed; fields as in `Measurement`."""

    index: int
    name: str
    samples_ns: tuple[int, ...]
    repeats: int
    warmup_runs: int
    warmup_ns: int
    load_ns: int
    before: dict[str, float | str]
    after: dict[str, float | str]


@dataclass(frozen=True, slots=True)
class Refused:
    """The runtime refuses model number `index`."""

    index: int
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Model number `index` took too long; the runner has ended itself."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """One operator as the runtime runs it, which may be several of the file's in one.

    Attributes:
        name, type: as the runtime calls them.
        ns: of one inference, in nanoseconds, without the operators within it: the median over the inferences of a
            profile. A lower bound, for the runtimes cut times down to whole microseconds.
        resolution_ns: at most this was cut off: the time is less than `ns + resolution_ns`. 1000 for a runner that
            does not tell it.
        p10_ns, p90_ns: a tenth of the inferences took less than the one, or more than the other; None from a runner
            that does not tell them, whose `ns` is a mean.
    """

    name: str
    type: str
    ns: float
    resolution_ns: float = 1000.0
    p10_ns: float | None = None
    p90_ns: float | None = None

    @property
    def below_clock(self) -> bool:
        """Whether all that is known is an upper bound: such a time cannot be told from 0."""
        return self.ns < self.resolution_ns


@dataclass(frozen=True, slots=True)
class Profiled:
    """Operators of model number `index`, or why there are none.

    Attributes:
        inference_ns: of one inference while it is profiled, in nanoseconds, by the runner's own clock; None from a
            runner that does not tell it.
        runs: inferences that the times are of; None as above.
    """

    index: int
    operators: tuple[OperatorTime, ...]
    unavailable: str
    inference_ns: float | None = None
    runs: int | None = None


@dataclass(frozen=True, slots=True)
class End:
    """All is done."""


Answer = Hello | Begin | Cooling | Timed | Refused | TimedOut | Profiled | End


def parse_line(line: bytes) -> Answer | None:
    """One line without its end; None if it is noise, or damaged on the way."""
    body, mark, checksum = line.rstrip(b"\r").rpartition(_CHECKSUM)
    if not mark or checksum != f'{zlib.crc32(body):08x}"}}'.encode():
        return None
    try:
        values = parsed(body + b"}")
        return _answer(values) if isinstance(values, dict) else None
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def _answer(values: dict[str, Any]) -> Answer | None:
    if "hello" in values:
        words, feeds = (values.get(name) is True for name in ("watch_text", "feeds"))
        return Hello(_text(values["version"]), _text(values["runner"]), _text(values["affinity"]), words, feeds)
    if "begin" in values:
        return Begin(_count(values["begin"]))
    if "cooling" in values:
        return Cooling(_count(values["cooling"]))
    if "profile" in values:
        inference_ns = values.get("inference_ns")
        return Profiled(
            _count(values["profile"]),
            tuple(map(_operator, values.get("operators", []))),
            _text(values.get("unavailable", "")),
            None if inference_ns is None else _duration(inference_ns),
            _positive(values["runs"]) if "runs" in values else None,
        )
    if "model" in values:
        index, name = _count(values["model"]), _name(values["id"])
        if "refused" in values:
            return Refused(index, name, _text(values["refused"], 500))
        if "timeout" in values:
            return TimedOut(index, name)
        samples = tuple(_count(sample) for sample in values["samples_ns"])
        if not samples or 0 in samples:
            raise ValueError("no samples, or a sample without a duration")
        return Timed(
            index,
            name,
            samples,
            _positive(values["repeats"]),
            _count(values["warmup_runs"]),
            _count(values["warmup_ns"]),
            _count(values["load_ns"]),
            _conditions(values["before"]),
            _conditions(values["after"]),
        )
    return End() if "end" in values else None


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _text(value: object, limit: int = 200) -> str:
    return printable(_name(value), limit)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise ValueError(f"{value!r} is no count")
    return value


def _positive(value: object) -> int:
    if not _count(value):
        raise ValueError("0 is not positive")
    return _count(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _duration(value: object) -> float:
    duration = _number(value)
    if duration < 0:
        raise ValueError(f"{value!r} is no duration")
    return duration


def _operator(values: Any) -> OperatorTime:
    told = {name: _duration(values[name]) for name in ("resolution_ns", "p10_ns", "p90_ns") if name in values}
    return OperatorTime(_text(values["name"]), _text(values["type"]), _duration(values["ns"]), **told)


def _conditions(values: object) -> dict[str, float | str]:
    if not isinstance(values, dict) or len(values) > _MAX_CONDITIONS:
        raise ValueError("no conditions, or too many")
    return {printable(name, 40): _condition(value) for name, value in values.items()}


def _condition(value: object) -> float | str:
    if isinstance(value, str):
        if not _WORDS.fullmatch(value):
            raise ValueError(f"{value!r} is no word")
        return value
    return _number(value)


class LineReader:
    """Puts pieces together into lines, and bounds what can pile up."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes.

        Raises:
            AnswerError: a line is longer than `MAX_LINE_BYTES`.
        """
        self._rest += data
        lines: list[bytes] = []
        if b"\n" in data:
            *lines, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
        if len(self._rest) > MAX_LINE_BYTES or any(len(line) > MAX_LINE_BYTES for line in lines):
            raise AnswerError(f"a line of more than {MAX_LINE_BYTES >> 20} MiB")
        return lines


def runner_arguments(
    settings: RunSettings,
    *,
    affinity: str = "",
    watches: Sequence[tuple[str, str, float | None]] = (),
    hot: tuple[str, float, float] | None = None,
    cool_seconds: float = 0.0,
    sentinel: tuple[float, float] | None = None,
    profile: bool = False,
    max_memory: str = "",
) -> str:
    """The options of bpnas-runner as words of a shell command, without `--runtime`, `--library`, `--list`, `--first`.

    Args:
        settings: what the samples are taken with.
        affinity: hexadecimal mask, or empty.
        watches: name, path and scale of each file that is read around every model; without a scale it holds a word.
        hot: path, scale and limit of the temperature above which no model starts.
        cool_seconds: the longest wait for the temperature and for the sentinel.
        sentinel: limit as a ratio, and baseline in nanoseconds (0: take the first one).
        profile: a pass for the operators after each model.
        max_memory: what a model may have, in bytes, or `usual`; empty where the runner does not know the option.
    """
    words: list[str] = []
    for option, value in (
        ("--warmup-runs", settings.warmup_runs),
        ("--warmup-seconds", settings.warmup_seconds),
        ("--runs", settings.runs),
        ("--seconds", settings.seconds),
        ("--sample-ms", settings.sample_ms),
        ("--threads", settings.threads),
        ("--timeout-seconds", settings.timeout_seconds),
        ("--cool-seconds", cool_seconds),
    ):
        words += (option, repr(value))
    if max_memory:
        words += ("--max-memory", max_memory)
    if affinity:
        words += ("--affinity", affinity)
    for name, path, scale in watches:
        words += ("--watch-text", f"{name}={path}") if scale is None else ("--watch", f"{name}={path}={scale!r}")
    if hot is not None:
        words += ("--hot-file", f"{hot[0]}={hot[1]!r}", "--hot-limit", repr(hot[2]))
    if sentinel is not None:
        words += ("--sentinel-limit", repr(sentinel[0]), "--sentinel-baseline", repr(sentinel[1]))
    if profile:
        words.append("--profile")
    return " ".join(map(quote, words))
