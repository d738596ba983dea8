"""What a model file wants to be fed with, read from ONNX or TFLite alike, and with which sizes it is to be timed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bpnas.android_bench.operators import ModelFormatError
from bpnas.base.errors import UsageError
from bpnas.base.plain_text import printable, shown

Shape = tuple[int, ...]
_T = TypeVar("_T")

Values = tuple[int | float, ...]

_MOST_DIMENSIONS = 32
_MOST_IN_A_DIMENSION = 2**31 - 1
_MOST_VALUES = 64
_MOST_INPUTS = 10_000  # as native/model_list.cpp has it; no real model comes near
_NUMBER = re.compile(r"[+-]?([0-9]{1,18}|[0-9]{0,18}\.?[0-9]{1,18}([eE][+-]?[0-9]{1,3})?|[0-9]{1,18}\.)")

FILLED_TYPES = frozenset(
    "float16 bfloat16 float32 float64 complex64 int8 uint8 int16 uint16 int32 uint32 int64 uint64 bool string".split()
)
"""Types of inputs that every device can fill; `docs/models.md` says with what."""

DAMAGED = "is cut short or damaged; download it, or export it, once more"

_OPEN = "?"  # a size that the file leaves open without a name


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One input of a model.

    Attributes:
        name: in the file; `input_0`, by its place, where the file has none.
        shape: in the file's own layout. A size that is left open is a text, its name in the file or `?`. None where the
            file gives no shape at all.
        type: of its elements, as numpy calls it; one outside of `FILLED_TYPES` as the format calls it.
    """

    name: str
    shape: tuple[int | str, ...] | None
    type: str = "float32"

    @property
    def shown(self) -> str:
        """Its name, for a message."""
        return printable(self.name, 100)

    def __str__(self) -> str:
        return f"{self.shown} {_sizes_text(self.shape)} {self.type}"


@dataclass(frozen=True, slots=True)
class InputChoices:
    """What the user says of inputs, by their names.

    Attributes:
        shapes: of inputs whose sizes are open, or are to be others.
        values: that inputs are filled with.
    """

    shapes: Mapping[str, Shape] = field(default_factory=dict)
    values: Mapping[str, Values] = field(default_factory=dict)

    @classmethod
    def parse(cls, shapes: Iterable[str], values: Iterable[str]) -> InputChoices:
        """From `NAME=1,3,224,224` and `NAME=16000`.

        Raises:
            UsageError: one is written otherwise, or an input has two.
        """
        return cls(_by_name("--input-shape", shapes, _shape), _by_name("--input-value", values, _values))

    @property
    def names(self) -> set[str]:
        """Of the inputs."""
        return {*self.shapes, *self.values}

    def refuse_unknown(self, inputs: Iterable[ModelInput]) -> None:
        """Raises UsageError where a name is that of none of these inputs."""
        known = {each.name: each for each in inputs}
        for name in sorted(self.names - known.keys()):
            option = "--input-shape" if name in self.shapes else "--input-value"
            raise UsageError(f"{option} {shown(name)}: no such input; there are: {listed(known.values())}")


class ShapeError(ValueError):
    """Sizes or values that are missing, or that do not fit; the message says of which input."""


def read_inputs(content: bytes) -> tuple[ModelInput, ...]:
    """The inputs of an ONNX or TFLite file, in their order.

    A TFLite file says with which sizes it was converted: where it leaves nothing open but the batch, these are taken.

    Raises:
        ModelFormatError: the content is neither, or is damaged.
    """
    try:
        found = _tflite_inputs(content) if content[4:8] == b"TFL3" else _onnx_inputs(content)
    except ModelFormatError:
        raise
    except Exception as error:  # damaged files fail in the parsers in any way they like
        raise ModelFormatError(DAMAGED) from error
    return tuple(_named(found))


