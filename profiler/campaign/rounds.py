"""Which sessions are still to be measured: those planned, once more what was disturbed, and what is not precise yet."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bpnas.profiler.campaign.estimate import PRECISION, Estimate, Estimates, estimate
from bpnas.profiler.campaign.session import Session, Task

MAX_SESSIONS = 10
"""Of one part, unless the plan itself has more: who is not precise then will hardly become so."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """How well the parts of a plan are known.

    Attributes:
        precision: that they are held to.
        max_sessions: that a part may have.
        estimates: by key.
        short: parts with all their planned sessions that are not known well enough, the worst one first.
        doubts: how many parts have each flag.
        largest_correction: of any session for drift, relative.
    """

    precision: float
    max_sessions: int
    estimates: Mapping[str, Estimate]
    short: tuple[Estimate, ...]
    doubts: Mapping[str, int]
    largest_correction: float


class Rounds:
    """What one call of a campaign measures.

    Args:
        keys: of all parts.
        planned: sessions of each.
        seed: of the order.
        precision: asked for, or None: the planned sessions will do.
        max_sessions: of one part.
        failed: every (key, session) that failed in an earlier call.
        can_throttle: as in `estimate`.
    """

    def __init__(
        self,
        keys: Sequence[str],
        planned: int,
        *,
        seed: int,
        precision: float | None,
        max_sessions: int,
        failed: Collection[Task],
        can_throttle: bool,
    ) -> None:
        self._keys, self._planned, self._seed = dict.fromkeys(keys), planned, seed
        self._precision, self._most = precision, max(planned, max_sessions)
        self._sessions: dict[Task, Session] = {}
        self._others: list[Session] = []  # the sentinel's, and those of parts of other plans
        self._failed, self._can_throttle = failed, can_throttle
        self._tried: set[Task] = set()
        self._found: Estimates | None = None

    def add(self, session: Session) -> None:
        """Note a measurement, of this call or of an earlier one."""
        self._found = None
        if session.key in self._keys:
            self._sessions[session.key, session.number] = session
        else:
            self._others.append(session)

    def next(self) -> list[Task]:
        """The tasks of the next round, in their order; none if this call has done its part.

        What failed in this call is left to the next one.
        """
        tasks = self._order(self._planned_or_disturbed())
        # A call that begins with everything measured, or tried in vain, also measures what is not known well enough.
        begins_complete = not self._tried and all(task in self._failed for task in tasks)
        if begins_complete or (self._precision is not None and not tasks):
            tasks += self._order({one.key: min(self._most, one.measured + 1) for one in self.assess().short})
        self._tried.update(tasks)
        return tasks

    @property
    def tasks(self) -> set[Task]:
        """Every (key, session) of its parts that is planned or measured."""
        return self._sessions.keys() | {(key, number) for key in self._keys for number in range(self._planned)}

    @property
    def measured(self) -> int:
        """How many sessions of its parts are measured."""
        return len(self._sessions)

    def assess(self) -> Assessment:
        """How well the parts are known by now."""
        precision = PRECISION if self._precision is None else self._precision
        found = self._estimate()
        complete = [
            one for key, one in found.parts.items() if all((key, n) in self._sessions for n in range(self._planned))
        ]
        doubts: dict[str, int] = {}
        for one in complete:
            for flag in one.doubts(precision):
                doubts[flag] = doubts.get(flag, 0) + 1
        short = [one for one in complete if self._is_short(one, precision)]
        return Assessment(
            precision=precision,
            max_sessions=self._most,
            estimates=found.parts,
            short=tuple(sorted(short, key=_badness, reverse=True)),
            doubts=dict(sorted(doubts.items())),
            largest_correction=max((one.largest_correction for one in found.parts.values()), default=0.0),
        )

    def _is_short(self, one: Estimate, precision: float) -> bool:
        if one.half_width is not None:
            return one.half_width > precision
        # Who plans a single session, and asks for no precision, does not want to know it.
        return not one.used or self._planned > 1 or self._precision is not None

    def _planned_or_disturbed(self) -> dict[str, int]:
        """Sessions wanted of each part: those planned, and another one for each of them that was disturbed."""
        found = self._estimate()
        wanted = dict.fromkeys(self._keys, self._planned)
        for (key, number), session in self._sessions.items():
            if number < self._planned and found.reason_against(session):
                wanted[key] = min(self._most, wanted[key] + 1)
        return wanted

    def _order(self, wanted: Mapping[str, int]) -> list[Task]:
        """What is missing of the `wanted` sessions of each part: all first, all second ones, each in another order."""
        known = self._sessions.keys() | self._tried
        return [
            (key, number)
            for key, number in _shuffled(list(self._keys), max(wanted.values(), default=0), self._seed)
            if number < wanted.get(key, 0) and (key, number) not in known
        ]

    def _estimate(self) -> Estimates:
        if self._found is None:
            sessions = [*self._sessions.values(), *self._others]
            planned = dict.fromkeys(self._keys, self._planned)
            self._found = estimate(sessions, planned, can_throttle=self._can_throttle)
        return self._found


def _shuffled(keys: Sequence[str], sessions: int, seed: int) -> Iterator[Task]:
    """All parts once in random order, then all once more in another order, and so on."""
    for session in range(sessions):
        shuffled = list(keys)
        random.Random(f"{seed}/{session}").shuffle(shuffled)
        for key in shuffled:
            yield key, session


def _badness(one: Estimate) -> tuple[bool, bool, float, str]:
    return not one.used, one.half_width is None, one.half_width or 0.0, one.key
