"""The directory of one run: its configuration, records and results. A run can be killed at any moment.

config.json        everything that determines the run; a later call must agree with it
*.jsonl            records, a line each, appended as soon as they are known
*.diverged.jsonl   the epochs of a stage before it diverged; no run resumes from them
checkpoints/       training states, and where stage 1 is

All other files are those of the modules that write them. Objects and lines carry a hash, which is checked when they are
read (see `bpnas.search.sealed`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import filelock

from bpnas.base.files import append, write_atomically
from bpnas.search.errors import RunError
from bpnas.search.fields import Fields, fields_of
from bpnas.search.sealed import LINE_REMEDY, RESTORE, read_json, read_lines, sealed_json, sealed_line, unsealed

RESTORE_CONFIG = "restore a copy, or choose another directory with --out"


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a run, which has begun once a file is there that fits one of the patterns in `results`.

    Until it or a later one has, `settings` may change: how their names in the configuration begin; "" is all of them.
    """

    results: tuple[str, ...]
    settings: tuple[str, ...] = ("",)


@dataclass(frozen=True, slots=True)
class Layout:
    """What binds one kind of run to its configuration: its stages, in order.

    Its configurations have all fields named in `marks`; those of every other kind lack one of them. `of_today` gives
    that of an earlier bpnas as today's would be.
    """

    marks: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    of_today: Callable[[dict[str, Any]], dict[str, Any]] = dict


_FOR_READING = Layout()

_OPTIONS = {
    "preset.name": "--preset",
    "table_sha256": "a --table of SHA-256",
    "additivity": "--additivity",
    "data": "--data",
    "connections_data": "--connections-data",
    "input_size": "--input-size",
    "connections_input_size": "--connections-input-size",
    "seed": "--seed",
    "deploy_classes": "--deploy-classes",
    "target_ms": "--target",
    "targets_ms": "--targets",
    "constraints_ms": "--constraints",
    "bands": "--bands",
    "window": "--window",
    "threads": "--threads",
}
"""What people call the settings of a search, where they gave them; those that change others stand first."""

_LIMITS = {"target_ms", "constraints_ms"}
"""Where one of them is left out, it follows from the other."""