def chosen_shapes(
    inputs: Sequence[ModelInput], given: Mapping[str, Shape], *, resizable: bool
) -> tuple[tuple[Shape, ...], tuple[str, ...]]:
    """A shape for every input, and the names of those whose open batch was taken as 1.

    What is given for one input holds for the others too: a size of the same name in the file gets the same value.

    Args:
        inputs: of one model.
        given: shapes by the name of the input; others' names are ignored.
        resizable: whether sizes that the file fixes may be changed, as TFLite's interpreter can.

    Raises:
        ShapeError: see there.
    """
    known: dict[str, int] = {}
    for each in inputs:
        if each.name in given:
            _check_given(each, given[each.name], inputs, resizable)
            pairs = zip(each.shape or (), given[each.name], strict=False)
            known |= {old: new for old, new in pairs if isinstance(old, str) and old != _OPEN}
    batches = {each.shape[0] for each in inputs if each.shape and each.shape[0] != _OPEN}
    shapes, assumed = [], []
    for each in inputs:
        if each.name in given:
            shapes.append(given[each.name])
            continue
        sizes = [known.get(size, size) if isinstance(size, str) else size for size in each.shape or ()]
        as_one = [isinstance(size, str) and (n == 0 or size in batches) for n, size in enumerate(sizes)]
        closed = [1 if one else size for one, size in zip(as_one, sizes, strict=True)]
        if each.shape is None or any(isinstance(size, str) for size in closed):
            raise ShapeError(_open_sentence(each, inputs))
        shapes.append(tuple(int(size) for size in closed))
        if any(as_one):
            assumed.append(each.name)
    return tuple(shapes), tuple(assumed)


def check_values(inputs: Iterable[ModelInput], values: Mapping[str, Values]) -> None:
    """Raises ShapeError where a value is none of its input's type."""
    for each in inputs:
        for value in values.get(each.name, ()):
            low, high = _RANGES.get(each.type, (0, -1))
            if not low <= value <= high or (each.type in _WHOLE and value != int(value)):
                raise ShapeError(f"--input-value {each.shown}={value} is no {each.type}, as that input takes")


_WHOLE = {"bool": (0, 1)} | {
    f"{sign}int{bits}": (0 if sign else -(2 ** (bits - 1)), 2 ** (bits if sign else bits - 1) - 1)
    for bits in (8, 16, 32, 64)
    for sign in ("", "u")
}
_RANGES: dict[str, tuple[float, float]] = {
    **_WHOLE,
    "float16": (-65504.0, 65504.0),
    "bfloat16": (-3.3e38, 3.3e38),
    "float32": (-3.4e38, 3.4e38),
    "float64": (-1e300, 1e300),
}


def listed(inputs: Iterable[ModelInput], most: int = 12) -> str:
    """Inputs for a message: `x (batch, 8) float32, y (1) int64`."""
    texts = list(map(str, inputs))
    return ", ".join(texts[:most] + ["..."] * (len(texts) > most)) or "none"


def _by_name(option: str, texts: Iterable[str], read: Callable[[str], _T | None]) -> dict[str, _T]:
    found: dict[str, _T] = {}
    for text in texts:
        name, equals, rest = text.rpartition("=")
        value = read(rest.strip()) if equals and name else None
        if value is None:
            example = "input=1,3,224,224" if option == "--input-shape" else "rate=16000"
            raise UsageError(f"{option} {shown(text, 100)}: write an input's name and its numbers, as in {example}")
        if found.setdefault(name, value) != value:
            raise UsageError(f"{option} {shown(name)}: is given twice, and differs; one call times one of them")
    return found


def _shape(text: str) -> Shape | None:
    words = [word.strip() for word in text.split(",")] if text else []  # nothing: a single number
    right = all(re.fullmatch("[0-9]{1,10}", word, re.ASCII) and int(word) <= _MOST_IN_A_DIMENSION for word in words)
    return tuple(map(int, words)) if right and len(words) <= _MOST_DIMENSIONS else None


def _values(text: str) -> Values | None:
    words = [word.strip() for word in text.split(",")]
    if len(words) > _MOST_VALUES or not all(_NUMBER.fullmatch(word) for word in words):
        return None
    return tuple(int(word) if re.fullmatch("[+-]?[0-9]+", word) else float(word) for word in words)


def numbers_text(numbers: Shape | Values) -> str:
    """As `--input-shape` and `--input-value` take them: `1,3,224,224`."""
    return ",".join(map(str, numbers))


def _check_given(each: ModelInput, shape: Shape, inputs: Sequence[ModelInput], resizable: bool) -> None:
    if each.shape is None:
        return
    fits = len(shape) == len(each.shape) and (
        resizable or all(isinstance(old, str) or old == new for old, new in zip(each.shape, shape, strict=True))
    )
    if not fits:
        raise ShapeError(f"--input-shape {each.shown}={numbers_text(shape)} does not fit; its inputs: {listed(inputs)}")


