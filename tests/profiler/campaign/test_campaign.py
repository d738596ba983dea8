import hashlib
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest

from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.opening import open_device
from bpnas.base.errors import UsageError
from bpnas.profiler import Records, run_campaign
from bpnas.profiler.campaign.device_workers import MAX_FAILURES_IN_A_ROW
from bpnas.profiler.campaign.records import Plan, Setup
from bpnas.profiler.campaign.run import WORTH_PROCESSES
from bpnas.profiler.campaign.sentinel import is_sentinel
from tests.patience import PATIENCE
from tests.programs import script, started
from tests.records_factory import (
    PATHS,
    QUICK,
    backbone,
    failure,
    make_plan,
    measurement,
    read_everything,
    tasks,
)

SMALL = make_plan()
LARGE = make_plan(backbone(), backbone(32), paths="K1*", sessions=2)  # long enough for several devices


class ScriptedDevice:
    """A device that answers as `script(request, number)` says, and looks at what it is given.

    The sentinel is measured whatever the script says, and is not counted.
    """

    def __init__(self, plan, script=None):
        self.info = plan.setup.device
        self.plan = plan
        self.script = script or (lambda request, number: measurement(request.key, request.session))
        self.seen = []
        self.most_files = 0

    def conditions(self):
        return {"temperature_c": 30.0 + len(self.seen)}

    def run(self, requests, settings):
        assert settings == self.plan.setup.settings
        for request in requests:
            assert hashlib.sha256(request.path.read_bytes()).hexdigest() == request.sha256
            self.most_files = max(self.most_files, len(list(request.path.parent.iterdir())))
            if is_sentinel(request.key):
                yield measurement(request.key, request.session)
                continue
            self.seen.append((request.key, request.session))
            yield self.script(request, len(self.seen))


pytestmark = pytest.mark.usefixtures("fake_models")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "r.sqlite"


def campaign(file, plan, script=None, **options):
    """Run a campaign on a scripted device; the device and the result, or the exception in its place."""
    device = ScriptedDevice(plan, script)
    try:
        with Records.write(file) as records:
            return device, run_campaign(device, records, plan, **options)
    except BaseException as error:
        return device, error


def rest_of(file):
    """What lies beside the records."""
    return {path.name for path in file.parent.iterdir()} - {file.name, f"{file.name}.lock"}


# What is measured, and in which order


@pytest.mark.parametrize("plan", [SMALL, LARGE], ids=["small", "large"])
def test_everything_planned_is_measured_once_and_recorded(file, plan):
    device, result = campaign(file, plan)
    assert Counter(device.seen) == Counter(tasks(plan))
    assert (result.total, result.done, result.measured, result.failures) == (len(device.seen),) * 3 + ((),)
    assert result.is_complete
    plans, measured, failed = read_everything(file)
    assert plans == [plan]
    assert [m for _, m in measured] == [measurement(key, session) for key, session in sorted(tasks(plan))]
    assert failed == []


def test_equal_geometry_is_measured_once(file):
    device, _ = campaign(file, make_plan(backbone(), backbone(classes=7)))
    assert Counter(device.seen) == Counter([*tasks(SMALL), ("head@16-16-7x8", 0)])


@pytest.mark.parametrize(("runtime", "suffix"), [("tflite", ".tflite"), ("onnxruntime", ".onnx")])
def test_model_files_end_as_the_runtime_expects(file, runtime, suffix):
    suffixes = set()

    def script(request, number):
        suffixes.add(request.path.suffix)
        return measurement(request.key, request.session)

    campaign(file, make_plan(runtime=runtime), script)
    assert suffixes == {suffix}


def test_the_order_is_shuffled_and_the_seed_decides_it(tmp_path):
    orders = [campaign(tmp_path / f"{n}.sqlite", LARGE, seed=seed)[0].seen for n, seed in enumerate((0, 0, 1))]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    assert all(order != tasks(LARGE) for order in orders)


def test_sessions_are_spaced_all_parts_once_then_all_again_in_another_order(file):
    device, _ = campaign(file, LARGE)
    half = len(device.seen) // 2
    first, second = device.seen[:half], device.seen[half:]
    assert {session for _, session in first} == {0}
    assert {session for _, session in second} == {1}
    assert [key for key, _ in first] != [key for key, _ in second]


