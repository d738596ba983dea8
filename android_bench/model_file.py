"""Somebody's model file: whether it can be timed, with which inputs, and what goes with it."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bpnas.android_bench.device import MODEL_SUFFIX, runtime_of
from bpnas.android_bench.measurement import Feed, RunRequest
from bpnas.android_bench.model_inputs import (
    FILLED_TYPES,
    InputChoices,
    ModelInput,
    Shape,
    ShapeError,
    check_values,
    chosen_shapes,
    numbers_text,
    read_inputs,
)
from bpnas.android_bench.operators import ModelFormatError
from bpnas.base.errors import BpnasError, UsageError
from bpnas.base.file_kinds import kind_of
from bpnas.base.files import naming
from bpnas.base.plain_text import shown

MOST_BYTES = 2**31 - 1
"""The most that either format can hold in one file; weights beside an ONNX file may be more."""

_LONGEST_VARIANT = 200

_UNKNOWN = "a file of an unknown kind"


@dataclass(frozen=True, slots=True)
class DataFile:
    """Weights beside an ONNX file.

    Attributes:
        name: relative to the model's folder, as the model has it, with `/` between folders.
        path: on this machine.
        sha256: of the content, in hexadecimal.
    """

    name: str
    path: Path
    sha256: str


class ModelFileError(UsageError):
    """A file that cannot be timed.

    Attributes:
        inputs: what is known of them.
    """

    def __init__(self, message: str, inputs: Sequence[ModelInput] = ()) -> None:
        super().__init__(message)
        self.inputs = tuple(inputs)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file that can be timed.

    Attributes:
        path: of the file.
        runtime: that runs it, one of `RUNTIMES`.
        sha256: of its content, in hexadecimal.
        inputs: as the file has them.
        feeds: what each of them is fed with.
        told: whether a device must be told that, since the file alone leaves it open, or says otherwise.
        variant: what was asked for in place of the file's own sizes and the usual values, for a key: `x=2,3`, or
            `rate:=16000`; mostly empty.
        assumed: names of the inputs whose open batch is taken as 1.
        data: its weights, where they are in files of their own.
    """

    path: Path
    runtime: str
    sha256: str
    inputs: tuple[ModelInput, ...]
    feeds: tuple[Feed, ...]
    told: bool
    variant: str
    assumed: tuple[str, ...]
    data: tuple[DataFile, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of all that the model consists of; of one file, that of its content."""
        if not self.data:
            return self.sha256
        parts = [self.sha256, *(f"{each.name}\0{each.sha256}" for each in self.data)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of every input, by its name."""
        return {each.name: feed.shape for each, feed in zip(self.inputs, self.feeds, strict=True)}

    @property
    def told_feeds(self) -> tuple[Feed, ...]:
        """What a device must be told."""
        return self.feeds if self.told else ()

    def request(self, key: str, session: int, stem: Path) -> RunRequest:
        """Copy it and ask for its time; `remove_files` removes the copy.

        Args:
            key, session: as in `RunRequest`.
            stem: of the copy's path; where there are data files too, it is a folder for all of them.

        Raises:
            OSError: they cannot be read or written.
            BpnasError: they are not what they were.
        """
        folder = stem
        copy = stem.with_suffix(MODEL_SUFFIX[self.runtime])
        if self.data:
            folder.mkdir(parents=True)
            copy = folder / _free_name([each.name for each in self.data], self.runtime)
        content = self.read()
        with naming(copy):
            copy.write_bytes(content)
        for each in self.data:
            target = folder / each.name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(each.path.resolve(), target)  # weights may be large
            except OSError:
                with naming(target):
                    shutil.copyfile(each.path, target)
            with target.open("rb") as file:
                self._check(each.path, hashlib.file_digest(file, "sha256").hexdigest(), each.sha256)
        return RunRequest(key, session, copy, self.sha256, self.told_feeds, tuple(each.name for each in self.data))

    def read(self) -> bytes:
        """The content of the file itself.

        Raises:
            BpnasError: it is not what it was.
        """
        content = self.path.read_bytes()
        self._check(self.path, hashlib.sha256(content).hexdigest(), self.sha256)
        return content

    @staticmethod
    def _check(path: Path, found: str, expected: str) -> None:
        if found != expected:
            raise BpnasError(f"{path}: has changed since it was first read; call the same command again")


def remove_files(request: RunRequest) -> None:
    """Remove what a request asked the time of, where its files were written for it."""
    if request.data:
        shutil.rmtree(request.path.parent, ignore_errors=True)
    else:
        request.path.unlink(missing_ok=True)


def open_model_file(path: Path, choices: InputChoices = InputChoices()) -> ModelFile:
    """A model file, examined without the runtime.

    Args:
        path: an `.onnx` or `.tflite` file.
        choices: of the user's; names of others' inputs are ignored.

    Raises:
        UsageError: it cannot be timed; the message names it, says why and what to do. Where that takes a look into it,
            it is a ModelFileError.
    """
    runtime = runtime_of(path)
    inputs: tuple[ModelInput, ...] = ()
    try:
        content = _read(path, runtime)
        inputs = read_inputs(content)
        _check_types(inputs)
        check_values(inputs, choices.values)
        resizable = runtime == "tflite"
        shapes, assumed = chosen_shapes(inputs, choices.shapes, resizable=resizable)
        try:
            usual, _ = chosen_shapes(inputs, {}, resizable=resizable)
        except ShapeError:  # there are none
            usual = ()
        data = tuple(_data_files(path, content)) if runtime == "onnxruntime" else ()
    except (ModelFormatError, ShapeError) as error:
        raise ModelFileError(f"{path}: {error}", inputs) from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})", inputs) from error
    names = [each.name for each in inputs]
    changed = [f"{name}={numbers_text(shape)}" for name, shape in zip(names, shapes, strict=True)] * (shapes != usual)
    changed += [f"{name}:={numbers_text(choices.values[name])}" for name in names if name in choices.values]
    return ModelFile(
        path=path,
        runtime=runtime,
        sha256=hashlib.sha256(content).hexdigest(),
        inputs=inputs,
        feeds=tuple(Feed(shape, choices.values.get(name, ())) for name, shape in zip(names, shapes, strict=True)),
        told=bool(changed) or shapes != tuple(each.shape for each in inputs),
        variant=_bounded(";".join(changed)),
        assumed=assumed,
        data=data,
    )


