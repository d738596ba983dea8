"""Spans of time as people say them."""

from __future__ import annotations

from bpnas.base.plurals import counted


def duration(seconds: float) -> str:
    """`45 s`, `4 min 05 s`, `8 h 11 min` or `3 days 4 h`: two units, the smaller one rounded."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{counted(hours // 24, 'day')} {hours % 24} h"
