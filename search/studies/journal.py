"""What a study has trained: each training is done once, and is on the disk before it is used."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from bpnas.search.fields import Fields, fields_of
from bpnas.search.run_directory import RunDirectory
from bpnas.search.sealed import LINE_REMEDY

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Journal(dict[K, V]):
    """What was done, by what it was: a line of a .jsonl file each.

    Args:
        directory: holds the file.
        name: of the file.
        what: a line is, for messages.
        read: what was done and what came out, of the fields of a line.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(self, directory: RunDirectory, name: str, what: str, read: Callable[[Fields], tuple[K, V]]) -> None:
        super().__init__()
        self._directory, self._name = directory, name
        for row, line in enumerate(directory.lines(name), start=1):
            with fields_of(f"{directory.root / name}: line {row} is no {what}", LINE_REMEDY):
                done, outcome = read(Fields(line))
                self[done] = outcome

    def add(self, done: K, outcome: V, line: Mapping[str, Any]) -> None:
        """Append a line, then know it."""
        self._directory.append(self._name, line)
        self[done] = outcome
