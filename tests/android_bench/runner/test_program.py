"""The native runner as a process: its lines, its exit codes, and what it does with runtimes that misbehave."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from bpnas.android_bench.device import MODEL_SUFFIX
from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.local.inputs import infer_first
from bpnas.android_bench.local.runtimes import open_session
from bpnas.android_bench.measurement import Feed
from bpnas.android_bench.memory import is_out_of_memory
from bpnas.android_bench.runner.build import arch_of_this_machine, build_runner
from bpnas.android_bench.runner.lines import Profiled, parse_line
from bpnas.android_bench.runner.wheels import find_wheel, read_wheel, runtime_wheel
from tests.model_graphs import FORMATS, convolution, one_of_each, random_weights, write_graph
from tests.patience import PATIENCE
from tests.people_models import cast, misdescribed, onnx_model, onnx_of, relu, with_data

QUICK = "--warmup-runs 1 --warmup-seconds 0 --runs 3 --seconds 0 --sample-ms 0 --threads 1 --timeout-seconds 60".split()

# A TFLite that does what the model's first word says. Its output tells how it was called:
# threads, threads of XNNPACK, invocations, models opened, first two inputs.
FAKE_TFLITE = r"""
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { int32_t threads, flags; void *cache; int64_t others[4]; } Xnnpack;
typedef void Reporter(void *, const char *, va_list);
static char word[16];
static int threads, xnnpack_threads, opened;
static float input[4], output[6];
static Reporter *reporter;
static void *reporter_data;

typedef struct Profiler Profiler;
struct Profiler {
    void *data, *event, *operator_event, *settings;
    uint32_t (*begin)(Profiler *, const char *, int64_t, int64_t);
    void (*end)(Profiler *, uint32_t);
    void (*time)(Profiler *, const char *, uint64_t, int64_t, int64_t);
};
static Profiler *profiler;
static void tell_profiler(void) {
    static int inferences;
    if (!profiler) return;
    profiler->time(profiler, "tiny", 0, 0, 0);
    profiler->time(profiler, "half", ++inferences % 2, 1, 0);
    for (int i = 0; i < 3; ++i) profiler->time(profiler, "loop", 0, 2, 0);
    profiler->time(profiler, "big", 7, 3, 0);
    profiler->end(profiler, profiler->begin(profiler, "own", 4, 0));
    uint32_t outer = profiler->begin(profiler, "WHILE", 5, 0);
    for (int i = 0; i < 2; ++i) {
        uint32_t inner = profiler->begin(profiler, "body", 0, 1);
        struct timespec slept = {0, 2000000};
        nanosleep(&slept, NULL);
        profiler->end(profiler, inner);
    }
    profiler->end(profiler, outer);
    uint32_t delegate = profiler->begin(profiler, "delegate", 6, 0);
    struct timespec slept = {0, 5000};
    nanosleep(&slept, NULL);
    profiler->time(profiler, "part", 3000, 0, 2);
    profiler->end(profiler, delegate);
    if (inferences <= 5) profiler->time(profiler, "early", 900, 7, 0);
}

