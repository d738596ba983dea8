"""Random choices from any generator with a `random()` method, and seeds derived from names.

`random.Random` and `numpy.random.Generator` share just `random()`, a float in [0, 1): what is built on it alone works
with both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Rng(Protocol):
    """A source of floats in [0, 1)."""

    def random(self) -> float: ...


def below(rng: Rng, count: int) -> int:
    """A whole number from 0 to count - 1, all equally likely."""
    return min(int(rng.random() * count), count - 1)


def choice(rng: Rng, items: Sequence[T]) -> T:
    """One of `items`, all equally likely."""
    return items[below(rng, len(items))]


def sample(rng: Rng, items: Sequence[T], count: int) -> list[T]:
    """`count` of `items` without replacement, by a partial Fisher-Yates shuffle."""
    pool = list(items)
    for index in range(count):
        other = index + below(rng, len(pool) - index)
        pool[index], pool[other] = pool[other], pool[index]
    return pool[:count]


def derived_seed(seed: int, *names: object) -> int:
    """A seed in 0..2^63-1 for one purpose, so that what is drawn there does not depend on what was drawn elsewhere."""
    text = "/".join(map(str, (seed, *names))).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
