"""Devices behind one protocol: this machine, with everything that can happen to a worker; and the computed phone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bpnas.android_bench.device import DeviceInfo
from bpnas.android_bench.errors import RuntimeUnavailableError, UnknownSerialError
from bpnas.android_bench.local import worker as local_worker
from bpnas.android_bench.local.device import LocalDevice
from bpnas.android_bench.measurement import Failure, Measurement, RunRequest, RunSettings
from bpnas.android_bench.mock import MockDevice
from bpnas.android_bench.opening import open_device
from bpnas.base.errors import UsageError
from tests.model_graphs import FORMATS, convolution, one_of_each, request_for, write_graph
from tests.patience import PATIENCE

QUICK = RunSettings(warmup_runs=2, warmup_seconds=0.0, runs=5, seconds=0.0, sample_ms=0.05, timeout_seconds=60.0)
# Busy until killed, at tiny cost to the machine: what a worker does while something happens to it.
LONG = dataclasses.replace(QUICK, seconds=50.0, sample_ms=10.0)

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the worker through /proc")


# --- settings


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert dataclasses.asdict(RunSettings()) == {
        "warmup_runs": 10,
        "warmup_seconds": 0.5,
        "runs": 50,
        "seconds": 1.0,
        "sample_ms": 1.0,
        "threads": 1,
        "timeout_seconds": 300.0,
    }


@pytest.mark.parametrize(
    ("field", "value", "limits"),
    [
        ("warmup_runs", -1, "from 0 to"),
        ("warmup_seconds", -0.1, "from 0 to 3600"),
        ("runs", 0, "from 1 to"),
        ("seconds", float("nan"), "from 0 to 3600"),
        ("seconds", float("inf"), "from 0 to 3600"),
        ("sample_ms", -1, "from 0 to 10000"),
        ("threads", 0, "from 1 to 256"),
        ("threads", 257, "from 1 to 256"),
        ("timeout_seconds", 0, "from 0.001 to 86400"),
        ("runs", 2.5, "a whole number, not 2.5"),
        ("runs", "5", "a whole number, not '5'"),
        ("threads", True, "a whole number, not True"),
        ("seconds", "1", "a number, not '1'"),
        ("seconds", None, "a number, not None"),
    ],
)
def test_a_wrong_setting_is_named(field: str, value: object, limits: str) -> None:
    with pytest.raises(UsageError, match=f"run setting {field}: must be {limits}"):
        RunSettings(**{field: value})  # type: ignore[arg-type]


def test_equal_settings_have_equal_texts_and_digests() -> None:
    one, two = RunSettings(seconds=1, sample_ms=2), RunSettings(seconds=1.0, sample_ms=2.0)
    assert one == two
    assert one.to_json() == two.to_json()
    assert one.digest == two.digest == hashlib.sha256(one.to_json().encode()).hexdigest()
    digests = {RunSettings(**{field.name: 7}).digest for field in dataclasses.fields(RunSettings)}
    assert len(digests | {RunSettings().digest}) == 8


def test_settings_come_back_from_json() -> None:
    assert RunSettings.from_json(QUICK.to_json()) == QUICK
    for text in ("", "7", "[]", '{"run": 5}'):
        with pytest.raises((TypeError, ValueError)):
            RunSettings.from_json(text)


# --- serials and fingerprints


@pytest.mark.parametrize("serial", ["", "R58M123", "phone:", "phone:99999", "Local", "mock", "mock:", "mock:s10"])
def test_an_unknown_serial_says_what_there_is(serial: str) -> None:
    with pytest.raises(UnknownSerialError, match=f"no device answers to serial '{serial}'.*mock:s9") as caught:
        open_device(serial, "tflite")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("serial", ["local", "mock:s9"])
def test_an_unknown_runtime_says_what_there_is(serial: str) -> None:
    with pytest.raises(UsageError, match="runtime 'tensorrt' is unknown: use tflite or onnxruntime"):
        open_device(serial, "tensorrt")


def test_a_fingerprint_is_over_every_field() -> None:
    info = MockDevice("s9", "tflite").info
    assert DeviceInfo.from_json(info.to_json()) == info
    prints = {info.fingerprint}
    for field in dataclasses.fields(DeviceInfo):
        other = False if field.name == "mock" else "other"
        prints.add(dataclasses.replace(info, **{field.name: other}).fingerprint)
    assert len(prints) == 1 + len(dataclasses.fields(DeviceInfo))
    for text in ("", "{}", "[]", json.dumps({**dataclasses.asdict(info), "colour": "red"})):
        with pytest.raises((TypeError, ValueError)):
            DeviceInfo.from_json(text)


# --- this machine


@pytest.fixture(scope="module")
def local() -> Iterator[Callable[[str], LocalDevice]]:
    """An open device for all tests that leave it in order; one at a time, for it holds the cores."""
    devices: dict[str, LocalDevice] = {}

    def device(runtime: str) -> LocalDevice:
        for other in devices.keys() - {runtime}:
            devices.pop(other).close()
        if runtime not in devices:
            devices[runtime] = LocalDevice(runtime)
        return devices[runtime]

    yield device
    for opened in devices.values():
        opened.close()


@pytest.fixture
def request_one(tmp_path: Path) -> Callable[..., RunRequest]:
    def make(runtime: str, key: str = "model", session: int = 0, **graph: int) -> RunRequest:
        return request_for(write_graph(convolution(**graph), runtime), tmp_path, runtime, key, session)

    return make


def measured(outcome: object) -> Measurement:
    assert isinstance(outcome, Measurement), outcome
    return outcome


def failed(outcome: object) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


@pytest.mark.parametrize("runtime", FORMATS)
def test_local_says_what_it_is(local, runtime: str) -> None:
    info = local(runtime).info
    assert (info.name, info.mock, info.runtime) == ("local", False, runtime)
    values = dataclasses.asdict(info)
    assert values.pop("affinity") == ""  # nothing is pinned here
    assert all(isinstance(value, bool) or value for value in values.values())
    assert len(info.runtime_sha256) == 64
    assert "MOCK" not in info.label
    assert DeviceInfo.from_json(info.to_json()) == info


@pytest.mark.parametrize("runtime", FORMATS)
def test_local_takes_raw_samples(local, tmp_path: Path, runtime: str) -> None:
    before = time.time()
    requests = [
        request_for(write_graph(convolution(), runtime), tmp_path, runtime, "one", 0),
        request_for(write_graph(one_of_each(), runtime), tmp_path, runtime, "all", 3),
    ]
    first, second = [measured(outcome) for outcome in local(runtime).run(requests, QUICK)]
    assert (first.key, first.session, first.sha256) == ("one", 0, requests[0].sha256)
    assert (second.key, second.session, second.sha256) == ("all", 3, requests[1].sha256)
    for outcome in (first, second):
        assert len(outcome.samples_ns) == QUICK.runs
        assert all(isinstance(sample, int) and sample > 0 for sample in outcome.samples_ns)
        assert outcome.warmup_runs == QUICK.warmup_runs
        assert outcome.warmup_ns > 0 and outcome.load_ns > 0
        assert before <= outcome.started_at <= time.time()
        assert outcome.conditions.keys() == {"before", "after"}
        assert "load_1min" in outcome.conditions["before"]


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_fast_model_runs_several_times_within_one_sample(local, request_one, runtime: str) -> None:
    """A convolution of a few microseconds, so that samples of a millisecond need hundreds of repeats."""
    request = request_one(runtime, c_out=8, kernel=1, size=2)
    settings = dataclasses.replace(QUICK, warmup_runs=300, sample_ms=1.0)
    (long,) = local(runtime).run([request], settings)
    (single,) = local(runtime).run([request], dataclasses.replace(settings, sample_ms=0.0))
    assert measured(single).repeats == 1
    assert measured(long).repeats >= 5
    # What is recorded is the time of all repeats together. By the fastest, for others use this machine too.
    assert min(long.samples_ns) > 3 * min(single.samples_ns)


@pytest.mark.parametrize("runtime", FORMATS)
def test_counts_and_times_are_both_lower_limits(local, request_one, runtime: str) -> None:
    request = request_one(runtime)
    settings = RunSettings(warmup_runs=1, warmup_seconds=0.1, runs=3, seconds=0.2, sample_ms=1.0)
    (by_time,) = local(runtime).run([request], settings)
    assert measured(by_time).warmup_runs > 1
    assert by_time.warmup_ns >= 0.1e9
    assert len(by_time.samples_ns) > 3
    # Between two samples nothing is done, so they fill the time but for what others take of this machine.
    assert sum(by_time.samples_ns) > 0.05e9
    (by_count,) = local(runtime).run([request], dataclasses.replace(settings, warmup_seconds=0.0, runs=40, seconds=0.0))
    assert (measured(by_count).warmup_runs, len(by_count.samples_ns)) == (1, 40)
    (cold,) = local(runtime).run([request], dataclasses.replace(QUICK, warmup_runs=0))
    assert (measured(cold).warmup_runs, cold.warmup_ns >= 0, cold.repeats) == (0, True, 1)


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_larger_model_takes_longer(local, request_one, runtime: str) -> None:
    requests = [request_one(runtime, "small"), request_one(runtime, "large", c_in=64, c_out=128, kernel=5, size=32)]
    small, large = [measured(outcome) for outcome in local(runtime).run(requests, QUICK)]
    assert min(large.samples_ns) / large.repeats > 5 * min(small.samples_ns) / small.repeats


@pytest.mark.parametrize("runtime", FORMATS)
def test_what_the_runtime_refuses_costs_one_model(local, request_one, tmp_path: Path, runtime: str) -> None:
    good = write_graph(convolution(), runtime)
    other = write_graph(convolution(), next(name for name in FORMATS if name != runtime))
    requests = [
        request_one(runtime, "before"),
        request_for(b"no model at all", tmp_path, runtime, "garbage"),
        request_for(b"", tmp_path, runtime, "empty"),
        request_for(good[: len(good) // 2], tmp_path, runtime, "truncated"),
        request_for(other, tmp_path, runtime, "other format"),
        RunRequest("absent", 0, tmp_path / "absent", "0" * 64),
        request_one(runtime, "after"),
    ]
    outcomes = list(local(runtime).run(requests, QUICK))
    assert [outcome.key for outcome in outcomes] == [request.key for request in requests]
    measured(outcomes[0]), measured(outcomes[-1])
    for request, outcome in list(zip(requests, outcomes, strict=True))[1:-1]:
        assert failed(outcome).kind == "refused"
        assert outcome.sha256 == request.sha256
        assert outcome.message and "\n" not in outcome.message


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_model_file_that_changed_on_the_way_is_not_timed(local, request_one, runtime: str) -> None:
    changed, good = request_one(runtime, "changed", seed=1), request_one(runtime, "good", seed=2)
    changed.path.write_bytes(good.path.read_bytes())
    outcomes = list(local(runtime).run([changed, good], QUICK))
    assert failed(outcomes[0]).kind == "refused"
    assert "SHA-256 differs" in outcomes[0].message
    measured(outcomes[1])


def worker_of_this_process() -> int | None:
    """The process id of the one worker that this process started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent == os.getpid() and b"bpnas.android_bench.local.worker" in command:
            found.append(int(folder.name))
    assert len(found) <= 1, found
    return found[0] if found else None


