"""What an exported network answers, by the interpreter of its runtime on this machine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def open_model(content: bytes) -> Callable[[Floats], Floats]:
    """An ONNX or TFLite file as a function: one normalised image (1, C, H, W) -> (1, classes), both float32.

    A TFLite file gets the image as (1, H, W, C).
    """
    return _tflite(content) if content[4:8] == b"TFL3" else _onnx(content)


def _onnx(content: bytes) -> Callable[[Floats], Floats]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one image at a time is too little for more
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: Floats) -> Floats:
        (output,) = session.run(None, {name: np.ascontiguousarray(image)})
        found: Floats = output
        return found

    return run


def _tflite(content: bytes) -> Callable[[Floats], Floats]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image: Floats) -> Floats:
        interpreter.set_tensor(source["index"], np.ascontiguousarray(image.transpose(0, 2, 3, 1)))
        interpreter.invoke()
        output: Floats = interpreter.get_tensor(target["index"])
        return output

    return run