def test_a_wrong_filter_is_refused_before_anything_is_written(file):
    _, error = campaign(file, make_plan(paths="K9*"))
    assert isinstance(error, UsageError)
    assert read_everything(file) == ([], [], [])


# Going on


def test_a_second_call_measures_nothing_twice(file):
    undisturbed, _ = campaign(file.with_name("u.sqlite"), LARGE)
    stop_after = iter([1, 40, 57, 3])

    def interrupted():
        last = next(stop_after)

        def script(request, number):
            if number > last:
                raise DeviceLostError("the cable was pulled")
            return measurement(request.key, request.session)

        return script

    seen = []
    for _ in range(4):
        device, error = campaign(file, LARGE, interrupted())
        assert isinstance(error, DeviceLostError)
        seen += device.seen[:-1]
    device, result = campaign(file, LARGE)
    assert result.is_complete
    assert result.measured == len(device.seen) == len(undisturbed.seen) - len(seen)
    assert seen + device.seen == undisturbed.seen  # the same order too
    assert read_everything(file)[1] == read_everything(file.with_name("u.sqlite"))[1]


def test_a_complete_campaign_asks_the_device_nothing(file, monkeypatch):
    campaign(file, SMALL)
    monkeypatch.setattr("bpnas.profiler.campaign.model_files.export_part", None)  # nor is a model written
    device, result = campaign(file, SMALL)
    assert device.seen == []
    assert result.is_complete
    assert result.measured == 0


def test_more_sessions_measure_only_those(file):
    campaign(file, SMALL)
    device, result = campaign(file, make_plan(sessions=3))
    assert Counter(device.seen) == Counter((key, session) for key, _ in tasks(SMALL) for session in (1, 2))
    assert result.total == 3 * len(tasks(SMALL))


def test_more_paths_measure_only_those(file):
    campaign(file, SMALL)
    device, _ = campaign(file, make_plan(paths=f"{PATHS},K5G1"))
    assert {key.partition("@")[0] for key, _ in device.seen} == {"K5G1"}


@pytest.mark.parametrize(
    "other",
    [make_plan(abi="x86"), make_plan(runtime="onnxruntime"), make_plan(export_version=2)],
    ids=["device", "runtime", "export version"],
)
def test_another_setup_is_measured_anew(file, other):
    campaign(file, SMALL)
    device, _ = campaign(file, other)
    assert Counter(device.seen) == Counter(tasks(other))


# What can go wrong


def test_failures_are_rows_cost_only_themselves_and_are_tried_again_by_the_next_call(file):
    bad = {tasks(SMALL)[1][0], tasks(SMALL)[4][0]}

    def script(request, number):
        return (failure if request.key in bad else measurement)(request.key, request.session)

    device, result = campaign(file, SMALL, script)
    assert Counter(device.seen) == Counter(tasks(SMALL))  # each once, failing or not
    assert {one.key for one in result.failures} == bad
    assert not result.is_complete
    assert result.done == result.measured == result.total - 2
    device, result = campaign(file, SMALL, script)
    assert {key for key, _ in device.seen} == bad
    device, result = campaign(file, SMALL)
    assert {key for key, _ in device.seen} == bad
    assert result.is_complete
    _, measured, failed = read_everything(file)
    assert len(measured) == len(tasks(SMALL))
    assert Counter(one.key for _, one in failed) == dict.fromkeys(bad, 2)


def test_too_many_failures_in_a_row_stop_with_the_last_one_named(file):
    good = 10

    def script(request, number):
        make = measurement if number <= good else failure
        return make(request.key, request.session)

    device, error = campaign(file, LARGE, script)
    assert isinstance(error, DeviceError)
    assert len(device.seen) == good + MAX_FAILURES_IN_A_ROW
    assert device.seen[-1][0] in str(error)
    assert failure("").message in str(error)
    assert f"{MAX_FAILURES_IN_A_ROW} models in a row" in str(error)
    _, measured, failed = read_everything(file)
    assert (len(measured), len(failed)) == (good, MAX_FAILURES_IN_A_ROW)
    assert rest_of(file) == set()


def test_many_failures_that_are_not_in_a_row_do_not_stop_it(file):
    def script(request, number):
        make = failure if number % MAX_FAILURES_IN_A_ROW else measurement
        return make(request.key, request.session)

    device, result = campaign(file, LARGE, script)
    assert len(device.seen) == len(tasks(LARGE))
    assert len(result.failures) > MAX_FAILURES_IN_A_ROW


