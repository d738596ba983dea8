"""Graph -> TFLite file, written directly with the flatbuffer schema.

Lowerings that were measured and are part of `EXPORT_VERSION`: grouped convolutions stay one CONV_2D, convolutions with
one input channel per group become DEPTHWISE_CONV_2D, a channel shuffle is RESHAPE-TRANSPOSE-RESHAPE. TensorFlow pads
a stride-2 convolution on an even input differently from torch ("SAME" puts the odd pixel behind), so there an explicit
PAD of just the pixels that are read comes before a VALID convolution. ReLU and ReLU6 are fused into the
convolution; hard-swish is an operator of its own, and hard-sigmoid, which TFLite does not have, an addition of 3 with a
fused ReLU6 and a multiplication by 1/6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bpnas.profiler.models.graph import (
    Add,
    Apply,
    Concatenate,
    Conv,
    Function,
    GlobalAveragePool,
    Graph,
    Halve,
    Linear,
    MaxPool,
    OperatorWriter,
    Scale,
    Shape,
    Shuffle,
    write_nodes,
)

if TYPE_CHECKING:
    from torch import nn

_FILE_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3
_FUSED = {"relu": schema.ActivationFunctionType.RELU, "relu6": schema.ActivationFunctionType.RELU6}
_BUFFER_ALIGNMENT = 16  # force_align of Buffer.data in the schema; XNNPACK reads weights in place


def to_tflite(module: nn.Module, input_shape: Shape, signature: str | None = None) -> bytes:
    """The module as a TFLite model with its weights, batch normalisation folded, in evaluation mode.

    Args:
        module: from `build_module`.
        input_shape: (1, C, H, W), as for torch.
        signature: name of a signature from `input` to `output`, by which applications and quantisers call a model; none
            in files that are only timed.

    Returns:
        The file's content: input (1, H, W, C), output (1, H, W, C) or (1, classes), float32; key and shapes in its
        metadata.
    """
    from bpnas.profiler.models.modules import to_graph

    return write_tflite(to_graph(module, input_shape), signature)


def write_tflite(graph: Graph, signature: str | None = None) -> bytes:
    """The graph as the content of a TFLite file; see `to_tflite`."""
    return _Writer(graph, signature).write()


class _Buffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose data is aligned as the schema asks, which the generated packer does not do."""

    def Pack(self, builder: Any) -> Any:
        if self.data is None:
            schema.BufferStart(builder)
            return schema.BufferEnd(builder)
        size = len(self.data)
        builder.StartVector(1, size, _BUFFER_ALIGNMENT)
        builder.head = head = builder.Head() - size
        builder.Bytes[head : head + size] = self.data
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


