"""The feature maps of a network, which a transfer task is built upon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bpnas.base.errors import UsageError
from bpnas.search.errors import RunError, SearchError
from bpnas.search.networks.features import FeatureMaps
from bpnas.search.networks.network_file import NetworkFile, load_network
from bpnas.search.training.divergence import first_bad


class Features(nn.Module):
    """A network without its head: normalised images -> its last feature map at every stride.

    Attributes:
        strides: pixels of the image per pixel of each map, as in (2, 4, 8, 16, 32).
        channels: of each map.
        mean, std: per channel, on the scale 0..1; the network gets (x / 255 - mean) / std.
        origin: what results say of it: `model`, `network`, `weights`, `mock` (None for a model of timm, which has no
            table), `predicted_latency_ms` (of the whole network at its own `input_size`; None where unknown).
    """

    def __init__(
        self,
        body: nn.Module,
        strides: tuple[int, ...],
        channels: tuple[int, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        origin: dict[str, Any],
    ) -> None:
        super().__init__()
        self.body = body
        self.strides, self.channels, self.mean, self.std, self.origin = strides, channels, mean, std, origin

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> one (N, channels[i], H / strides[i], W / strides[i]) per stride, rounded up."""
        maps: list[Tensor] = self.body(x)
        return maps


def searched_features(path: Path, pretrained: bool, weights: Path | None) -> Features:
    """Those of a searched network, the network.json of which is at `path`."""
    file = NetworkFile.load(path)
    module = load_network(path, pretrained=pretrained and weights is None)
    if weights is not None:
        state = _read(weights)
        _check(weights, state, module.state_dict(), f"{path}")
        module.load_state_dict(state)
    body = FeatureMaps(module, file.backbone)
    used = (weights or file.weights) if pretrained else None
    origin = {
        "model": "bpnas",
        "network": str(path),
        "weights": None if used is None else str(used),
        "mock": file.mock,
        "predicted_latency_ms": file.predicted_latency_ms,
        "input_size": file.backbone.input_size,
    }
    return Features(body, body.strides, body.channels, file.mean, file.std, origin)


def features_of_timm(name: str, weights: Path | None) -> Features:
    """Those of a model of timm."""
    try:
        import timm
    except ImportError as error:
        raise SearchError(
            f"the model {name!r} needs timm ({error}): pip install 'bpnas[vision]', or use --model bpnas"
        ) from error
    if not timm.is_model(name):
        raise UsageError(f"timm has no model {name!r}; --model is 'bpnas' or a name of timm.list_models()")
    overlay: dict[str, Any] = {}
    if weights is not None:
        state = _read(weights)
        with torch.device("meta"):
            whole = timm.create_model(name)
        # Without its head, timm takes any file and uses what fits: it is compared with the whole model first.
        names = whole.default_cfg.get("classifier") or ()
        head = tuple(f"{layer}." for layer in ([names] if isinstance(names, str) else names))
        without = {key: value for key, value in whole.state_dict().items() if not key.startswith(head)}
        _check(weights, {key: value for key, value in state.items() if not key.startswith(head)}, without, name)
        overlay = {"state_dict": state}
    body = timm.create_model(
        name, pretrained=weights is not None, features_only=True, pretrained_cfg_overlay=overlay or None
    )
    origin = {
        "model": name,
        "network": None,
        "weights": None if weights is None else str(weights),
        **dict.fromkeys(("mock", "predicted_latency_ms", "input_size")),
    }
    info, settings = body.feature_info, timm.get_pretrained_cfg(name)
    return Features(
        body, tuple(info.reduction()), tuple(info.channels()), tuple(settings.mean), tuple(settings.std), origin
    )


def _read(path: Path) -> dict[str, Tensor]:
    """Weights by name.

    Raises:
        RunError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if path.suffix == ".safetensors":
            return load(path.read_bytes())
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: the weights cannot be read ({error})") from error
    except Exception as error:  # a damaged archive raises errors of the archive, of the unpickler or of torch
        raise RunError(f"{path}: is no file of weights that torch.load(weights_only=True) reads") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RunError(f"{path}: holds no state_dict, which is what torch.save(model.state_dict(), path) writes")
    return state


def _check(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor], name: str) -> None:
    if {key: value.shape for key, value in found.items()} != {key: value.shape for key, value in wanted.items()}:
        raise RunError(f"{path}: holds the weights of another network than {name}")
    if (bad := first_bad(found.items())) is not None:
        raise RunError(f"{path}: its weight {bad} is not finite; take other weights, or start --from-scratch")