static int is(const char *text) { return strcmp(word, text) == 0; }
static void report(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    reporter(reporter_data, format, arguments);
    va_end(arguments);
}
const char *TfLiteVersion(void) { return "9.9-fake"; }
void *TfLiteModelCreateWithErrorReporter(const void *data, size_t size, Reporter *r, void *user) {
    reporter = r, reporter_data = user;
    memset(word, 0, sizeof word);
    memcpy(word, data, size < 15 ? size : 15);
    word[strcspn(word, " ")] = 0;
    output[2] = 0, output[3] = ++opened;
    if (is("refuse")) { report("model of %d bytes\nis \"bad\"", (int)size); return NULL; }
    if (is("hostile")) {
        static char text[5000];
        memset(text, 0xc3, sizeof text - 1);
        for (int i = 0; i < 4998; i += 2) text[i] = 0xc3, text[i + 1] = i % 3 ? 0xa9 : 0x28;
        report("\x01\xff\x1b[2J%s", text);
        return NULL;
    }
    return word;
}
void TfLiteModelDelete(void *m) {}
void *TfLiteInterpreterOptionsCreate(void) { return word; }
void TfLiteInterpreterOptionsDelete(void *o) {}
void TfLiteInterpreterOptionsSetNumThreads(void *o, int32_t n) { threads = n; }
void TfLiteInterpreterOptionsSetErrorReporter(void *o, Reporter *r, void *user) { reporter = r, reporter_data = user; }
void TfLiteInterpreterOptionsAddDelegate(void *o, void *d) { output[1] = xnnpack_threads; }
Xnnpack TfLiteXNNPackDelegateOptionsDefault(void) { Xnnpack x; memset(&x, 7, sizeof x); return x; }
void *TfLiteXNNPackDelegateCreate(const Xnnpack *x) {
    if (getenv("FAKE_NO_XNNPACK")) return NULL;
    xnnpack_threads = x->threads;
    return x->others[3] == 0x0707070707070707 ? word : NULL;
}
void TfLiteXNNPackDelegateDelete(void *d) {}
void *TfLiteInterpreterCreate(const void *m, const void *o) { output[0] = threads; return word; }
void TfLiteInterpreterDelete(void *i) {}
int TfLiteInterpreterAllocateTensors(void *i) { return is("no-memory"); }
int TfLiteInterpreterInvoke(void *i) {
    output[2] += 1, output[4] = input[0], output[5] = input[1];
    tell_profiler();
    if (is("garbage")) { printf("{\"model\":0} garbage\n"); fflush(stdout); }
    if (is("crash")) raise(SIGSEGV);
    if (is("abort")) abort();
    if (is("exit")) exit(0);
    if (is("deaf")) {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, NULL);
        signal(SIGALRM, SIG_IGN);
    }
    if (is("loop")) for (volatile int forever = 1; forever;) {}
    return is("fail");
}
int32_t TfLiteInterpreterGetInputTensorCount(const void *i) { return 1; }
void *TfLiteInterpreterGetInputTensor(const void *i, int32_t n) { return input; }
int32_t TfLiteInterpreterGetOutputTensorCount(const void *i) { return 1; }
const void *TfLiteInterpreterGetOutputTensor(const void *i, int32_t n) { return output; }
int TfLiteTensorType(const void *t) { return is("resource") && t == input ? 14 : 1; }
size_t TfLiteTensorByteSize(const void *t) { return t == input ? sizeof input : sizeof output; }
void *TfLiteTensorData(const void *t) { return (void *)t; }
const char *TfLiteTensorName(const void *t) { return "x"; }
#ifdef CLOCK  // preloaded: one that takes a step of a millisecond with every fourth inference
int clock_gettime(clockid_t clock, struct timespec *t) {
    t->tv_sec = (long)output[2] / 4000, t->tv_nsec = (long)output[2] / 4 % 1000 * 1000000;
    return 0;
}
#endif
#ifdef PROFILER
void TfLiteInterpreterOptionsSetTelemetryProfiler(void *o, Profiler *p) { profiler = p; }
#endif
"""

FAKE_OLD_ONNXRUNTIME = r"""
static const char *version(void) { return VERSION; }
static const void *api(unsigned v) { return 0; }
static const struct { const void *(*api)(unsigned); const char *(*version)(void); } base = {api, version};
const void *OrtGetApiBase(void) { return &base; }
"""


@dataclass(frozen=True)
class Ended:
    """What a run left."""

    exit_code: int
    lines: list[dict[str, Any]]
    errors: str
    output: bytes

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if kind in line]


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner, built for this machine."""
    for program in ("cmake", "make", "g++", "cc"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed, so the runner cannot be compiled")
    folder = tmp_path_factory.mktemp("runner")
    program = folder / "bpnas-runner"
    build_runner(arch_of_this_machine(), folder / "build", program)
    return program


@pytest.fixture(scope="session")
def compile_library(runner: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def compiled(source: str, *options: str) -> Path:
        folder = tmp_path_factory.mktemp("library")
        (folder / "fake.c").write_text(source)
        command = ["cc", "-shared", "-fPIC", *options, "-o", folder / "libfake.so", folder / "fake.c"]
        subprocess.run(command, check=True)
        return folder / "libfake.so"

    return compiled


@pytest.fixture(scope="session")
def fake(compile_library: Callable[..., Path]) -> Path:
    return compile_library(FAKE_TFLITE)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The real runtimes' libraries."""

    def library(runtime: str) -> Path:
        if runtime == "onnxruntime":
            found = runtime_wheel(runtime, arch_of_this_machine())
            import onnxruntime

            return next(Path(onnxruntime.__file__).parent.glob(found.member.removeprefix("onnxruntime/")))
        parts = os.environ.get("BPNAS_PHONE_PARTS")
        if not parts:
            pytest.skip("no library of TFLite's C API: BPNAS_PHONE_PARTS is not set")
        wheel = runtime_wheel(runtime, arch_of_this_machine())
        try:
            path = find_wheel(wheel, Path(parts) / "wheels")
        except DeviceError as error:
            pytest.skip(str(error))
        target = tmp_path_factory.mktemp("tflite") / "libtflite.so"
        target.write_bytes(read_wheel(path, wheel).content)
        return target

    return library


def write_list(folder: Path, models: Sequence[bytes], name: str = "models") -> Path:
    """A pack of models and its list, which calls them m0, m1, ..."""
    pack, lines = b"", ""
    for i, content in enumerate(models):
        lines += f"m{i}\t{len(pack)}\t{len(content)}\t{name}.pack\n"
        pack += content + bytes(-len(content) % 64)
    (folder / f"{name}.pack").write_bytes(pack)
    (folder / f"{name}.list").write_text(lines)
    return folder / f"{name}.list"


def read_lines(output: bytes) -> list[dict[str, Any]]:
    """Every line, with its checksum verified here and by the reader that the devices use."""
    assert output == b"" or output.endswith(b"\n")
    lines = []
    for line in output.splitlines():
        found = re.fullmatch(rb'(.*),"crc32":"([0-9a-f]{8})"}', line)
        assert found, line[:200]
        assert zlib.crc32(found[1]) == int(found[2], 16)
        assert parse_line(line) is not None, line[:200]
        lines.append(json.loads(line))
    return lines


@pytest.fixture
def run(runner: Path) -> Callable[..., Ended]:
    """Call the runner; every line that it prints must be whole and right."""

    def call(*options: str | Path, settings: Sequence[str] = QUICK, runtime: str = "tflite", **popen: Any) -> Ended:
        command = [runner, "--runtime", runtime, *settings, *options]
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, **popen)
        return Ended(done.returncode, read_lines(done.stdout), done.stderr.decode(), done.stdout)

    return call


def lcg(count: int) -> np.ndarray:
    """The inputs that docs/native.md promises."""
    x, values = 1, []
    for _ in range(count):
        x = (1664525 * x + 1013904223) % 2**32
        values.append((x - 2**32 if x >= 2**31 else x) / 2**31)
    return np.array(values, np.float32)


# Preloaded: a wall clock that jumps by days, now forward, now back, each time that somebody looks.
JUMPING_CLOCK = r"""
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long long jump(void) { static long long days; return (days = -days - 1) * 86400; }
time_t time(time_t *t) { time_t now = 1543000000 + jump(); if (t) *t = now; return now; }
int gettimeofday(struct timeval *t, void *zone) { t->tv_sec = time(0), t->tv_usec = 0; return 0; }
int clock_gettime(clockid_t clock, struct timespec *t) {
    int code = (int)syscall(SYS_clock_gettime, clock, t);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) t->tv_sec = time(0);
    return code;
}
"""


# --- real runtimes


@pytest.mark.parametrize("runtime", FORMATS)
def test_outputs_are_those_of_the_python_runtime(runtime: str, run, libraries, tmp_path: Path) -> None:
    contents = [write_graph(graph, runtime) for graph in (one_of_each(), convolution(groups=8), convolution(stride=2))]
    # The graphs are listed one behind the other in one file, as a batch is.
    path = write_list(tmp_path, contents)
    library = libraries(runtime)
    ended = run("--library", library, "--list", path, "--print-output", "1000", runtime=runtime)
    assert (ended.exit_code, ended.lines[-1]["end"]) == (0, 3)
    for content, line in zip(contents, ended.of("model"), strict=True):
        file = tmp_path / "model"
        file.write_bytes(content)
        session = open_session(runtime, file)
        session.set_inputs([lcg(int(np.prod(one.shape))).reshape(one.shape) for one in session.inputs()])
        session.invoke()
        expected = session.output().ravel()[:1000]
        np.testing.assert_allclose(line["output"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_broken_model_is_refused_and_the_next_one_timed(runtime: str, run, libraries, tmp_path: Path) -> None:
    path = write_list(tmp_path, [b"not a model" * 20, write_graph(convolution(), runtime)])
    refused, timed = run("--library", libraries(runtime), "--list", path, runtime=runtime).of("model")
    assert "model" in refused["refused"].lower()
    assert len(timed["samples_ns"]) == 3


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_profile_lists_the_operators_and_leaves_no_file(runtime: str, run, libraries, tmp_path: Path) -> None:
    path = write_list(tmp_path, [write_graph(one_of_each(), runtime)])
    ended = run("--library", libraries(runtime), "--list", path, "--profile", runtime=runtime)
    (profile,) = ended.of("profile")
    operators = profile["operators"]
    assert any("conv" in operator["type"].lower() for operator in operators)
    assert len(operators) >= 5
    for operator in operators:  # whole microseconds of 20 inferences; on a fast processor 0 of them, each time
        assert operator["ns"] * 20 % 1000 == 0
        assert operator["resolution_ns"] == 1000
    assert profile["inference_ns"] > 0
    assert {file.name for file in tmp_path.iterdir()} == {"models.pack", "models.list"}


ONNX_TYPES = [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13]
TFLITE_TYPES = ["FLOAT32", "FLOAT16", "FLOAT64", "INT8", "UINT8", "INT16", "INT32", "INT64", "UINT32", "BOOL"]


def python_output(runtime: str, content: bytes, folder: Path, feeds: Sequence[Feed] = ()) -> np.ndarray:
    """The first output after the first inference of the Python runtime, with inputs as this machine's worker has."""
    file = folder / f"model{MODEL_SUFFIX[runtime]}"
    file.write_bytes(content)
    session = open_session(runtime, file, shapes=[feed.shape for feed in feeds])
    infer_first(session, [feed.values for feed in feeds])
    return session.output().ravel()


def test_inputs_of_every_type_are_those_of_the_python_runtime(run, libraries, tmp_path: Path) -> None:
    contents = [onnx_of(kind, (4, 300)) for kind in ONNX_TYPES]
    path = write_list(tmp_path, contents)
    lines = run("--library", libraries("onnxruntime"), "--list", path, "--print-output", "1200", runtime="onnxruntime")
    for content, line in zip(contents, lines.of("model"), strict=True):
        expected = python_output("onnxruntime", content, tmp_path)
        assert line["output"] == pytest.approx(expected.tolist(), rel=1e-6), line


@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "quantised"])
def test_inputs_of_every_type_of_tflite_too(run, libraries, tmp_path: Path, quantised: bool) -> None:
    library = libraries("tflite")
    contents = [cast(kind, quantised=quantised) for kind in TFLITE_TYPES]
    lines = run("--library", library, "--list", write_list(tmp_path, contents), "--print-output", "99").of("model")
    for kind, content, line in zip(TFLITE_TYPES, contents, lines, strict=True):
        if "refused" in line:  # one of the runtimes has no such cast, which is not about inputs
            assert "CAST" in line["refused"] or "allocated" in line["refused"], (kind, line)
            continue
        expected = python_output("tflite", content, tmp_path)
        assert line["output"] == pytest.approx(expected.tolist(), rel=1e-6), kind


def feed_list(folder: Path, contents: Sequence[bytes], feeds: Sequence[str], suffix: str) -> Path:
    for index, content in enumerate(contents):
        (folder / f"{index}{suffix}").write_bytes(content)
    lines = [f"m{index}\t0\t0\t{index}{suffix}\t{text}\n" for index, text in enumerate(feeds)]
    (folder / "list").write_text("".join(lines))
    return folder / "list"


def test_sizes_and_values_are_taken(run, libraries, tmp_path: Path) -> None:
    open_, scalar = onnx_of(1, ("n", None)), onnx_of(7, ())
    path = feed_list(tmp_path, [open_, open_, scalar], ["2x3", "1x4=1,-2.5", "=16000"], ".onnx")
    lines = run("--library", libraries("onnxruntime"), "--list", path, "--print-output", "9", runtime="onnxruntime")
    plain, valued, number = (line["output"] for line in lines.of("model"))
    assert plain == pytest.approx(lcg(6).tolist())
    assert (valued, number) == ([1, -2.5, 1, -2.5], [16000])
    path = feed_list(tmp_path, [relu((1, 8)), relu((1, 8))], ["3x8", "1x8=5"], ".tflite")
    lines = run("--library", libraries("tflite"), "--list", path, "--print-output", "99")
    resized, valued = (line["output"] for line in lines.of("model"))
    assert (len(resized), valued) == (24, [5] * 8)


def test_an_index_that_is_too_large_is_0(run, libraries, tmp_path: Path) -> None:
    contents = []
    for rows in (1, 2):
        weights = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
        node = helper.make_node("Gather", ["w", "x"], ["y"])
        model = onnx_model([node], [("x", TensorProto.INT64, [1])], [("y", TensorProto.FLOAT, [1, 4])], w=weights)
        contents.append(model.SerializeToString())
    path, library = write_list(tmp_path, contents), libraries("onnxruntime")
    ended = run("--library", library, "--list", path, "--print-output", "9", "--profile", runtime="onnxruntime")
    assert [line["output"] for line in ended.of("model")] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert all(line["operators"] for line in ended.of("profile"))


def test_an_output_that_is_not_what_the_model_says_of_it(run, libraries, tmp_path: Path) -> None:
    path = write_list(tmp_path, [misdescribed()])
    ended = run("--library", libraries("onnxruntime"), "--list", path, "--profile", runtime="onnxruntime")
    (line,), (profile,) = ended.of("model"), ended.of("profile")
    assert len(line["samples_ns"]) == 3 and profile["operators"]


def test_weights_beside_a_model_are_found(run, libraries, tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    with_data(tmp_path / "0" / "net.onnx")
    (tmp_path / "list").write_text("m0\t0\t0\t0/net.onnx\n")
    library = libraries("onnxruntime")
    (line,) = run("--library", library, "--list", tmp_path / "list", runtime="onnxruntime").of("model")
    assert len(line["samples_ns"]) == 3


def test_inputs_that_cannot_be_filled_are_refused(run, libraries, tmp_path: Path) -> None:
    sequence = onnx_model([helper.make_node("SequenceLength", ["x"], ["y"])], [], [("y", 7, [])])
    sequence.graph.input.append(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None))
    contents = [sequence.SerializeToString(), onnx_of(1, ("n", 4)), onnx_of(1, (1, 4))]
    path = feed_list(tmp_path, contents, ["1", "", "1x4;2"], ".onnx")
    path.write_text(path.read_text().replace("1.onnx\t", "1.onnx"))
    ended = run("--library", libraries("onnxruntime"), "--list", path, runtime="onnxruntime")
    typed, shapeless, many = (line["refused"] for line in ended.of("model"))
    assert typed == "input 'x' is of a type that cannot be filled; export the model with inputs of plain numbers"
    assert shapeless == "input 'x' has no fixed shape; give its sizes with --input-shape"
    assert many == "the runtime sees 1 inputs, but 2 are fed"


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_model_that_asks_for_too_much_memory_is_refused(runtime: str, run, libraries, tmp_path: Path) -> None:
    content = onnx_of(1, (2, 10**9)) if runtime == "onnxruntime" else relu((2, 10**9))
    path = write_list(tmp_path, [content, write_graph(convolution(), runtime)])
    options = ("--library", libraries(runtime), "--list", path, "--max-memory", "usual")
    greedy, good = run(*options, runtime=runtime).of("model")
    assert is_out_of_memory(greedy["refused"])
    assert len(good["samples_ns"]) == 3


# --- timing


def test_what_a_sample_is_made_of(run, fake: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path, [b"ok"])
    settings = (
        "--warmup-runs 7 --warmup-seconds 0 --runs 11 --seconds 0 --sample-ms .05 --threads 3 --timeout-seconds 9"
    )
    ended = run("--library", fake, "--list", path, "--print-output", "9", settings=settings.split())
    (line,) = ended.of("model")
    assert len(line["samples_ns"]) == 11 and all(sample > 0 for sample in line["samples_ns"])
    assert line["warmup_runs"] == 7 and line["repeats"] > 1
    threads, delegate_threads, invocations, opened, *inputs = line["output"]
    assert (threads, delegate_threads, opened) == (3, 3, 1)
    assert invocations == 1 + 7 + 11 * line["repeats"]
    np.testing.assert_array_equal(np.float32(inputs), lcg(2))


def test_a_wall_clock_that_jumps_changes_nothing(run, fake: Path, compile_library, tmp_path: Path) -> None:
    path = write_list(tmp_path, [b"ok", b"loop"])
    environment = os.environ | {"LD_PRELOAD": str(compile_library(JUMPING_CLOCK))}
    began = time.monotonic()
    seen = int(subprocess.check_output(["date", "+%s"], env=environment))
    assert abs(seen - time.time()) > 86_400, "the clock does not jump"
    settings = "--warmup-runs 1 --warmup-seconds .2 --runs 5 --seconds .2 --sample-ms 5 --threads 1 --timeout-seconds 3"
    ended = run("--library", fake, "--list", path, settings=settings.split(), env=environment)
    (line,) = ended.of("model")[:1]
    for elapsed_ns in (line["warmup_ns"], sum(line["samples_ns"])):
        assert 1e8 < elapsed_ns < 3600e9, "no day more or less"
    assert ended.exit_code == 124 and time.monotonic() - began < PATIENCE


def test_warm_up_and_samples_last_as_long_as_asked(run, fake: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path, [b"ok"])
    settings = "--warmup-runs 1 --warmup-seconds .2 --runs 1 --seconds .2 --sample-ms 5 --threads 1 --timeout-seconds 9"
    (line,) = run("--library", fake, "--list", path, settings=settings.split()).of("model")
    assert line["warmup_ns"] >= 2e8
    assert len(line["samples_ns"]) > 1


def test_lines_come_in_order_and_start_where_asked(run, fake: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path, [b"ok", b"refuse", b"ok"])
    ended = run("--library", fake, "--list", path)
    assert [next(iter(line)) for line in ended.lines] == ["hello", *["begin", "model"] * 3, "end"]
    hello = ended.lines[0]
    assert (hello["runtime"], hello["version"], hello["clock"]) == ("tflite", "9.9-fake", "CLOCK_MONOTONIC_RAW")
    later = run("--library", fake, "--list", path, "--first", "2")
    assert [(line["model"], line["id"]) for line in later.of("model")] == [(2, "m2")]
    assert later.lines[-1]["end"] == 3
    assert [next(iter(line)) for line in run("--library", fake, "--list", path, "--first", "3").lines] == [
        "hello",
        "end",
    ]


def test_probe_says_hello_and_leaves(run, fake: Path) -> None:
    ended = run("--library", fake, "--probe", settings=())
    assert (ended.exit_code, len(ended.lines), ended.lines[0]["hello"]) == (0, 1, 1)


# --- models that misbehave


@pytest.mark.parametrize(("word", "signal_number"), [("crash", signal.SIGSEGV), ("abort", signal.SIGABRT)])
def test_a_crash_leaves_whole_lines_and_names_its_model(word: str, signal_number: int, run, fake, tmp_path) -> None:
    path = write_list(tmp_path, [b"ok", word.encode(), b"ok"])
    ended = run("--library", fake, "--list", path)
    assert ended.exit_code == -signal_number
    assert ended.lines[-1] == {**ended.lines[-1], "begin": 1, "id": "m1"}
    assert run("--library", fake, "--list", path, "--first", "2").exit_code == 0


@pytest.mark.parametrize("before", ["ok", "deaf"])
def test_a_hang_ends_at_the_time_limit(before: str, run, fake: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path, [before.encode(), b"loop", b"ok"])
    ended = run("--library", fake, "--list", path, "--profile", settings=[*QUICK[:-1], "2"])
    assert ended.exit_code == 124
    assert ended.lines[-1] == {**ended.lines[-1], "model": 1, "id": "m1", "timeout": 2}


def test_what_a_runtime_prints_does_not_reach_the_answers(run, fake: Path, tmp_path: Path) -> None:
    ended = run("--library", fake, "--list", write_list(tmp_path, [b"garbage"]))
    assert [next(iter(line)) for line in ended.lines] == ["hello", "begin", "model", "end"]
    assert '{"model":0} garbage' in ended.errors


def test_a_refusal_is_one_clean_bounded_line(run, fake: Path, tmp_path: Path) -> None:
    words = [b"refuse", b"hostile", b"no-memory", b"fail", b"resource"]
    lines = run("--library", fake, "--list", write_list(tmp_path, words)).of("model")
    refused, hostile, no_memory, failed, typed = (line["refused"] for line in lines)
    assert refused == 'this is no TFLite model: model of 6 bytes is "bad"'
    assert len(hostile.encode()) <= 500 and hostile.isprintable() and "\N{LATIN SMALL LETTER E WITH ACUTE}" in hostile
    assert no_memory.startswith("the tensors could not be allocated, perhaps because the memory that it asks for is")
    assert failed == "the inference failed"
    assert typed == "input 'x' is of a type that cannot be filled; export the model with inputs of plain numbers"


def test_a_library_without_a_profiler_says_so(run, fake: Path, tmp_path: Path) -> None:
    ended = run("--library", fake, "--list", write_list(tmp_path, [b"ok"]), "--profile")
    (profile,) = ended.of("profile")
    assert (ended.exit_code, profile["unavailable"]) == (0, "this TFLite library has no hook for a profiler")


def test_a_profile_says_what_its_clock_cannot_tell(run, compile_library, tmp_path: Path) -> None:
    library = compile_library(FAKE_TFLITE, "-DPROFILER")
    ended = run("--library", library, "--list", write_list(tmp_path, [b"ok"]), "--profile")
    (profile,) = ended.of("profile")
    operators = {operator["type"]: operator for operator in profile["operators"]}
    assert {kind: (operators[kind]["ns"], operators[kind]["resolution_ns"]) for kind in "tiny loop big".split()} == {
        "tiny": (0, 1000),  # each inference takes less than a microsecond
        "loop": (0, 3000),  # three times an inference
        "big": (7000, 1000),
    }
    assert operators["own"]["name"] == "4" and operators["own"]["resolution_ns"] == 1  # by the runner's own clock
    assert "early" not in operators, "the warm-up is so many inferences, however many times an operator runs in one"
    assert {operators[kind]["p10_ns"] for kind in ("big", "tiny")} == {7000, 0}
    half = operators["half"]  # every other inference takes a microsecond; the median is between the two, or one of them
    assert (half["p10_ns"], half["p90_ns"]) == (0, 1000) and half["ns"] in (0, 500, 1000)
    assert profile["runs"] >= 50
    answer = parse_line(ended.output.splitlines()[3])
    assert isinstance(answer, Profiled)
    assert {"tiny", "loop"} <= {time.type for time in answer.operators if time.below_clock}
    assert answer.inference_ns == profile["inference_ns"] > 0


def test_what_runs_within_an_operator_is_counted_once(run, compile_library, tmp_path: Path) -> None:
    library = compile_library(FAKE_TFLITE, "-DPROFILER")
    ended = run("--library", library, "--list", write_list(tmp_path, [b"ok"]), "--profile")
    (profile,) = ended.of("profile")
    operators = {operator["type"]: operator for operator in profile["operators"]}
    assert operators["body"]["name"] == "1:0" and operators["body"]["ns"] >= 4_000_000, "twice two milliseconds"
    assert operators["WHILE"]["ns"] < operators["body"]["ns"] / 2
    assert operators["part"]["name"] == "delegate:2:0" and operators["part"]["ns"] == 3_000_000
    assert operators["delegate"]["ns"] < 3_000_000, "it claims less than its part says"


def onnx_loop(times: int) -> bytes:
    """A convolution within a Loop within an If, and another outside, of the same name."""
    from onnx import TensorProto, helper, numpy_helper

    size = [1, 32, 32, 32]

    def conv(x: str, y: str) -> Any:
        return helper.make_node("Conv", [x, "w"], [y], pads=[1] * 4)

    def value(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[int] = size) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    flags = [value("go", TensorProto.BOOL, []), value("goes", TensorProto.BOOL, [])]
    body = helper.make_graph(
        [conv("s", "t"), helper.make_node("Identity", ["go"], ["goes"])],
        "body",
        [value("i", TensorProto.INT64, []), flags[0], value("s")],
        [flags[1], value("t")],
    )
    then = helper.make_graph([helper.make_node("Loop", ["n", "", "a"], ["b"], body=body)], "then", [], [value("b")])
    other = helper.make_graph([helper.make_node("Identity", ["a"], ["c"])], "else", [], [value("c")])
    nodes = [
        conv("x", "a"),
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Less", ["m", "two"], ["is"]),
        helper.make_node("If", ["is"], ["y"], then_branch=then, else_branch=other),
    ]
    weights = [
        numpy_helper.from_array(random_weights(32, 32, 3, 3), "w"),
        numpy_helper.from_array(np.float32(2), "two"),
        numpy_helper.from_array(np.int64(times), "n"),
    ]
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def test_what_runs_in_branches_and_loops_is_counted_once(run, libraries, tmp_path: Path) -> None:
    path = write_list(tmp_path, [onnx_loop(times=6)])
    ended = run("--library", libraries("onnxruntime"), "--list", path, "--profile", runtime="onnxruntime")
    (profile,) = ended.of("profile")
    operators = {operator["name"]: operator for operator in profile["operators"]}
    (branch,) = (name for name in operators if name.startswith("If") and "/" not in name)
    (loop,) = (name for name in operators if name.count("/") == 1 and "Loop" in name)
    (inner,) = (name for name in operators if name.startswith(f"{loop}/Conv"))
    assert loop.startswith(f"{branch}/")
    assert operators[inner]["resolution_ns"] == 6000, "six times an inference, each cut to whole microseconds"
    assert operators[branch]["ns"] < operators[inner]["ns"] and operators[loop]["ns"] < operators[inner]["ns"]
    outer = [name for name, each in operators.items() if each["type"] == "Conv" and "/" not in name]
    assert len(outer) == 1, "told from the one in the loop"
    assert profile["runs"] >= 10


def test_samples_shorter_than_the_clock_can_tell_are_made_longer(run, compile_library, tmp_path: Path) -> None:
    library = compile_library(FAKE_TFLITE, "-DCLOCK")
    environment = os.environ | {"LD_PRELOAD": str(library)}
    ended = run("--library", library, "--list", write_list(tmp_path, [b"ok"]), env=environment)
    (line,) = ended.of("model")
    assert (line["samples_ns"], line["repeats"]) == ([1_000_000] * 3, 4)


# --- exit codes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nonsense"], "option '--nonsense' is unknown"),
        (["--first"], "--first needs a value"),
        (["--first", "1", "--first", "2"], "--first is given twice"),
        (["--first", "1.5"], "--first must be a whole number, not '1.5'"),
        (["--first", "-1"], "--first must be a number from 0"),
        (["--first", "1x"], "not '1x'"),
        (["--cool-seconds", "nan"], "not 'nan'"),
        (["--watch", "name=path"], "--watch must be NAME=PATH=SCALE"),
        (["--watch-text", "name"], "--watch-text must be NAME=PATH, not 'name'"),
        (["--watch-text", "=path"], "--watch-text must be NAME=PATH"),
        (["--watch-text", "name="], "--watch-text must be NAME=PATH"),
        (["--hot-file", "/x"], "--hot-file and --hot-limit go together"),
        (["--sentinel-limit", "0.5"], "--sentinel-limit must be a number from 1"),
        (["--affinity", "0xzz"], "--affinity must be a hexadecimal mask"),
    ],
)
def test_wrong_usage(options: list[str], message: str, run, fake: Path, tmp_path: Path) -> None:
    ended = run("--library", fake, "--list", write_list(tmp_path, [b"ok"]), *options)
    assert (ended.exit_code, ended.lines) == (2, [])
    assert message in ended.errors


