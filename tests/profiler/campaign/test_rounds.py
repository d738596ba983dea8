"""Campaigns on devices that drift, throttle and get noisy: the sentinel, what is measured again, and when it ends."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from bpnas.android_bench.errors import DeviceLostError
from bpnas.profiler import Records, run_campaign
from bpnas.profiler.campaign.estimate import PRECISION, estimate
from bpnas.profiler.campaign.model_files import ModelFiles
from bpnas.profiler.campaign.rounds import MAX_SESSIONS
from bpnas.profiler.campaign.run import plan_parts
from bpnas.profiler.campaign.sentinel import EVERY, SentinelTasks, is_sentinel, sentinel_model
from bpnas.profiler.campaign.session import summarize
from bpnas.profiler.campaign.work_queue import WorkQueue
from tests.records_factory import backbone, failure, make_plan, measurement, read_everything, read_sentinels, tasks
from tests.simulated_device import SECONDS, SimulatedDevice

PHONE = {"os": "Android 10 (QP1A.190711.020)"}
SMALL = make_plan(sessions=3, **PHONE)
MANY = make_plan(backbone(), backbone(32), paths="K1E?G1", sessions=3, **PHONE)
KEYS = sorted({key for key, _ in tasks(SMALL)})

pytestmark = pytest.mark.usefixtures("fake_models")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "r.sqlite"


def campaign(file, device, plan=SMALL, **options):
    """Run a campaign; its result, or the exception in its place."""
    try:
        with Records.write(file) as records:
            return run_campaign(device, records, plan, **options)
    except BaseException as error:
        return error


def counts(file):
    """Sessions of each part."""
    return Counter(one.key for _, one in read_everything(file)[1])


def extra(device, plan=SMALL):
    """What a device measured beside the planned sessions."""
    planned = set(tasks(plan))
    return [task for task in device.seen if task not in planned]


def noisy_in(*sessions):
    """Noise of these sessions of one part."""
    return lambda key, session: 10.0 if (key, session) in sessions else 1.0


# The sentinel


def test_it_is_timed_before_between_and_after_the_models_and_counts_as_none_of_them(file):
    device, reports = SimulatedDevice(), []
    result = campaign(file, device, MANY, on_progress=reports.append)
    total = len(tasks(MANY))
    assert (result.total, result.done, result.measured) == (total, total, total)
    assert {report.total for report in reports} == {total}
    assert Counter(device.seen) == Counter(tasks(MANY))
    assert len(device.sentinels) == -(-total // EVERY) + 1
    assert len(device.sentinels) < 0.05 * total
    times = sorted(one.started_at - device.began_at for one in read_sentinels(file))
    assert times[0] == 0 and times[-1] == device.now - SECONDS
    assert max(after - before for before, after in pairwise(times)) == (EVERY + 1) * SECONDS
    (key,) = {one.key for one in read_sentinels(file)}
    assert key.startswith("sentinel@K3E6G1@")


def test_its_sessions_are_counted_on_by_the_next_call(file):
    campaign(file, SimulatedDevice(), SMALL, budget_seconds=1e-9)
    campaign(file, SimulatedDevice(seed=1), SMALL)
    assert [one.session for one in read_sentinels(file)] == [
        0,
        1,
        2,
    ]  # one before the first model, then before and after
    assert campaign(file, SimulatedDevice(seed=2), SMALL).measured == 0
    assert len(read_sentinels(file)) == 3


def test_it_is_the_same_whatever_paths_are_measured(file):
    for paths in ("K1G1", "K3E2G1"):
        campaign(file, SimulatedDevice(), make_plan(paths=paths, **PHONE))
    assert len({one.key for one in read_sentinels(file)}) == 1


def test_each_of_several_phones_times_it_before_between_and_after(file):
    phones = [SimulatedDevice(serial) for serial in "ABC"]
    assert campaign(file, phones, MANY, serials=list("ABC")).is_complete
    by_phone = {
        s: [one for _, one in read_everything(file)[1] if one.conditions["before"]["serial"] == s] for s in "ABC"
    }
    for phone in phones:
        models = by_phone[phone.serial]
        times = [one.started_at for one in read_sentinels(file) if one.conditions["before"]["serial"] == phone.serial]
        if models:
            assert min(times) < min(one.started_at for one in models)
            assert max(times) > max(one.started_at for one in models)
            assert len(models) / EVERY <= len(times) <= len(models) / EVERY + 3


@pytest.mark.parametrize("what", [{"name": "s9-emulator"}, {"os": "Linux 6.1"}], ids=["emulator", "no phone"])
def test_what_is_no_phone_is_never_throttled(file, monkeypatch, what):
    monkeypatch.setattr("bpnas.profiler.campaign.sentinel.EVERY", 4)
    plan = make_plan(sessions=3, **{**PHONE, **what})
    device = SimulatedDevice(slowdown=hot, info=plan.setup.device)
    result = campaign(file, device, plan)
    assert all(one.quarantined == () for one in result.assessment.estimates.values())
    assert extra(device) == [] and len(device.sentinels) > 5


@pytest.fixture
def queue(tmp_path):
    """Two models for two devices, A and B, with sentinels."""
    work = tasks(SMALL)[:2]
    sentinel, model = sentinel_model(backbone())
    parts = {**{part.key: part for part in plan_parts(SMALL)}, sentinel: model}
    with ModelFiles(tmp_path / "models", parts, "tflite") as models:
        yield WorkQueue(work, models, 2, SentinelTasks(sentinel, []))


def answer(share, request):
    share.answered(measurement(request.key, request.session))


def test_a_phone_that_waited_for_the_last_model_of_another_one_times_it_too(queue):
    with queue.share("A") as one, queue.share("B") as two:
        answer(one, next(one))  # its first sentinel
        for share in (one, two, two):
            answer(share, next(share))
        assert is_sentinel(next(two).key)
    with queue.share("A") as one:
        assert queue.wait("A") and is_sentinel(next(one).key)
        assert list(one) == []
    assert not queue.wait("A")


def test_one_that_comes_back_from_a_lost_phone_is_not_for_the_others(queue):
    with queue.share("A") as lost:
        first = next(lost)
        assert is_sentinel(first.key)
    assert [key for key, _ in queue.upcoming(9)] == [key for key, _ in tasks(SMALL)[:2]]


def test_one_that_fails_costs_no_part(file):
    class Fails(SimulatedDevice):
        def measure(self, key, session):
            return failure(key, session) if is_sentinel(key) else super().measure(key, session)

    result = campaign(file, Fails())
    assert result.is_complete and result.measured == len(tasks(SMALL))
    assert {is_sentinel(one.key) for one in result.failures} == {True}


# Measured again


def test_a_calm_device_is_asked_for_nothing_more(file):
    device = SimulatedDevice()
    result = campaign(file, device)
    assert extra(device) == []
    assert result.assessment.short == () and result.assessment.doubts == {}
    again = SimulatedDevice(seed=1)
    assert campaign(file, again).measured == 0
    assert again.seen == again.sentinels == []


def test_a_noisy_session_is_measured_again_once_and_replaced(file):
    device, reports = SimulatedDevice(noisier=noisy_in((KEYS[0], 1))), []
    result = campaign(file, device, on_progress=reports.append)
    assert extra(device) == [(KEYS[0], 3)]
    assert result.is_complete and result.total == len(tasks(SMALL)) + 1
    assert result.assessment.doubts == {}
    (quarantined,) = (one.quarantined for one in result.assessment.estimates.values() if one.quarantined)
    assert [(s.key, s.number, reason) for s, reason in quarantined] == [(KEYS[0], 1, "noisy")]
    assert [r.total for r in reports[:2] + reports[-2:]] == [len(tasks(SMALL))] * 2 + [len(tasks(SMALL)) + 1] * 2
    assert reports[-1].done == reports[-1].total
    assert campaign(file, SimulatedDevice()).measured == 0


def test_a_second_noisy_session_is_the_last_and_flagged(file):
    device = SimulatedDevice(noisier=noisy_in((KEYS[0], 1), (KEYS[0], 3)))
    result = campaign(file, device)
    assert extra(device) == [(KEYS[0], 3)]
    assert result.assessment.doubts == {"noisy": 1}


def hot(now):
    return 1.5 if 20 <= now < 40 else 1.0


def test_what_was_measured_while_the_device_was_throttled_is_measured_again(file, monkeypatch):
    monkeypatch.setattr("bpnas.profiler.campaign.sentinel.EVERY", 4)
    device = SimulatedDevice(slowdown=hot)
    result = campaign(file, device)
    slow = {(one.key, one.session) for _, one in read_everything(file)[1] if hot(one.started_at - 1.7e9) > 1}
    assert slow
    again = Counter(key for key, _ in extra(device))
    assert all(again[key] >= 1 for key, _ in slow)
    quarantined = {(s.key, s.number) for one in result.assessment.estimates.values() for s, _ in one.quarantined}
    assert slow <= quarantined
    assert sum(again.values()) == len(quarantined) < len(tasks(SMALL)) / 2
    assert all(len(one.used) == 3 for one in result.assessment.estimates.values())
    assert result.assessment.short == ()
    assert campaign(file, SimulatedDevice()).measured == 0


def test_only_the_phone_that_was_throttled_measures_in_vain(file, monkeypatch):
    monkeypatch.setattr("bpnas.profiler.campaign.sentinel.EVERY", 4)
    phones = [SimulatedDevice("A", slowdown=hot), SimulatedDevice("B")]
    result = campaign(file, phones, serials=["A", "B"])
    assert {s.serial for one in result.assessment.estimates.values() for s, _ in one.quarantined} <= {"A"}
    assert result.is_complete


def test_an_interrupted_repetition_is_taken_up_again(file):
    noisier = noisy_in(*((key, 0) for key in KEYS[:5]))

    class Lost(SimulatedDevice):
        def measure(self, key, session):
            if len(extra(self)) == 2:
                raise DeviceLostError("gone")
            return super().measure(key, session)

    lost = Lost(noisier=noisier)
    assert isinstance(campaign(file, lost), DeviceLostError)
    device = SimulatedDevice(noisier=noisier)
    assert campaign(file, device).is_complete
    assert {*extra(lost), *device.seen} == {(key, 3) for key in KEYS[:5]}
    assert len(device.seen) == 3
    assert campaign(file, device).measured == 0


# Precision


class NoClock(SimulatedDevice):
    """As the computed device: its answer depends on the part and the session alone."""

    def measure(self, key, session):
        self.now = -self.began_at
        return super().measure(key, session)


def rough(**options):
    """A device whose sessions differ by several percent, the sentinel's too."""
    return NoClock(**{"session_noise": 0.03, **options})


