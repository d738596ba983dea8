"""A network.json with its weights, as a search leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from bpnas.profiler import Backbone, Block, build_module
from bpnas.search.networks.network_file import save_weights


def stored_network(directory: Path, input_size: int = 32, backbone: Backbone | None = None) -> tuple[Path, Any]:
    """The path of a network.json with its weights, and the network. Its batch normalisation has seen images."""
    backbone = backbone or Backbone.load("mobilenetv2", input_size)
    blocks = [Block.parse("K3E1G1") if not site.is_residual else None for site in backbone.sites]
    network = build_module(blocks, backbone)
    with torch.no_grad():
        network.train()(torch.randn(8, 3, 32, 32))
    path = directory / "network.json"
    values = {
        "mock": True,
        "backbone": backbone.to_dict(),
        "blocks": ["skip" if block is None else str(block) for block in blocks],
        "classes": [str(number) for number in range(backbone.classes)],
        "input": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    }
    path.write_text(json.dumps(values))
    save_weights(path.with_suffix(".safetensors"), network)
    return path, network.eval()