def _bounded(variant: str) -> str:
    if len(variant) <= _LONGEST_VARIANT:
        return variant
    return f"{variant[:_LONGEST_VARIANT]}...#{hashlib.sha256(variant.encode()).hexdigest()[:12]}"


def _check_types(inputs: Sequence[ModelInput]) -> None:
    for each in inputs:
        if each.type not in FILLED_TYPES:
            raise ModelFormatError(
                f"its input {each.shown} is of the type {each.type}, which cannot be filled; export it with inputs of "
                "plain numbers"
            )


def _read(path: Path, runtime: str) -> bytes:
    """The content. Raises OSError, or ModelFormatError where it can be no model of that runtime."""
    status = path.stat()
    if stat.S_ISREG(status.st_mode) and status.st_size > MOST_BYTES:
        raise ModelFormatError("is larger than 2 GB, the most that one model file can be; keep its weights beside it")
    kind = kind_of(path)
    is_tflite, wants_tflite = kind.what == "a TFLite model", runtime == "tflite"
    if is_tflite and not wants_tflite:
        raise ModelFormatError("is a TFLite model; give it a name that ends in .tflite")
    if not is_tflite and kind.what != "an ONNX model" and kind.what != _UNKNOWN:
        raise ModelFormatError(kind.instead_of("model"))
    content = path.read_bytes()
    if wants_tflite and not is_tflite:
        if _is_onnx(content):
            raise ModelFormatError("is an ONNX model; give it a name that ends in .onnx")
        raise ModelFormatError("is no TFLite model, for it lacks the mark TFL3; download it, or export it, once more")
    if not wants_tflite and content[4:8] == b"ORTM":
        raise ModelFormatError("is a model in ONNX Runtime's own format; export it as plain ONNX")
    return content


def _is_onnx(content: bytes) -> bool:
    try:
        read_inputs(content)
    except ModelFormatError:
        return False
    return True


def _data_files(path: Path, content: bytes) -> Iterator[DataFile]:
    """Where an ONNX file keeps weights outside of it.

    Raises:
        ModelFormatError: one of them is missing, too short, or outside of the model's folder.
        OSError: one cannot be read.
    """
    ends: dict[str, int] = {}
    for tensor in _outside(content):
        told = {entry.key: entry.value for entry in tensor.external_data}
        name = told.get("location", "")
        offset, length = (int(told.get(key) or 0) for key in ("offset", "length"))
        if offset < 0 or length < 0:
            raise ModelFormatError(f"its weights are at no place in {shown(name)}; export it once more")
        ends[name] = max(ends.get(name, 0), offset + length)
    for name, end in sorted(ends.items()):
        place = _beside(path, name)
        if not place.is_file():
            raise ModelFormatError(
                f"its weights are in {shown(name)}, which is not beside it; put that file into its folder, too"
            )
        kind = kind_of(place)
        if "Git LFS" in kind.what or "git-annex" in kind.what:
            raise ModelFormatError(f"its weights, in {shown(name)}: that {kind.instead_of('weights')}")
        if place.stat().st_size < end:
            raise ModelFormatError(f"its weights, in {shown(name)}, are cut short; download or export them once more")
        with place.open("rb") as file:
            yield DataFile(name, place, hashlib.file_digest(file, "sha256").hexdigest())


def _beside(path: Path, name: str) -> Path:
    """The file of that name in the model's folder, or below it; also as a cache of downloads links both."""
    parts = PurePosixPath(name).parts
    if not name or not name.isprintable() or name.startswith("/") or ".." in parts or "\\" in name:
        raise ModelFormatError(
            f"its weights are in {shown(name)}, outside of its folder; put them beside it and export it once more"
        )
    place = path.parent / name
    real = place.resolve()
    if not any(real.is_relative_to(folder) for folder in (path.parent.resolve(), path.resolve().parent)):
        raise ModelFormatError(
            f"its weights, in {shown(name)}, are a link to a file outside of its folder; copy that file there"
        )
    return place


def _outside(content: bytes) -> Iterator[Any]:
    """Every tensor that is kept in another file, in all graphs of an ONNX model."""
    import onnx

    model = onnx.ModelProto.FromString(content)
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        tensors: list[Any] = []
        if graphs:
            graph = graphs.pop()
            tensors += graph.initializer
            tensors += [part for each in graph.sparse_initializer for part in (each.values, each.indices)]
            nodes += graph.node
        else:
            for attribute in nodes.pop().attribute:
                tensors += [attribute.t, *attribute.tensors]
                graphs += ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
        yield from (tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL)


def _free_name(data: Sequence[str], runtime: str) -> str:
    """A name for the model itself in a folder with its data files; none of them has it."""
    suffix = MODEL_SUFFIX[runtime]
    name = f"model{suffix}"
    while any(name == each.split("/")[0] for each in data):
        name = f"_{name}"
    return name
