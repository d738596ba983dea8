"""A TFLite file in int8, by Google's AI Edge Quantizer: `pip install 'bpnas[int8]'`."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe


def quantize_tflite(content: bytes, images: npt.NDArray[np.float32]) -> bytes:
    """Every operator in int8, weights with a scale per channel; input and output stay float32, as in the ONNX file.

    Runners feed all files alike then, and an application needs no scales.

    Args:
        content: of a file that `to_tflite` wrote with a signature.
        images: (N, H, W, C) as the network gets them, to find the ranges of the feature maps.

    Returns:
        The file's content.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of memory that keeping feature maps takes
        path = Path(folder) / "float.tflite"
        path.write_bytes(content)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            quantising = quantizer.Quantizer(str(path))
            quantising.load_quantization_recipe(recipe.static_wi8_ai8())
            for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
                quantising.update_quantization_recipe(
                    ".*", end, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
                )
            ranges = quantising.calibrate({None: [{"input": image[None]} for image in images]})
            return bytes(quantising.quantize(ranges).quantized_model)
