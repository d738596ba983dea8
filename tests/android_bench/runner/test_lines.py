"""What the runner says is believed where it is whole and makes sense, and nothing else is; none of it does harm."""

from __future__ import annotations

import json
import random
import re
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpnas.android_bench.measurement import RunSettings
from bpnas.android_bench.remote import quote
from bpnas.android_bench.runner.lines import (
    MAX_LINE_BYTES,
    AnswerError,
    Begin,
    Cooling,
    End,
    Hello,
    LineReader,
    OperatorTime,
    Profiled,
    Refused,
    Timed,
    TimedOut,
    parse_line,
    runner_arguments,
)

TIMED: dict[str, Any] = {
    "model": 3,
    "id": "3.onnx",
    "samples_ns": [1000, 2000],
    "repeats": 4,
    "warmup_runs": 10,
    "warmup_ns": 5,
    "load_ns": 6,
    "before": {"zone": 37.5},
    "after": {"zone": 38},
}
ANSWERS: list[tuple[dict[str, Any], object]] = [
    ({"hello": 1, "version": "1.2", "runner": "0.1", "affinity": "f0"}, Hello("1.2", "0.1", "f0")),
    (
        {"hello": 1, "version": "1.2", "runner": "1", "affinity": "f0", "watch_text": True},
        Hello("1.2", "1", "f0", reads_words=True),
    ),
    ({"begin": 0}, Begin(0)),
    ({"cooling": 2}, Cooling(2)),
    (TIMED, Timed(3, "3.onnx", (1000, 2000), 4, 10, 5, 6, {"zone": 37.5}, {"zone": 38.0})),
    (
        TIMED | {"before": {"governor": "schedutil"}, "after": {"governor": "walt+sched_pixel-2"}},
        Timed(3, "3.onnx", (1000, 2000), 4, 10, 5, 6, {"governor": "schedutil"}, {"governor": "walt+sched_pixel-2"}),
    ),
    ({"model": 1, "id": "x", "refused": "no such\noperator"}, Refused(1, "x", "no such operator")),
    ({"model": 1, "id": "x", "timeout": True}, TimedOut(1, "x")),
    (
        {"profile": 1, "operators": [{"name": "a", "type": "Conv", "ns": 1.5}]},
        Profiled(1, (OperatorTime("a", "Conv", 1.5),), ""),
    ),
    (
        {
            "profile": 1,
            "operators": [{"name": "a", "type": "Conv", "ns": 0, "resolution_ns": 500}],
            "inference_ns": 2500.5,
        },
        Profiled(1, (OperatorTime("a", "Conv", 0.0, 500.0),), "", 2500.5),
    ),
    (
        {
            "profile": 1,
            "operators": [{"name": "a", "type": "Conv", "ns": 5, "resolution_ns": 1, "p10_ns": 4, "p90_ns": 7}],
            "runs": 57,
        },
        Profiled(1, (OperatorTime("a", "Conv", 5.0, 1.0, 4.0, 7.0),), "", None, 57),
    ),
    ({"profile": 1, "unavailable": "too old"}, Profiled(1, (), "too old")),
    ({"end": True}, End()),
]


def line(values: object) -> bytes:
    """As the runner writes it."""
    return signed(json.dumps(values, separators=(",", ":")).encode()[:-1])


def signed(body: bytes) -> bytes:
    return body + f',"crc32":"{zlib.crc32(body):08x}"}}'.encode()


@pytest.mark.parametrize(("values", "answer"), ANSWERS)
def test_a_line_is_read(values: dict[str, Any], answer: object) -> None:
    assert parse_line(line(values)) == answer
    assert parse_line(line(values) + b"\r") == answer, "as old daemons end lines"


@pytest.mark.parametrize("values", [values for values, _ in ANSWERS])
def test_a_damaged_line_is_noise(values: dict[str, Any]) -> None:
    """Every byte of it changed, left out, or doubled, and every way to cut it short."""
    good, rng = line(values), random.Random(0)
    for at in range(len(good)):
        changed = good[:at] + bytes([good[at] ^ rng.randrange(1, 256)]) + good[at + 1 :]
        for damaged in (changed, good[:at] + good[at + 1 :], good[:at]):
            assert parse_line(damaged) is None, (damaged, at)
        assert parse_line(good[: at + 1] + good[at:]) is None
    assert parse_line(b"I/runtime: " + good) is None
    assert parse_line(good + b"\0") is None
    assert parse_line(good + good) is None


@given(st.binary(max_size=300))
def test_noise_is_noise(noise: bytes) -> None:
    assert parse_line(noise) is None


@given(st.binary(max_size=300))
def test_noise_with_the_right_checksum_does_no_harm(body: bytes) -> None:
    answer = parse_line(signed(body))
    assert answer is None or isinstance(answer, Begin | Cooling | End)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300)
@given(st.sampled_from([values for values, _ in ANSWERS]), st.data())
def test_a_field_of_another_kind_is_refused_or_harmless(values: dict[str, Any], data: st.DataObject) -> None:
    """The right checksum proves that it came whole, not that it makes sense."""
    field = data.draw(st.sampled_from(sorted(values)))
    changed = values | {field: data.draw(JSON)}
    answer = parse_line(line(changed))
    if isinstance(answer, Timed):
        assert answer.samples_ns and all(type(ns) is int and ns > 0 for ns in answer.samples_ns)
        assert type(answer.repeats) is int and answer.repeats > 0
        for value in (*answer.before.values(), *answer.after.values()):
            assert isinstance(value, float) or (value.isprintable() and 0 < len(value) < 600)
        assert all(name.isprintable() for name in (*answer.before, *answer.after))
    if isinstance(answer, Timed | Refused | TimedOut):
        assert isinstance(answer.name, str) and type(answer.index) is int
    if isinstance(answer, Hello):
        assert all(text.isprintable() for text in (answer.version, answer.runner, answer.affinity))


