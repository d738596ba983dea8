"""Whether multiply-adds and parameters are right: bpnas against another way of counting them, over real files.

    python benchmarks/count_check.py FOLDER_OR_FILE ... [--json]

bpnas reads the file and infers shapes. The other way runs it once and counts what was run: ONNX Runtime's profiler
tells the shapes of the inputs and outputs of every operator that ran, without graph optimisations and within branches
and loops; the TFLite interpreter has the sizes of all tensors after a run. Sizes that a file leaves open are 1 for the
first dimension and 64 for others (16,000 of sound), and bpnas is told them. Parameters are counted once more, from the
values.

A file that the runtime does not run is left out, and counted as that. Two things may differ by right: of an If bpnas
counts the larger branch, and what a graph that runs once before the first inference holds are states, no parameters.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bpnas.android_bench.model_size import read_size

OPEN_SIZE, SOUND_SIZE = 64, 16_000
TIMEOUT_S = 60
WHOLE = (np.int32, np.int64, np.bool_, np.uint32, np.uint64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    for path in files(arguments.paths):
        found.append({"file": str(path), **in_a_process(path)})
        if not arguments.json and found[-1]["verdict"] not in ("same", "not run"):
            print(json.dumps(found[-1]), flush=True)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for suffix in (".onnx", ".tflite"):
        verdicts = Counter(each["verdict"] for each in found if each["file"].lower().endswith(suffix))
        print(suffix, dict(verdicts.most_common()))


def files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (each for each in inside if each.suffix.lower() in (".onnx", ".tflite") and each.is_file())


def in_a_process(path: Path) -> dict[str, Any]:
    """A file that crashes its runtime, or hangs, costs itself alone."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(compare(path)))
    process.start()
    sender.close()  # so that its end is seen
    try:
        result: dict[str, Any] = receiver.recv() if receiver.poll(TIMEOUT_S) else {"verdict": "not run"}
    except EOFError:
        result = {"verdict": "not run", "reason": "the runtime crashed"}
    process.kill()
    process.join()
    return result


def compare(path: Path) -> dict[str, Any]:
    try:
        shapes, ran = (run_tflite if path.suffix.lower() == ".tflite" else run_onnx)(path)
    except Exception as error:  # a runtime's, of any kind: it does not run the file
        return {"verdict": "not run", "reason": " ".join(str(error).split())[:160]}
    if path.suffix.lower() == ".tflite":
        counts, parameters = [tflite_macs(*each) for each in ran], sum(tflite_weights(path))
    else:
        counts, parameters = onnx_counts(path, ran)
    macs = sum(count or 0 for count in counts)
    unknown = {operator_of(each) for each, count in zip(ran, counts, strict=True) if count is None}
    try:
        ours = read_size(path.read_bytes(), shapes, path.parent)
    except ValueError as error:
        return {"verdict": "not read", "reason": str(error)}
    result = {"macs": ours.macs, "ran": macs, "parameters": ours.parameters, "held": parameters}
    if ours.macs is None:
        verdict = "unknown"
    elif unknown:
        verdict = "not countable"
    elif ours.macs != macs:
        verdict = "other macs"
    elif ours.parameters not in (parameters, None):
        verdict = "other parameters"
    else:
        verdict = "same"
    return {"verdict": verdict, **result, **({"unknown": sorted(unknown)} if unknown else {})}


# --- ONNX, by what ONNX Runtime's profiler saw