@pytest.fixture
def alone(local) -> None:
    """No other worker of this process is there, so that the one that is found is the right one."""
    for runtime in FORMATS:
        local(runtime).close()  # a closed device starts again when it is asked to run


def strike(kind: signal.Signals) -> threading.Thread:
    """Send a signal to the worker once it is at work on a model."""

    def send() -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            worker = worker_of_this_process()
            if worker is not None:
                time.sleep(0.2)
                os.kill(worker, kind)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@needs_proc
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("runtime", FORMATS)
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSEGV], ids=lambda kind: kind.name)
def test_a_worker_that_dies_costs_one_model(request_one, runtime: str, kind: signal.Signals) -> None:
    before, victim, after = (request_one(runtime, key) for key in ("before", "victim", "after"))
    with LocalDevice(runtime) as device:
        info = device.info
        measured(*device.run([before], QUICK))
        thread = strike(kind)
        failure = failed(*device.run([victim], LONG))
        thread.join()
        assert (failure.key, failure.kind, failure.sha256) == ("victim", "crash", victim.sha256)
        assert f"killed by signal {kind.value}" in failure.message
        assert "\n" not in failure.message
        assert [measured(outcome).key for outcome in device.run([after, victim], QUICK)] == ["after", "victim"]
        assert device.info == info
    assert worker_of_this_process() is None


