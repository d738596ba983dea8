"""What both formats share: sizes that may be unknown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Shape = tuple[int, ...]


class ModelFormatError(ValueError):
    """The file is no model that can be read; a device's runtime would refuse it."""


class UnknownWorkError(Exception):
    """Nobody can tell from the file how many multiply-adds an operator takes; the message says why."""


def size(shape: Sequence[int]) -> int:
    """Numbers in a tensor."""
    return math.prod(shape)


def known(shape: Shape | None, what: str) -> Shape:
    """The shape, if every size of it is known.

    Raises:
        UnknownWorkError: it is not.
    """
    if shape is None or any(length < 1 for length in shape):
        raise UnknownWorkError(f"the shape of {what} is unknown")
    return shape


def together(parts: Iterable[int | None]) -> int | None:
    """The sum; None where a part is unknown."""
    total = 0
    for part in parts:
        if part is None:
            return None
        total += part
    return total


def larger(parts: Iterable[int | None]) -> int | None:
    """The most that one of them takes; None where one is unknown."""
    known_parts = []
    for part in parts:
        if part is None:
            return None
        known_parts.append(part)
    return max(known_parts, default=0)
