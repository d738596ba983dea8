"""The measuring protocol on devices of known truth, one test a rule."""

import math
import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpnas.profiler.campaign.drift import THROTTLED, read_drift
from bpnas.profiler.campaign.estimate import PRECISION, estimate, of_sessions
from bpnas.profiler.campaign.sentinel import is_sentinel
from bpnas.profiler.campaign.session import COARSE, MIN_SAMPLES, NOISY, Summarizer, summarize
from tests.records_factory import measurement
from tests.simulated_device import SECONDS, SENTINEL, SimulatedDevice, truth_ms

KEYS = [f"part-{n}" for n in range(100)]
LONG = (3 * len(KEYS) + 14) * SECONDS  # of three sessions of all parts


def summaries(measurements):
    """Sessions in the order of measuring."""
    return list(map(Summarizer(), measurements))


def numbers(estimates):
    """All that is known of each part."""
    return {
        key: (one.latency_ms, one.low_ms, one.high_ms, len(one.used), one.quarantined, one.flags)
        for key, one in estimates.parts.items()
    }


def found(measurements, planned=3):
    return estimate(summaries(measurements), dict.fromkeys(KEYS, planned))


def without_sentinel(measurements):
    return [one for one in measurements if not is_sentinel(one.key)]


def error(estimates):
    """Root mean square of the relative errors, beside how slow the device is usually: that is its own affair."""
    ratios = [one.latency_ms / truth_ms(one.key) for one in estimates.parts.values() if one.used]
    usual = statistics.median(ratios)
    return math.sqrt(statistics.fmean((ratio / usual - 1) ** 2 for ratio in ratios))


def session(key="part-1", number=0, ms=1.0, spread=0.01, at=0.0, serial="", samples=25):
    """A session with a median and a spread that are known: the samples are the percentiles of a normal one."""
    normal = statistics.NormalDist(0.0, spread)
    quantiles = [normal.inv_cdf((n + 0.5) / samples) for n in range(samples)]
    return measurement(
        key,
        number,
        samples_ns=tuple(round(ms * 1e6 * (1 + each)) for each in quantiles),
        repeats=1,
        started_at=at,
        conditions={"before": {"serial": serial}} if serial else {},
    )


# One session


def test_the_latency_of_a_session_is_its_median_over_the_inferences_of_a_sample():
    one = summarize(measurement("a", samples_ns=(4_000_000, 8_000_000, 90_000_000), repeats=4))
    assert one.latency_ms == 2.0


def test_spread_is_the_standard_deviation_of_normal_noise_and_blind_to_rare_bursts():
    calm = session(spread=0.02, samples=99)
    assert summarize(calm).spread == pytest.approx(0.02, rel=0.05)
    burst = replace(calm, samples_ns=(*calm.samples_ns, *[9_000_000] * 8))
    assert not summarize(burst).is_noisy


@pytest.mark.parametrize(("spread", "noisy"), [(NOISY * 0.9, False), (NOISY * 1.15, True)])
def test_a_session_is_noisy_above_three_percent(spread, noisy):
    assert summarize(session(spread=spread, samples=200)).is_noisy is noisy


def test_too_few_samples_say_nothing_of_noise_and_clock():
    samples = tuple(1_000_000 * (1 + n % 2) for n in range(MIN_SAMPLES))
    assert summarize(measurement("a", samples_ns=samples)).is_noisy
    assert summarize(measurement("a", samples_ns=samples)).is_coarse
    few = summarize(measurement("a", samples_ns=samples[1:]))
    assert few.spread is None and not few.is_noisy and not few.is_coarse


@pytest.mark.parametrize(
    ("tick_ns", "coarse"),
    [(1, False), (1000, False), (int(1e6 * COARSE * 0.9), False), (int(1e6 * COARSE * 1.3), True), (10**6, True)],
)
def test_a_clock_that_does_not_resolve_the_samples_is_flagged(tick_ns, coarse):
    one = session(ms=1.0, spread=0.01, samples=50)
    one = replace(one, samples_ns=tuple(round(ns / tick_ns + 0.01 * (ns % 2)) * tick_ns for ns in one.samples_ns))
    if tick_ns == 10**6:
        one = replace(one, samples_ns=(*one.samples_ns, 2 * tick_ns))
    assert summarize(one).is_coarse is coarse
    assert estimate([summarize(one)]).parts["part-1"].flags == (("clock",) if coarse else ())