def asked(precision, sessions=3):
    return make_plan(sessions=sessions, precision=precision, **PHONE)


def test_sessions_are_added_until_each_part_is_precise_and_no_longer(file):
    device = rough()
    result = campaign(file, device, asked(0.03))
    assert result.is_complete and result.assessment.precision == 0.03
    measured = [summarize(one) for _, one in read_everything(file)[1]]
    assert len(set(counts(file).values())) > 1
    for key, count in counts(file).items():
        assert count <= MAX_SESSIONS
        assert {one.number for one in measured if one.key == key} == set(range(count))
        final = estimate(one for one in measured if one.key == key).parts[key]
        assert final.half_width <= 0.03 or count == MAX_SESSIONS
        if count > 3:
            before = estimate(one for one in measured if one.key == key and one.number < count - 1).parts[key]
            assert before.half_width > 0.03
    short = {one.key for one in result.assessment.short}
    assert short <= {key for key, count in counts(file).items() if count == MAX_SESSIONS}
    assert campaign(file, rough(), asked(0.03)).measured == 0


def test_no_part_gets_more_sessions_than_allowed(file):
    result = campaign(file, rough(), asked(0.001), max_sessions=5)
    assert set(counts(file).values()) == {5}
    assert len(result.assessment.short) == len(KEYS)
    assert result.assessment.doubts == {"imprecise": len(KEYS)}
    assert campaign(file, rough(), asked(0.001), max_sessions=5).measured == 0
    assert campaign(file, rough(), asked(0.001), max_sessions=6).measured == len(KEYS)


