"""How large a model file is: its multiply-adds and its parameters, counted alike for ONNX and TFLite.

Own code and no library, for the numbers are part of what bpnas prints: those that were looked at (onnx-tool,
onnx-opcounter) count ONNX alone, and 0 for what they do not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bpnas.android_bench.counting.work import ModelFormatError


@dataclass(frozen=True, slots=True)
class ModelSize:
    """How large a model is.

    Attributes:
        macs: multiply-adds of one inference, those of convolutions and products of matrices (recurrent layers and
            attention among them) and of nothing else. Of branches the larger one counts, of a loop its body as often
            as it runs. None where that does not follow from the file: operators of others, shapes that depend on data.
        parameters: numbers in the constants that operators compute with, each once: floating-point or quantised ones,
            biases and running averages among them; no shapes, indices, single numbers, scales or zero points. None
            where an operator of others may hold some.
    """

    macs: int | None
    parameters: int | None


def read_size(content: bytes, input_shapes: Sequence[tuple[int, ...]] = (), folder: Path | None = None) -> ModelSize:
    """The size of an ONNX or TFLite file.

    Args:
        content: of the file.
        input_shapes: of every input, in the file's order and layout; none: as the file says.
        folder: of the file, if it keeps data beside itself; only sizes are read there.

    Raises:
        ModelFormatError: the content is neither, or is damaged.
    """
    try:
        if content[4:8] == b"TFL3":
            from bpnas.android_bench.counting.tflite_count import count_tflite

            return ModelSize(*count_tflite(content, input_shapes))
        from bpnas.android_bench.counting.onnx_count import count_onnx

        return ModelSize(*count_onnx(content, input_shapes, folder))
    except Exception as error:  # damaged files fail in the parsers in any way they like
        raise ModelFormatError(f"not a readable model file: {type(error).__name__}") from error