def test_noise_that_hides_the_clock_is_no_matter_of_the_clock():
    device = SimulatedDevice(sample_noise=0.2, tick_ns=50_000)
    assert not summarize(device.measure("part-1", 0)).is_coarse


def test_a_coarse_clock_on_a_device_flags_the_fast_parts():
    estimates = found(SimulatedDevice(tick_ns=40_000).campaign(KEYS, 3))
    flagged = {key for key, one in estimates.parts.items() if "clock" in one.flags}
    # 40 us are half a percent of 8 ms.
    assert all((key in flagged) == (truth_ms(key) < 8.0) for key in KEYS if not 7.5 < truth_ms(key) < 8.5)


# Several sessions: the median and its interval


def test_the_estimate_is_the_median_of_the_sessions():
    one = estimate(summaries([session(number=n, ms=ms) for n, ms in enumerate([1.0, 9.0, 2.0])])).parts["part-1"]
    assert one.latency_ms == pytest.approx(2.0)
    assert (one.low_ms, one.high_ms) == pytest.approx((1.0, 9.0))
    assert one.half_width == pytest.approx(2.0)
    assert (one.measured, one.quarantined) == (3, ())


def test_one_session_does_not_tell_its_precision():
    one = estimate([summarize(session())]).parts["part-1"]
    assert (one.low_ms, one.high_ms, one.half_width) == (None, None, None)
    assert one.doubts(0.5) == ("unknown",)


def test_imprecise_is_what_is_wider_than_asked_for():
    one = estimate(summaries([session(number=n, ms=ms) for n, ms in enumerate([1.0, 1.04])])).parts["part-1"]
    assert one.half_width == pytest.approx(0.0196, abs=1e-4)
    assert one.doubts(0.02) == ()
    assert one.doubts(0.019) == ("imprecise",)


@pytest.mark.parametrize("sessions", [5, 7, 10])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(sessions):
    keys = [f"cover-{n}" for n in range(300)]
    estimates = estimate(summaries(SimulatedDevice(session_noise=0.03).campaign(keys, sessions)))
    covered = [one.low_ms <= truth_ms(key) <= one.high_ms for key, one in estimates.parts.items()]
    assert 0.85 <= statistics.fmean(covered) <= 0.99


def test_the_interval_gets_narrower_with_more_sessions():
    def width(sessions):
        parts = found(SimulatedDevice(session_noise=0.03).campaign(KEYS, sessions)).parts
        return statistics.fmean(one.half_width for one in parts.values())

    assert width(20) < 0.7 * width(6)


def test_outlier_sessions_do_not_move_the_median():
    device = SimulatedDevice()
    measured = without_sentinel(device.campaign(KEYS, 5))
    spoilt = [
        replace(one, samples_ns=tuple(2 * ns for ns in one.samples_ns)) if one.session == int(one.key[5:]) % 5 else one
        for one in measured
    ]
    for key, one in found(spoilt, 5).parts.items():
        assert one.latency_ms == pytest.approx(truth_ms(key), rel=0.015)
        assert "imprecise" in one.doubts(PRECISION)  # but they are not hidden either


def test_a_device_with_two_speeds_is_told_by_the_interval():
    def mode(one):
        return random.Random(f"{one.key}/{one.session}").choice((1, 1.3))

    measured = [
        replace(one, samples_ns=tuple(round(mode(one) * ns) for ns in one.samples_ns))
        for one in without_sentinel(SimulatedDevice().campaign(KEYS, 8))
    ]
    estimates = found(measured, 8)
    assert statistics.fmean("imprecise" in one.doubts(PRECISION) for one in estimates.parts.values()) > 0.9
    assert all(0.99 < one.latency_ms / truth_ms(key) < 1.31 for key, one in estimates.parts.items())


