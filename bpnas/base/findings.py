"""What an examination found, one line each, with its remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bpnas.base.plain_text import printable


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        level: `ok`, `warning` or `error`.
        what: is the case, fit for a terminal.
        remedy: what a person can do about it; empty if the level is `ok`.
    """

    level: Literal["ok", "warning", "error"]
    what: str
    remedy: str = ""


_LABELS = {"ok": "ok", "warning": "warning", "error": "ERROR"}


def finding_lines(findings: Iterable[Finding]) -> list[str]:
    """Findings for people: a line each, and one more for what mends it."""
    lines = []
    for finding in findings:
        lines.append(f"{_LABELS[finding.level]:8} {printable(finding.what, 500)}")
        if finding.remedy:
            lines.append(f"{'':8} -> {printable(finding.remedy, 500)}")
    return lines