def test_settings_have_no_defaults(run, fake: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path, [b"ok"])
    for i in range(0, len(QUICK), 2):
        ended = run("--library", fake, "--list", path, settings=[*QUICK[:i], *QUICK[i + 2 :]])
        assert ended.exit_code == 2 and f"{QUICK[i]} is missing" in ended.errors


def test_an_unknown_runtime_is_wrong_usage(run, fake: Path) -> None:
    ended = run("--library", fake, "--probe", settings=(), runtime="caffe")
    assert ended.exit_code == 2 and "'caffe'" in ended.errors


def test_a_library_that_cannot_be_used(run, fake: Path, compile_library, tmp_path: Path) -> None:
    def message(library: Path, runtime: str = "tflite", **popen: Any) -> str:
        ended = run("--library", library, "--probe", settings=(), runtime=runtime, **popen)
        assert (ended.exit_code, ended.lines) == (3, [])
        return ended.errors

    (tmp_path / "text.so").write_text("no library")
    assert "cannot be loaded" in message(tmp_path / "absent.so")
    assert "cannot be loaded" in message(tmp_path / "text.so")
    assert "has no function OrtGetApiBase" in message(fake, "onnxruntime")
    assert "XNNPACK delegate does not start" in message(fake, env={**os.environ, "FAKE_NO_XNNPACK": "1"})
    ancient, old = (compile_library(FAKE_OLD_ONNXRUNTIME, f'-DVERSION="{v}"') for v in ("0.5.0", "1.2.0"))
    assert "'0.5.0'" in message(ancient, "onnxruntime")
    assert "ONNX Runtime 1.2.0 is too old" in message(old, "onnxruntime")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m\t0\t4\tpack", "line 1: has no line end"),
        ("m\t0\t4\tpack\nbroken\n", "line 2: must be ID"),
        ("\n", "line 1: must be ID"),
        ("m\t0\t4\t\n", "line 1: must be ID"),
        ("m m\t0\t4\tpack\n", "line 1: must be ID"),
        (f"{'m' * 65}\t0\t4\tpack\n", "line 1: must be ID"),
        ("m\t-64\t4\tpack\n", "line 1: must be ID"),
        ("m\t0\t99999999999999999999\tpack\n", "line 1: must be ID"),
        ("m\t32\t4\tpack\n", "OFFSET must be a multiple of 64"),
        ("m\t128\t0\tpack\n", "line 1: OFFSET and SIZE lead beyond the end"),
        ("m\t64\t65\tpack\n", "line 1: OFFSET and SIZE lead beyond the end"),
        ("m\t64\t999999999999999999\tpack\n", "line 1: OFFSET and SIZE lead beyond the end"),
        ("m\t0\t4\tabsent\n", "absent: cannot be read"),
        ("m\t0\t4\t.\n", "is no file"),
        ("m\t0\t0\tempty\n", "OFFSET and SIZE lead beyond the end"),
    ],
)
def test_a_list_that_is_wrong(text: str, message: str, run, fake: Path, tmp_path: Path) -> None:
    (tmp_path / "pack").write_bytes(b"ok".ljust(128))
    (tmp_path / "empty").touch()
    (tmp_path / "list").write_text(text)
    ended = run("--library", fake, "--list", tmp_path / "list")
    assert (ended.exit_code, ended.lines) == (4, [])
    assert message in ended.errors and len(ended.errors.splitlines()) == 1


