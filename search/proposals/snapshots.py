"""Where stage 1 is, so that a later call need not go through all of its trials again.

A search of the ordered schedule is replayed from its seed, which says for certain that it is the same one; of a hundred
thousand trials that takes half a minute. A snapshot holds what the next trials depend on. It is believed only for the
very search and trials that it was taken of; without it, or with a damaged one, everything is replayed.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bpnas import __version__
from bpnas.base.errors import BpnasError
from bpnas.search.errors import RunError
from bpnas.search.proposals.evolution import Trial
from bpnas.search.proposals.schedules import Proposer
from bpnas.search.run_directory import RunDirectory

EVERY = 250
"""Trials between two snapshots: so many are replayed in some hundredths of a second."""

_NAME = "checkpoints/evolution.json"
_TRIAL = struct.Struct("<qdd?")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one latency limit had come to.

    Attributes:
        told: how many trials.
        state: what the next ones depend on, with that of the source of chance; None where there are none.
    """

    told: int
    state: Any

    def take_up(self, proposer: Proposer[int], rng: random.Random, trials: Sequence[Trial[int]]) -> bool:
        """Bring a fresh proposer and its `rng` there; without success both are of no more use."""
        try:
            proposer.take_up(trials, self.state["proposer"])
            version, numbers, gauss = self.state["rng"]
            rng.setstate((version, tuple(numbers), gauss))
        except (LookupError, TypeError, ValueError, OverflowError, BpnasError):
            return False
        return True


class Snapshots:
    """The snapshots of one run: of each latency limit the last one.

    Args:
        search: all that decides the trials, in one text.
    """

    def __init__(self, directory: RunDirectory, search: str) -> None:
        self._directory, self._search = directory, f"{__version__} {search}"
        self._limits: dict[str, Any] = {}
        if directory.has(_NAME):
            try:
                found = directory.read_json(_NAME)
            except RunError:
                return  # then all is replayed
            limits = found.get("limits")
            if found.get("search") == self._search and isinstance(limits, dict):
                self._limits = limits

    def of(self, number: int, trials: TrialDigest, history: Sequence[tuple[Trial[int], str | None]]) -> Snapshot | None:
        """The snapshot of limit `number`, if it was taken of the first trials of `history`.

        Args:
            trials: of the limits before, all of which count; `history`'s are added as far as the snapshot goes.
            history: each with the reason for which its training diverged.
        """
        saved = self._limits.get(str(number))
        if not isinstance(saved, dict) or not isinstance(told := saved.get("told"), int):
            return None
        if not 0 < told <= len(history):
            return None
        for trial, diverged in history[:told]:
            trials.add(trial, diverged)
        return Snapshot(told, saved.get("state")) if trials.text == saved.get("trials") else None

    def keep(self, number: int, proposer: Proposer[int], rng: random.Random, trials: TrialDigest) -> None:
        """Write a snapshot of what has told these trials."""
        more = proposer.told < proposer.cycles
        state = {"proposer": proposer.state(), "rng": rng.getstate()} if more else None
        self._limits[str(number)] = {"told": proposer.told, "trials": trials.text, "state": state}
        self._directory.write_json(_NAME, {"search": self._search, "limits": self._limits})

    def remove(self) -> None:
        """The search is over."""
        if self._limits:
            (self._directory.root / _NAME).unlink(missing_ok=True)


class TrialDigest:
    """A hash of trials in their order, those of the limits before included.

    Their parents do not count: nothing depends on them.
    """

    def __init__(self, copied: TrialDigest | None = None) -> None:
        self._hash: Any = hashlib.sha256() if copied is None else copied._hash.copy()

    def add(self, trial: Trial[int], diverged: str | None) -> None:
        """One more."""
        self._hash.update(_TRIAL.pack(trial.genotype, trial.latency_ms, trial.score, diverged is None))

    @property
    def text(self) -> str:
        """64 hexadecimal digits."""
        return str(self._hash.hexdigest())