def test_the_10th_percentile_of_sessions_is_the_speed_of_an_undisturbed_device():
    def mode(one):
        return random.Random(f"{one.key}/{one.session}").choice((1, 1, 1.3, 1.9))

    measured = [
        summarize(replace(one, samples_ns=tuple(round(mode(one) * ns) for ns in one.samples_ns)), "p10")
        for one in without_sentinel(SimulatedDevice().campaign(KEYS, 8))
    ]
    parts = estimate(measured, dict.fromkeys(KEYS, 8), statistic="p10").parts
    errors = [one.latency_ms / truth_ms(key) - 1 for key, one in parts.items()]
    assert statistics.median(map(abs, errors)) < 0.02 and sum(abs(error) > 0.05 for error in errors) <= 2
    assert all(one.low_ms <= one.latency_ms <= one.high_ms for one in parts.values())


@pytest.mark.parametrize(("count", "median", "p10"), [(1, 1, 1), (2, 1.5, 1), (3, 2, 1), (10, 5.5, 1), (21, 11, 3)])
def test_what_stands_for_several_sessions(count, median, p10):
    sessions_ms = random.Random(0).sample([float(n + 1) for n in range(count)], count)
    assert (of_sessions(sessions_ms, "median"), of_sessions(sessions_ms, "p10")) == (median, p10)


# Noisy sessions


def noisy(number, ms=5.0):
    return session(number=number, ms=ms, spread=0.1)


def of_part(*measurements, planned=1):
    return estimate(summaries(measurements), {"part-1": planned}).parts["part-1"]


def test_a_noisy_session_counts_and_is_flagged_until_a_calm_one_takes_its_place():
    before = of_part(session(), noisy(1), session(number=2), planned=3)
    assert len(before.used) == 3 and before.flags == ("noisy",)
    after = of_part(session(), noisy(1), session(number=2), session(number=3), planned=3)
    assert [one.number for one in after.used] == [0, 2, 3]
    assert [(one.number, reason) for one, reason in after.quarantined] == [(1, "noisy")]
    assert after.flags == ()
    assert after.measured == 4


def test_where_both_are_noisy_both_count_and_the_flag_stays():
    one = of_part(session(), noisy(1), session(number=2), noisy(3), planned=3)
    assert len(one.used) == 4 and one.quarantined == () and one.flags == ("noisy",)


# Throttling


def hot(*spans, factor=1.4):
    """Slow within these spans of the campaign, given as shares of it."""
    return lambda now: factor if any(a <= now / LONG < b for a, b in spans) else 1.0


def test_what_lies_between_good_sentinels_around_a_slow_one_is_quarantined_and_nothing_else():
    spans = [(0.2, 0.35), (0.6, 0.8)]
    measured = SimulatedDevice(slowdown=hot(*spans)).campaign(KEYS, 3)
    estimates = found(measured)
    throttled = {(s.key, s.number) for one in estimates.parts.values() for s, _ in one.quarantined}
    assert throttled
    distance = 26 * SECONDS  # of two sentinels
    for one in without_sentinel(measured):
        now = one.started_at - 1.7e9
        if any(a * LONG <= now < b * LONG for a, b in spans):
            assert (one.key, one.session) in throttled
        elif all(now < a * LONG - distance or now > b * LONG + distance for a, b in spans):
            assert (one.key, one.session) not in throttled
    for key, one in estimates.parts.items():
        assert {reason for _, reason in one.quarantined} <= {"throttled"}
        assert ("throttled" in one.flags) == (len(one.used) < 3)
        if one.used:
            assert one.latency_ms == pytest.approx(truth_ms(key), rel=0.02)
    assert error(found(without_sentinel(measured))) > 0.05


def test_a_part_that_was_always_throttled_has_no_estimate():
    slow = [session(SENTINEL, n, ms, at=10.0 * n + 10) for n, ms in enumerate([1, 1.2, 1, 1])]
    one = of_part(*slow[:2], session(at=25.0), *slow[2:])
    assert one.latency_ms is None and one.used == () and one.measured == 1
    assert one.doubts(PRECISION) == ("throttled", "unknown")


@pytest.mark.parametrize(("ratio", "throttled"), [(THROTTLED * 0.995, 0), (THROTTLED * 1.005, 1)])
def test_a_sentinel_is_slow_above_ten_percent(ratio, throttled):
    sentinels = [session(SENTINEL, n, ms, at=n + 1.0) for n, ms in enumerate([1.0, 1.0, 1.0, ratio, 1.0])]
    assert read_drift("", summaries(sentinels)).throttled == throttled


