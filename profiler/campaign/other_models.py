"""Models that are no part of a backbone, timed by the same campaign: known networks and anybody's files.

Their rows are in the same records as everything else. No plan names them, so that no table takes them in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bpnas.android_bench.device import runtime_of
from bpnas.android_bench.model_file import ModelFile, ModelFileError, open_model_file
from bpnas.android_bench.model_inputs import InputChoices, ModelInput
from bpnas.base.errors import UsageError
from bpnas.base.plain_text import storable
from bpnas.profiler.models.zoo import ZooPart
from bpnas.profiler.paths import Part

if TYPE_CHECKING:
    from bpnas.profiler.campaign.estimate import Estimate
    from bpnas.profiler.campaign.rounds import Assessment


@dataclass(frozen=True, slots=True)
class FilePart:
    """Somebody's model file.

    Attributes:
        file: see there.
        shown: its path, as short as tells it from the others of the same call.
    """

    file: ModelFile
    shown: str = ""

    kind = "file"

    @property
    def key(self) -> str:
        variant = f"[{storable(self.file.variant)}]" if self.file.variant else ""
        return f"file:{storable(self.path.name)}#{self.file.digest[:12]}{variant}"

    @property
    def path(self) -> Path:
        """Of the file."""
        return self.file.path

    @property
    def name(self) -> str:
        """Of the file, as records and JSON can hold it."""
        return storable(self.shown or self.path.name)

    def read(self) -> bytes:
        """The content of the file itself.

        Raises:
            BpnasError: it is not what it was.
        """
        return self.file.read()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that cannot be timed.

    Attributes:
        name: as of `FilePart`.
        path: of the file.
        reason: a sentence that names it, and says what to do.
    """

    name: str
    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class FileParts:
    """Files of one call.

    Attributes:
        groups: those that can be timed, by runtime.
        left_out: the others.
    """

    groups: Mapping[str, Sequence[FilePart]]
    left_out: tuple[LeftOut, ...]


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
        part: the model.
        runtime: that ran it.
        estimate: None where nothing was measured.
        flags: what is doubtful about it; of `estimate.Flag`.
        size: see there.
    """

    part: OtherPart
    runtime: str
    estimate: Estimate | None
    flags: tuple[str, ...]
    size: Size

    @property
    def name(self) -> str:
        """Of the network or of the file."""
        return self.part.network.name if isinstance(self.part, ZooPart) else self.part.name

    @property
    def key(self) -> str:
        """In the records."""
        return self.part.key


def file_parts(paths: Iterable[Path], runtime: str | None = None, choices: InputChoices = InputChoices()) -> FileParts:
    """The files by the runtime that their suffix asks for, each path once.

    Args:
        paths: `.onnx` and `.tflite` files.
        runtime: allow this one only.
        choices: of the user's for inputs.

    Raises:
        UsageError: a name that inputs are chosen by is that of none.
    """
    groups: dict[str, list[FilePart]] = {}
    left_out: list[LeftOut] = []
    inputs: list[ModelInput] = []
    for path, shown in _shortest(list(dict.fromkeys(paths))).items():
        try:
            fitting = runtime_of(path)
            if runtime not in (None, fitting):
                raise UsageError(f"{path}: {path.suffix} files run on {fitting}, not on {runtime}; leave --runtime out")
            file = open_model_file(path, choices)
        except ModelFileError as error:
            inputs += error.inputs
            left_out.append(LeftOut(storable(shown), path, str(error)))
        except UsageError as error:
            left_out.append(LeftOut(storable(shown), path, str(error)))
        else:
            inputs += file.inputs
            groups.setdefault(fitting, []).append(FilePart(file, shown))
    choices.refuse_unknown(inputs)
    return FileParts(groups, tuple(left_out))


def _shortest(paths: Sequence[Path]) -> dict[Path, str]:
    """For each path as many of its last names as tell it from the others."""
    parts = {path: path.absolute().parts for path in paths}
    needed = dict.fromkeys(paths, 1)
    while True:
        ends: dict[tuple[str, ...], list[Path]] = {}
        for path in paths:
            ends.setdefault(parts[path][-needed[path] :], []).append(path)
        unclear = [path for same in ends.values() if len(same) > 1 for path in same if needed[path] < len(parts[path])]
        if not unclear:
            return {path: str(Path(*parts[path][-needed[path] :])) for path in paths}
        for path in unclear:
            needed[path] += 1


def size_of(part: OtherPart) -> Size:
    """How large a model is; see `Size`."""
    if isinstance(part, ZooPart):
        from bpnas.profiler.models.zoo_graph import zoo_graph

        built = zoo_graph(part)
        return Size(built.macs, built.parameters)
    from bpnas.android_bench.model_size import read_size
    from bpnas.android_bench.operators import ModelFormatError

    try:
        shapes = [feed.shape for feed in part.file.told_feeds]
        found = read_size(part.read(), shapes, part.path.parent)
    except ModelFormatError:
        return Size(None, None)
    return Size(found.macs, found.parameters)


def timing(part: OtherPart, runtime: str, found: Assessment) -> Timing:
    """What is known of one of these models, by this or by earlier calls."""
    estimate = found.estimates.get(part.key)
    flags = () if estimate is None else estimate.doubts(found.precision)
    return Timing(part, runtime, estimate, flags, size_of(part))
