"""What `torch.hub.load(THIS_FOLDER, "bpnas", source="local", network=...)` finds: networks of run-search.

Nothing needs to be installed but `dependencies`: torch.hub has this folder on the path while it reads this file, and so
`bpnas` is found in it, unless another one was imported before.
"""

from typing import Any as _Any

import bpnas.search as _search

dependencies = ["torch", "numpy", "safetensors", "filelock"]


def bpnas(network: str, pretrained: bool = True) -> _Any:
    """A network in evaluation mode: normalised images (N, 3, H, W) -> (N, classes).

    Args:
        network: a network.json, or the run directory that holds it.
        pretrained: with the weights next to it; else with random ones.
    """
    return _search.load_network(network, pretrained=pretrained)


def bpnas_features(network: str, pretrained: bool = True) -> _Any:
    """Its feature maps in evaluation mode, for what is built upon it: (N, 3, H, W) -> one map per stride.

    Args:
        network: a network.json, or the run directory that holds it.
        pretrained: with the weights next to it; else with random ones.

    Returns:
        A module with `.strides` and `.channels`, one of each per map.
    """
    backbone = _search.NetworkFile.load(network).backbone
    return _search.FeatureMaps(_search.load_network(network, pretrained=pretrained), backbone).eval()