def test_a_plan_of_more_sessions_than_allowed_is_measured_as_planned(file):
    campaign(file, rough(), asked(0.001, sessions=4), max_sessions=2)
    assert set(counts(file).values()) == {4}


def test_one_planned_session_gets_company_where_a_precision_is_asked_for(file):
    campaign(file, SimulatedDevice(), asked(0.05, sessions=1))
    assert set(counts(file).values()) == {2}


def test_one_planned_session_is_left_alone_otherwise(file):
    for _ in range(2):
        result = campaign(file, SimulatedDevice(), make_plan(**PHONE))
        assert set(counts(file).values()) == {1}
        assert result.assessment.short == () and result.assessment.doubts == {"unknown": len(KEYS)}


def test_the_next_call_measures_just_what_is_not_good_once_more(file):
    first = rough(session_noise=0.06)
    result = campaign(file, first)
    short = {one.key for one in result.assessment.short}
    assert 0 < len(short) < len(KEYS)
    assert all(one.half_width > PRECISION for one in result.assessment.short)
    widths = [one.half_width for one in result.assessment.short]
    assert widths == sorted(widths, reverse=True)
    assert extra(first) == []
    before = counts(file)
    second = rough(session_noise=0.06)
    result = campaign(file, second)
    assert sorted(second.seen) == sorted((key, before[key]) for key in short)
    assert result.measured == len(short) and result.is_complete


def test_a_model_that_always_fails_does_not_keep_the_others_from_being_measured_once_more(file):
    class Fails(NoClock):
        def measure(self, key, session):
            return failure(key, session) if key == KEYS[0] else super().measure(key, session)

    short = {one.key for one in campaign(file, Fails(session_noise=0.06)).assessment.short}
    assert short
    device = Fails(session_noise=0.06)
    result = campaign(file, device)
    assert {key for key, _ in device.seen} == short
    assert len(device.seen) == len(short) == result.measured
    assert {one.key for one in result.failures} == {KEYS[0]}