@pytest.mark.parametrize("error", [DeviceLostError("gone"), KeyboardInterrupt(), RuntimeError("a bug")], ids=repr)
def test_whatever_comes_out_of_the_device_what_was_measured_is_kept(file, error):
    last = 37

    def script(request, number):
        if number > last:
            raise error
        return measurement(request.key, request.session)

    device, raised = campaign(file, LARGE, script)
    assert raised is error
    assert {(m.key, m.session) for _, m in read_everything(file)[1]} == set(device.seen[:last])
    assert rest_of(file) == set()


def test_a_budget_stops_it_between_models_and_the_next_call_goes_on(file):
    def script(request, number):
        time.sleep(0.03)
        return measurement(request.key, request.session)

    device, result = campaign(file, SMALL, script, budget_seconds=0.07)
    assert 1 <= result.measured <= 3
    assert not result.is_complete
    assert len(device.seen) == result.measured == len(read_everything(file)[1])
    assert rest_of(file) == set()
    calls = 0
    while not campaign(file, SMALL, script, budget_seconds=1e-9)[1].is_complete:
        calls += 1
        assert calls < len(tasks(SMALL)), "each call gets at least one model further"
    assert len(read_everything(file)[1]) == len(tasks(SMALL))


def test_a_generous_budget_changes_nothing(file):
    assert campaign(file, SMALL, budget_seconds=3600)[1].is_complete


# Model files


def test_never_more_model_files_than_the_device_has_taken_and_none_afterwards(file):
    device, _ = campaign(file, LARGE)
    assert len(device.seen) > 100
    assert device.most_files == 1
    assert rest_of(file) == set()


def test_model_files_of_a_killed_call_are_cleared_away(file):
    left = file.with_name(f".{file.name}.models")
    left.mkdir()
    (left / "left.tflite").write_bytes(b"x")
    device, _ = campaign(file, SMALL)
    assert device.most_files == 1
    assert rest_of(file) == set()


def test_other_files_in_the_folder_stay(file):
    (file.parent / "mine.tflite").write_bytes(b"x")
    campaign(file, SMALL)
    assert rest_of(file) == {"mine.tflite"}


# Progress


def test_progress_is_reported_at_the_start_and_after_every_model(file):
    campaign(file, make_plan(paths="K1G1"))
    before = len(tasks(make_plan(paths="K1G1")))
    reports = []

    def script(request, number):
        if number == 2:
            return failure(request.key, request.session)
        return measurement(request.key, request.session, conditions={"after": {"temperature_c": 30.0 + number}})

    device, result = campaign(file, SMALL, script, on_progress=reports.append)
    assert [r.total for r in reports] == [len(tasks(SMALL))] * (len(device.seen) + 1)
    assert [r.measured + r.failures for r in reports] == list(range(len(device.seen) + 1))
    assert all(r.done == before + r.measured for r in reports)
    assert reports[-1].failures == 1 and reports[-1].done == result.done == result.total - 1
    assert reports[0].remaining_seconds is None
    assert all(r.per_second > 0 and r.remaining_seconds >= 0 for r in reports[1:])
    assert reports[-1].remaining_seconds == 0
    # As it was when the campaign began, then as it was after each measurement; a failure tells nothing.
    expected = [30.0, 31.0, 31.0, *(30.0 + number for number in range(3, len(device.seen) + 1))]
    assert [r.conditions["temperature_c"] for r in reports] == expected
    times = [r.elapsed_seconds for r in reports]
    assert times == sorted(times)


# The computed phone and real model files


def mock_campaign(file, runtime="tflite", **options):
    with open_device("mock:s9", runtime) as device, Records.write(file) as records:
        plan = Plan(Setup(device.info, QUICK, 1), (backbone(),), "K1E?G1,K3E?G2", 1)
        return run_campaign(device, records, plan, **options)


def all_rows(file):
    """Every table without its row numbers, which depend on the order of measuring, and without the sentinel."""
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    try:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert {"measurement", "failure", "plan", "device", "settings", "tools"} <= set(names)
        return {
            name: sorted(row for row in connection.execute(f"SELECT * FROM {name}") if not is_sentinel(str(row[0])))
            for name in names
        }
    finally:
        connection.close()


