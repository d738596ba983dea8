"""Tables for people fit their terminal, whatever is in them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpnas.android_bench.adb.attached import Attached
from bpnas.base.columns import align, cut_inside, terminal_width, wrapped
from tests.table_factory import PLAN, write

CELLS = [["model", "ms", "flags"], ["a-network-of-a-very-long-name", "12.5", ""], ["b", "7.25", "unknown"]]


@given(
    rows=st.lists(st.lists(st.text("ab c", max_size=30), min_size=4, max_size=4), min_size=1, max_size=5),
    width=st.integers(1, 130),
)
def test_no_line_is_longer_than_the_terminal(rows, width):
    free = align(rows, "<>><")
    fitted = align(rows, "<>><", width)
    assert max(map(len, fitted)) <= width
    assert fitted == free or max(map(len, free)) > width - 2 or len(fitted) > len(free)


def test_what_fits_is_left_as_it_is():
    assert align(CELLS, "<><", 80) == align(CELLS, "<><") == align(CELLS, "<><", 44)


def test_the_name_is_shortened_first_then_it_has_its_own_line_and_no_number_is_lost():
    assert align(CELLS, "<><", 38)[1] == "a-network-of-a-very-lo…  12.5"
    narrow = align(CELLS, "<><", 30)
    assert narrow[2:4] == ["a-network-of-a-very-long-name", "  12.5"] and narrow[5] == "  7.25  unknown"
    assert all(len(line) <= 12 and line.endswith("…") for line in align(CELLS, "<><", 12) if line != "b")


def test_names_that_people_copy_stay_whole():
    assert align(CELLS, "<><", 38, whole_names=True)[2] == CELLS[1][0]
    assert align(CELLS, "<><", 44, whole_names=True) == align(CELLS, "<><")


def test_words_and_names():
    assert wrapped(["one two three", "x"], 8, "  ") == ["one two", "  three", "x"]
    assert wrapped(["one two three"], None) == ["one two three"] and wrapped(["/a/path/of/one/word"], 8)
    assert cut_inside("Conv2D  a/b/c/d/e/f", 12) == "Conv2.../e/f"


def test_nobody_looks_at_a_pipe():
    assert terminal_width() is None


@pytest.fixture(params=[80, 60])
def width(request, monkeypatch):
    for place in ("profiler.commands.models", "tables.commands.tools", "android_bench.cli"):
        monkeypatch.setattr(f"bpnas.{place}.terminal_width", lambda: request.param)
    return request.param


def test_known_networks_fit_with_all_their_numbers(cli, tmp_path, monkeypatch, width):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("torch")
    names = ("mobilenetv2", "proxylessnas-mobile")
    words = ("zoo", "--serial", "mock:s9", "--sessions", "1", "--runs", "3", "--seconds", "0", "--input-size", "64")
    done = cli("profile-device", *words, "--networks", *names)
    assert done.exit_code == 0 and max(map(len, done.stdout.splitlines())) <= width, done.stdout
    for part in (*names, "3.50 M", "4.08 M", "parameters", "unknown", "computed, not measured"):
        assert part in " ".join(done.stdout.split())
    assert len(re.findall(r"\d+\.\d{3}", done.stdout)) == len(names)


def test_tables_fit(cli, tmp_path, width):
    file = write(tmp_path / "t.parquet", PLAN)
    for words in (("show", file), ("diff", file, file)):
        lines = [line for line in cli("build-table", *words).stdout.splitlines() if str(tmp_path) not in line]
        assert max(map(len, lines)) <= (width if words[0] == "diff" else max(width, 74)), lines  # a SHA-256 is not cut
    if width == 80:
        assert "undecided" in cli("build-table", "diff", file, file).stdout.splitlines()[6]


def test_phones_fit(cli, monkeypatch, width):
    phone = Attached("adb-R58M-that-goes-on-" * 2, "device", "a model of a long name", "usb")
    monkeypatch.setattr("bpnas.android_bench.serials.attached_devices", lambda: (phone,))
    lines = cli("profile-device", "devices").stdout.splitlines()
    assert max(map(len, lines)) <= width and lines[2] == phone.serial and "usb" in lines[3]
