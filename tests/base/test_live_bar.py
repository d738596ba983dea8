"""Bars fit their terminal: what is counted is seen at any width, the rest where there is room."""

import io
import re

import pytest
from rich.console import Console

from bpnas.base.durations import duration
from bpnas.base.live_bar import live_bar

FACTS = ["9 h 05 min left", "0.6 models/s"]


def shown(width: int) -> list[str]:
    """The last picture of a bar of 1,234 of 19,638 on a terminal that wide, line by line."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None, legacy_windows=False)
    with live_bar(console) as bar:
        stage = bar.stage("Samsung Galaxy S9, tflite 2.3.0, 41 °C, sentinel 149 us, battery 80%", 19_638)
        bar.move(stage, 1234, facts=FACTS)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    return plain.replace("\r", "\n").rstrip("\n").splitlines()[-2:]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 160, 200])
def test_what_is_counted_is_seen_at_every_width(width):
    title, line = shown(width)
    assert title.startswith("Samsung") and "1,234/19,638" in line
    # A line as long as the terminal would break where the terminal writes ^C behind it, and stand there twice.
    assert max(len(title), len(line)) <= width - 3


def test_the_most_needed_stays_longest():
    bars = {width: shown(width)[1] for width in (40, 60, 80)}
    assert [sum(fact in bars[width] for fact in FACTS) for width in (40, 60, 80)] == [0, 2, 2]
    assert "left" in shown(46)[1] and "models/s" not in shown(46)[1]
    lengths = {width: line.index("1,234") - 2 for width, line in bars.items()}
    assert 40 >= lengths[80] > lengths[60] >= 8


def test_what_is_done_takes_one_line():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    with live_bar(console) as bar:
        first = bar.stage("limit 5 ms", 3, done=1)
        bar.move(first, 3)
        bar.line("a line \x1b[31mof its own")
        bar.stage("limit 6 ms", 3)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"limit 5 ms: 3/3 in \d+ s", plain) and "limit 6 ms" in plain
    assert r"a line \x1b[31mof its own" in plain


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.7, "1 h 00 min"),
        (29_457, "8 h 11 min"),
        (86_399, "1 day 0 h"),
        (273_600, "3 days 4 h"),
    ],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text