class _Writer(OperatorWriter):
    def __init__(self, graph: Graph, signature: str | None) -> None:
        self.graph, self.signature = graph, signature
        self.buffers = [_Buffer()]  # buffer 0 is empty by convention
        self.tensors: list[Any] = []
        self.index: dict[str, int] = {}
        self.operators: list[Any] = []
        self.codes: dict[int, int] = {}

    def write(self) -> bytes:
        for name in self.graph.inputs:
            self.output(name)
        write_nodes(self.graph, self)
        return self.pack()

    def conv(self, node: Conv) -> None:
        k, stride = node.kernel, node.stride
        source, padding = self.padded(node.x, node.y, k, stride)
        c_in, c_out = self.graph.shapes[node.x][1], node.weight.shape[0]
        options = {"padding": padding, "strideH": stride, "strideW": stride}
        if node.activation in _FUSED:
            options["fusedActivationFunction"] = _FUSED[node.activation]
        if node.groups == c_in and node.groups > 1:
            op, kind = "DEPTHWISE_CONV_2D", "DepthwiseConv2D"
            options["depthMultiplier"] = c_out // c_in
            weight = node.weight.reshape(c_out, k, k).transpose(1, 2, 0)[None]
        else:
            op, kind = "CONV_2D", "Conv2D"
            weight = node.weight.transpose(0, 2, 3, 1)
        inputs = [source, self.constant(weight), self.constant(node.bias)]
        if node.activation == "hard_swish":
            before = self.activation(f"{node.y}_conv", _nhwc(self.graph.shapes[node.y]))
            self.operator(op, inputs, before, kind, **options)
            self.function("hard_swish", before, node.y)
        else:
            self.operator(op, inputs, self.output(node.y), kind, **options)

    def add(self, node: Add) -> None:
        self.binary("ADD", self.index[node.a], self.index[node.b], self.output(node.y))

    def shuffle(self, node: Shuffle) -> None:
        n, c, height, width = self.graph.shapes[node.x]
        split = (n, height, width, node.groups, c // node.groups)
        mixed = (n, height, width, c // node.groups, node.groups)
        grouped = self.activation(f"{node.y}_groups", split)
        self.reshape(self.index[node.x], grouped, split)
        transposed = self.activation(f"{node.y}_mixed", mixed)
        order = self.constant(np.array([0, 1, 2, 4, 3], np.int32))
        self.operator("TRANSPOSE", [grouped, order], transposed, "Transpose")
        self.reshape(transposed, self.output(node.y), (n, height, width, c))

    def global_average_pool(self, node: GlobalAveragePool) -> None:
        axes = self.constant(np.array([1, 2], np.int32))
        self.operator("MEAN", [self.index[node.x], axes], self.output(node.y), "Reducer", keepDims=node.keep_map)

    def max_pool(self, node: MaxPool) -> None:
        source, padding = self.padded(node.x, node.y, 3, 2)
        sizes = {"strideH": 2, "strideW": 2, "filterHeight": 3, "filterWidth": 3}
        self.operator("MAX_POOL_2D", [source], self.output(node.y), "Pool2D", padding=padding, **sizes)

    def apply(self, node: Apply) -> None:
        self.function(node.function, self.index[node.x], node.y)

    def scale(self, node: Scale) -> None:
        self.binary("MUL", self.index[node.x], self.index[node.by], self.output(node.y))

    def halve(self, node: Halve) -> None:
        inputs = [self.constant(np.array(3, np.int32)), self.index[node.x]]
        self.operator("SPLIT", inputs, [self.output(node.y), self.output(node.rest)], "Split", numSplits=2)

    def concatenate(self, node: Concatenate) -> None:
        inputs = [self.index[node.a], self.index[node.b]]
        self.operator("CONCATENATION", inputs, self.output(node.y), "Concatenation", axis=3)

    def linear(self, node: Linear) -> None:
        inputs = [self.index[node.x], self.constant(node.weight), self.constant(node.bias)]
        self.operator("FULLY_CONNECTED", inputs, self.output(node.y), "FullyConnected")

    def function(self, function: Function, x: int, y: str) -> None:
        match function:
            case "sigmoid":
                self.operator("LOGISTIC", [x], self.output(y))
            case "hard_swish":
                self.operator("HARD_SWISH", [x], self.output(y), "HardSwish")
            case "hard_sigmoid":
                shifted = self.activation(f"{y}_shifted", _nhwc(self.graph.shapes[y]))
                self.binary("ADD", x, self.constant(np.array(3, np.float32)), shifted, _FUSED["relu6"])
                self.binary("MUL", shifted, self.constant(np.array(1 / 6, np.float32)), self.output(y))

    def binary(self, op: str, a: int, b: int, y: int, fused: int = schema.ActivationFunctionType.NONE) -> None:
        self.operator(op, [a, b], y, op.capitalize(), fusedActivationFunction=fused)

    def padded(self, x: str, y: str, kernel: int, stride: int) -> tuple[int, int]:
        """What a window of this size slides over, and the padding that is still left to it."""
        height, width = self.graph.shapes[x][2:]
        if stride == 2 and kernel > 1 and (height % 2 == 0 or width % 2 == 0):
            return self.pad(x, y, kernel, stride), schema.Padding.VALID
        return self.index[x], schema.Padding.SAME

    def pad(self, x: str, y: str, kernel: int, stride: int) -> int:
        before = kernel // 2
        n, c, height, width = self.graph.shapes[x]
        out_height, out_width = self.graph.shapes[y][2:]

        def after(size: int, out_size: int) -> int:
            return max(0, (out_size - 1) * stride + kernel - size - before)

        bottom, right = after(height, out_height), after(width, out_width)
        amounts = self.constant(np.array([[0, 0], [before, bottom], [before, right], [0, 0]], np.int32))
        padded = self.activation(f"{y}_pad", (n, height + before + bottom, width + before + right, c))
        self.operator("PAD", [self.index[x], amounts], padded, "Pad")
        return padded

    def reshape(self, x: int, y: int, shape: Shape) -> None:
        self.operator("RESHAPE", [x, self.constant(np.array(shape, np.int32))], y, "Reshape", newShape=list(shape))

    def output(self, name: str) -> int:
        return self.activation(name, _nhwc(self.graph.shapes[name]))

    def activation(self, name: str, shape: Shape) -> int:
        self.index[name] = self.tensor("output" if name == self.graph.output else name, shape, np.float32, 0)
        return self.index[name]

    def constant(self, values: np.ndarray) -> int:
        number = self.buffer(values.tobytes())
        return self.tensor(f"c{number}", values.shape, values.dtype, number)

    def buffer(self, data: bytes) -> int:
        buffer = _Buffer()
        buffer.data = data
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def tensor(self, name: str, shape: Shape, dtype: Any, buffer: int) -> int:
        kind = schema.TensorType.INT32 if dtype == np.int32 else schema.TensorType.FLOAT32
        self.tensors.append(_filled("Tensor", name=name, shape=list(shape), buffer=buffer, type=kind))
        return len(self.tensors) - 1

    def operator(
        self, op: str, inputs: list[int], outputs: int | list[int], options_type: str = "", **options: object
    ) -> None:
        code = self.codes.setdefault(getattr(schema.BuiltinOperator, op), len(self.codes))
        outputs = outputs if isinstance(outputs, list) else [outputs]
        operator = _filled("Operator", opcodeIndex=code, inputs=inputs, outputs=outputs)
        if options_type:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{options_type}Options")
            operator.builtinOptions = _filled(f"{options_type}Options", **options)
        self.operators.append(operator)

    def pack(self) -> bytes:
        inputs, output = {name: self.index[name] for name in self.graph.inputs}, self.index[self.graph.output]
        main = _filled("SubGraph", name="main", tensors=self.tensors, operators=self.operators)
        main.inputs, main.outputs = list(inputs.values()), [output]
        model = _filled("Model", version=_SCHEMA_VERSION, description="bpnas", subgraphs=[main], buffers=self.buffers)
        model.operatorCodes = [
            _filled("OperatorCode", builtinCode=code, deprecatedBuiltinCode=code, version=1) for code in self.codes
        ]
        model.metadata = [
            _filled("Metadata", name=name, buffer=self.buffer(text.encode()))
            for name, text in sorted(self.graph.metadata.items())
        ]
        if self.signature is not None:
            signature = _filled("SignatureDef", signatureKey=self.signature, subgraphIndex=0)
            signature.inputs = [_filled("TensorMap", name=name, tensorIndex=index) for name, index in inputs.items()]
            signature.outputs = [_filled("TensorMap", name="output", tensorIndex=output)]
            model.signatureDefs = [signature]
        # Room for everything at once: growing the builder copies it each time.
        size = sum(len(buffer.data) + 64 for buffer in self.buffers if buffer.data is not None)
        builder = flatbuffers.Builder(size + 256 * (len(self.tensors) + len(self.operators)) + 1024)
        builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
        return bytes(builder.Output())


def _filled(table: str, **fields: object) -> Any:
    """A table of the schema with these fields."""
    new = getattr(schema, f"{table}T")()
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _nhwc(shape: Shape) -> Shape:
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape
