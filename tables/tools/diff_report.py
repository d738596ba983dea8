"""The comparison of two tables, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from bpnas.base.columns import align, wrapped
from bpnas.base.plurals import entries
from bpnas.tables.build import name_some
from bpnas.tables.heads import heads_text
from bpnas.tables.table_meta import TableMeta
from bpnas.tables.tools.diff import FALSE_DISCOVERY_RATE, TableDiff


def diff_lines(diff: TableDiff, limit: int, width: int | None = None) -> list[str]:
    """The comparison for people.

    Args:
        diff: the comparison.
        limit: number of entries to name; 0 names all.
        width: of the terminal, in characters; None cuts nothing.
    """
    lines = [
        *_warnings(diff),
        f"A: {diff.a}, {diff.a_meta.label}",
        f"B: {diff.b}, {diff.b_meta.label}",
        *(f"   {field}" for field in diff.different),
        f"{entries(len(diff.entries))} in both{_only('A', diff.only_a)}{_only('B', diff.only_b)}",
        *(
            f"Heads only in {name}: {heads_text(heads)}"
            for name, heads in (("A", diff.heads_a), ("B", diff.heads_b))
            if heads
        ),
        "",
        *_groups(diff, width),
        "",
    ]
    if diff.spearman is not None and diff.kendall is not None:
        lines.append(f"Rank correlation: Spearman {diff.spearman:.4f}, Kendall {diff.kendall:.4f}")
    lines.append(_basis(diff))
    shown = diff.entries if limit == 0 else diff.entries[:limit]
    if shown:
        cells = [[e.key, f"{e.a_ms:.4f}", f"{e.b_ms:.4f}", f"{e.ratio:.3f}", _q(e.q), e.verdict] for e in shown]
        lines += ["", *align([["key", "A ms", "B ms", "B/A", "q", "B is"], *cells], "<>>>><", width)]
    if len(shown) < len(diff.entries):
        lines.append(f"{len(diff.entries) - len(shown):,} more; --limit 0 shows all")
    return wrapped(lines, width)


def diff_result(diff: TableDiff, limit: int) -> dict[str, Any]:
    """The comparison for machines; `limit` as in `diff_lines`."""
    return {
        "a": str(diff.a),
        "b": str(diff.b),
        "origin": [_kind(diff.a_meta).lower(), _kind(diff.b_meta).lower()],
        "different": list(diff.different),
        "forced": list(diff.forced),
        "only_a": list(diff.only_a),
        "only_b": list(diff.only_b),
        "heads_only_a": {str(size): list(found) for size, found in diff.heads_a.items()},
        "heads_only_b": {str(size): list(found) for size, found in diff.heads_b.items()},
        "spearman": diff.spearman,
        "kendall": diff.kendall,
        "groups": [asdict(group) for group in diff.groups],
        "entries": [asdict(entry) for entry in (diff.entries[:limit] if limit else diff.entries)],
    }


def _warnings(diff: TableDiff) -> Iterator[str]:
    kinds = [_kind(diff.a_meta), _kind(diff.b_meta)]
    if kinds[0] != kinds[1]:
        yield f"{kinds[0]} AGAINST {kinds[1]}: the difference is not one between two measured devices"
    elif kinds[0] != "MEASURED":
        yield f"BOTH ARE {kinds[0]}: nothing here was measured by bpnas"
    if diff.forced:
        yield f"FORCED: compared although {'; '.join(diff.forced)}"


def _kind(meta: TableMeta) -> str:
    if meta.mock:
        return "MOCK"
    return "MEASURED" if meta.imported is None else "IMPORTED"


def _only(name: str, keys: tuple[str, ...]) -> str:
    return f"; {len(keys):,} only in {name} ({name_some(keys)})" if keys else ""


def _groups(diff: TableDiff, width: int | None) -> list[str]:
    head = ["B/A of", "entries", "median", "10 %", "90 %", "slower", "faster", "within noise", "undecided"]
    cells = [
        [
            g.name,
            f"{g.entries:,}",
            *(f"{value:.3f}" for value in (g.median, g.p10, g.p90)),
            *(f"{count:,}" for count in (g.slower, g.faster, g.within_noise, g.undecided)),
        ]
        for g in diff.groups
    ]
    return align([head, *cells], "<>>>>>>>>", width)


def _basis(diff: TableDiff) -> str:
    decided = len(diff.entries) - diff.groups[0].undecided
    if not decided:
        return "No entry has a confidence interval in both tables, so nothing is said about what is noise."
    return (
        f"'slower' and 'faster': the 95 % intervals do not meet, and the p-value q, adjusted for {entries(decided)} "
        f"(Benjamini-Hochberg), is at most {FALSE_DISCOVERY_RATE:g};\nassumed are independent, normally distributed "
        "sessions."
    )


def _q(q: float | None) -> str:
    return "-" if q is None else f"{q:.2g}"
