"""What to time: blocks, sites, paths and their export; and the campaign that times them.

Names load on first use, so that importing the package is cheap and pulls in neither torch nor onnx.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpnas.profiler.backbone import Backbone, BackboneError, Site
    from bpnas.profiler.block import Block, BlockError, ComplexPath, SimplePath, parse_path
    from bpnas.profiler.campaign import run_campaign
    from bpnas.profiler.modules import build_module
    from bpnas.profiler.onnx_export import to_onnx
    from bpnas.profiler.records import Records, RecordsError
    from bpnas.profiler.tflite_export import to_tflite

_HOME = {
    "Backbone": "backbone",
    "BackboneError": "backbone",
    "Block": "block",
    "BlockError": "block",
    "ComplexPath": "block",
    "Records": "records",
    "RecordsError": "records",
    "SimplePath": "block",
    "Site": "backbone",
    "build_module": "modules",
    "parse_path": "block",
    "run_campaign": "campaign",
    "to_onnx": "onnx_export",
    "to_tflite": "tflite_export",
}

__all__ = [
    "Backbone",
    "BackboneError",
    "Block",
    "BlockError",
    "ComplexPath",
    "Records",
    "RecordsError",
    "SimplePath",
    "Site",
    "build_module",
    "parse_path",
    "run_campaign",
    "to_onnx",
    "to_tflite",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
