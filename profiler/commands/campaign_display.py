"""What people see of a campaign: its progress, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.base.command import echo
from bpnas.base.durations import duration
from bpnas.base.plurals import counted
from bpnas.profiler.campaign.estimate import Estimate
from bpnas.profiler.campaign.rounds import Assessment
from bpnas.profiler.campaign.run import CampaignResult, Progress

if TYPE_CHECKING:
    from bpnas.android_bench.device import DeviceInfo
    from bpnas.android_bench.measurement import RunSettings
    from bpnas.base.live_bar import LiveBar, Stage

_PLAIN_LINE_SECONDS = 30.0
_WORST = 5  # of the parts that are not known well enough, this many are named
_LONGEST_KEY = 64
_NOT_SHOWN = {"governor", "selinux", "charging", "battery_temperature_c", "device"}  # hardly ever another
_UNITS = (("_c", 1, " °C"), ("_ns", 1e-3, " us"), ("_mhz", 1, " MHz"), ("_percent", 1, "%"), ("_1min", 1, ""))


def campaign_text(path: Path, label: str, result: CampaignResult) -> str:
    """How a call of a campaign ended, for people."""
    sessions = counted(result.total, "session")
    lines = [f"{path}: {result.done:,} of {sessions} measured on {label}, {result.measured:,} of them now"]
    lines.extend(_quality(result.assessment))
    if result.is_complete:
        lines.append(f"Next: build-table {path}")
    else:
        left = result.total - result.done
        lines.append(f"{left:,} {'is' if left == 1 else 'are'} left: call the same command again to resume")
    lines.extend(f"Lost on the way: {sentence}" for sentence in result.lost)
    return "\n".join(lines)


def _quality(found: Assessment) -> Iterator[str]:
    if found.short:
        worst = [_not_known(one, found.precision) for one in found.short[:_WORST]]
        names = ", ".join(
            " ".join(
                [
                    _short(one["key"]),
                    "+-?" if one["half_width"] is None else f"+-{one['half_width']:.1%}",
                    *one["flags"],
                ]
            )
            for one in worst
        )
        more = ", ..." if len(found.short) > len(worst) else ""
        remedy = "the same command measures these once more"
        if all(one.measured >= found.max_sessions for one in found.short):
            remedy = f"each has {counted(found.max_sessions, 'session')}, and --max-sessions allows more"
        parts = f"{counted(len(found.short), 'part')} {'is' if len(found.short) == 1 else 'are'}"
        yield f"{parts} not known to within {100 * found.precision:g}%: {names}{more}; {remedy}"
    if found.doubts:
        yield "Flags: " + ", ".join(f"{flag} {count}" for flag, count in found.doubts.items())
    if "clock" in found.doubts:
        yield "The clock is too coarse for the fastest parts: take longer samples, with --sample-ms and other --records"
    if found.largest_correction:
        yield f"Drift of the device was corrected, by {found.largest_correction:.1%} at most"


def _short(key: str) -> str:
    """A whole network's key is longer than a line."""
    return key if len(key) <= _LONGEST_KEY else f"{key[:20]}...{key[20 - _LONGEST_KEY + 3 :]}"


def quality_fields(found: Assessment) -> dict[str, Any]:
    """How well the parts are known, for a command's JSON."""
    return {
        "precision": found.precision,
        "short": len(found.short),
        "worst": [_not_known(each, found.precision) for each in found.short[:_WORST]],
        "flags": dict(found.doubts),
        "largest_drift_correction": round(found.largest_correction, 4),
    }


def _not_known(one: Estimate, precision: float) -> dict[str, Any]:
    return {
        "key": one.key,
        "half_width": None if one.half_width is None else round(one.half_width, 4),
        "sessions": one.measured,
        "flags": list(one.doubts(precision)),
    }


