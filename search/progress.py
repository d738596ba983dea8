"""What a running search tells those who watch; `run_search` itself prints nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives what happens, in order."""

    def stage(self, title: str, steps: int, done: int = 0) -> None:
        """A stage of `steps` steps begins, of which an earlier call has taken `done`."""

    def step(self, text: str) -> None:
        """One more step is done; `text` says what came out."""

    def within(self, share: float, text: str) -> None:
        """A `share` (0..1) of the step under way is done; `text` says how it goes. Only of steps that take long."""

    def note(self, text: str) -> None:
        """Something worth a line of its own."""


class Silent:
    """Shows nothing."""

    def stage(self, title: str, steps: int, done: int = 0) -> None:
        """Ignored."""

    def step(self, text: str) -> None:
        """Ignored."""

    def within(self, share: float, text: str) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""
