"""Multiply-adds and parameters of TFLite files, against values by hand; and "unknown" where nobody can know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as s

from bpnas.android_bench import ModelFormatError, ModelSize, read_size

B, T = s.BuiltinOperator, s.TensorType
DTYPES = {T.FLOAT32: np.float32, T.INT8: np.int8, T.INT32: np.int32}


@dataclass
class File:
    """A model that grows; tensors are told by their numbers."""

    graphs: list[Any] = field(default_factory=list)
    codes: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=lambda: [s.BufferT()])

    def graph(self) -> Any:
        graph = s.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
        self.graphs.append(graph)
        return graph

    def tensor(
        self,
        graph: Any,
        shape: Sequence[int],
        kind: int = T.FLOAT32,
        values: Sequence[int] | None = None,
        stored: bool = False,
        signature: Sequence[int] | None = None,
    ) -> int:
        tensor = s.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = f"t{len(graph.tensors)}", list(shape), kind, 0
        tensor.shapeSignature = signature
        if stored or values is not None:
            buffer = s.BufferT()
            array = np.ones(shape, DTYPES[kind]) if values is None else np.array(values, DTYPES[kind])
            buffer.data = np.frombuffer(array.tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def operator(
        self,
        graph: Any,
        code: int,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: Any = None,
        custom: str = "",
    ) -> None:
        operator_code = s.OperatorCodeT()
        operator_code.builtinCode, operator_code.deprecatedBuiltinCode = code, min(code, 127)
        operator_code.customCode = custom or None
        operator = s.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = len(self.codes), list(inputs), list(outputs)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            in_first = hasattr(s.BuiltinOptions, kind)
            union = s.BuiltinOptions if in_first else s.BuiltinOptions2
            name = "builtinOptions" if in_first else "builtinOptions2"
            setattr(operator, name, options)
            setattr(operator, f"{name}Type", getattr(union, kind))
        self.codes.append(operator_code)
        graph.operators.append(operator)

    def content(self) -> bytes:
        model = s.ModelT()
        model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, self.graphs, self.buffers, self.codes
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


Tensor = tuple[Sequence[int], bool] | None
"""A shape, and whether the file holds it."""


def one(
    code: int, inputs: Sequence[Tensor], output: Sequence[int], options: Any = None, kind: int = T.FLOAT32
) -> ModelSize:
    """Of a single operator."""
    file = File()
    graph = file.graph()
    numbers = [-1 if each is None else file.tensor(graph, each[0], kind, stored=each[1]) for each in inputs]
    result = file.tensor(graph, output, kind)
    file.operator(graph, code, numbers, [result], options)
    graph.inputs = [n for n, each in zip(numbers, inputs, strict=True) if each is not None and not each[1]]
    graph.outputs = [result]
    return read_size(file.content())


def held(*shape: int) -> Tensor:
    return shape, True


def given(*shape: int) -> Tensor:
    return shape, False


def conv_options(stride: int = 1, dilation: int = 1, valid: bool = False) -> Any:
    options = s.Conv2DOptionsT()
    options.strideH = options.strideW = stride
    options.dilationHFactor = options.dilationWFactor = dilation
    options.padding = s.Padding.VALID if valid else s.Padding.SAME
    return options


def depthwise_options() -> Any:
    options = s.DepthwiseConv2DOptionsT()
    options.strideH = options.strideW = options.depthMultiplier = 1
    return options


def transposed_left() -> Any:
    options = s.BatchMatMulOptionsT()
    options.adjX = True
    return options


GATES = [held(8, 4)] * 4 + [held(8, 6)] * 4  # inputs to gates, and what came before to gates
NONE: list[Tensor] = [None]
OPERATORS: dict[str, tuple[ModelSize, int, int]] = {
    "1x7": (
        one(B.CONV_2D, [given(1, 17, 17, 64), held(8, 1, 7, 64), held(8)], [1, 17, 17, 8], conv_options()),
        289 * 8 * 7 * 64,
        8 * 7 * 64 + 8,
    ),
    "dilated, strides": (
        one(B.CONV_2D, [given(2, 17, 17, 4), held(8, 3, 3, 4)], [2, 13, 13, 8], conv_options(1, 2, True)),
        2 * 169 * 288,
        288,
    ),
    "grouped": (
        one(B.CONV_2D, [given(1, 5, 5, 64), held(8, 3, 3, 16)], [1, 5, 5, 8], conv_options()),
        25 * 8 * 9 * 16,
        1152,
    ),
    "depthwise": (
        one(B.DEPTHWISE_CONV_2D, [given(1, 5, 5, 8), held(1, 7, 1, 8), held(8)], [1, 5, 5, 8], depthwise_options()),
        25 * 56,
        56 + 8,
    ),
    "transposed": (
        one(B.TRANSPOSE_CONV, [held(4), held(8, 3, 3, 16), given(1, 5, 5, 16), held(8)], [1, 10, 10, 8]),
        25 * 8 * 9 * 16,
        1152 + 8 + 4,  # in a file the first input is of whole numbers, and is left out then
    ),
    "3-d": (one(B.CONV_3D, [given(1, 4, 5, 6, 3), held(2, 3, 3, 3, 7)], [1, 4, 5, 6, 7]), 120 * 378, 378),
    "fully connected": (
        one(B.FULLY_CONNECTED, [given(3, 5, 16), held(8, 16), held(8)], [3, 5, 8]),
        15 * 128,
        128 + 8,
    ),
    "fully connected, flattened": (one(B.FULLY_CONNECTED, [given(2, 4, 4), held(8, 16)], [2, 8]), 2 * 128, 128),
    "batch matmul": (one(B.BATCH_MATMUL, [given(2, 3, 5, 7), given(2, 3, 7, 11)], [2, 3, 5, 11]), 6 * 385, 0),
    "batch matmul, transposed": (
        one(B.BATCH_MATMUL, [given(2, 7, 5), held(2, 7, 11)], [2, 5, 11], transposed_left()),
        2 * 385,
        154,
    ),
    "svdf": (one(B.SVDF, [given(1, 9), held(8, 9), held(8, 4), held(4)], [1, 4]), 72 + 32, 72 + 32 + 4),
    "lstm of a sequence": (
        one(B.UNIDIRECTIONAL_SEQUENCE_LSTM, [given(5, 2, 4), *GATES], [5, 2, 6]),
        10 * (4 * 32 + 4 * 48),
        4 * 32 + 4 * 48,
    ),
    "lstm without input gate, with projection": (
        one(
            B.UNIDIRECTIONAL_SEQUENCE_LSTM,
            [given(5, 2, 4), None, *GATES[1:4], None, *GATES[5:], *NONE * 7, held(6, 8)],
            [5, 2, 6],
        ),
        10 * (3 * 32 + 3 * 48 + 48),
        3 * 32 + 3 * 48 + 48,
    ),
    "lstm, both directions": (
        one(
            B.BIDIRECTIONAL_SEQUENCE_LSTM,
            [given(5, 2, 4), *GATES, *NONE * 9, *GATES[:4], *GATES[4:]],
            [5, 2, 6],
        ),
        10 * 2 * (4 * 32 + 4 * 48),
        2 * (4 * 32 + 4 * 48),
    ),
    "lstm, basic": (one(B.LSTM, [given(1, 4), given(1, 6), held(24, 10), held(24), given(1, 6)], [1, 6]), 240, 264),
    "rnn of a sequence": (
        one(B.UNIDIRECTIONAL_SEQUENCE_RNN, [given(5, 2, 4), held(8, 4), held(8, 8), held(8)], [5, 2, 8]),
        10 * 96,
        104,
    ),
    "rnn, both directions": (
        one(
            B.BIDIRECTIONAL_SEQUENCE_RNN,
            [
                given(5, 2, 4),
                held(8, 4),
                held(8, 8),
                held(8),
                given(2, 8),
                held(8, 4),
                held(8, 8),
                held(8),
                given(2, 8),
            ],
            [5, 2, 8],
        ),
        10 * 192,
        208,
    ),
    "relu": (one(B.RELU, [given(1, 8)], [1, 8]), 0, 0),
    "int8": (
        one(B.CONV_2D, [given(1, 5, 5, 4), held(8, 3, 3, 4)], [1, 5, 5, 8], conv_options(), T.INT8),
        25 * 288,
        288,
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_by_hand(name: str) -> None:
    found, macs, parameters = OPERATORS[name]
    assert (found.macs, found.parameters) == (macs, parameters)


def test_a_bias_of_whole_numbers_counts_and_a_shape_does_not() -> None:
    file = File()
    graph = file.graph()
    x, w = file.tensor(graph, [1, 4, 4, 2], T.INT8), file.tensor(graph, [3, 1, 1, 2], T.INT8, stored=True)
    b, y = file.tensor(graph, [3], T.INT32, stored=True), file.tensor(graph, [1, 4, 4, 3], T.INT8)
    shape, z = file.tensor(graph, [2], T.INT32, [1, 48]), file.tensor(graph, [1, 48], T.INT8)
    file.operator(graph, B.CONV_2D, [x, w, b], [y], conv_options())
    file.operator(graph, B.RESHAPE, [y, shape], [z])
    file.operator(graph, B.CONV_2D, [x, w, b], [y], conv_options())  # its weights are shared
    graph.inputs, graph.outputs = [x], [z]
    assert read_size(file.content()) == ModelSize(2 * 16 * 6, 6 + 3)


# --- what holds other graphs


def with_graphs(code: int, options: Any) -> ModelSize:
    """An operator that may run a convolution of 1x1, of 3x3, or a comparison."""
    file = File()
    main = file.graph()
    x, y = file.tensor(main, [1, 4, 4, 2]), file.tensor(main, [1, 4, 4, 2])
    file.operator(main, code, [x], [y], options)
    main.inputs, main.outputs = [x], [y]
    for kernel in (1, 3):
        graph = file.graph()
        a, w = file.tensor(graph, [1, 4, 4, 2]), file.tensor(graph, [2, kernel, kernel, 2], stored=True)
        b = file.tensor(graph, [1, 4, 4, 2])
        file.operator(graph, B.CONV_2D, [a, w], [b], conv_options())
        graph.inputs, graph.outputs = [a], [b]
    graph = file.graph()
    a, b = file.tensor(graph, [1]), file.tensor(graph, [1])
    file.operator(graph, B.ABS, [a], [b])
    graph.inputs, graph.outputs = [a], [b]
    return read_size(file.content())


def options_of(kind: type, **values: int) -> Any:
    options = kind()
    for name, number in values.items():
        assert hasattr(options, name)
        setattr(options, name, number)
    return options


def test_branches_loops_and_calls() -> None:
    branches = options_of(s.IfOptionsT, thenSubgraphIndex=1, elseSubgraphIndex=2)
    assert with_graphs(B.IF, branches) == ModelSize(16 * 36, 4 + 36), "the larger branch"
    loop = options_of(s.WhileOptionsT, condSubgraphIndex=3, bodySubgraphIndex=2)
    assert with_graphs(B.WHILE, loop) == ModelSize(None, 36), "how often it runs follows from the data"
    empty = options_of(s.WhileOptionsT, condSubgraphIndex=3, bodySubgraphIndex=3)
    assert with_graphs(B.WHILE, empty) == ModelSize(0, 0)
    once = options_of(s.CallOnceOptionsT, initSubgraphIndex=2)
    assert with_graphs(B.CALL_ONCE, once) == ModelSize(0, 0), "before the first inference, not in each"
    composite = options_of(s.StableHLOCompositeOptionsT, decompositionSubgraphIndex=2)
    assert with_graphs(B.STABLEHLO_COMPOSITE, composite) == ModelSize(16 * 36, 36)


@pytest.mark.parametrize("index", [0, 9, -1])
def test_a_graph_that_calls_itself_or_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(ModelFormatError):
        with_graphs(B.IF, options_of(s.IfOptionsT, thenSubgraphIndex=index, elseSubgraphIndex=index))


# --- what is unknown


def custom(name: str, code: int = B.CUSTOM) -> ModelSize:
    file = File()
    graph = file.graph()
    x, y = file.tensor(graph, [1, 8]), file.tensor(graph, [1, 8])
    file.operator(graph, code, [x], [y], custom=name)
    graph.inputs, graph.outputs = [x], [y]
    return read_size(file.content())


def test_what_nobody_knows_is_unknown_and_never_0() -> None:
    assert custom("MyOp") == custom("edgetpu-custom-op") == custom("FlexConv2D") == ModelSize(None, None)
    assert custom("TFLite_Detection_PostProcess") == ModelSize(0, 0), "it sorts boxes"
    assert custom("", B.RFFT2D).macs is None
    assert custom("", B.DELEGATE).macs is None


def test_an_open_batch_runs_as_1_and_a_dilated_convolution_on_more() -> None:
    """Keras writes a dilated convolution as SPACE_TO_BATCH_ND, CONV_2D, BATCH_TO_SPACE_ND; the batch in the middle is
    not the 1 that the file says.
    """
    file = File()
    graph = file.graph()
    x = file.tensor(graph, [1, 8, 8, 2], signature=[-1, 8, 8, 2])
    block, pads = file.tensor(graph, [2], T.INT32, [2, 2]), file.tensor(graph, [2, 2], T.INT32, [2, 2, 2, 2])
    crops, w = file.tensor(graph, [2, 2], T.INT32, [0, 0, 0, 0]), file.tensor(graph, [3, 3, 3, 2], stored=True)
    a = file.tensor(graph, [1, 6, 6, 2], signature=[-1, 6, 6, 2])
    b = file.tensor(graph, [1, 4, 4, 3], signature=[-1, 4, 4, 3])
    y = file.tensor(graph, [1, 8, 8, 3], signature=[-1, 8, 8, 3])
    file.operator(graph, B.SPACE_TO_BATCH_ND, [x, block, pads], [a])
    file.operator(graph, B.CONV_2D, [a, w], [b], conv_options(valid=True))
    file.operator(graph, B.BATCH_TO_SPACE_ND, [b, block, crops], [y])
    graph.inputs, graph.outputs = [x], [y]
    assert read_size(file.content()) == ModelSize(4 * 16 * 54, 54)
    assert read_size(file.content(), [(3, 8, 8, 2)]) == ModelSize(3 * 4 * 16 * 54, 54)


def test_shapes_that_depend_on_data_are_unknown() -> None:
    file = File()
    graph = file.graph()
    x, new = file.tensor(graph, [4, 8]), file.tensor(graph, [2], T.INT32)
    a, w = file.tensor(graph, [1, 8], signature=[-1, -1]), file.tensor(graph, [3, 8], stored=True)
    y = file.tensor(graph, [1, 3], signature=[-1, 3])
    file.operator(graph, B.RESHAPE, [x, new], [a])
    file.operator(graph, B.FULLY_CONNECTED, [a, w], [y])
    graph.inputs, graph.outputs = [x, new], [y]
    assert read_size(file.content()) == ModelSize(None, 24)


def test_a_file_of_unknown_rank_is_unknown() -> None:
    assert one(B.CONV_2D, [given(), held(8, 1, 1, 4)], [], conv_options()) == ModelSize(None, 32)
