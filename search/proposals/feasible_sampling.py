"""Finding feasible genotypes in bounded time: exactly by BP-NAS, Algorithm 2, or without repeats [ours]."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from bpnas.base.randomness import Rng, below
from bpnas.search.errors import InfeasibleLimitError, StuckError

G = TypeVar("G")

MAX_TRIES = 10_000
"""Every loop that waits for a feasible genotype gives up after this many draws."""

_DRAWS = 1000
"""Random genotypes that are looked at before a descent."""

_STEPS = 32
"""Mutations of a parent before it counts as used up, and on walks away from it."""

_PATIENCE = 1000
"""Steps that bring a descent no further before it starts again."""

_LONGEST_WALK = 4
"""Mutations in a row, at most, from a parent through what is infeasible or known to something new."""


class Space(Protocol[G]):
    """What `levonas` needs of a search space.

    Optional methods make the default strategy exact where it would depend on chance: `feasible(limit_ms)` (with
    `at_least_ms=` too, if a band is asked for) gives an object with `size`, `smallest_ms` and `sample(rng)`, which is
    uniform; `canonical(genotype)` gives something hashable that is equal for genotypes that mean the same.
    """

    def random(self, rng: Rng) -> G: ...
    def mutate(self, genotype: G, rng: Rng) -> G: ...
    def latency(self, genotype: G) -> float: ...


class _Sampler(Generic[G]):
    """What both strategies know of feasibility.

    Args:
        space: any `Space`.
        limit_ms, at_least_ms: what is feasible, both ends included; there is no lower end at 0.
        rng: the source of chance.

    Attributes:
        canonical: what genotypes that mean the same have in common, hashable.

    Raises:
        InfeasibleLimitError: the space's exact feasible set is empty.
    """

    def __init__(self, space: Space[G], limit_ms: float, at_least_ms: float, rng: Rng) -> None:
        self._space, self._limit_ms, self._at_least_ms, self._rng = space, limit_ms, at_least_ms, rng
        self._low_ms = at_least_ms if at_least_ms > 0 else -math.inf
        self._smallest_ms, self._below_ms, self._above_ms = math.inf, -math.inf, math.inf
        self.canonical: Any = getattr(space, "canonical", hashable)
        feasible: Any = getattr(space, "feasible", None)
        band = {"at_least_ms": at_least_ms} if at_least_ms > 0 else {}
        self._exact: Any = None if feasible is None else feasible(limit_ms, **band)
        if self._exact is not None and not self._exact.size:
            self._exact.sample(rng)  # ours raises, and says what is nearest
            raise InfeasibleLimitError(limit_ms, self._exact.smallest_ms)

    def latency(self, genotype: G) -> float:
        """In ms."""
        return float(self._space.latency(genotype))

    def remember(self, genotype: G) -> None:
        """This one was given out by an earlier sampler."""

    def state(self) -> dict[str, Any]:
        """What it has learned, apart from what it has given out, as plain values for JSON."""
        seen = (self._smallest_ms, self._below_ms, self._above_ms)
        return {"seen_ms": [each.hex() for each in seen]}  # JSON has no infinity

    def take_up(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`. Raises KeyError, TypeError or ValueError of anything else."""
        self._smallest_ms, self._below_ms, self._above_ms = map(float.fromhex, state["seen_ms"])

    def _excess(self, genotype: G) -> float:
        """How far from feasible, in ms."""
        latency = self.latency(genotype)
        self._smallest_ms = min(self._smallest_ms, latency)
        if self._low_ms <= latency <= self._limit_ms:
            return 0.0
        if latency < self._low_ms:
            self._below_ms = max(self._below_ms, latency)
            return self._low_ms - latency
        if latency > self._limit_ms:
            self._above_ms = min(self._above_ms, latency)
            return latency - self._limit_ms
        return math.inf

    def _nothing(self) -> InfeasibleLimitError:
        return InfeasibleLimitError(
            self._limit_ms,
            self._smallest_ms,
            "genotype",
            exact=False,
            at_least_ms=self._at_least_ms,
            nearest_ms=(self._below_ms, self._above_ms),
        )

    def _within(self) -> str:
        low = f"{self._at_least_ms:.6g} to " if self._at_least_ms > 0 else ""
        return f"{low}{self._limit_ms:.6g} ms"


class PaperSampler(_Sampler[G]):
    """Draws and mutates, again and again until feasible: BP-NAS, Algorithm 2, but bounded."""

    def anything(self) -> G:
        """A random feasible genotype.

        Raises:
            StuckError: `MAX_TRIES` draws met none, though there are some.
            InfeasibleLimitError: the default strategy finds none either.
        """
        for _ in range(MAX_TRIES):
            genotype = self._space.random(self._rng)
            if self._excess(genotype) == 0:
                return genotype
        if self._exact is None:  # ask the default strategy whether there is one
            NoRepeatSampler(self._space, self._limit_ms, self._at_least_ms, self._rng).anything()
        raise StuckError(
            f"{MAX_TRIES} random draws met nothing within {self._within()}, though something exists: "
            "strategy 'default' finds it"
        )

    def child(self, parents: Sequence[G]) -> tuple[G, int | None]:
        """A feasible mutation of the first of `parents`, and its number, 0.

        Raises:
            StuckError: `MAX_TRIES` mutations met none.
        """
        for _ in range(MAX_TRIES):
            child = self._space.mutate(parents[0], self._rng)
            if self._excess(child) == 0:
                return child, 0
        raise StuckError(
            f"no mutation of {parents[0]} meets {self._within()} in {MAX_TRIES} tries: strategy 'default' walks further"
        )


