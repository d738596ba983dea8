"""What `torch.hub.load(THIS_FOLDER, "bpnas", source="local", network=...)` finds: networks of run-search.

Nothing needs to be installed but `dependencies`: without an installed bpnas, this folder serves as the package.
"""

import sys as _sys
from importlib.util import find_spec as _find_spec
from pathlib import Path as _Path
from types import ModuleType as _ModuleType
from typing import Any as _Any

dependencies = ["torch", "numpy", "safetensors", "filelock"]

if _find_spec("bpnas") is None:
    _package = _ModuleType("bpnas")
    _package.__path__ = [str(_Path(__file__).parent)]
    _sys.modules["bpnas"] = _package


def bpnas(network: str, pretrained: bool = True) -> _Any:
    """A network in evaluation mode: normalised images (N, 3, H, W) -> (N, classes).

    Args:
        network: a network.json, or the run directory that holds it.
        pretrained: with the weights that lie beside it; else with random ones.
    """
    from bpnas.search.networks.network_file import load_network

    return load_network(network, pretrained=pretrained)


def bpnas_features(network: str, pretrained: bool = True) -> _Any:
    """Its feature maps in evaluation mode, for what is built upon it: (N, 3, H, W) -> one map per stride.

    Args:
        network: a network.json, or the run directory that holds it.
        pretrained: with the weights that lie beside it; else with random ones.

    Returns:
        A module with `.strides` and `.channels`, one of each per map.
    """
    from bpnas.search.networks.features import FeatureMaps
    from bpnas.search.networks.network_file import NetworkFile, load_network

    return FeatureMaps(load_network(network, pretrained=pretrained), NetworkFile.load(network).backbone).eval()
