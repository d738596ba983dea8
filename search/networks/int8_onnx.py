"""An ONNX file in int8, by the post-training quantisation of ONNX Runtime."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from bpnas.base.files import naming

Calibration = Literal["MinMax", "Entropy", "Percentile"]


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, images: npt.NDArray[np.float32]) -> None:
        self._feeds = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def quantize_onnx(content: bytes, images: npt.NDArray[np.float32], calibration: Calibration = "MinMax") -> bytes:
    """Weights in int8 with a scale per channel, feature maps in int8 (QDQ form); input and output stay float32.

    Signed feature maps: on processors without VNNI, unsigned ones overflow the sums of ONNX Runtime's kernels.

    Args:
        content: of a file that `to_onnx` wrote.
        images: (N, C, H, W) as the network gets them, to find the ranges of the feature maps.
        calibration: how. `Entropy` and `Percentile` keep every feature map of every image in memory.

    Returns:
        The file's content.
    """
    model = onnx.ModelProto.FromString(content)
    with tempfile.TemporaryDirectory() as folder, naming(folder):
        out = Path(folder) / "int8.onnx"
        # It recommends a preparation of the file that has been done: shapes are there, nothing is left to be folded.
        logging.disable(logging.WARNING)
        try:
            quantize_static(
                model,
                out,
                _Images(model.graph.input[0].name, images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod[calibration],
            )
        finally:
            logging.disable(logging.NOTSET)
        return out.read_bytes()