@needs_proc
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("runtime", FORMATS)
def test_a_worker_that_died_between_two_models_costs_at_most_one(request_one, runtime: str) -> None:
    with LocalDevice(runtime) as device:
        worker = worker_of_this_process()
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        first, second = device.run([request_one(runtime, "first"), request_one(runtime, "second")], QUICK)
        assert failed(first).kind == "crash"
        assert measured(second).key == "second"


def test_samples_shorter_than_the_clock_can_tell_are_made_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that takes a step of a millisecond with every fourth inference."""
    invoked = []
    session = SimpleNamespace(
        invoke=lambda: invoked.append(1), inputs=list, settle=list, set_inputs=lambda inputs: None
    )
    monkeypatch.setattr(local_worker, "open_session", lambda *arguments: session)
    monkeypatch.setattr(local_worker, "perf_counter_ns", lambda: len(invoked) // 4 * 1_000_000)
    settings = RunSettings(warmup_runs=2, warmup_seconds=0.0, runs=3, seconds=0.0, sample_ms=0.0)
    answer = local_worker.time_model("tflite", Path("model"), settings)
    assert (answer["samples_ns"], answer["repeats"]) == ([1_000_000] * 3, 4)


@needs_proc
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("runtime", FORMATS)
def test_a_worker_that_hangs_costs_one_model_and_its_timeout(request_one, runtime: str) -> None:
    with LocalDevice(runtime) as device:
        hung = worker_of_this_process()
        assert hung is not None
        os.kill(hung, signal.SIGSTOP)
        start = time.monotonic()
        settings = dataclasses.replace(QUICK, timeout_seconds=0.5)
        failure = failed(*device.run([request_one(runtime, "hangs")], settings))
        assert 0.5 <= time.monotonic() - start < PATIENCE
        assert (failure.key, failure.kind) == ("hangs", "timeout")
        assert failure.message == "no answer within 0.5 s"
        assert not Path(f"/proc/{hung}").exists(), "the hung worker is killed, not left behind"
        assert measured(*device.run([request_one(runtime, "after")], QUICK)).key == "after"


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_model_slower_than_the_timeout_is_given_up(request_one, runtime: str) -> None:
    with LocalDevice(runtime) as device:
        settings = dataclasses.replace(LONG, timeout_seconds=0.3)
        failure = failed(*device.run([request_one(runtime)], settings))
        assert failure.kind == "timeout"


# As if the runtime, in mid-run, wrote something between the answers.
@pytest.mark.parametrize(
    "answer",
    [
        "no JSON",
        "[1, 2]",
        "7",
        "{}",
        '{"samples_ns": 7}',
        '{"samples_ns": [5, -1], "repeats": 1, "warmup_runs": 1, "warmup_ns": 1, "load_ns": 1}',
        '{"samples_ns": [5], "repeats": 0, "warmup_runs": 1, "warmup_ns": 1, "load_ns": 1}',
        '{"samples_ns": [], "repeats": 1, "warmup_runs": 1, "warmup_ns": 1, "load_ns": 1}',
        '{"samples_ns": [1e999], "repeats": 1, "warmup_runs": 1, "warmup_ns": 1, "load_ns": 1}',
        "[" * 5000,
    ],
    ids=lambda answer: answer[:70],
)
def test_an_answer_that_makes_no_sense_costs_one_model(
    request_one, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    module = tmp_path / "path" / "sitecustomize.py"
    module.parent.mkdir()
    module.write_text(
        "import sys\n"
        "if 'bpnas.android_bench.local.worker' in sys.orig_argv:\n"
        "    import json\n"
        "    real = json.dumps\n"
        f"    json.dumps = lambda values, **k: {answer!r} if 'samples_ns' in values else real(values, **k)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(module.parent))
    with LocalDevice("onnxruntime") as device:
        failure = failed(*device.run([request_one("onnxruntime")], QUICK))
        assert failure.kind == "invalid"
        assert failure.message.startswith("the worker answered")
        monkeypatch.delenv("PYTHONPATH")
        measured(*device.run([request_one("onnxruntime")], QUICK))


@needs_proc
@pytest.mark.usefixtures("alone")
def test_an_interrupt_takes_the_worker_along_and_the_device_works_on(
    request_one, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_one("onnxruntime")
    with LocalDevice("onnxruntime") as device:
        killer = threading.Timer(0.5, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
        killer.start()
        with pytest.raises(KeyboardInterrupt):
            list(device.run([request], LONG))
        killer.join()
        assert worker_of_this_process() is None
        measured(*device.run([request], QUICK))


def test_outcomes_come_as_soon_as_they_are_there(local, request_one) -> None:
    """A generator, so that a campaign stores each outcome before the next model is timed."""
    first, second = request_one("onnxruntime", "first", seed=1), request_one("onnxruntime", "second", seed=2)
    outcomes = local("onnxruntime").run([first, second], QUICK)
    assert measured(next(outcomes)).key == "first"
    second.path.unlink()
    assert failed(next(outcomes)).kind == "refused"


@needs_proc
@pytest.mark.usefixtures("alone")
def test_closing_twice_does_no_harm() -> None:
    device = LocalDevice("onnxruntime")
    assert worker_of_this_process() is not None
    device.close()
    assert worker_of_this_process() is None
    device.close()


def test_a_runtime_that_does_not_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("ai_edge_litert", "tflite_runtime"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"raise ImportError('{package} is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailableError, match=r"no TFLite interpreter: .*ai_edge_litert is broken"):
        LocalDevice("tflite")


def test_a_worker_that_cannot_even_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailableError, match=r"runtime tflite does not start on this machine: .* signal 6"):
        LocalDevice("tflite")


# --- the computed phone


@pytest.fixture
def mock() -> MockDevice:
    return MockDevice("s9", "tflite")


def samples(device: MockDevice, *requests: RunRequest, settings: RunSettings = QUICK) -> list[tuple[int, ...]]:
    return [measured(outcome).samples_ns for outcome in device.run(requests, settings)]


def milliseconds(device: MockDevice, request: RunRequest) -> float:
    settings = dataclasses.replace(QUICK, runs=101)
    (outcome,) = [measured(outcome) for outcome in device.run([request], settings)]
    return sorted(outcome.samples_ns)[50] / outcome.repeats / 1e6


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_mock_says_that_it_is_one(runtime: str) -> None:
    with open_device("mock:s9", runtime) as device:
        info = device.info
        assert info.mock is True
        assert (info.name, info.runtime, info.platform) == ("s9", runtime, "sdm845")
        assert "MOCK: computed, not measured" in info.label
        assert device.conditions() == {"device": "mock"}
    assert open_device("mock:s9", runtime).info == info
    assert info.fingerprint != MockDevice("s9", runtime, seed=1).info.fingerprint


@pytest.mark.parametrize("runtime", FORMATS)
def test_equal_requests_get_equal_answers(request_one, runtime: str) -> None:
    request = request_one(runtime)
    one, two = MockDevice("s9", runtime), MockDevice("s9", runtime)
    assert list(one.run([request], QUICK)) == list(two.run([request], QUICK))
    assert list(one.run([request], QUICK)) == list(two.run([request], QUICK)), "whatever was asked before"


def test_noise_differs_by_session_key_and_seed(mock, request_one) -> None:
    runs = [
        *samples(mock, *(request_one("tflite", key, session) for key in "ab" for session in range(3))),
        *samples(MockDevice("s9", "tflite", seed=1), request_one("tflite", "a", 0)),
    ]
    assert len(set(runs)) == 7
    middles = [sorted(run)[len(run) // 2] for run in runs]
    assert max(middles) < 1.1 * min(middles), "it is noise, not another model"


def test_both_formats_of_a_model_are_equally_fast(request_one) -> None:
    one, two = (MockDevice("s9", runtime) for runtime in FORMATS)
    assert samples(one, request_one("onnxruntime")) == samples(two, request_one("tflite"))


def test_weights_do_not_matter_to_the_mock(mock, request_one) -> None:
    one, two = request_one("tflite", seed=1), request_one("tflite", seed=2)
    assert one.sha256 != two.sha256
    assert samples(mock, one) == samples(mock, two)


def test_settings_are_honoured_by_the_mock(mock, request_one) -> None:
    request = request_one("tflite")
    settings = RunSettings(warmup_runs=4, runs=17, sample_ms=5.0)
    (outcome,) = [measured(outcome) for outcome in mock.run([request], settings)]
    assert (outcome.warmup_runs, len(outcome.samples_ns)) == (4, 17)
    assert outcome.repeats > 1
    assert all(4e6 < sample < 6e6 for sample in outcome.samples_ns), "repeats fill a sample"
    (single,) = [measured(o) for o in mock.run([request], dataclasses.replace(settings, sample_ms=0.0))]
    assert single.repeats == 1
    assert single.started_at == outcome.started_at == 0.0, "a computed device has no clock"


def test_grouping_is_not_monotone_on_the_mock(mock, request_one) -> None:
    """As on a phone: at few channels two groups cost more than one although they compute half."""

    def ratio(channels: int, size: int) -> float:
        one, two = (request_one("tflite", groups=g, c_in=channels, c_out=channels, size=size) for g in (1, 2))
        return milliseconds(mock, two) / milliseconds(mock, one)

    assert ratio(24, 32) > 1.2
    assert ratio(184, 4) < 0.8


def test_the_mock_is_slower_with_more_to_compute(mock, request_one) -> None:
    times = [milliseconds(mock, request_one("tflite", kernel=kernel, size=28)) for kernel in (1, 3, 5, 7)]
    assert times == sorted(times)
    assert times[0] < 0.5 * times[-1]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\0\0\0\0TFL3garbage"])
def test_the_mock_refuses_garbage_and_goes_on(mock, request_one, tmp_path: Path, content: bytes) -> None:
    bad, good = request_for(content, tmp_path, "tflite", "bad"), request_one("tflite", "good")
    refused, timed = mock.run([bad, good], QUICK)
    assert (failed(refused).kind, refused.key) == ("refused", "bad")
    assert "not a readable model file" in refused.message
    assert measured(timed).key == "good"


def test_the_mock_does_not_time_a_file_that_changed_or_went(mock, request_one) -> None:
    changed, gone, good = (
        request_one("tflite", key, seed=seed) for seed, key in enumerate(["changed", "gone", "good"])
    )
    changed.path.write_bytes(good.path.read_bytes())
    gone.path.unlink()
    one, two, three = mock.run([changed, gone, good], QUICK)
    assert failed(one).kind == failed(two).kind == "refused"
    assert "SHA-256 differs" in one.message
    assert str(gone.path) in two.message
    assert measured(three).key == "good"