def test_the_baseline_holds_although_most_of_the_time_is_throttled():
    ms = [1.4] * 6 + [1.0] * 4
    sentinels = [session(SENTINEL, n, each, at=n + 1.0) for n, each in enumerate(ms)]
    assert read_drift("", summaries(sentinels)).throttled == 6


def test_the_ends_of_a_campaign_may_be_throttled():
    sentinels = [session(SENTINEL, n, ms, at=10.0 * n) for n, ms in enumerate([1.3, 1.3, 1, 1, 1, 1, 1, 1.3], 1)]
    drift = read_drift("", [summarize(one, 10 * n) for n, one in enumerate(sentinels, 1)])
    answers = [drift.is_throttled(at) for at in (5, 15, 25, 35, 65, 75, 85)]
    assert answers == [True, True, True, False, False, True, True]
    assert not drift.is_throttled(0)  # without a place there is no telling


def test_sessions_of_a_device_without_a_clock_are_never_throttled_nor_corrected():
    measured = [replace(one, started_at=0.0) for one in SimulatedDevice(slowdown=hot((0.2, 0.5))).campaign(KEYS, 3)]
    estimates = found(measured)
    assert numbers(estimates) == numbers(found(without_sentinel(measured)))
    assert all(one.quarantined == () and one.largest_correction == 0.0 for one in estimates.parts.values())


def test_a_sentinel_of_few_samples_is_not_heeded():
    measured = SimulatedDevice(slowdown=hot((0.2, 0.5)), samples=MIN_SAMPLES - 1).campaign(KEYS, 3)
    assert numbers(found(measured)) == numbers(found(without_sentinel(measured)))


def test_each_phone_is_compared_with_its_own_sentinel():
    cool, warm = SimulatedDevice("cool"), SimulatedDevice("warm", slowdown=hot((0.3, 0.6)))
    measured = [*cool.campaign(KEYS, 3), *warm.campaign(KEYS, 3)]
    estimates = found(measured)
    serials = {s.serial for one in estimates.parts.values() for s, _ in one.quarantined}
    assert serials == {"warm"}
    assert all(sum(s.serial == "cool" for s in one.used) == 3 for one in estimates.parts.values())
    assert {serial: drift.throttled > 0 for serial, drift in estimates.drifts.items()} == {"cool": False, "warm": True}


def test_a_phone_that_is_slower_than_another_one_is_not_throttled_for_that():
    measured = [*SimulatedDevice("A").campaign(KEYS, 3)]
    measured += SimulatedDevice("B", slowdown=lambda now: 1.3).campaign(KEYS, 3)
    assert all(one.quarantined == () for one in found(measured).parts.values())


def test_sentinels_of_two_models_are_not_compared_with_each_other():
    other = "sentinel@K3E6G1@24-24s1x56"
    sentinels = [session(SENTINEL if n < 6 else other, n, 1.0 if n < 6 else 4.0, at=n + 1.0) for n in range(12)]
    drift = read_drift("", summaries(sentinels))
    assert (drift.throttled, drift.sentinels, drift.largest) == (0, 12, 0.0)


# Drift


def rising(now):
    return 1 + 0.09 * now / LONG


def saw_tooth(now, length=330 * SECONDS):
    return 1 + 0.08 * (now / length * 2 % 1)


@pytest.mark.parametrize("slowdown", [rising, saw_tooth], ids=["linear", "thermal saw-tooth"])
@pytest.mark.parametrize("seed", range(3))
def test_drift_is_corrected_towards_the_truth(slowdown, seed):
    # One model after the other, not shuffled: the drift meets the parts as badly as it can.
    device = SimulatedDevice(slowdown=slowdown, seed=seed)
    measured = []
    for n, key in enumerate(key for key in KEYS for _ in range(3)):
        if n % 10 == 0:
            measured.append(device.measure(SENTINEL, n))
        measured.append(device.measure(key, n % 3))
    before, after = found(without_sentinel(measured)), found(measured)
    assert error(before) > 0.02
    assert error(after) < 0.5 * error(before)
    corrected = max(one.largest_correction for one in after.parts.values())
    assert 0.02 < corrected < 0.08
    assert corrected == pytest.approx(after.drifts["A"].largest, rel=0.05)


