"""Text of others, as a terminal may have it: shown, never obeyed."""

from __future__ import annotations


def as_text(text: str) -> str:
    r"""`text` with every character written out that is neither printable nor the end of a line or a tab: the escape
    character as `\x1b`, a change of direction as `\u202e`, a byte that is no UTF-8 as `\udce4`.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)