class RunDirectory:
    """Files of one run below `root`, which is created.

    Args:
        layout: of this kind of run; without it for reading.
        writes: without it, for all processes of torchrun but the first, nothing is written, checked or locked.
    """

    def __init__(self, root: str | Path, layout: Layout = _FOR_READING, writes: bool = True) -> None:
        self.root, self._layout, self._writes = Path(root), layout, writes
        self.checkpoints = self.root / "checkpoints"
        if self.root.exists() and not self.root.is_dir():
            raise RunError(f"{self.root}: is a file, not a run directory; choose another one with --out")
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    def below(self, name: str | Path) -> RunDirectory:
        """A directory of its own for a part of the run, under the same lock."""
        return RunDirectory(self.root / name, self._layout, self._writes)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Held while a process works here; the system lets go of it when the process ends, however it ends.

        Raises:
            RunError: another process works here.
        """
        if not self._writes:
            yield
            return
        lock = filelock.FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if not (self.root / ".lock").exists():  # it waits for a folder that takes files, too
                raise RunError(f"{self.root}: takes no files; choose another directory with --out") from None
            raise RunError(f"{self.root}: another run-search works in this directory; wait, or use --out") from None
        try:
            yield
        finally:
            lock.release()

    def agree(self, config: Mapping[str, Any]) -> None:
        """Store `config`, or check that it is the one stored.

        What was not used yet may change: everything until a stage has begun, and then the settings of those after it.
        The configuration of another kind of run is never replaced.

        Raises:
            RunError: the stored one differs; the message names the first field that does.
        """
        if not self._writes:
            return
        now = json.loads(json.dumps(config))
        if self.has("config.json"):
            stored = self.read_json("config.json")
            ours = stored.keys() >= set(self._layout.marks)
            left = takewhile(lambda stage: not self._has_begun(stage), reversed(self._layout.stages))
            free = tuple(name for stage in left for name in stage.settings) if ours else ()
            different = _differences(self._layout.of_today(stored), now)
            if not different:
                return
            found = {name: values for name, values in different.items() if not name.startswith(free)}
            if found:
                causes = _causes(found)
                before = ", ".join(f"{_OPTIONS.get(k, f'{k} =')} {_as_given(was)}" for k, (was, _) in causes.items())
                after = ", ".join(_as_given(is_) for _, is_ in causes.values())
                raise RunError(
                    f"{self.root / 'config.json'}: this run was started with {before}, now it is {after}; "
                    "call it as before to resume, or choose another directory with --out"
                )
        self.write_json("config.json", now)

    def settled(self, name: str) -> int | None:
        """A count in the stored configuration, if this run is bound to it; else None.

        Raises:
            RunError: it is damaged.
        """
        if not self.has_begun():
            return None
        with fields_of(f"{self.root / 'config.json'}: is damaged", RESTORE_CONFIG):
            config = Fields(self.read_json("config.json"))
            return config.whole(name, 1) if config.has(name) else None

    def has_begun(self) -> bool:
        """Whether a stage has, so that the run is bound to its configuration."""
        return self.has("config.json") and any(map(self._has_begun, self._layout.stages))

    def has_trained(self) -> bool:
        """Whether the last stage has begun: of a search, the training of a network."""
        return any(map(self._has_begun, self._layout.stages[-1:]))

    def _has_begun(self, stage: Stage) -> bool:
        return any(any(self.root.glob(pattern)) for pattern in stage.results)

    def put_aside(self, lines: str, checkpoint: Path) -> None:
        """Have a stage begin again: its .jsonl file becomes `NAME.diverged.jsonl`, its checkpoint is removed."""
        if not self._writes:
            return
        path = self.root / lines
        if path.exists():
            path.replace(path.with_suffix(".diverged.jsonl"))
        checkpoint.unlink(missing_ok=True)

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write an object with its hash, whole or not at all."""
        if self._writes:
            write_atomically(self.root / name, sealed_json(values))

    def read_json(self, name: str, *, whole: bool = False) -> dict[str, Any]:
        """What `write_json` was given, or with `whole` all that the file says, its hash too.

        Raises:
            RunError: the file is missing, damaged or was changed since it was written.
        """
        path, remedy = self.root / name, RESTORE_CONFIG if name == "config.json" else RESTORE
        found = read_json(path, remedy)
        values = unsealed(found, path, remedy)
        return found if whole else values

    def has(self, name: str) -> bool:
        """Whether the file is there."""
        return (self.root / name).exists()

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The lines of a .jsonl file; a last one that was cut off by a kill is removed from the file at once.

        Raises:
            RunError: another line is damaged or was changed since it was written (while iterating).
        """
        path = self.root / name
        if not path.exists():
            return iter(())
        content = path.read_bytes()
        whole, end, rest = content.rpartition(b"\n")
        if rest and self._writes:
            with path.open("r+b") as file:
                file.truncate(len(whole) + len(end))
        return read_lines(whole.split(b"\n") if whole else [], path)

    def epochs(self, name: str) -> list[dict[str, Any]]:
        """The lines of a .jsonl file of epochs.

        Raises:
            RunError: a line is damaged.
        """
        found = list(self.lines(name))
        for row, line in enumerate(found, start=1):
            with fields_of(f"{self.root / name}: line {row} is no epoch", LINE_REMEDY):
                Fields(line).whole("epoch")
        return found

    def append(self, name: str, values: Mapping[str, Any]) -> None:
        """Append one line and see it to the disk."""
        if not self._writes:
            return
        append(self.root / name, sealed_line(values))


def limit_name(limit_ms: float) -> str:
    """The name of the folder for a network within `limit_ms`."""
    short = f"{limit_ms:g}"
    return f"{short if float(short) == limit_ms else repr(limit_ms)}ms"


def _causes(found: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """The difference that others follow from: another preset has other limits, too; limits and target go together."""
    order = [name for name in _OPTIONS if name in found] or list(found)
    both = _LIMITS if order[0] in _LIMITS else {order[0]}
    return {name: found[name] for name in order if name in both}


def _as_given(value: Any) -> str:
    """A setting as it is written behind its option."""
    if isinstance(value, list):
        return ",".join(map(_as_given, value)) or "nothing"
    if isinstance(value, float):
        return f"{value:.12g}"
    return "nothing" if value is None else str(value)


def _differences(before: Any, after: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in dict.fromkeys((*before, *after)):
            found |= _differences(before.get(key), after.get(key), f"{name}.{key}" if name else key)
        return found
    return {} if before == after else {name: (before, after)}
