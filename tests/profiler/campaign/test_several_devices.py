"""Several devices that share one campaign: whatever becomes of them, everything is measured once."""

import random
import threading
import time
from collections import Counter
from itertools import islice

import pytest

from bpnas.android_bench.errors import DeviceChangedError, DeviceError, DeviceLostError, DeviceSpaceError
from bpnas.android_bench.measurement import RunSettings
from bpnas.android_bench.mock import MockDevice
from bpnas.base.errors import UsageError
from bpnas.profiler import Records, run_campaign
from bpnas.profiler.campaign.device_workers import MAX_FAILURES_IN_A_ROW
from bpnas.profiler.campaign.model_files import ModelFiles, export_part
from bpnas.profiler.campaign.records import Plan, Setup
from bpnas.profiler.campaign.run import plan_parts, refuse_unequal
from bpnas.profiler.campaign.sentinel import is_sentinel
from bpnas.profiler.campaign.work_queue import WorkQueue
from tests.patience import PATIENCE
from tests.records_factory import QUICK, backbone, failure, make_plan, measurement, read_everything, tasks

PLAN = make_plan(backbone(), backbone(32), paths="K1E?G1,K3E?G1", sessions=2)
SMALL = make_plan()


pytestmark = pytest.mark.usefixtures("fake_models")


@pytest.fixture
def torch(real_models):
    return real_models


@pytest.fixture
def file(tmp_path):
    return tmp_path / "r.sqlite"


class Phone:
    """Takes requests in batches, in another thread and one batch ahead, as a phone does.

    Args:
        batch: so many requests are taken at once.
        answer: the outcome of a request and of the number of the answer, or the exception that comes instead. The
            sentinel is measured whatever it says, and not counted.
        seconds: of each answer.
    """

    def __init__(self, plan=PLAN, batch=4, answer=None, seconds=0.0, info=None):
        self.info = info or plan.setup.device
        self.batch, self.seconds = batch, seconds
        self.answer = answer or (lambda request, number: measurement(request.key, request.session))
        self.answered = []  # in this order
        self.most_files = 0
        self.threads = set()
        self.closed_runs = 0

    def conditions(self):
        return {"temperature_c": 30.0}

    def run(self, requests, settings):
        self.threads.add(threading.get_ident())
        source, finished = iter(requests), False
        batches = [self._take(source)]
        try:
            while batch := batches.pop():
                ahead = threading.Thread(target=lambda: batches.append(self._take(source)))
                ahead.start()
                try:
                    for request in batch:
                        if is_sentinel(request.key):
                            yield measurement(request.key, request.session)
                            continue
                        assert request.path.read_bytes() == request.key.encode()
                        self.most_files = max(self.most_files, len(list(request.path.parent.iterdir())))
                        time.sleep(self.seconds)
                        outcome = self.answer(request, len(self.answered) + 1)
                        if isinstance(outcome, BaseException):
                            raise outcome
                        self.answered.append((request.key, request.session))
                        yield outcome
                finally:
                    ahead.join()
            finished = True
        finally:
            self.closed_runs += not finished

    def _take(self, source):
        return list(islice(source, self.batch))


def campaign(file, phones, plan=PLAN, **options):
    """Run a campaign; its result, or the exception in its place."""
    try:
        with Records.write(file) as records:
            return run_campaign(phones, records, plan, **options)
    except BaseException as error:
        return error


def lost_after(count, error=DeviceLostError):
    """Answers so often, then never again."""

    def answer(request, number):
        return error("the cable was pulled") if number > count else measurement(request.key, request.session)

    return answer


def assert_complete(file, plan=PLAN):
    _, measured, _ = read_everything(file)
    assert Counter((one.key, one.session) for _, one in measured) == Counter(tasks(plan))


def rest_of(file):
    """What lies beside the records."""
    return {path.name for path in file.parent.iterdir()} - {file.name, f"{file.name}.lock"}


# Sharing