def _open_sentence(each: ModelInput, inputs: Sequence[ModelInput]) -> str:
    others = f"; its inputs: {listed(inputs)}" if len(inputs) > 1 else ""
    if each.shape is None:
        return (
            f"its input {each.shown} has no shape; give it with --input-shape '{each.shown}=SIZE,SIZE,...', or nothing "
            f"behind the = for a single number{others}"
        )
    wanted = ",".join("SIZE" if size == _OPEN else str(size) for size in each.shape)
    return (
        f"its input {each.shown} is open, {_sizes_text(each.shape)}; give all its sizes as numbers, with --input-shape "
        f"'{each.shown}={printable(wanted)}'{others}"
    )


def _sizes_text(shape: tuple[int | str, ...] | None) -> str:
    return "no shape" if shape is None else f"({printable(', '.join(map(str, shape)))})"


def _named(inputs: Sequence[ModelInput]) -> Iterable[ModelInput]:
    """A name for each: TFLite's schema allows tensors without, and several of one name."""
    taken = {each.name for each in inputs}
    seen: set[str] = set()
    for number, each in enumerate(inputs):
        name = each.name
        if not name or name in seen:
            name = f"input_{number}"
            while name in taken:
                name += "_"
            taken.add(name)
        seen.add(name)
        yield ModelInput(name, each.shape, each.type)


def _onnx_inputs(content: bytes) -> list[ModelInput]:
    import onnx

    graph = onnx.ModelProto.FromString(content).graph
    if not graph.node:
        raise ModelFormatError("is no ONNX model: it has no operators; export it once more")
    weights = {tensor.name for tensor in graph.initializer}  # which old files list as inputs, too
    weights |= {tensor.values.name for tensor in graph.sparse_initializer}
    return [_onnx_input(value) for value in graph.input if value.name not in weights]


def _onnx_input(value: Any) -> ModelInput:
    import onnx

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return ModelInput(value.name, (), (kind or "unknown").removesuffix("_type"))
    tensor = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    name = {"float": "float32", "double": "float64", "undefined": "unknown"}.get(name, name)
    if not tensor.HasField("shape"):
        return ModelInput(value.name, None, name)
    sizes = [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else (dim.dim_param or _OPEN)
        for dim in tensor.shape.dim
    ]
    return ModelInput(value.name, tuple(sizes), name)


def _tflite_inputs(content: bytes) -> list[ModelInput]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content)
    _check_tflite(model, len(content))
    graph = model.Subgraphs(0)
    types = {value: name.lower() for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
    if graph.InputsLength() > _MOST_INPUTS:
        raise ModelFormatError(DAMAGED)
    # Old converters never did.
    tells_ranks = any(graph.Tensors(number).HasRank() for number in range(graph.TensorsLength()))
    return [
        ModelInput(
            (tensor.Name() or b"").decode("utf-8", "backslashreplace"),
            _tflite_shape(tensor, tells_ranks),
            types.get(tensor.Type(), "unknown"),
        )
        for tensor in (graph.Tensors(graph.Inputs(number)) for number in range(graph.InputsLength()))
    ]


def _tflite_shape(tensor: Any, tells_ranks: bool) -> tuple[int | str, ...] | None:
    sizes = [tensor.Shape(n) for n in range(tensor.ShapeLength())]
    if not sizes:
        return None if tells_ranks and not tensor.HasRank() else ()
    signature = [tensor.ShapeSignature(n) for n in range(tensor.ShapeSignatureLength())]
    if len(signature) != len(sizes):
        signature = sizes
    is_open = [wanted < 0 or size < 0 for wanted, size in zip(signature, sizes, strict=True)]
    if is_open[0] and sizes[0] > 0 and not any(is_open[1:]):
        return tuple(sizes)
    return tuple(_OPEN if left else size for left, size in zip(is_open, sizes, strict=True))


def _check_tflite(model: Any, size: int) -> None:
    """Raises ModelFormatError where weights end after the end of the file; anything where the tables do."""
    for number in range(model.BuffersLength()):
        buffer = model.Buffers(number)
        end = buffer.Offset() + buffer.Size()  # weights behind the tables, in files of more than 2 GB
        place = buffer._tab.Offset(4)
        if place:
            end = max(end, buffer._tab.Vector(place) + buffer.DataLength())
        if end > size:
            raise ModelFormatError(DAMAGED)
