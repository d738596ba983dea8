"""The known networks beside torchvision's and timm's own modules; `tox run -e vision` has those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
# Not only absent: torchvision fails in other ways, too, beside a torch that it was not built for.
torchvision_models = pytest.importorskip("torchvision.models", exc_type=Exception)
timm = pytest.importorskip("timm", exc_type=Exception)

from torch import nn

from bpnas.profiler.models.zoo import ZooPart, zoo_network
from bpnas.profiler.models.zoo_graph import zoo_graph

THEIRS: dict[str, Callable[[], Any]] = {
    "mobilenetv1": lambda: timm.create_model("mobilenetv1_100"),
    "mobilenetv2": lambda: torchvision_models.mobilenet_v2(),
    "mobilenetv2-1.2": lambda: torchvision_models.mobilenet_v2(width_mult=1.2),
    "mobilenetv2-1.3": lambda: torchvision_models.mobilenet_v2(width_mult=1.3),
    "mobilenetv2-1.4": lambda: torchvision_models.mobilenet_v2(width_mult=1.4),
    "shufflenetv2-1.5": lambda: torchvision_models.shufflenet_v2_x1_5(),
    "shufflenetv2-2.0": lambda: torchvision_models.shufflenet_v2_x2_0(),
    "mnasnet-b1": lambda: timm.create_model("mnasnet_100"),
    "mnasnet-a1": lambda: timm.create_model("semnasnet_100"),
    "fbnet-c": lambda: timm.create_model("fbnetc_100"),
    "mobilenetv3-large-0.75": lambda: timm.create_model("mobilenetv3_large_075"),
    "mobilenetv3-large": lambda: timm.create_model("mobilenetv3_large_100"),
}


def multiply_adds(module: nn.Module) -> int:
    """Of all convolutions and linear layers, counted as they run."""
    counts = []

    def count(layer: nn.Module, inputs: object, output: Any) -> None:
        pixels = output.shape[2:].numel() if isinstance(layer, nn.Conv2d) else 1
        counts.append(layer.weight.numel() * pixels)

    hooks = [
        layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        module.eval()(torch.zeros(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    return sum(counts)


@pytest.mark.parametrize("name", THEIRS)
def test_parameters_and_multiply_adds_are_theirs(name: str) -> None:
    theirs = THEIRS[name]()
    ours = zoo_graph(ZooPart(zoo_network(name), 224))
    assert ours.parameters == sum(parameter.numel() for parameter in theirs.parameters())
    assert ours.macs == multiply_adds(theirs)