class NoRepeatSampler(_Sampler[G]):
    """Gives out nothing twice [ours]."""

    def __init__(self, space: Space[G], limit_ms: float, at_least_ms: float, rng: Rng) -> None:
        super().__init__(space, limit_ms, at_least_ms, rng)
        self._known: set[Hashable] = set()
        self._used_up: set[Hashable] = set()
        self._effort = MAX_TRIES

    def remember(self, genotype: G) -> None:
        """This one was given out by an earlier sampler: it is not new."""
        self._known.add(self.canonical(genotype))

    def state(self) -> dict[str, Any]:
        """See there; of a space whose `canonical` gives whole numbers."""
        used_up: set[Any] = self._used_up
        return {**super().state(), "used_up": sorted(map(int, used_up)), "effort": self._effort}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """See there."""
        super().take_up(state)
        self._used_up, self._effort = set(state["used_up"]), int(state["effort"])

    def anything(self) -> G | None:
        """A new random feasible genotype; None if none is found any more.

        Raises:
            InfeasibleLimitError: none was ever found.
        """
        found = self._random()
        if found is not None:
            self._known.add(self.canonical(found))
        elif not self._known:
            raise self._nothing()
        return found

    def child(self, parents: Sequence[G]) -> tuple[G, int | None] | None:
        """A new feasible genotype near one of `parents`, tried in this order, and that parent's number.

        Where none has any: a new one at random and None. Where there is nothing new at all: None.
        """
        for number, parent in enumerate(parents):
            if (child := self._mutation(parent)) is not None:
                self._known.add(self.canonical(child))
                return child, number
        # Under a tight limit feasible genotypes form islands: pass through infeasible ones to the next island.
        if (child := self._walk(parents[0])) is not None:
            self._known.add(self.canonical(child))
            return child, 0
        found = self.anything()
        return None if found is None else (found, None)

    def _mutation(self, parent: G) -> G | None:
        key = self.canonical(parent)
        if key in self._used_up:
            return None
        for _ in range(_STEPS):
            child = self._space.mutate(parent, self._rng)
            if self._is_new(child):
                return child
        self._used_up.add(key)
        return None

    def _walk(self, parent: G) -> G | None:
        if self._all_known():
            return None
        for _ in range(_STEPS // _LONGEST_WALK):
            child = parent
            for _ in range(_LONGEST_WALK):
                child = self._space.mutate(child, self._rng)
                if self._is_new(child):
                    return child
        return None

    def _random(self) -> G | None:
        if self._all_known():
            return None
        if self._exact is not None:
            draws: Iterator[G] = (self._exact.sample(self._rng) for _ in range(MAX_TRIES))
            return next((genotype for genotype in draws if self.canonical(genotype) not in self._known), None)
        for _ in range(min(_DRAWS, self._effort)):
            genotype = self._space.random(self._rng)
            if self._is_new(genotype):
                self._effort = MAX_TRIES
                return genotype
        left = self._effort - _DRAWS
        while left > 0:
            genotype, steps = self._descent(left)
            left -= steps
            if self._is_new(genotype):
                return genotype
        # Perhaps there is nothing more: next time look less hard.
        self._effort = max(self._effort // 2, _STEPS)
        return None

    def _descent(self, most: int) -> tuple[G, int]:
        """Down in latency by one or more mutations at a time, and along what is feasible, to something new.

        Returns where it ended and after how many steps.
        """
        genotype = self._space.random(self._rng)
        excess, idle, steps = self._excess(genotype), 0, 1
        while steps < most and idle < _PATIENCE and not self._is_new(genotype):
            child = genotype
            for _ in range(1 + below(self._rng, _LONGEST_WALK - 1)):
                child = self._space.mutate(child, self._rng)
            steps, idle = steps + 1, idle + 1
            if (other := self._excess(child)) <= excess:
                idle = 0 if other < excess else idle
                genotype, excess = child, other
        return genotype, steps

    def _is_new(self, genotype: G) -> bool:
        return self.canonical(genotype) not in self._known and self._excess(genotype) == 0

    def _all_known(self) -> bool:
        return self._exact is not None and len(self._known) >= self._exact.size


def hashable(genotype: Any) -> Hashable:
    """A value that is equal for equal genotypes, also where these are lists, dictionaries or arrays."""
    try:
        hash(genotype)
    except TypeError:
        pass
    else:
        return genotype  # type: ignore[no-any-return]
    if hasattr(genotype, "tobytes"):  # arrays
        return (str(genotype.dtype), tuple(genotype.shape), genotype.tobytes())
    if isinstance(genotype, dict):
        return frozenset((key, hashable(value)) for key, value in genotype.items())
    if isinstance(genotype, (list, tuple)):
        return tuple(map(hashable, genotype))
    return repr(genotype)