def test_a_list_may_be_empty_and_a_size_open(run, fake: Path, tmp_path: Path) -> None:
    (tmp_path / "pack").write_bytes(b"ok".ljust(64) + b"refuse and more")
    (tmp_path / "list").write_text("a\t64\t0\tpack\n")
    (line,) = run("--library", fake, "--list", "list", cwd=tmp_path).of("model")
    assert "model of 15 bytes" in line["refused"]
    (tmp_path / "list").write_text("")
    assert run("--library", fake, "--list", tmp_path / "list").lines[-1]["end"] == 0
    assert run("--library", fake, "--list", tmp_path / "absent").exit_code == 4


def test_affinity(run, fake: Path) -> None:
    core = min(os.sched_getaffinity(0))
    ended = run("--library", fake, "--probe", "--affinity", f"{1 << core:x}", settings=())
    assert ended.lines[0]["affinity"] == f"{1 << core:x}"
    whole = sum(1 << core for core in os.sched_getaffinity(0))
    assert run("--library", fake, "--probe", settings=()).lines[0]["affinity"] == f"{whole:x}"
    absent = run("--library", fake, "--probe", "--affinity", f"8{'0' * 200}", settings=())
    assert (absent.exit_code, absent.lines) == (5, [])
    assert "cannot be set" in absent.errors


