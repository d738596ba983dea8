"""How one model is timed: settings in, raw samples out. Nothing here is averaged."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from bpnas.base.errors import UsageError
from bpnas.base.fields import Fields
from bpnas.base.plain_text import shown

FailureKind = Literal["crash", "timeout", "refused", "invalid"]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How long and how often. Latencies taken with different settings never meet in one table.

    Attributes:
        warmup_runs, warmup_seconds: at least both, before anything counts.
        runs, seconds: at least as many samples, over at least that time.
        sample_ms: a model faster than this is run several times within one sample.
        threads: of the runtime.
        timeout_seconds: after it a model is given up.
    """

    warmup_runs: int = 10
    warmup_seconds: float = 0.5
    runs: int = 50
    seconds: float = 1.0
    sample_ms: float = 1.0
    threads: int = 1
    timeout_seconds: float = 300.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("warmup_runs", 0, 1_000_000),
            ("warmup_seconds", 0.0, 3600.0),
            ("runs", 1, 1_000_000),
            ("seconds", 0.0, 3600.0),
            ("sample_ms", 0.0, 10_000.0),
            ("threads", 1, 256),
            ("timeout_seconds", 0.001, 86_400.0),
        ):
            value = getattr(self, name)
            whole = isinstance(low, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise UsageError(f"run setting {name}: must be a {'whole ' * whole}number, not {shown(value)}")
            if not low <= value <= high:
                raise UsageError(f"run setting {name}: must be from {low:g} to {high:g}, not {shown(value)}")
            if not whole:
                object.__setattr__(self, name, float(value))  # 1 and 1.0 are equal and must give one digest

    @property
    def digest(self) -> str:
        """SHA-256 over all fields, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical: equal settings give equal texts."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RunSettings:
        """The inverse of `to_json`; raises FieldError or UsageError, which name the field, on anything else."""
        stored = Fields.parse(text)
        stored.exactly([each.name for each in fields(cls)])
        return cls(**stored.values)


@dataclass(frozen=True, slots=True)
class Feed:
    """What one input of a model is fed with.

    Attributes:
        shape: in the file's own layout.
        values: repeated over the elements; none: what its type asks for, see docs/native.md.
    """

    shape: tuple[int, ...]
    values: tuple[int | float, ...] = ()


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One model file to time in one fresh session.

    Attributes:
        key: what the model is; comes back with the outcome.
        session: number of this session among those of the same key.
        path: the file on this machine.
        sha256: of the file, in hexadecimal; a file that differs on arrival is not timed.
        feeds: of every input, in the file's order; none: as the file says, where it leaves nothing open.
        data: files with weights of an ONNX file, by their names relative to its folder, which is theirs alone.
    """

    key: str
    session: int
    path: Path
    sha256: str
    feeds: tuple[Feed, ...] = ()
    data: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """All its files on this machine, the model first."""
        return (self.path, *(self.path.parent / name for name in self.data))


@dataclass(frozen=True, slots=True)
class Measurement:
    """Raw samples of one session.

    Attributes:
        key, session, sha256: of the request.
        samples_ns: elapsed nanoseconds of each sample, in order.
        repeats: inferences within each sample.
        warmup_runs, warmup_ns: what was run before, and how long it took.
        load_ns: creation of the session.
        started_at: seconds since 1970, by the host's clock.
        conditions: the device's state before and after, as `{"before": {...}, "after": {...}}`.
    """

    key: str
    session: int
    sha256: str
    samples_ns: tuple[int, ...]
    repeats: int
    warmup_runs: int
    warmup_ns: int
    load_ns: int
    started_at: float
    conditions: dict[str, dict[str, float | str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """A model that gave no samples.

    Attributes:
        kind: `crash` (the process died), `timeout`, `refused` (by the runtime) or `invalid` (the answer made no sense).
        message: one line.
    """

    key: str
    session: int
    sha256: str
    kind: FailureKind
    message: str
    started_at: float


Outcome = Measurement | Failure


def read_model(path: Path, sha256: str) -> bytes:
    """The content of a model file, as it was sent.

    Raises:
        OSError: it cannot be read.
        ValueError: its SHA-256 is another.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("the model file is not the one that was sent (SHA-256 differs)")
    return content