def test_several_devices_share_the_work(file):
    phones = [Phone(seconds=0.001), Phone(batch=1, seconds=0.001), Phone(batch=9, seconds=0.001)]
    result = campaign(file, phones)
    assert result.is_complete and result.lost == ()
    assert result.measured == result.total == len(tasks(PLAN))
    assert_complete(file)
    assert sum((Counter(phone.answered) for phone in phones), Counter()) == Counter(tasks(PLAN))
    assert all(len(phone.answered) > 10 for phone in phones)
    assert rest_of(file) == set()


def test_each_device_has_one_thread_and_a_single_one_the_callers(file, tmp_path):
    phones = [Phone(), Phone()]
    campaign(file, phones)
    one, other = (phone.threads for phone in phones)
    assert len(one) == len(other) == 1
    assert not (one | other) & {threading.get_ident()} and one != other
    alone = Phone()
    assert campaign(tmp_path / "alone.sqlite", [alone]).is_complete
    assert alone.threads == {threading.get_ident()}


def test_a_device_that_takes_ahead_bounds_the_files(file):
    phone = Phone(batch=5)
    campaign(file, phone)
    assert 5 <= phone.most_files <= 10
    assert rest_of(file) == set()


def test_nobody_takes_further_ahead_than_an_equal_part(tmp_path):
    parts = {part.key: part for part in plan_parts(SMALL)}
    with ModelFiles(tmp_path / "models", parts, "tflite") as models:
        queue = WorkQueue(tasks(SMALL), models, sharers=3)  # 10 of them
        with queue.share() as first, queue.share() as second, queue.share() as third:
            assert len(list(first)) == len(list(second)) == 4
            assert len(list(third)) == 2
        queue.leave()
        with queue.share() as first, queue.share() as second:
            taken = [next(first) for _ in range(5)]
            assert list(first) == []
            for request in taken:
                first.answered(measurement(request.key))
            assert list(first) == []  # an iterator that has ended does not begin anew
            assert len(list(second)) == 3
        queue.leave()
        with queue.share() as only:
            assert len(list(only)) == 5


def test_a_slow_device_does_less(file):
    slow, quick = Phone(batch=1, seconds=0.05), Phone(batch=1)
    assert campaign(file, [slow, quick]).is_complete
    assert len(slow.answered) < len(quick.answered)


def test_computed_phones_share_real_models_and_give_the_records_of_one(file, tmp_path, torch):
    alone = tmp_path / "alone.sqlite"
    rows = []
    for path, count in ((file, 3), (alone, 1)):
        phones = [MockDevice("s9", "tflite") for _ in range(count)]
        plan = Plan(Setup(phones[0].info, QUICK, 1), (backbone(),), "K1E?G1", 1)
        assert campaign(path, phones, plan).is_complete
        rows.append(read_everything(path)[1])
    assert rows[0] == rows[1] and len(rows[0]) > 10