@contextmanager
def campaign_display(
    label: str, records: Path, device: DeviceInfo, settings: RunSettings, devices: int = 1
) -> Iterator[Callable[[Progress], None]]:
    """What will be done and where it goes, then a progress bar on a terminal, a line now and then elsewhere; all on
    standard error.

    Args:
        label: of the device or devices, for people.
        records, device, settings: of the campaign.
        devices: that share the work.
    """
    from rich.console import Console

    console = Console(stderr=True)
    session_seconds = 0.0 if device.mock else (settings.warmup_seconds + settings.seconds) / devices

    def beginning(now: Progress) -> str:
        return _beginning(now, label, records, session_seconds)

    if not console.is_terminal:
        yield _plain_display(label, beginning)
        return
    from bpnas.base.live_bar import live_bar

    with live_bar(console) as bar:
        yield _bar_display(bar, label, beginning)


def _bar_display(bar: LiveBar, label: str, beginning: Callable[[Progress], str]) -> Callable[[Progress], None]:
    stage: Stage | None = None
    warned = 0

    def show(now: Progress) -> None:
        nonlocal stage, warned
        if stage is None:
            bar.line(beginning(now))
            stage = bar.stage(label)
        for sentence in now.lost[warned:]:
            bar.line(_warning(sentence))
        warned = len(now.lost)
        title = ", ".join([label, *_conditions(now)])
        bar.move(stage, now.done, total=now.total, title=title, facts=_pace(now))

    return show


def _beginning(now: Progress, label: str, records: Path, session_seconds: float) -> str:
    what, sessions = counted(now.parts, "model"), counted(now.total, "session")
    if now.done == now.total:
        every = "the session is" if now.total == 1 else f"all {sessions} are"
        return f"{what} on {label}: {every} in {records}"
    missing = now.total - now.done
    left = f"{missing:,} of {sessions} {'is' if missing == 1 else 'are'} left" if now.done else sessions
    least = f", {duration((now.total - now.done) * session_seconds)} at the least" if session_seconds else ""
    return (
        f"{what} on {label}: {left}{least}. Every sample is kept in {records}. Stop this when you like: the same "
        "command goes on where it was."
    )


def _plain_display(label: str, beginning: Callable[[Progress], str]) -> Callable[[Progress], None]:
    last: float | None = None
    warned = 0

    def show(now: Progress) -> None:
        nonlocal last, warned
        if last is None:
            echo(beginning(now), err=True)
            last = time.monotonic()
            return
        for sentence in now.lost[warned:]:
            echo(_warning(sentence), err=True)
        warned = len(now.lost)
        if time.monotonic() - last >= _PLAIN_LINE_SECONDS or now.done + now.failures == now.total:
            last = time.monotonic()
            done = f"{now.done:,} of {counted(now.total, 'session')}"
            echo(f"{label}: {', '.join([done, *_pace(now), *_conditions(now)])}", err=True)

    return show


def _warning(sentence: str) -> str:
    return f"Warning: a device is lost, its work goes to the others: {sentence}"


def _pace(now: Progress) -> list[str]:
    """The most needed first."""
    pace = []
    if now.per_second:
        pace = [f"{_short_number(now.per_second)} models/s"]
    if now.remaining_seconds is not None:
        pace.insert(0, f"{duration(now.remaining_seconds)} left")
    return [*([f"{now.failures} failed"] if now.failures else []), *pace]


def _conditions(now: Progress) -> list[str]:
    """The device's state in words: `sentinel_ns: 149212` is `sentinel 149 us`."""
    return [text for name, value in now.conditions.items() if (text := _condition(*name.rpartition(" ")[::2], value))]


def _condition(serial: str, name: str, value: float | str) -> str:
    if name in _NOT_SHOWN:
        return ""
    for ending, scale, unit in _UNITS:
        if name.endswith(ending) and not isinstance(value, str):
            name, value = name.removesuffix(ending), f"{_short_number(value * scale)}{unit}"
    words = "" if name == "temperature" else name.replace("_", " ")
    return " ".join(filter(None, [serial, words, value if isinstance(value, str) else _short_number(value)]))


def _short_number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
