"""Inputs of every type, filled as the native runner fills them: docs/native.md has the rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bpnas.android_bench.local.runtimes import Array, Input, RuntimeSession

Values = tuple[int | float, ...]

_NOT_THESE = "whole numbers of its inputs were 1, and then 0, and --input-value gives others"

_STRING = "bpnas"
_FLOATS = {"float16": np.float16, "float32": np.float32, "float64": np.float64}


def infer_first(session: RuntimeSession, values: Sequence[Values] = ()) -> None:
    """Fill all inputs and run the first inference.

    Whole numbers are 1, and 0 where the runtime refuses that: as an index it may lie beyond the end.

    Args:
        session: loaded.
        values: of each input; none, or an empty one, means what its type asks for.

    Raises:
        Exception: any that the runtime raises when it refuses the model.
    """
    inputs = session.inputs()
    given = values or [()] * len(inputs)
    session.set_inputs([filled(one, some, index=1) for one, some in zip(inputs, given, strict=True)])
    try:
        session.invoke()
    except MemoryError:
        raise
    except Exception:
        if not any(_is_index(one) and not some for one, some in zip(inputs, given, strict=True)):
            raise
        session.set_inputs([filled(one, some, index=0) for one, some in zip(inputs, given, strict=True)])
        try:
            session.invoke()
        except Exception as error:
            raise ValueError(f"{_NOT_THESE}: {error}") from error
    session.settle()


def filled(one: Input, values: Values = (), *, index: int = 1) -> Array:
    """A tensor for an input.

    Args:
        one: the input.
        values: repeated over the elements; none: what the type asks for.
        index: the value of whole numbers that are no quantised ones.

    Raises:
        ValueError: there is no filling this type.
    """
    count = int(np.prod(one.shape, dtype=np.int64))
    if values:
        return np.resize(_as_type(np.array(values), one.type), one.shape)
    if one.type in _FLOATS or one.type in ("bfloat16", "complex64"):
        pairs = 2 if one.type == "complex64" else 1
        noise = np.divide(_noise(count * pairs).view(np.int32), 2.0**31, dtype=np.float64)
        flat = noise.astype(np.float32).view(np.complex64) if pairs == 2 else _as_type(noise, one.type)
    elif one.type in ("int8", "uint8") or (one.type in ("int16", "uint16") and one.quantised):
        kind = np.dtype(one.type)
        flat = (_noise(count) >> np.uint32(32 - 8 * kind.itemsize)).astype(f"u{kind.itemsize}").view(kind)
    elif one.type == "bool":
        flat = np.zeros(count, np.bool_)
    elif one.type == "string":
        flat = np.full(count, _STRING, object)
    elif _is_index(one):
        flat = np.full(count, index, one.type)
    else:
        raise ValueError(f"input {one.name!r} is of the type {one.type}, which cannot be filled")
    return flat.reshape(one.shape)


def _is_index(one: Input) -> bool:
    return one.type in ("int16", "uint16", "int32", "uint32", "int64", "uint64") and not (
        one.quantised and one.type in ("int16", "uint16")
    )


def _as_type(numbers: npt.NDArray[np.generic], kind: str) -> Array:
    if kind != "bfloat16":
        return numbers.astype(kind)
    return (numbers.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _noise(count: int) -> npt.NDArray[np.uint32]:
    """X = 1664525 x + 1013904223 mod 2^32, from x = 1 on, without the first."""
    powers = np.cumprod(np.full(count, 1664525, np.uint32), dtype=np.uint32)
    sums = np.cumsum(np.concatenate([np.ones(min(count, 1), np.uint32), powers[:-1]]), dtype=np.uint32)
    return powers + np.uint32(1013904223) * sums
