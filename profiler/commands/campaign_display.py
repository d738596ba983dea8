"""What people see of a campaign: its progress, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bpnas.base.command import echo
from bpnas.base.plain_text import as_text
from bpnas.profiler.campaign.estimate import Estimate
from bpnas.profiler.campaign.rounds import Assessment
from bpnas.profiler.campaign.run import CampaignResult, Progress

_PLAIN_LINE_SECONDS = 30.0
_WORST = 5  # of the parts that are not known well enough, this many are named
_LONGEST_KEY = 64
_NOT_SHOWN = {"governor", "selinux", "charging", "battery_temperature_c"}  # in the records, but hardly ever another


def campaign_text(path: Path, label: str, result: CampaignResult) -> str:
    """How a call of a campaign ended, for people."""
    lines = [f"{path}: {result.done} of {result.total} sessions measured on {label}, {result.measured} of them now"]
    lines.extend(_quality(result.assessment))
    if result.is_complete:
        lines.append(f"Next: build-table {path}")
    else:
        lines.append(f"{result.total - result.done} are left: call the same command again to resume")
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
            remedy = f"each has {found.max_sessions} sessions, and --max-sessions allows more"
        yield f"{len(found.short)} parts are not known to within {100 * found.precision:g}%: {names}{more}; {remedy}"
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
def campaign_display(label: str) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal, a line now and then elsewhere; both on standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_display(label)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as ProgressBar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
    )
    with ProgressBar(*columns, console=console) as bar:
        task, warned = bar.add_task(as_text(label), total=None, state=""), 0

        def show(now: Progress) -> None:
            nonlocal warned
            for sentence in now.lost[warned:]:
                bar.console.print(as_text(_warning(sentence)), markup=False, highlight=False)
            warned = len(now.lost)
            bar.update(task, total=now.total, completed=now.done, state=as_text(_state(now)))

        yield show


def _plain_display(label: str) -> Callable[[Progress], None]:
    last, warned = -_PLAIN_LINE_SECONDS, 0

    def show(now: Progress) -> None:
        nonlocal last, warned
        for sentence in now.lost[warned:]:
            echo(_warning(sentence), err=True)
        warned = len(now.lost)
        if time.monotonic() - last >= _PLAIN_LINE_SECONDS or now.done + now.failures == now.total:
            last = time.monotonic()
            echo(f"{label}: {now.done} of {now.total}, {_state(now)}", err=True)

    return show


def _warning(sentence: str) -> str:
    return f"Warning: a device is lost, its work goes to the others: {sentence}"


def _state(now: Progress) -> str:
    left = now.remaining_seconds
    parts = [
        f"{now.per_second:.2g} models/s",
        "remaining time unknown" if left is None else f"{_duration(left)} left",
        f"{now.failures} failed",
        *(f"{name} {value}" for name, value in now.conditions.items() if name.rpartition(" ")[2] not in _NOT_SHOWN),
    ]
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