WRONG = [
    ("samples_ns", []),
    ("samples_ns", [1, 0]),
    ("samples_ns", [1.5]),
    ("samples_ns", [True]),
    ("samples_ns", [-1]),
    ("samples_ns", [2**53]),
    ("samples_ns", {"1": 1}),
    ("samples_ns", "11"),
    ("samples_ns", None),
    ("repeats", 0),
    ("repeats", "4"),
    ("model", -1),
    ("model", 1.0),
    ("id", ["3.onnx"]),
    ("id", None),
    ("before", [["zone", 1.0]]),
    *(
        ("before", {"governor": word})
        for word in ("", "a b", "\x1b[2J", "a\n", "x" * 33, "a++b", "+".join("ab" * 9), "\u00e9")
    ),
    ("before", {"zone": ["hot"]}),
    ("before", {"zone": None}),
    ("before", {"zone": True}),
    ("before", {"zone": float("nan")}),
    ("before", {"zone": float("inf")}),
    ("before", {str(number): 1.0 for number in range(33)}),
    ("after", None),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_numbers_that_make_no_sense_are_not_believed(field: str, value: object) -> None:
    assert parse_line(line(TIMED | {field: value})) is None


@pytest.mark.parametrize(
    "values", [{"ns": -1}, {"ns": "1"}, {"resolution_ns": -1}, {"resolution_ns": None}, {"p90_ns": -1}]
)
def test_times_of_operators_that_make_no_sense_are_not_believed(values: dict[str, Any]) -> None:
    operator = {"name": "a", "type": "Conv", "ns": 1, "resolution_ns": 1}
    assert parse_line(line({"profile": 1, "operators": [operator]})) is not None
    assert parse_line(line({"profile": 1, "operators": [operator | values]})) is None
    assert parse_line(line({"profile": 1, "operators": [operator], "inference_ns": -1})) is None
    assert parse_line(line({"profile": 1, "operators": [operator], "runs": 0})) is None


def test_a_time_below_the_clock_is_known_by_its_resolution() -> None:
    assert OperatorTime("a", "Conv", 0.0).below_clock, "the first runners did not tell: their clock counts microseconds"
    assert OperatorTime("a", "Conv", 950.0, 1000.0).below_clock
    assert not OperatorTime("a", "Conv", 1000.0, 1000.0).below_clock
    assert not OperatorTime("a", "Conv", 40.0, 1.0).below_clock


@pytest.mark.parametrize("field", TIMED)
def test_a_measurement_without_one_of_its_fields_is_none(field: str) -> None:
    assert parse_line(line({name: value for name, value in TIMED.items() if name != field})) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"begin":' + b"9" * 10_000,
        b"[" * 100_000,
        b'{"begin":' + b"[" * 100_000 + b"]" * 100_000,
        b'{"hello":1,"version":["a"],"runner":{},"affinity":0',
        b'{"profile":1,"operators":{"a":1}',
        b'{"profile":1,"operators":[["name"]]',
        b'{"profile":1,"operators":7',
        b'{"profile":1,"unavailable":["a"]',
        b'{"model":1,"id":"x","refused":{"a":1}',
        b'\xff\xfe{\0"\0',
        b'{"a":1}\n{"begin":1',
    ],
    ids=range(11),
)
def test_bodies_meant_to_harm_are_noise(body: bytes) -> None:
    assert parse_line(signed(body)) is None


def test_what_is_long_is_cut() -> None:
    hello = parse_line(line({"hello": 1, "version": "\x1b" * 10**6, "runner": "x" * 10**6, "affinity": ""}))
    assert isinstance(hello, Hello)
    assert hello.version.isprintable() and len(hello.version) == len(hello.runner) == 200


# --- lines out of pieces


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line), max_size=20), st.data())
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream, reader, found = b"".join(line + b"\n" for line in lines) + b"rest", LineReader(), []
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == lines
    assert reader.feed(b"\n") == [b"rest"]


def test_a_line_has_a_longest_length() -> None:
    longest, piece = b"x" * MAX_LINE_BYTES, b"x" * (1 << 20)
    assert LineReader().feed(longest + b"\n") == [longest]
    for ending in (b"", b"\n", b"\nmore\n"):
        with pytest.raises(AnswerError, match="more than 16 MiB"):
            LineReader().feed(longest + b"x" + ending)
    reader = LineReader()
    for _ in range(16):
        assert reader.feed(piece) == []
    with pytest.raises(AnswerError):
        reader.feed(b"x")


# --- what the runner is told


def test_options_are_words_whatever_is_in_them() -> None:
    evil = "/sys/x'; reboot; '"
    said = runner_arguments(
        RunSettings(),
        affinity="f0",
        watches=[("a b", evil, 0.001), ("word", evil, None)],
        hot=(evil, 0.001, 45.0),
        sentinel=(1.1, 0.0),
        profile=True,
    )
    assert quote(f"a b={evil}=0.001") in said and quote(f"{evil}=0.001") in said
    assert f"--watch-text {quote(f'word={evil}')}" in said
    assert re.search(r"--hot-limit 45\.0 .*--sentinel-limit 1\.1 --sentinel-baseline 0\.0 --profile$", said)
    with pytest.raises(ValueError, match="must not reach a shell"):
        runner_arguments(RunSettings(), watches=[("a", "/sys/x\n", 1.0)])
