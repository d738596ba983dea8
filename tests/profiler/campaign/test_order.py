"""What was measured after what is told by the order of the records, whatever the wall clock does meanwhile."""

import random
from dataclasses import replace
from itertools import zip_longest

import numpy as np
import pytest

from bpnas.profiler import Records, run_campaign
from bpnas.profiler.campaign.estimate import estimate
from bpnas.profiler.campaign.order import RowOrder, places
from bpnas.profiler.campaign.session import Summarizer
from bpnas.tables import build_table
from tests.records_factory import TOOLS, backbone, make_plan, tasks
from tests.simulated_device import SECONDS, SENTINEL, SimulatedDevice, right

PHONE = {"os": "Android 10 (QP1A.190711.020)"}
PLAN = make_plan(backbone(), backbone(32), paths="K1E?G1", sessions=8, **PHONE)
LENGTH = len(tasks(PLAN)) * SECONDS
HOURS = 3600.0


def at(share):
    return share * LENGTH


CLOCKS = {
    "set back": lambda now: -5 * HOURS if now > at(0.5) else 0.0,
    "set forward": lambda now: 5 * HOURS if now > at(0.4) else 0.0,
    "wrong for a while": lambda now: -9 * HOURS if at(0.3) < now < at(0.7) else 0.0,
    "back to 1969": lambda now: -1.71e9 if now > at(0.6) else 0.0,
    "slowly backwards": lambda now: -2 * now,
    "at random": lambda now: random.Random(now).uniform(-1, 1) * 24 * HOURS,
}


def slowdown(now):
    """Drift, and a while of throttling."""
    return (1 + 0.08 * now / LENGTH) * (1.4 if at(0.5) < now < at(0.65) else 1.0)


def numbers(estimates):
    return {
        key: (one.latency_ms, one.low_ms, one.high_ms, len(one.used), one.quarantined, one.flags)
        for key, one in estimates.items()
    }


@pytest.fixture
def campaign(tmp_path, fake_models):
    def run(wrong_by, calls=1):
        """A campaign by two phones in some calls; what it says itself, and the table's rows."""
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite"
        device = SimulatedDevice(slowdown=slowdown, wrong_by=wrong_by)
        for call in range(calls):
            with Records.write(file) as records:
                budget = 0.0 if call < calls - 1 else None
                result = run_campaign(device, records, PLAN, serials=["A"], budget_seconds=budget)
        built = build_table([file])
        return device.seen, numbers(result.assessment.estimates), built.table.to_pylist(), built.largest_correction

    return run


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_a_campaign_whose_wall_clock_jumps_gives_exactly_the_same(campaign, clock):
    expected = campaign(right)
    assert any(row["quarantined"] for row in expected[2]), "throttled sessions are left out"
    assert expected[3] > 0.01, "drift is corrected"
    assert campaign(clock) == expected
    assert {key: one[0] for key, one in expected[1].items()} == {row["key"]: row["latency_ms"] for row in expected[2]}


def test_also_over_several_calls(campaign):
    assert campaign(CLOCKS["set back"], calls=3) == campaign(right, calls=3)


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_phones_that_take_turns_are_ordered_each_by_itself(clock, tmp_path):
    def rows(wrong_by):
        keys = sorted({key for key, _ in tasks(PLAN)})
        phones = [SimulatedDevice(serial, slowdown=slowdown, wrong_by=wrong_by) for serial in "AB"]
        a, b = (phone.campaign(keys, 4) for phone in phones)
        b = [replace(one, session=one.session + 4) if one.key != SENTINEL else one for one in b]
        b = [replace(one, session=one.session + 1000) if one.key == SENTINEL else one for one in b]
        mixed = [one for pair in zip_longest(a, b) for one in pair if one is not None]
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite"
        with Records.write(file) as records:
            records.add_plan(PLAN)
            for one in mixed:
                records.add(PLAN.setup, TOOLS, one)
        in_blocks = estimate(map(Summarizer(), [*a, *b]), dict.fromkeys(keys, 4)).parts
        table = {row["key"]: row["latency_ms"] for row in build_table([file]).table.to_pylist()}
        assert table == {key: one.latency_ms for key, one in in_blocks.items()}
        return table

    assert rows(clock) == rows(right)


# Several files


def order(started_at, rows=None, digests=None, serials=None):
    """A file with these rows; by default each with a content of its own."""
    rows = list(range(1, len(started_at) + 1)) if rows is None else rows
    serials = ["A"] * len(rows) if serials is None else serials
    names = tuple(dict.fromkeys(serials))
    digests = [hash(("content", at)) >> 8 for at in started_at] if digests is None else digests
    return RowOrder(
        np.array(rows, np.int64),
        names,
        np.array([names.index(serial) for serial in serials], np.int64),
        np.array(started_at, np.float64),
        np.array(digests, np.int64),
        ("K1G1",),
        np.zeros(len(rows), np.int64),
    )


def placed(*files):
    return [place.tolist() for place in places(files)]


def test_one_file_is_in_the_order_of_its_rows_each_phone_by_itself():
    assert placed(order([5.0, 9.0, -3.0, 1.0])) == [[1, 2, 3, 4]]
    assert placed(order([5.0, 9.0, -3.0, 1.0], serials=["A", "B", "B", "A"])) == [[1, 1, 2, 2]]
    assert placed(order([])) == [[]]


def test_files_are_interleaved_by_their_clocks():
    assert placed(order([10.0, 20.0, 30.0]), order([15.0, 35.0])) == [[1, 3, 4], [2, 5]]
    assert placed(order([15.0, 35.0]), order([10.0, 20.0, 30.0])) == [[2, 5], [1, 3, 4]]


def test_a_file_whose_clock_was_set_back_stays_in_its_order_next_to_others():
    a, b = placed(order([10.0, 20.0, -500.0, -490.0]), order([15.0, 25.0]))
    assert a == sorted(a) and b == sorted(b)
    assert sorted([*a, *b]) == [1, 2, 3, 4, 5, 6]


def test_copies_of_a_row_have_one_place_and_the_whole_file_says_which():
    times, digests = [10.0, 20.0, 30.0, -100.0, -90.0, -80.0], [1, 2, 3, 4, 5, 6]
    whole = order(times, digests=digests)
    some = order([10.0, 30.0, -90.0], digests=[1, 3, 5])
    assert placed(whole, some) == [[1, 2, 3, 4, 5, 6], [1, 3, 5]]
    assert placed(some, whole, whole) == [[1, 3, 5], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("seed", range(20))
def test_which_file_comes_first_and_copies_change_nothing(seed):
    rng = random.Random(seed)
    files = []
    for file in range(3):
        times = [rng.uniform(0, 100) for _ in range(rng.randrange(8))]
        files.append(order(times, digests=[1000 * file + n for n in range(len(times))]))
    expected = placed(*files)
    shuffled = rng.sample(range(3), 3)
    again = placed(*[files[n] for n in shuffled], files[shuffled[0]])
    assert again == [expected[n] for n in [*shuffled, shuffled[0]]]
    assert all(one == sorted(one) for one in expected)


def test_numbered_rows_tell_what_was_measured_later(tmp_path):
    device = SimulatedDevice(wrong_by=CLOCKS["at random"])
    measured = device.campaign(sorted({key for key, _ in tasks(PLAN)}), 2)
    with Records.write(tmp_path / "r.sqlite") as records:
        for one in measured:
            records.add(PLAN.setup, TOOLS, one)
        assert list(records.measurements_of(PLAN.setup)) == measured
        assert [number for number, _ in records.numbered(PLAN.setup)] == list(range(1, len(measured) + 1))