def test_nobody_reads(runner: Path, fake: Path, tmp_path: Path) -> None:
    command = [runner, "--runtime", "tflite", "--library", fake, "--list", write_list(tmp_path, [b"ok"] * 50), *QUICK]
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE)
    assert (closed.returncode, closed.stderr.count(b"\n")) == (6, 1)
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        assert subprocess.run(command, stdout=full, stderr=subprocess.DEVNULL).returncode == 6
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=PATIENCE) == 6


# --- conditions


def test_watched_files_are_read_around_a_model(run, fake: Path, tmp_path: Path) -> None:
    for name, text in {"temp": "51200\n", "word": "hot\n", "two": "1 2\n", "empty": ""}.items():
        (tmp_path / name).write_text(text)
    watches = [f"{name}={tmp_path}/{name}=0.001" for name in ("temp", "word", "two", "empty", "absent")]
    options = [word for watch in watches for word in ("--watch", watch)]
    (line,) = run("--library", fake, "--list", write_list(tmp_path, [b"ok"]), *options).of("model")
    for values in (line["before"], line["after"]):
        assert values.keys() == {"temp", "sentinel_ns"}
        assert values["temp"] == pytest.approx(51.2)
        assert values["sentinel_ns"] > 0


def test_watched_words_are_read_around_a_model(run, fake: Path, tmp_path: Path) -> None:
    right = {"governor": "schedutil", "same": "schedutil", "other": "walt", "longest": "x" * 32, "number": "5"}
    wrong = ["x" * 33, "x" * 100, "a b", "a\nb\n", 'a"b', "\u00e9", "\x1b[2J", "a\0", ""]
    words = {name: f"{word}\n" for name, word in right.items()} | {f"wrong{n}": text for n, text in enumerate(wrong)}
    for name, text in words.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    watches = [f"{name}={tmp_path}/{name}" for name in (*words, "absent")]
    watches += [f"both={tmp_path}/{name}" for name in ("governor", "other", "same", "wrong0")]
    options = [word for watch in watches for word in ("--watch-text", watch)]
    (line,) = run("--library", fake, "--list", write_list(tmp_path, [b"ok"]), *options).of("model")
    for values in (line["before"], line["after"]):
        del values["sentinel_ns"]
        assert values == {**right, "both": "schedutil+walt"}