@pytest.mark.parametrize("runtime", ["tflite", "onnxruntime"])
def test_a_models_bytes_depend_on_its_key_alone_also_with_threads(runtime, torch):
    parts = plan_parts(make_plan(paths="K1G1,K3E2G*"))
    wanted = {part.key: export_part(part, runtime) for part in parts}
    state = torch.random.get_rng_state()
    differing, start = [], threading.Barrier(4)

    def export(seed):
        order = list(parts) * 3
        random.Random(seed).shuffle(order)
        start.wait()
        differing.extend(part.key for part in order if export_part(part, runtime) != wanted[part.key])

    threads = [threading.Thread(target=export, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert differing == []
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's own numbers go on undisturbed


def test_processes_that_write_for_several_devices(file, torch):
    phones = [MockDevice("s9", "onnxruntime") for _ in range(2)]
    plan = Plan(Setup(phones[0].info, QUICK, 1), (backbone(),), "K1E?G1,K3E?G2", 1)
    result = campaign(file, phones, plan, jobs=2)
    assert result.is_complete and result.failures == ()
    assert rest_of(file) == set()


# Devices that are not alike


def test_devices_that_differ_are_refused_with_the_differences_before_anything_is_written(file):
    other = make_plan(abi="x86", os="none 2").setup.device
    phones = [Phone(), Phone(info=other)]
    error = campaign(file, phones, serials=["A", "B"])
    assert isinstance(error, UsageError)
    assert "A and B" in str(error)
    assert "abi: arm64 | x86" in str(error) and "os: none 1 | none 2" in str(error)
    assert phones[0].answered == phones[1].answered == []
    assert read_everything(file) == ([], [], [])
    with pytest.raises(UsageError, match=r"abi: arm64 \| x86"):
        refuse_unequal(dict(zip("AB", phones, strict=True)), PLAN.setup)


def test_a_device_that_is_not_the_plans_is_refused(file):
    error = campaign(file, Phone(info=make_plan(model="Another").setup.device))
    assert isinstance(error, UsageError)
    assert "model: Test Bench 1 | Another" in str(error)


@pytest.mark.parametrize(
    ("count", "serials"), [(0, []), (2, ["A", "A"]), (2, ["A"]), (1, ["A", "B"])], ids=["none", "twice", "few", "many"]
)
def test_every_device_needs_a_serial_of_its_own(file, count, serials):
    assert isinstance(campaign(file, [Phone() for _ in range(count)], serials=serials), UsageError)


# Lost devices


@pytest.mark.parametrize("kind", [DeviceLostError, DeviceSpaceError, DeviceChangedError, DeviceError])
def test_the_others_do_what_a_lost_device_took(file, kind):
    lost, other = Phone(batch=6, answer=lost_after(3, kind)), Phone(seconds=0.001)
    result = campaign(file, [lost, other], serials=["A", "B"])
    assert result.is_complete
    assert result.lost == ("A: the cable was pulled",)
    assert len(lost.answered) == 3
    assert_complete(file)
    assert rest_of(file) == set()


def test_work_that_comes_back_is_done_by_a_device_that_had_no_more_to_do(file):
    held = threading.Event()

    def answer(request, number):
        held.wait(PATIENCE)  # until the other one has done everything else
        return DeviceLostError("gone")

    class Quick(Phone):
        def _take(self, source):
            taken = super()._take(source)
            if not taken:
                held.set()
            return taken

    lost, quick = Phone(SMALL, batch=2, answer=answer), Quick(SMALL, seconds=0.01)
    result = campaign(file, [lost, quick], SMALL)
    assert result.is_complete
    assert lost.answered == []
    assert Counter(quick.answered) == Counter(tasks(SMALL))
    assert_complete(file, SMALL)


def test_what_comes_back_is_next(tmp_path):
    parts = {part.key: part for part in plan_parts(SMALL)}
    work = [(key, 0) for key in parts][:7]
    with ModelFiles(tmp_path / "models", parts, "tflite") as models:
        queue = WorkQueue(work, models)
        with queue.share() as first:
            taken = [next(first) for _ in range(2)]
            with queue.share() as second:
                taken += [next(second) for _ in range(3)]
                second.answered(measurement(taken[3].key))
            assert list(second) == []  # closed
            assert [request.path.exists() for request in taken] == [True, True, False, False, False]
            assert queue.upcoming(9) == [work[2], work[4], work[5], work[6]]
        assert queue.upcoming(9) == [task for task in work if task != work[3]]
        assert list((tmp_path / "models").iterdir()) == []


def test_the_error_of_the_last_device_ends_it_and_the_next_call_goes_on(file):
    first, last = Phone(answer=lost_after(5)), Phone(answer=lost_after(20, DeviceSpaceError), seconds=0.002)
    error = campaign(file, [first, last])
    assert isinstance(error, DeviceSpaceError)
    _, measured, failed = read_everything(file)
    assert {(one.key, one.session) for _, one in measured} == {*first.answered, *last.answered}
    assert failed == []
    assert rest_of(file) == set()
    assert campaign(file, [Phone(), Phone()]).is_complete
    assert_complete(file)


def test_too_many_failures_in_a_row_are_counted_for_each_device(file):
    def broken(request, number):
        return failure(request.key, request.session)

    bad, good = Phone(batch=1, answer=broken), Phone(batch=1, seconds=0.001)
    result = campaign(file, [bad, good], serials=["bad", "good"])
    assert len(bad.answered) == len(result.failures) == MAX_FAILURES_IN_A_ROW
    (sentence,) = result.lost
    assert sentence.startswith(f"bad: {MAX_FAILURES_IN_A_ROW} models in a row failed")
    assert result.measured == result.total - MAX_FAILURES_IN_A_ROW
    assert bad.closed_runs == 1
    assert campaign(file, [good]).is_complete


def test_a_device_that_answers_what_it_was_not_asked_is_out(file):
    def confused(request, number):
        return measurement("K9G9@nowhere" if number == 3 else request.key, request.session)

    def repeating(request, number):
        return measurement(repeating.first.key, repeating.first.session) if number == 4 else first(request, number)

    def first(request, number):
        if number == 1:
            repeating.first = request
        return measurement(request.key, request.session)

    phones = [Phone(answer=confused), Phone(answer=repeating), Phone(seconds=0.001)]
    result = campaign(file, phones, serials=["confused", "repeating", "fine"])
    assert result.is_complete
    assert sorted(sentence.partition(":")[0] for sentence in result.lost) == ["confused", "repeating"]
    assert all("not asked for" in sentence for sentence in result.lost)
    assert_complete(file)


def test_a_device_that_leaves_something_out_is_out(file):
    class Forgetful(Phone):
        def run(self, requests, settings):
            outcomes = super().run(requests, settings)
            yield next(outcomes)
            next(outcomes)
            yield from outcomes

    result = campaign(file, [Forgetful(), Phone(seconds=0.001)])
    assert result.is_complete
    assert "without an answer for" in result.lost[0]
    error = campaign(file.with_name("alone.sqlite"), Forgetful())
    assert isinstance(error, DeviceError) and "without an answer for" in str(error)


# The end


@pytest.mark.parametrize("batch", [1, 4])
def test_a_budget_stops_all_devices_and_keeps_what_they_were_at(file, batch):
    phones = [Phone(batch=batch, seconds=0.02), Phone(batch=batch, seconds=0.03)]
    result = campaign(file, phones, budget_seconds=0.1)
    assert not result.is_complete and result.lost == ()
    assert 0 < result.measured < 40
    _, measured, _ = read_everything(file)
    assert {(one.key, one.session) for _, one in measured} == {*phones[0].answered, *phones[1].answered}
    assert [phone.closed_runs for phone in phones] == [1, 1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bpnas ")]
    assert rest_of(file) == set()
    assert campaign(file, phones).is_complete
    assert_complete(file)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_whatever_ends_it_ends_all_devices_in_their_own_threads(file, interrupt):
    phones = [Phone(seconds=0.005), Phone(seconds=0.005)]

    def stop(progress):
        if progress.measured == 10:
            raise interrupt

    assert isinstance(campaign(file, phones, on_progress=stop), interrupt)
    assert [phone.closed_runs for phone in phones] == [1, 1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bpnas ")]
    _, measured, _ = read_everything(file)
    assert len(measured) >= 10
    if interrupt is KeyboardInterrupt:  # here what they were at is kept too
        assert {(one.key, one.session) for _, one in measured} == {*phones[0].answered, *phones[1].answered}
    assert rest_of(file) == set()
    assert campaign(file, phones).is_complete
    assert_complete(file)


def test_devices_that_end_badly_after_ctrl_c_do_not_hide_it(file):
    interrupted = threading.Event()

    def stop(progress):
        if progress.measured == 4:
            interrupted.set()
            raise KeyboardInterrupt

    def answer(request, number):
        if number > 2:
            interrupted.wait(PATIENCE)
            return DeviceLostError("gone")
        return measurement(request.key, request.session)

    error = campaign(file, [Phone(answer=answer), Phone(answer=answer)], on_progress=stop)
    assert isinstance(error, KeyboardInterrupt)
    assert len(read_everything(file)[1]) == 4


def test_a_bug_in_one_device_stops_the_others_and_is_raised(file):
    def bug(request, number):
        return RuntimeError("a bug") if number == 5 else measurement(request.key, request.session)

    phones = [Phone(answer=bug), Phone(seconds=0.005)]
    error = campaign(file, phones)
    assert isinstance(error, RuntimeError) and str(error) == "a bug"
    assert phones[1].closed_runs == 1
    _, measured, _ = read_everything(file)
    assert {(one.key, one.session) for _, one in measured} == {*phones[0].answered, *phones[1].answered}


def test_a_device_that_never_answers_does_not_keep_the_campaign_from_ending(file, monkeypatch):
    monkeypatch.setattr("bpnas.profiler.campaign.device_workers._PATIENCE_SECONDS", 0.2)
    held, others = threading.Event(), set(threading.enumerate())

    def hangs(request, number):
        held.wait(PATIENCE)
        return DeviceLostError("closed")

    try:
        result = campaign(file, [Phone(answer=hangs), Phone(seconds=0.01)], budget_seconds=0.05)
        assert 0 < result.measured < result.total
    finally:
        held.set()
    for thread in set(threading.enumerate()) - others:
        thread.join(PATIENCE)
    assert campaign(file, [Phone()]).is_complete
    assert_complete(file)


def test_a_model_that_cannot_be_written_ends_it_after_what_was_taken(file, monkeypatch):
    written = []

    def full(part, runtime):
        if len(written) == 20:
            raise OSError(28, "No space left on device", "model")
        written.append(part.key)
        return part.key.encode()

    monkeypatch.setattr("bpnas.profiler.campaign.model_files.export_part", full)
    phones = [Phone(seconds=0.001), Phone(seconds=0.001)]
    error = campaign(file, phones)
    assert isinstance(error, OSError) and error.errno == 28
    _, measured, _ = read_everything(file)
    assert {(one.key, one.session) for _, one in measured} == {*phones[0].answered, *phones[1].answered}
    assert len(measured) > 0
    assert rest_of(file) == set()


# Progress


def test_progress_tells_the_conditions_by_serial_and_who_was_lost(file):
    reports = []
    phones = [Phone(answer=lost_after(2)), Phone(seconds=0.002)]
    result = campaign(file, phones, serials=["A", "B"], on_progress=reports.append)
    assert reports[0].conditions == {"A temperature_c": 30.0, "B temperature_c": 30.0}
    assert reports[-1].conditions == {"A temperature_c": 31.0, "B temperature_c": 31.0}
    assert reports[0].lost == ()
    assert reports[-1].lost == result.lost == ("A: the cable was pulled",)
    assert [one.measured for one in reports] == list(range(result.total + 1))


# Any devices, any losses


@pytest.mark.parametrize("seed", range(25))
def test_random_devices_and_losses_lose_nothing_and_double_nothing(file, seed):
    rng = random.Random(seed)
    kinds = [DeviceLostError, DeviceSpaceError, DeviceChangedError, DeviceError]

    def random_phone(number_of_answers):
        failing, noise = rng.random() * 0.1, random.Random(rng.random())

        def answer(request, number):
            if number > number_of_answers:
                return noise.choice(kinds)("gone")
            make = failure if noise.random() < failing else measurement
            return make(request.key, request.session)

        return Phone(batch=rng.randrange(1, 12), answer=answer, seconds=rng.choice([0, 0, 0.001]))

    answered, calls = [], 0
    while True:
        calls += 1
        assert calls < 200
        phones = [random_phone(rng.randrange(60)) for _ in range(rng.randrange(1, 5))]
        result = campaign(file, phones, seed=seed)
        for phone in phones:
            answered += phone.answered
        assert isinstance(result, DeviceError) or not isinstance(result, BaseException), result
        _, measured, failed = read_everything(file)
        outcomes = Counter((one.key, one.session) for _, one in [*measured, *failed])
        assert outcomes == Counter(answered)  # each answer is there, once
        assert rest_of(file) == set()
        if not isinstance(result, BaseException) and result.is_complete:
            break
    assert_complete(file)


def test_settings_reach_every_device(file):
    seen = []

    class Noting(Phone):
        def run(self, requests, settings):
            seen.append(settings)
            yield from super().run(requests, settings)

    campaign(file, [Noting(), Noting()])
    assert len(seen) >= 2 and set(seen) == {QUICK} and isinstance(QUICK, RunSettings)