def run_onnx(path: Path) -> tuple[list[tuple[int, ...]], list[dict[str, Any]]]:
    """The shapes that it was fed with, and an event for each operator that ran."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.add_session_config_entry("session.disable_prepacking", "1")  # else the profiler lacks the packed weights
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/run"
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feeds = {}
        for node in session.get_inputs():
            kind = onnx_type(node.type)
            is_sound = kind.kind == "f" and len(node.shape) <= 2
            usual = SOUND_SIZE if is_sound else OPEN_SIZE
            shape = tuple(size if isinstance(size, int) else (usual if i else 1) for i, size in enumerate(node.shape))
            feeds[node.name] = values(shape, kind)
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    ran = [each for each in events if each.get("cat") == "Node" and each["name"].endswith("_kernel_time")]
    return [value.shape for value in feeds.values()], ran


def onnx_counts(path: Path, ran: list[dict[str, Any]]) -> tuple[list[int | None], int]:
    import onnx

    model = onnx.load(path)
    equations = {
        node.name: node.attribute[0].s.decode() for graph in graphs(model.graph) for node in graph.node
        if node.op_type == "Einsum"
    }  # fmt: skip
    return [event_macs(event, equations) for event in ran], sum(held(model))


def operator_of(ran: Any) -> str:
    return str(ran["args"]["op_name"] if isinstance(ran, dict) else ran[0])


def event_macs(event: dict[str, Any], equations: dict[str, str]) -> int | None:
    op = event["args"]["op_name"]
    x = [tuple(next(iter(each.values()))) for each in event["args"]["input_type_shape"]]
    y = [tuple(next(iter(each.values()))) for each in event["args"]["output_type_shape"]]
    if op in ("Conv", "ConvInteger", "FusedConv", "DeformConv", "QLinearConv"):
        _, c_per_group, *window = x[3 if op == "QLinearConv" else 1]
        return int(np.prod(y[0]) * c_per_group * np.prod(window))
    if op == "ConvTranspose":
        _, c_out_per_group, *window = x[1]
        return int(np.prod(x[0]) * c_out_per_group * np.prod(window))
    if op in ("MatMul", "MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"):
        return int(np.prod(y[0], dtype=np.int64) * x[0][-1])
    if op in ("Gemm", "QGemm", "FusedGemm"):
        return int(y[0][1] * np.prod(x[0]))
    if op in ("LSTM", "GRU", "RNN"):
        directions, gates_times_hidden, inputs = x[1]
        return int(x[0][0] * x[0][1] * directions * gates_times_hidden * (inputs + x[2][2]))
    if op == "Einsum":
        name = event["name"].removesuffix("_kernel_time")
        return einsum_macs(equations[name], x) if name in equations else None
    if op in _NOT_COUNTED:
        return None
    return 0


_NOT_COUNTED = {
    *("Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention", "DynamicQuantizeLSTM"),
    *("DFT", "STFT", "AffineGrid"),
}


def einsum_macs(equation: str, shapes: list[tuple[int, ...]]) -> int | None:
    """Of two operands: numpy's own count of its naive way."""
    if len(shapes) != 2:
        return 0 if len(shapes) == 1 else None
    report = np.einsum_path(equation, *(np.empty(shape) for shape in shapes), optimize=False)[1]
    flops = float(report.split("Naive FLOP count:")[1].split()[0])  # 2 each where something is summed up
    summed = "->" not in equation or set(equation.split("->")[0]) - set(equation.split("->")[1]) - set(",. ")
    return round(flops / (2 if summed else 1))


def graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs(inner)


def held(model: Any) -> Iterator[int]:
    """How many numbers there are in each constant that is a weight, by where its name is used."""
    from onnx import numpy_helper

    tensors: dict[str, Any] = {}
    uses: dict[str, list[tuple[str, int, int]]] = {}
    all_nodes = [node for graph in graphs(model.graph) for node in graph.node]
    all_nodes += [node for function in model.functions for node in function.node]
    constants = [tensor for graph in graphs(model.graph) for tensor in graph.initializer]
    tensors |= {tensor.name: tensor for tensor in constants}
    for node in all_nodes:
        if node.op_type == "Constant":
            tensors |= {name: a.t for a in node.attribute if a.name == "value" for name in node.output}
        for index, name in enumerate(node.input):
            uses.setdefault(name, []).append((node.op_type, index, len(node.input)))
    for name, tensor in tensors.items():
        array = numpy_helper.to_array(tensor)
        if array.ndim and any(is_number(array, *use) for use in uses.get(name, ())):
            yield array.size


def is_number(array: Any, op: str, index: int, inputs: int) -> bool:
    if op in ("Resize", "Upsample", "Constant", "ConstantOfShape"):
        return False
    if op in ("QuantizeLinear", "DequantizeLinear"):
        return index == 0 and array.dtype not in (np.int64, np.bool_)
    if op.startswith(("QLinear", "QGemm")) and index not in ((0, 3, 6) if op == "QGemm" else (0, 3, 8)):
        return op == "QLinearConcat" and index % 3 == 2
    if index > {"ConvInteger": 1, "MatMulInteger": 1, "DynamicQuantizeLSTM": 7}.get(op, index):
        return False
    if array.dtype == np.int32:
        return (op, index) in (("QLinearConv", 8), ("QGemm", 6))
    return array.dtype not in WHOLE and array.dtype.kind not in "OUS"


def onnx_type(text: str) -> Any:
    kind = text.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64", "bool": "bool"}.get(kind, kind))