def test_a_cool_or_unreadable_device_is_not_waited_for(run, fake: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path, [b"ok"])
    (tmp_path / "temp").write_text("44999")
    for file in ("temp", "absent"):
        options = ["--hot-file", f"{tmp_path}/{file}=0.001", "--hot-limit", "45", "--cool-seconds", "50"]
        assert run("--library", fake, "--list", path, *options).of("cooling") == []


def test_a_hot_device_is_timed_all_the_same_when_it_does_not_cool_down(run, fake: Path, tmp_path: Path) -> None:
    (tmp_path / "temp").write_text("51200")
    options = ["--hot-file", f"{tmp_path}/temp=0.001", "--hot-limit", "45", "--cool-seconds", "0"]
    ended = run("--library", fake, "--list", write_list(tmp_path, [b"ok"]), *options)
    (cooling,) = ended.of("cooling")
    assert (cooling["cooling"], cooling["what"], cooling["value"]) == (0, "hot_file", pytest.approx(51.2))
    assert len(ended.of("model")) == 1


def test_a_model_waits_until_the_device_is_cool(runner: Path, fake: Path, tmp_path: Path) -> None:
    (tmp_path / "temp").write_text("60")
    options = ["--hot-file", tmp_path / "temp", "--hot-limit", "45", "--cool-seconds", "1000"]
    command = [runner, "--runtime", "tflite", "--library", fake, "--list", write_list(tmp_path, [b"ok"]), *QUICK]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline()) for _ in range(3)]
        assert [next(iter(line)) for line in seen] == ["hello", "begin", "cooling"]
        (tmp_path / "temp").write_text("30")
        assert [next(iter(line)) for line in read_lines(process.stdout.read())] == ["model", "end"]


def test_a_core_that_stays_slow_is_timed_twice_and_marked(run, fake: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path, [b"ok", b"refuse"])
    slow = ["--sentinel-limit", "1", "--sentinel-baseline", "1", "--print-output", "4"]
    ended = run("--library", fake, "--list", path, *slow)
    timed, refused = ended.of("model")
    assert timed["after"]["throttled"] == 1 and "throttled" not in timed["before"]
    assert timed["output"][3] == 2  # models opened
    assert "refused" in refused
    assert {line["what"] for line in ended.of("cooling")} == {"sentinel_ns"}


@pytest.mark.parametrize("baseline", ["1e12", "0"])
def test_a_core_at_its_speed_is_timed_once(baseline: str, run, fake: Path, tmp_path: Path) -> None:
    options = ["--sentinel-limit", "1000", "--sentinel-baseline", baseline, "--print-output", "4"]
    ended = run("--library", fake, "--list", write_list(tmp_path, [b"ok"]), *options)
    (timed,) = ended.of("model")
    assert timed["output"][3] == 1 and "throttled" not in timed["after"]
    assert ended.of("cooling") == []
