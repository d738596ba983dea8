"""A TFLite file in int8, by Google's AI Edge Quantizer: `pip install 'bpnas[int8]'`."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import numpy.typing as npt
from ai_edge_quantizer import algorithm_manager, calibrator, qtyping, quantizer, recipe, recipe_manager
from ai_edge_quantizer.utils import qsv_utils


def quantize_tflite(content: bytes, images: npt.NDArray[np.float32]) -> bytes:
    """Every operator in int8, weights with a scale per channel; input and output stay float32, as in the ONNX file.

    Runners feed all files alike then, and an application needs no scales.

    Args:
        content: of a file that `to_tflite` wrote with a signature.
        images: (N, H, W, C) as the network gets them, to find the ranges of the feature maps.

    Returns:
        The file's content.
    """
    wanted = recipe_manager.RecipeManager()
    wanted.load_quantization_recipe(recipe.static_wi8_ai8())
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        wanted.add_quantization_config(".*", end, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")  # of the memory that keeping feature maps takes
        # The extremes over all images: the default is a moving average, which knows the last few dozen only.
        ranges = calibrator.Calibrator(content, qsv_update_func=qsv_utils.min_max_update)
        ranges.calibrate({None: [{"input": image[None]} for image in images]}, wanted)
        quantising = quantizer.Quantizer(bytearray(content), wanted.get_quantization_recipe())
        return bytes(quantising.quantize(ranges.get_model_qsvs()).quantized_model)
