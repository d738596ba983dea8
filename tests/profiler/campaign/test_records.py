import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bpnas.android_bench.measurement import RunSettings
from bpnas.base.errors import SpaceError
from bpnas.profiler import Records, RecordsError
from bpnas.profiler.campaign.records import SCHEMA_VERSION, is_records_file
from tests.records_factory import (
    TOOLS,
    backbone,
    failure,
    make_plan,
    measurement,
    read_everything,
    tasks,
    write_records,
)
from tests.root import FIND_TESTS

PLAN = make_plan(backbone(), backbone(32), sessions=2)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "r.sqlite"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A records file with two devices, many measurements and some failures."""
    path = write_records(tmp_path_factory.mktemp("whole") / "r.sqlite", PLAN)
    write_records(path, make_plan(name="other", model="Käfer ☂"))
    with Records.write(path) as records:
        for session in range(3):
            records.add(PLAN.setup, TOOLS, failure("K7G1@8-8s1x16", session))
    return path


def start_python(code: str, *args: object, **options) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def table_rows(path: Path) -> dict[str, list[tuple]]:
    tables = ("device", "settings", "tools", "plan", "measurement", "failure")
    connection = sqlite3.connect(path)
    try:
        return {table: connection.execute(f"SELECT rowid, * FROM {table}").fetchall()
                if table in ("measurement", "failure")
                else connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}  # fmt: skip
    finally:
        connection.close()


# What goes in comes out


def test_measurements_come_back_equal(file):
    written = [measurement(key, session) for key, session in tasks(PLAN)]
    write_records(file, PLAN)
    _, read, failures = read_everything(file)
    assert [m for _, m in read] == sorted(written, key=lambda m: (m.key, m.session))
    assert {setup for setup, _ in read} == {PLAN.setup}
    assert failures == []


@pytest.mark.parametrize(
    "changes",
    [
        {"samples_ns": (1,)},
        {"samples_ns": (0, 2**62)},
        {"conditions": {}},
        {"conditions": {"before": {"°C": 41.5, "état": "übel ☂"}}},
        {"started_at": 0.0},
        {"started_at": 1732448123.1234567},
    ],
    ids=str,
)
def test_unusual_measurements_come_back_equal(file, changes):
    one = measurement("K1G1@8-8s1x16", **changes)
    write_records(file, PLAN, lambda key, session: one, [("", 0)])
    assert read_everything(file)[1] == [(PLAN.setup, one)]


def test_failures_come_back_equal(file):
    written = [failure("a", 0), failure("a", 1, kind="timeout"), failure("b", 0, kind="refused", message="nö: 'x'\"")]
    with Records.write(file) as records:
        for one in written:
            records.add(PLAN.setup, TOOLS, one)
    assert read_everything(file) == ([], [], [(PLAN.setup, one) for one in written])


def test_plans_come_back_equal_and_the_same_plan_is_one(file):
    plans = [
        PLAN,
        make_plan(),
        make_plan(paths=None),
        make_plan(sessions=7),
        make_plan(backbone(shuffle=True, classes=7)),
        make_plan(runtime="onnxruntime"),
        make_plan(export_version=9),
    ]
    with Records.write(file) as records:
        for plan in (*plans, *reversed(plans)):
            records.add_plan(plan)
    read = read_everything(file)[0]
    assert len(read) == len(plans)
    assert set(read) == set(plans)


def test_what_is_done_is_known_by_setup(file):
    other = make_plan(runtime_version="tflite 3")
    with Records.write(file) as records:
        records.add(PLAN.setup, TOOLS, measurement("a", 1))
        records.add(PLAN.setup, TOOLS, failure("b"))
        records.add(other.setup, TOOLS, measurement("c"))
        assert records.done(PLAN.setup) == {("a", 1)}
        assert records.failed(PLAN.setup) == {("b", 0)}
        assert records.done(other.setup) == {("c", 0)} and records.failed(other.setup) == set()
        assert records.done(make_plan(export_version=2).setup) == set()


def test_a_setup_is_told_from_others_by_each_of_its_parts(file):
    setups = [make_plan(**change).setup for change in ({}, {"abi": "x86"}, {"export_version": 2})]
    with Records.write(file) as records:
        for setup in setups:
            records.add(setup, TOOLS, measurement("a"))
    assert [setup for setup, _ in read_everything(file)[1]] == setups


# The precision that was asked for


def test_the_precision_asked_for_last_comes_back_and_makes_no_other_plan(file):
    with Records.write(file) as records:
        for precision in (0.05, None, 0.02, None):
            records.add_plan(replace(PLAN, precision=precision))
        records.add_plan(make_plan())
    plans = {plan: plan.precision for plan in read_everything(file)[0]}
    assert plans == {PLAN: 0.02, make_plan(): None}


def test_records_of_before_there_was_a_precision_can_be_read_and_gone_on_with(file):
    write_records(file, PLAN)
    connection = sqlite3.connect(file)
    connection.execute("DROP TABLE IF EXISTS precision")
    connection.close()
    assert [plan.precision for plan in read_everything(file)[0]] == [None]
    with Records.write(file) as records:
        records.add_plan(replace(PLAN, precision=0.02))
    assert [plan.precision for plan in read_everything(file)[0]] == [0.02]


@pytest.mark.parametrize("value", ["2.0", "0.0", "'much'"])
def test_a_precision_that_has_changed_is_damage(file, value):
    write_records(file, replace(PLAN, precision=0.02))
    connection = sqlite3.connect(file)
    connection.execute(f"UPDATE precision SET value = {value}")
    connection.commit()
    connection.close()
    with pytest.raises(RecordsError, match="damaged"):
        read_everything(file)


# Append-only


def test_later_writing_leaves_earlier_rows_as_they_were(file):
    write_records(file, PLAN, order=tasks(PLAN)[:5])
    before = table_rows(file)
    write_records(file, make_plan(sessions=3), order=[("z", 0)])
    after = table_rows(file)
    assert len(after["measurement"]) == 6
    for table, rows in before.items():
        assert set(rows) <= set(after[table])


def test_the_same_thing_twice_is_refused_and_changes_nothing(file):
    first = measurement("a")
    with Records.write(file) as records:
        records.add(PLAN.setup, TOOLS, first)
        with pytest.raises(RecordsError, match="measured already"):
            records.add(PLAN.setup, TOOLS, measurement("a", samples_ns=(5,)))
        records.add(PLAN.setup, TOOLS, measurement("a", 1))  # the file goes on working
    assert [m for _, m in read_everything(file)[1]] == [first, measurement("a", 1)]


def test_a_failure_may_come_back_and_be_followed_by_a_measurement(file):
    with Records.write(file) as records:
        records.add(PLAN.setup, TOOLS, failure("a"))
        records.add(PLAN.setup, TOOLS, failure("a", message="again"))
        records.add(PLAN.setup, TOOLS, measurement("a"))
    _, measured, failed = read_everything(file)
    assert len(measured) == 1
    assert [one.message for _, one in failed] == [failure("a").message, "again"]


def test_one_self_contained_file_lies_there_at_rest(file):
    write_records(file, PLAN)
    assert {path.name for path in file.parent.iterdir()} == {"r.sqlite", "r.sqlite.lock"}
    assert is_records_file(file)


# One writer, many readers


HOLD = """
import sys
from bpnas.profiler import Records
records = Records.write(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_writing_process_is_told_so_until_the_first_is_gone(file):
    write_records(file, PLAN)
    with start_python(HOLD, file, stdin=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == "open\n"
            with pytest.raises(RecordsError, match="another process is writing to it") as caught:
                Records.write(file)
            assert str(file) in str(caught.value)
            assert "\n" not in str(caught.value)
            assert len(read_everything(file)[1]) == len(tasks(PLAN))  # readers are welcome
        finally:
            holder.kill()
        holder.wait()
        Records.write(file).close()


def test_a_closed_file_can_be_written_again_at_once(file):
    for session in range(3):
        write_records(file, PLAN, order=[("a", session)])
    assert len(read_everything(file)[1]) == 3


def test_a_failed_opening_keeps_no_lock(file):
    file.write_bytes(b"no database at all, but long enough to be read as the header of one" * 20)
    for _ in range(2):
        with pytest.raises(RecordsError, match="is a text file"):
            Records.write(file)
    file.unlink()
    Records.write(file).close()


def test_a_reader_sees_each_row_as_soon_as_it_is_added(file):
    with Records.write(file) as records:
        for count, (key, session) in enumerate(tasks(PLAN)[:4]):
            assert len(read_everything(file)[1]) == count
            records.add(PLAN.setup, TOOLS, measurement(key, session))
        with Records.read(file) as reader:
            rows = reader.measurements()
            next(rows)
            records.add(PLAN.setup, TOOLS, measurement("zz"))
            assert len(list(rows)) == 3  # what was there when it began to read


WRITE_FOR_EVER = """
import itertools, sys
from bpnas.profiler import Records
from tests.records_factory import PATHS, TOOLS, make_plan, measurement
plan = make_plan()
with Records.write(sys.argv[1]) as records:
    records.add_plan(plan)
    for session in itertools.count(int(sys.argv[2])):
        records.add(plan.setup, TOOLS, measurement("a", session))
        print(session, flush=True)
"""


def test_a_killed_writer_loses_no_row_that_was_added(file):
    rng = random.Random(5)
    count = 0
    for _ in range(3):
        with start_python(FIND_TESTS + WRITE_FOR_EVER, file, count) as writer:
            last = count - 1
            for _ in range(rng.randrange(1, 60)):
                last = int(writer.stdout.readline())
            time.sleep(rng.random() * 0.01)
            writer.send_signal(signal.SIGKILL)
            last = max([last, *map(int, writer.stdout.read().split())])  # what it said before it died
        read = [m for _, m in read_everything(file)[1]]
        assert read == [measurement("a", session) for session in range(len(read))]
        assert len(read) >= last + 1  # the row being added may be there, those before must
        count = len(read)
    with Records.write(file) as records:
        assert len(records.done(make_plan().setup)) == count
        records.add(make_plan().setup, TOOLS, measurement("a", count))
    assert len(read_everything(file)[1]) == count + 1


# Files that are something else


def open_both_ways(path: Path) -> list[str]:
    """The sentences with which reading and writing refuse a file."""
    sentences = []
    for opener in (Records.read, Records.write):
        with pytest.raises(RecordsError) as caught:
            opener(path).close()
        sentences.append(str(caught.value))
        assert str(path) in sentences[-1]
        assert "\n" not in sentences[-1]
    return sentences


@pytest.mark.parametrize(
    "content", [b"xy", b"key,latency\n" * 100, b"SQLite format 3\0", b"SQLite format 3\0" + bytes(84)]
)
def test_what_is_no_database_is_refused_and_left_alone(file, content):
    file.write_bytes(content)
    open_both_ways(file)
    assert file.read_bytes() == content
    with pytest.raises(RecordsError):
        Records.read(file)


def test_another_programs_database_is_refused_and_left_alone(file):
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE measurement (key TEXT)")
    connection.commit()
    connection.close()
    content = file.read_bytes()
    assert all("no bpnas records" in sentence for sentence in open_both_ways(file))
    assert file.read_bytes() == content
    assert not is_records_file(file)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_another_schema_version_is_refused_with_both_numbers(file, version):
    write_records(file, PLAN)
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    for sentence in open_both_ways(file):
        assert f"version {version}," in sentence
        assert f"version {SCHEMA_VERSION};" in sentence


def test_reading_what_is_not_there_creates_nothing(tmp_path):
    with pytest.raises(RecordsError, match="no such records file"):
        Records.read(tmp_path / "none.sqlite")
    with pytest.raises(RecordsError, match="is a folder"):
        Records.read(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_writing_into_a_folder_that_is_not_there_names_it(tmp_path):
    with pytest.raises(RecordsError, match=re.escape(f"the folder {tmp_path / 'none'} does not exist")):
        Records.write(tmp_path / "none" / "r.sqlite")


def test_names_with_special_characters_are_plain_names(tmp_path):
    umbrella = os.fsdecode(b"\xe2\x98\x82")  # in every locale
    path = tmp_path / f"a?mode=memory#b %41 {umbrella}.sqlite"
    write_records(path, PLAN, order=[("a", 0)])
    assert path.is_file()
    assert len(read_everything(path)[1]) == 1


def test_a_file_that_another_program_holds_is_not_called_damaged(file, monkeypatch):
    """A person who is told that the file is damaged may delete it."""
    write_records(file, PLAN)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, timeout=0.05, **options))
    holder = connect(file, isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        for sentence in open_both_ways(file):
            assert "another program" in sentence
            assert "damaged" not in sentence
            assert "delete" not in sentence
    finally:
        holder.close()


# Damage


def survives(path: Path, whole: tuple) -> bool:
    """Whether a damaged copy reads as the whole; else it must be refused, and nothing that it gave may differ."""
    plans, measurements, failures = whole
    got: list = []
    try:
        with Records.read(path) as records:
            for row in records.measurements():
                got.append(row)  # noqa: PERF402 - what came before an error counts too
            same = list(records.failures()) == failures and list(records.plans()) == plans
    except RecordsError as error:
        sentence = str(error)
    else:
        # No error: then nothing is lost and nothing has changed.
        assert got == measurements
        assert same
        return True
    assert all(row in measurements for row in got)
    assert str(path) in sentence
    assert "\n" not in sentence
    return False


def test_a_whole_file_survives(whole):
    assert survives(whole, read_everything(whole))


def test_a_truncated_file_gives_an_error_and_no_number(whole, tmp_path):
    content, expected = whole.read_bytes(), read_everything(whole)
    lengths = {0, 1, 15, 16, 99, 100, 101, len(content) - 1, *range(0, len(content), 1024)}
    lengths |= set(random.Random(1).choices(range(len(content)), k=100))
    path = tmp_path / "r.sqlite"
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        assert not survives(path, expected), length


def flipped_copies(content: bytes, path: Path, positions):
    for position, bit in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        yield position, bit


def test_a_flipped_bit_gives_an_error_or_changes_nothing(whole, tmp_path):
    content, expected = whole.read_bytes(), read_everything(whole)
    rng = random.Random(2)
    anywhere = [(rng.randrange(len(content)), rng.randrange(8)) for _ in range(500)]
    # Where a flip could do the most: the file's header with its counters, and the stored text of the schema.
    header = [(rng.randrange(100), rng.randrange(8)) for _ in range(100)]
    start = content.index(b"CREATE TABLE plan") - 2000
    schema = [(rng.randrange(start, 4096), rng.randrange(8)) for _ in range(100)]
    path = tmp_path / "r.sqlite"
    outcomes = {position: survives(path, expected) for position, _ in
                flipped_copies(content, path, anywhere + header + schema)}  # fmt: skip
    assert not all(outcomes.values())  # the flips did hit something


def test_a_flipped_bit_in_any_stored_text_is_noticed(whole, tmp_path):
    """Of each kind of row, one byte at every place; the highest bit makes text that is no UTF-8."""
    content, expected = whole.read_bytes(), read_everything(whole)
    path = tmp_path / "r.sqlite"
    places = [
        content.index(b'"abi": "arm64"') + 3,
        content.index(b'"threads": 1') + 3,
        content.index(b'"channel_shuffle"') + 3,
        content.index(b"K7G1@8-8s1x16") + 1,
        content.index(b'{"after"') + 4,
        content.index(b"the process died") + 4,
    ]
    for position, bit in flipped_copies(content, path, [(place, bit) for place in places for bit in range(8)]):
        assert not survives(path, expected), (position, bit)


def test_a_file_with_a_flipped_bit_is_not_written_to_unless_it_reads_well(whole, tmp_path):
    content, expected = whole.read_bytes(), read_everything(whole)
    rng = random.Random(3)
    path = tmp_path / "r.sqlite"
    new = measurement("new")
    opened = 0
    for _ in flipped_copies(content, path, [(rng.randrange(len(content)), rng.randrange(8)) for _ in range(150)]):
        try:
            with Records.write(path) as records:
                records.add(PLAN.setup, TOOLS, new)
            opened += 1
            rows = read_everything(path)[1]
        except RecordsError:
            continue
        assert [row for row in rows if row[1] != new] == expected[1]
    assert opened > 0


def test_a_damaged_file_is_not_kept_locked_by_the_error_about_it(whole, tmp_path):
    path = shutil.copy(whole, tmp_path / "r.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE measurement SET repeats = repeats + 1 WHERE rowid = 3")
    connection.close()
    with pytest.raises(RecordsError) as caught, Records.read(path) as records:
        list(records.measurements())
    assert caught.value is not None  # its traceback still holds what was going on
    other = sqlite3.connect(path, timeout=0)
    other.execute("BEGIN EXCLUSIVE")
    other.close()


def test_an_edited_number_is_noticed_although_the_database_is_sound(whole, tmp_path):
    path = tmp_path / "r.sqlite"
    edits = {"samples_ns": "'[1]'", "repeats": "repeats + 1", "session": "session + 50", "sha256": "''"}
    for column, value in edits.items():
        shutil.copy(whole, path)
        connection = sqlite3.connect(path)
        connection.execute(f"UPDATE measurement SET {column} = {value} WHERE rowid = 3")
        connection.commit()
        connection.close()
        assert not survives(path, read_everything(whole)), column


# No space, no permission


def test_a_full_disk_is_a_space_error_and_keeps_what_was_there(file):
    """The limit on pages stands for the disk's."""
    write_records(file, PLAN, order=[])
    with Records.write(file) as records:
        pages = records._connection.execute("PRAGMA page_count").fetchone()[0]
        records._connection.execute(f"PRAGMA max_page_count = {pages + 4}")
        added = []
        with pytest.raises(SpaceError, match="no space left on the disk") as caught:  # noqa: PT012
            for session in range(10_000):
                records.add(PLAN.setup, TOOLS, measurement("a", session))
                added.append(session)
        assert str(file) in str(caught.value)
        assert [m.session for _, m in records.measurements()] == added
        records._connection.execute("PRAGMA max_page_count = 1000000")
        records.add(PLAN.setup, TOOLS, measurement("a", len(added)))  # once there is space again
    assert [m.session for _, m in read_everything(file)[1]] == [*added, len(added)]


IN_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture
def small_disk():
    """Run Python code in a mount namespace of its own with a disk of 400 KB at sys.argv[1]."""
    if shutil.which("unshare") is None or subprocess.run([*IN_NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")

    def run(code: str, folder: Path) -> str:
        script = 'mount -t tmpfs -o size=400k tmpfs "$1" && exec "$2" -c "$3" "$1"'
        command = [*IN_NAMESPACE, "sh", "-c", script, "sh", folder, sys.executable, FIND_TESTS + code]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


FILL = """
from pathlib import Path
from bpnas.base.errors import SpaceError
from bpnas.profiler import Records
from tests.records_factory import TOOLS, make_plan, measurement, read_everything
setup, path = make_plan().setup, Path(sys.argv[1]) / "r.sqlite"
records = Records.write(path)
added = 0
ballast = path.with_name("ballast")
ballast.write_bytes(bytes(150_000))
try:
    for session in range(100_000):
        records.add(setup, TOOLS, measurement("a", session))
        added += 1
except SpaceError as error:
    assert str(path) in str(error), error
assert 0 < added < 100_000
kept = [m for _, m in records.measurements()]
assert kept == [measurement("a", session) for session in range(added)], (len(kept), added)
ballast.unlink()
records.add(setup, TOOLS, measurement("a", added))
records.close()
assert len(read_everything(path)[1]) == added + 1
path.with_name("ballast").write_bytes(b"")
try:
    with open(path.with_name("ballast"), "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
except OSError:
    pass
try:
    Records.write(path.with_name("new.sqlite"))
except SpaceError:
    print("done")
"""


def test_a_disk_that_is_really_full(small_disk, tmp_path):
    assert small_disk(FILL, tmp_path) == "done\n"


READ_ONLY = """
import os, subprocess
from pathlib import Path
from bpnas.profiler import Records, RecordsError
from tests.records_factory import make_plan, read_everything, tasks, write_records
path = write_records(Path(sys.argv[1]) / "r.sqlite", make_plan())
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
assert len(read_everything(path)[1]) == len(tasks(make_plan()))
for name in ("r.sqlite", "new.sqlite"):
    try:
        Records.write(path.with_name(name))
    except RecordsError as error:
        assert name in str(error) and "cannot be" in str(error), error
    else:
        raise AssertionError(name)
print("done")
"""


def test_records_on_a_read_only_disk_can_be_read_and_not_written(small_disk, tmp_path):
    assert small_disk(READ_ONLY, tmp_path) == "done\n"


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (make_plan(settings=RunSettings(warmup_runs=1, warmup_seconds=0.0, runs=3, seconds=2.0)), "seconds: 0.0 | 2.0"),
        (make_plan(os="none 2"), "os: none 1 | none 2"),
        (make_plan(export_version=2), "export_version: 1 | 2"),
    ],
)
def test_a_campaign_that_could_not_meet_the_one_in_the_file_is_refused(tmp_path, other, named):
    with Records.write(tmp_path / "r.sqlite") as records:
        records.add_plan(make_plan())
        with pytest.raises(RecordsError, match=re.escape(named)):
            records.refuse_other_setups(other.setup)
        records.refuse_other_setups(make_plan().setup)
        records.refuse_other_setups(make_plan(runtime="onnxruntime", os="none 2").setup)