def test_calls_end_although_the_device_never_gets_better(file):
    calls = 0
    while campaign(file, rough(session_noise=0.5)).measured:
        calls += 1
        assert calls < 20
    assert max(counts(file).values()) == MAX_SESSIONS


def test_it_can_be_asked_for_later_and_left_out_again(file):
    campaign(file, rough())
    result = campaign(file, rough(), asked(0.02))
    assert result.measured > 0
    assert not [one for one in result.assessment.short if one.measured < MAX_SESSIONS]
    (plan,) = read_everything(file)[0]
    assert plan == SMALL and plan.precision == 0.02
    result = campaign(file, rough(), max_sessions=3)
    assert result.measured == 0 and result.assessment.precision == PRECISION


@pytest.mark.parametrize("seed", range(2))
def test_whenever_it_is_lost_the_same_sessions_are_measured_in_the_end(tmp_path, seed):
    """On a device that answers the same whatever came before, as the computed one."""
    rng = random.Random(seed)

    class Lost(NoClock):
        left = 0

        def measure(self, key, session):
            self.left -= 1
            if self.left < 0:
                raise DeviceLostError("gone")
            return super().measure(key, session)

    def noisier(key, session):
        return 10.0 if random.Random(f"{key}-{session}").random() < 0.1 else 1.0

    options = {"session_noise": 0.03, "noisier": noisier}
    assert campaign(tmp_path / "whole.sqlite", NoClock(**options), asked(0.02)).is_complete
    for _ in range(100):
        device = Lost(**options)
        device.left = rng.randrange(2, 25)
        result = campaign(tmp_path / "lost.sqlite", device, asked(0.02))
        assert isinstance(result, DeviceLostError) or result.is_complete
        if not isinstance(result, DeviceLostError):
            break
    assert result.is_complete
    whole, lost = (read_everything(tmp_path / f"{name}.sqlite")[1] for name in ("whole", "lost"))
    assert whole == lost
    assert len(whole) > len(tasks(SMALL))


# What can go wrong in a further round


def test_the_budget_holds_in_every_round(file):
    device = rough()

    class Slow(SimulatedDevice):
        def measure(self, key, session):
            if extra(self):
                clock.append(1e6)
            return super().measure(key, session)

    clock = [0.0]
    device = Slow(session_noise=0.03)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bpnas.profiler.campaign.run.time.monotonic", lambda: clock[-1])
        result = campaign(file, device, asked(0.001), budget_seconds=1000)
    assert not result.is_complete
    assert 1 <= len(extra(device)) <= 2
    assert result.done == len(read_everything(file)[1])


def test_ctrl_c_in_a_further_round_keeps_what_came(file):
    def interrupt(progress):
        if progress.measured == len(tasks(SMALL)) + 3:
            raise KeyboardInterrupt

    device = rough()
    assert isinstance(campaign(file, device, asked(0.001), on_progress=interrupt), KeyboardInterrupt)
    assert len(extra(device)) == 3
    assert sorted(device.seen) == sorted((one.key, one.session) for _, one in read_everything(file)[1])


def test_what_fails_in_a_further_round_is_left_to_the_next_call(file):
    class Fails(SimulatedDevice):
        tried = 0

        def measure(self, key, session):
            if key == KEYS[0] and session >= 3:
                self.tried += 1
                return failure(key, session)
            return super().measure(key, session)

    for _ in range(2):
        device = Fails(session_noise=0.03)
        result = campaign(file, device, asked(0.001), max_sessions=5)
        assert device.tried == 1
        assert [(one.key, one.session) for one in result.failures] == [(KEYS[0], 3)]
        assert not result.is_complete
    assert counts(file) == {**dict.fromkeys(KEYS, 5), KEYS[0]: 3}


def test_a_device_that_was_lost_is_not_asked_in_a_further_round(file):
    class Lost(SimulatedDevice):
        runs = runs_until_lost = 0

        def run(self, requests, settings):
            self.runs += 1
            yield from super().run(requests, settings)

        def measure(self, key, session):
            if len(self.seen) == 3:
                self.runs_until_lost = self.runs
                raise DeviceLostError("the cable was pulled")
            return super().measure(key, session)

    lost, other = Lost("A", session_noise=0.03), SimulatedDevice("B", session_noise=0.03)
    reports = []
    result = campaign(file, [lost, other], asked(0.001), max_sessions=5, serials=["A", "B"], on_progress=reports.append)
    assert result.is_complete and result.lost == ("A: the cable was pulled",) == reports[-1].lost
    assert set(counts(file).values()) == {5}
    # Which round that was depends on how much the other one had taken.
    assert lost.runs == lost.runs_until_lost > 0
