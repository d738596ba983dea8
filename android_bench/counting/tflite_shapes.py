"""Shapes of what is between the operators of a TFLite graph, as they are when it runs.

A converter writes 1 for a size that it does not know, and -1 in the shape's signature; of older ones nothing tells it
from a size of 1. Which of those are the batch, and so really 1, and which are not, follows from the operators before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bpnas.android_bench.counting.work import Shape, UnknownWorkError, size

Values = Callable[[int], tuple[int, ...]]
"""The whole numbers that the file holds for an input of an operator; raises UnknownWorkError where it holds none."""


class TfliteShapes:
    """Shapes by the numbers of tensors, found out operator by operator in the order of execution.

    Args:
        graph: of the file.
        input_shapes: of every input, in the file's order and layout; none: as the file says.
    """

    def __init__(self, graph: Any, input_shapes: Sequence[Shape] = ()) -> None:
        self._graph = graph
        self._found: dict[int, Shape | None] = {}
        self._is_resized = False
        inputs = [graph.Inputs(i) for i in range(graph.InputsLength())]
        for index, shape in zip(inputs, input_shapes, strict=bool(input_shapes)):
            self._found[index] = tuple(shape)
            self._is_resized |= tuple(shape) != _declared(graph.Tensors(index))

    def of(self, index: int) -> Shape | None:
        """Of one tensor; None where it is unknown."""
        if index not in self._found:
            tensor = self._graph.Tensors(index)
            # What no operator has given yet is a constant, or a state that the graph keeps.
            self._found[index] = _declared(tensor)
        return self._found[index]

    def add(self, op: str, operator: Any, options: Callable[[str], Any], values: Values) -> None:
        """Find out the shapes of what an operator gives.

        Args:
            op: its name.
            operator: of the schema.
            options: its options, as the named table.
            values: see there.
        """
        inputs = [operator.Inputs(i) for i in range(operator.InputsLength())]
        shapes = [self.of(index) if index >= 0 else None for index in inputs]
        for number in range(operator.OutputsLength()):
            index = operator.Outputs(number)
            shape: Shape | None = None
            if number == 0 and op in _RULES:
                try:
                    shape = _RULES[op](shapes, options, values)
                except (UnknownWorkError, LookupError, TypeError, ValueError, ArithmeticError):
                    shape = None
            if shape is None:
                shape = self._as_declared(index, inputs, shapes)
            self._found[index] = shape

    def _as_declared(self, index: int, inputs: list[int], shapes: list[Shape | None]) -> Shape | None:
        """What the file says, where it can be believed."""
        tensor = self._graph.Tensors(index)
        declared, signature = _declared(tensor), _signature(tensor)
        if declared is None or not declared or self._is_resized:
            return None
        if min(signature, default=1) >= 0:
            return declared
        rest_is_known = min(signature[1:], default=1) >= 0
        batches_hold = all(
            shape is not None and shape[:1] == (_declared(self._graph.Tensors(each)) or ())[:1]
            for each, shape in zip(inputs, shapes, strict=True)
            if each >= 0
        )
        return declared if rest_is_known and batches_hold else None


def _declared(tensor: Any) -> Shape | None:
    return tuple(tensor.ShapeAsNumpy().tolist()) if tensor.ShapeLength() else ()


def _signature(tensor: Any) -> Shape:
    return tuple(tensor.ShapeSignatureAsNumpy().tolist()) if tensor.ShapeSignatureLength() else ()


def _sure(shape: Shape | None) -> Shape:
    if not shape or min(shape) < 1:
        raise UnknownWorkError("a shape is unknown")
    return shape


def _window(length: int, kernel: int, stride: int, dilation: int, is_same: bool) -> int:
    reach = 0 if is_same else (kernel - 1) * dilation
    return max(0, -(-(length - reach) // max(1, stride)))


def _conv(shapes: list[Shape | None], options: Callable[[str], Any], values: Values) -> Shape:
    return _convolved(shapes, options("Conv2DOptions"), 0)


def _depthwise(shapes: list[Shape | None], options: Callable[[str], Any], values: Values) -> Shape:
    return _convolved(shapes, options("DepthwiseConv2DOptions"), 3)


def _convolved(shapes: list[Shape | None], chosen: Any, outputs: int) -> Shape:
    (n, height, width, _), weight = _sure(shapes[0]), _sure(shapes[1])
    is_same = chosen.Padding() == 0
    return (
        n,
        _window(height, weight[1], chosen.StrideH(), chosen.DilationHFactor(), is_same),
        _window(width, weight[2], chosen.StrideW(), chosen.DilationWFactor(), is_same),
        weight[outputs],
    )


def _pool(shapes: list[Shape | None], options: Callable[[str], Any], values: Values) -> Shape:
    (n, height, width, channels), chosen = _sure(shapes[0]), options("Pool2DOptions")
    is_same = chosen.Padding() == 0
    return (
        n,
        _window(height, chosen.FilterHeight(), chosen.StrideH(), 1, is_same),
        _window(width, chosen.FilterWidth(), chosen.StrideW(), 1, is_same),
        channels,
    )


def _space_to_batch(shapes: list[Shape | None], options: Callable[[str], Any], values: Values) -> Shape:
    x, block, pads = _sure(shapes[0]), values(1), values(2)
    padded = [x[1 + i] + pads[2 * i] + pads[2 * i + 1] for i in range(len(block))]
    return (
        x[0] * size(block),
        *(length // each for length, each in zip(padded, block, strict=True)),
        *x[1 + len(block) :],
    )


def _batch_to_space(shapes: list[Shape | None], options: Callable[[str], Any], values: Values) -> Shape:
    x, block, crops = _sure(shapes[0]), values(1), values(2)
    whole = (x[1 + i] * each - crops[2 * i] - crops[2 * i + 1] for i, each in enumerate(block))
    return (x[0] // size(block), *whole, *x[1 + len(block) :])


def _pad(shapes: list[Shape | None], options: Callable[[str], Any], values: Values) -> Shape:
    x, pads = _sure(shapes[0]), values(1)
    return tuple(length + pads[2 * i] + pads[2 * i + 1] for i, length in enumerate(x))


def _resize(shapes: list[Shape | None], options: Callable[[str], Any], values: Values) -> Shape:
    x = _sure(shapes[0])
    return (x[0], *values(1), x[3])


def _reshape(shapes: list[Shape | None], options: Callable[[str], Any], values: Values) -> Shape:
    x, new = _sure(shapes[0]), values(1)
    rest = size([length for length in new if length != -1])
    return tuple(size(x) // rest if length == -1 else length for length in new)


def _transpose(shapes: list[Shape | None], options: Callable[[str], Any], values: Values) -> Shape:
    x = _sure(shapes[0])
    return tuple(x[axis] for axis in values(1))


def _same(shapes: list[Shape | None], options: Callable[[str], Any], values: Values) -> Shape:
    return _sure(shapes[0])


def _broadcast(shapes: list[Shape | None], options: Callable[[str], Any], values: Values) -> Shape:
    a, b = shapes[0], shapes[1]
    if a is None or b is None:
        raise UnknownWorkError("a shape is unknown")
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    return _sure(tuple(max(pair) for pair in pairs))


_RULES: dict[str, Callable[[list[Shape | None], Callable[[str], Any], Values], Shape]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "SPACE_TO_BATCH_ND": _space_to_batch,
    "BATCH_TO_SPACE_ND": _batch_to_space,
    "RESHAPE": _reshape,
    "TRANSPOSE": _transpose,
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _pad),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _resize),
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM"), _broadcast),
    **dict.fromkeys(
        ("RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "PRELU", "ELU", "HARD_SWISH", "LOGISTIC", "TANH", "GELU"), _same
    ),
    **dict.fromkeys(("QUANTIZE", "DEQUANTIZE", "SOFTMAX", "CAST", "ABS", "EXP", "SQRT", "RSQRT"), _same),
}
