"""Numbers of things in sentences: one of them, or several."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """As in `1 entry`, `2 entries`, `6,550 entries`.

    Args:
        plural: of the noun, where that is not its own with an s.
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def entries(count: int) -> str:
    """The same for entries of a table."""
    return counted(count, "entry", "entries")