@pytest.mark.parametrize("noise", [0.002, 0.01, 0.03])
def test_pure_noise_is_not_taken_for_drift(noise):
    corrected = 0
    for seed in range(60):
        device = SimulatedDevice(session_noise=noise, seed=seed)
        drift = read_drift("A", summaries(device.measure(SENTINEL, n) for n in range(40)))
        corrected += drift.curve is not None
    assert corrected <= 1


def test_where_nothing_drifts_the_sentinel_changes_no_number():
    measured = SimulatedDevice(session_noise=0.01).campaign(KEYS, 3)
    assert numbers(found(measured)) == numbers(found(without_sentinel(measured)))


def test_drift_below_the_noise_of_the_sentinel_is_left_alone():
    # It is real, and found, for there are many sentinels; but a correction would add more noise than it takes away.
    device = SimulatedDevice(session_noise=0.02, slowdown=lambda now: 1 + 0.03 * now / 800)
    drift = read_drift("A", summaries(device.measure(SENTINEL, n) for n in range(400)))
    assert drift.curve is None


def test_a_single_odd_sentinel_is_no_drift():
    ms = [1.0 + 0.001 * (n % 3) for n in range(20)]
    ms[9] = 1.09
    drift = read_drift("", summaries(session(SENTINEL, n, each, at=n + 1.0) for n, each in enumerate(ms)))
    assert drift.largest < 0.002


def test_equal_sentinels_are_no_drift():
    drift = read_drift("", summaries(session(SENTINEL, n, 1.0, at=n + 1.0) for n in range(20)))
    assert drift.largest == 0.0


def test_sessions_beyond_the_last_sentinel_are_corrected_as_at_it():
    sentinels = [session(SENTINEL, n, 1 + n / 300, at=1.0) for n in range(20)]
    drift = read_drift("", [summarize(one, 10 * n) for n, one in enumerate(sentinels, 1)])
    assert drift.factor(5) == drift.factor(10) < 1.0 < drift.factor(200) == drift.factor(999)
    assert drift.factor(105) == pytest.approx(1.0, abs=0.002)


# Whatever the order


@pytest.fixture(scope="module")
def disturbed():
    """Sessions with all that can happen to them."""

    def noisier(key, number):
        return 8.0 if random.Random(f"{key}-{number}").random() < 0.1 else 1.0

    device = SimulatedDevice(slowdown=lambda now: rising(now) * hot((0.4, 0.5))(now), noisier=noisier)
    other = SimulatedDevice("B", slowdown=saw_tooth)
    sessions = summaries([*device.campaign(KEYS, 4), *other.campaign(KEYS, 3)])
    return sessions, estimate(sessions, dict.fromkeys(KEYS, 5))


def test_the_example_has_everything(disturbed):
    parts = disturbed[1].parts.values()
    assert {reason for one in parts for _, reason in one.quarantined} == {"noisy", "throttled"}
    assert "noisy" in {flag for one in parts for flag in one.flags}
    assert max(one.largest_correction for one in parts) > 0.01


@settings(max_examples=20)
@given(rng=st.randoms(use_true_random=False), copies=st.integers(0, 60))
def test_order_and_copies_change_nothing(disturbed, rng, copies):
    sessions, expected = disturbed
    shuffled = [*sessions, *rng.sample(sessions, copies)]
    rng.shuffle(shuffled)
    again = estimate(shuffled, dict.fromkeys(KEYS, 5))
    assert again.parts == expected.parts
    assert list(again.parts) == list(expected.parts)


@settings(max_examples=10)
@given(rng=st.randoms(use_true_random=False))
def test_what_was_used_gives_the_same_again(disturbed, rng):
    """Leaving out what is quarantined changes no estimate: nothing of it enters any number."""
    sessions, expected = disturbed
    left_out = {session for one in expected.parts.values() for session, _ in one.quarantined}
    kept = [session for session in sessions if session not in left_out]
    rng.shuffle(kept)
    again = estimate(kept, dict.fromkeys(KEYS, 5))
    for key, one in expected.parts.items():
        if one.used:
            assert (again.parts[key].latency_ms, again.parts[key].low_ms) == (one.latency_ms, one.low_ms)
