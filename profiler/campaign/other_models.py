"""Models that are no part of a backbone, timed by the same campaign: known networks and anybody's files.

Their rows are in the same records as everything else. No plan names them, so that no table takes them in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bpnas.android_bench.device import runtime_of
from bpnas.base.errors import BpnasError, UsageError
from bpnas.base.plain_text import storable
from bpnas.profiler.models.zoo import ZooPart
from bpnas.profiler.paths import Part

if TYPE_CHECKING:
    from bpnas.profiler.campaign.estimate import Estimate


@dataclass(frozen=True, slots=True)
class FilePart:
    """Somebody's model file.

    Attributes:
        path: of the file.
        sha256: of its content, in hexadecimal.
    """

    path: Path
    sha256: str

    kind = "file"

    @property
    def key(self) -> str:
        return f"file:{self.name}#{self.sha256[:12]}"

    @property
    def name(self) -> str:
        """Of the file, as records and JSON can hold it."""
        return storable(self.path.name)

    def read(self) -> bytes:
        """The content.

        Raises:
            BpnasError: it is not what it was.
        """
        content = self.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise BpnasError(f"{self.path}: has changed since it was first read; call the same command again")
        return content


OtherPart: TypeAlias = ZooPart | FilePart
AnyPart: TypeAlias = Part | OtherPart


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model is.

    Attributes:
        macs: multiply-adds of one inference; None where they are unknown (`android_bench.ModelSize`).
        parameters: numbers in its weights, of a known network as published; None as above.
    """

    macs: int | None
    parameters: int | None


@dataclass(frozen=True, slots=True)
class Timing:
    """What is known of one model on one device.

    Attributes:
        name: of the network or of the file.
        key: in the records.
        runtime: that ran it.
        estimate: None where nothing was measured.
        size: see there.
    """

    name: str
    key: str
    runtime: str
    estimate: Estimate | None
    size: Size


def file_parts(paths: Iterable[Path], runtime: str | None = None) -> dict[str, list[FilePart]]:
    """The files by the runtime that their suffix asks for, each content once.

    Args:
        paths: `.onnx` and `.tflite` files with one input of a fixed shape.
        runtime: allow this one only.

    Raises:
        UsageError: one of them cannot be timed; the message names it and says why.
    """
    parts: dict[str, dict[str, FilePart]] = {}
    for path in paths:
        fitting = runtime_of(path)
        if runtime not in (None, fitting):
            raise UsageError(f"{path}: {path.suffix} files run on {fitting}, not on {runtime}; leave --runtime out")
        part = _file_part(path)
        parts.setdefault(fitting, {}).setdefault(part.key, part)
    return {name: list(group.values()) for name, group in parts.items()}


def _file_part(path: Path) -> FilePart:
    from bpnas.android_bench.model_inputs import read_inputs
    from bpnas.android_bench.operators import ModelFormatError

    try:
        content = path.read_bytes()
        inputs = read_inputs(content)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except ModelFormatError as error:
        raise UsageError(f"{path}: {error}") from error
    if len(inputs) != 1:
        raise UsageError(f"{path}: has {len(inputs)} inputs, but only models with one can be timed")
    if not all(inputs[0].shape):
        shape = ", ".join(str(size or "?") for size in inputs[0].shape)
        raise UsageError(f"{path}: its input {inputs[0].name!r} is open, ({shape}); export it with a fixed shape")
    return FilePart(path, hashlib.sha256(content).hexdigest())


def size_of(part: OtherPart) -> Size:
    """How large a model is; see `Size`."""
    if isinstance(part, ZooPart):
        from bpnas.profiler.models.zoo_graph import zoo_graph

        built = zoo_graph(part)
        return Size(built.macs, built.parameters)
    from bpnas.android_bench.model_size import read_size
    from bpnas.android_bench.operators import ModelFormatError

    try:
        found = read_size(part.read(), folder=part.path.parent)
    except ModelFormatError:
        return Size(None, None)
    return Size(found.macs, found.parameters)


def timing(part: OtherPart, runtime: str, found: Estimate | None) -> Timing:
    """What is known of one of these models, in this or in earlier calls; `found` is None where nothing is."""
    return Timing(
        part.network.name if isinstance(part, ZooPart) else part.name, part.key, runtime, found, size_of(part)
    )