def values(shape: tuple[int, ...], kind: Any) -> Any:
    if np.dtype(kind).kind == "f":
        return np.random.default_rng(0).random(shape).astype(kind)
    return np.ones(shape, kind)


# --- TFLite, by the tensors after a run


def run_tflite(path: Path) -> tuple[list[tuple[int, ...]], list[Any]]:
    """For each operator of the main graph its name and the shapes of its inputs and outputs."""
    from ai_edge_litert import interpreter as litert

    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = litert.Interpreter(model_path=str(path), experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        if np.dtype(detail["dtype"]).kind in "OSU":
            raise ValueError("takes text")
        interpreter.set_tensor(detail["index"], values(tuple(detail["shape"]), detail["dtype"]))
    interpreter.invoke()  # CALL_ONCE does its part now, and never again
    tensors = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    ran = []
    for operator in interpreter._get_ops_details():
        x = [tuple(map(int, tensors[i]["shape"])) if i in tensors else () for i in operator["inputs"]]
        ran.append((operator["op_name"], x, [tuple(map(int, tensors[i]["shape"])) for i in operator["outputs"]]))
    return [], ran


def tflite_macs(op: str, x: list[tuple[int, ...]], y: list[tuple[int, ...]]) -> int | None:
    if op == "CONV_2D":
        n, height, width, c_out = y[0]
        return n * height * width * c_out * int(np.prod(x[1][1:]))
    if op == "DEPTHWISE_CONV_2D":
        return int(np.prod(y[0])) * x[1][1] * x[1][2]
    if op == "CONV_3D":
        return int(np.prod(y[0])) * int(np.prod(x[1][:4]))
    if op == "TRANSPOSE_CONV":
        c_out, height, width, _ = x[1]
        return int(np.prod(x[2])) * height * width * c_out
    if op == "FULLY_CONNECTED":
        return int(np.prod(x[0])) * x[1][0]
    if op == "BATCH_MATMUL":  # whichever sides are transposed, the summed one is what the output lacks
        rows, inner = x[0][-2:]
        return int(np.prod(y[0])) * (inner if rows == y[0][-2] else rows)
    if op == "UNIDIRECTIONAL_SEQUENCE_LSTM":
        cells, hidden = x[2][0], x[6][1]
        gates = 4 if x[1] else 3
        return x[0][0] * x[0][1] * (gates * cells * (x[0][2] + hidden) + int(np.prod(x[16])) * bool(x[16]))
    if op == "SVDF":
        filters, memory = x[2]
        return x[0][0] * filters * (x[0][1] + memory)
    if op == "TFLite_Detection_PostProcess":
        return 0
    if op in ("IF", "WHILE", "CALL", "RFFT2D", "LSTM", "RNN") or op.endswith("_RNN"):
        return None
    return None if op.upper() != op or op == "DELEGATE" else 0


def tflite_weights(path: Path) -> Iterator[int]:
    """Bytes of each buffer over the width of its numbers."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    widths = {value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
    seen: set[int] = set()
    states = {
        operator.builtinOptions.initSubgraphIndex
        for graph in model.subgraphs
        for operator in graph.operators
        if hasattr(operator.builtinOptions, "initSubgraphIndex")
    }
    for graph in (graph for number, graph in enumerate(model.subgraphs) if number not in states):
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            has_bias = max(code.builtinCode, code.deprecatedBuiltinCode) in (3, 4, 9, 67, 27, 44, 52, 138, 16)
            first = max(code.builtinCode, code.deprecatedBuiltinCode) != 67
            for index, number in enumerate(operator.inputs if operator.inputs is not None else ()):
                tensor = graph.tensors[number]
                kind = widths[tensor.type]
                if number < 0 or tensor.buffer in seen or not len(() if tensor.shape is None else tensor.shape):
                    continue
                data = model.buffers[tensor.buffer].data
                is_bias = has_bias and (index >= 2 if first else index == 3) and kind in ("INT32", "INT64")
                if data is None or not len(data) or not (is_bias or kind in _BYTES):
                    continue
                seen.add(tensor.buffer)
                packed = tensor.sparsity is not None or kind == "INT4"
                yield int(np.prod(tensor.shape)) if packed else len(data) // (_BYTES | {"INT32": 4, "INT64": 8})[kind]


_BYTES = {"FLOAT32": 4, "FLOAT16": 2, "INT8": 1, "UINT8": 1, "INT16": 2, "INT4": 1, "FLOAT64": 8}


if __name__ == "__main__":
    main()