@pytest.mark.usefixtures("real_models")
def test_processes_that_write_models_change_no_record(tmp_path):
    one, two = tmp_path / "1.sqlite", tmp_path / "2.sqlite"
    assert mock_campaign(one).total > WORTH_PROCESSES  # with fewer there is nothing to share out
    assert mock_campaign(two, jobs=2, seed=5).is_complete
    assert all_rows(one) == all_rows(two)
    assert rest_of(one) == {two.name, f"{two.name}.lock"}


@pytest.mark.usefixtures("real_models")
@pytest.mark.parametrize("runtime", ["tflite", "onnxruntime"])
def test_the_computed_phone_takes_every_model_and_is_marked(file, runtime):
    result = mock_campaign(file, runtime)
    assert result.is_complete
    _, measured, failed = read_everything(file)
    assert failed == []
    assert all(setup.device.mock and setup.device.name == "s9" for setup, _ in measured)
    assert all(len(m.samples_ns) == QUICK.runs and min(m.samples_ns) > 0 for _, m in measured)


# Killed


def profiling(file, *options, **others):
    """The command `profile-device` at work."""
    common = ["--serial", "mock:s9", "--input-size", "32", "--records", file]
    return started(script("profile-device"), *common, *options, **others)


def count_rows(file):
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            parts = "SELECT count(*) FROM measurement WHERE key NOT LIKE 'sentinel@%'"
            return connection.execute(parts).fetchone()[0]
        finally:
            connection.close()
    except sqlite3.Error:  # not created yet
        return 0


def wait_for_rows(file, count, process):
    while count_rows(file) < count:
        assert process.poll() is None, process.stderr
        time.sleep(0.01)


def finish(process):
    assert process.wait() == 0, process.stderr


def killed_and_undisturbed(folder, kills, total, *options):
    """Records of a campaign that was killed again and again, and of one that was not."""
    rng = random.Random(20)
    killed, undisturbed = folder / "killed.sqlite", folder / "undisturbed.sqlite"
    with profiling(undisturbed, *options) as other:
        # A kill may come between two models or while one is written, and each process got somewhere before.
        for count in sorted(rng.sample(range(1, total), kills)):
            count = max(count, count_rows(killed) + 1)
            with profiling(killed, *options) as process:
                wait_for_rows(killed, count, process)
                time.sleep(rng.random() * 0.05)
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
            assert count_rows(killed) >= count
        with profiling(killed, *options) as process:
            finish(process)
        finish(other)
    return killed, undisturbed


@pytest.mark.usefixtures("real_models")
def test_a_campaign_that_is_killed_ends_with_the_same_records(tmp_path):
    options = ("--sessions", "1", "--paths", "K1E*G1,K3E*G1,K5E*G1")
    killed, undisturbed = killed_and_undisturbed(tmp_path, 2, 300, *options)
    assert count_rows(undisturbed) == 48 * 12 + 9 + 2
    assert all_rows(killed) == all_rows(undisturbed)
    assert rest_of(killed) == {undisturbed.name, f"{undisturbed.name}.lock"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("real_models")
def test_a_whole_campaign_that_is_killed_five_times_ends_with_the_same_records(tmp_path):
    killed, undisturbed = killed_and_undisturbed(tmp_path, 5, 3200, "--sessions", "1")
    assert count_rows(undisturbed) == 272 * 12 + 9 + 2
    assert all_rows(killed) == all_rows(undisturbed)
    assert rest_of(killed) == {undisturbed.name, f"{undisturbed.name}.lock"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds children in /proc")
@pytest.mark.usefixtures("real_models")
def test_a_killed_campaign_leaves_no_process_behind(file):
    with profiling(file, "--jobs", "2", session=True) as process:
        try:
            wait_for_rows(file, 1, process)
            children = session_members(process.pid) - {process.pid}
            assert len(children) >= 2
            process.kill()
            process.wait()
            deadline = time.monotonic() + PATIENCE
            while left := session_members(process.pid):
                assert time.monotonic() < deadline, f"still there: {left}"
                time.sleep(0.05)
        finally:
            for pid in session_members(process.pid):
                os.kill(pid, signal.SIGKILL)


def session_members(session):
    """Processes of a session, without those that have ended and wait to be collected."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = stat.read_text().split(" (", 1)
        except OSError:
            continue
        state, _, _, its_session = rest.rpartition(")")[2].split()[:4]
        if int(its_session) == session and state != "Z":
            found.add(int(pid))
    return found
