"""The feature maps of a network, which a transfer task is built upon."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bpnas.base.errors import UsageError
from bpnas.base.plain_text import shortened
from bpnas.profiler.models.modules import Network
from bpnas.search.errors import RunError, SearchError
from bpnas.search.networks.features import FeatureMaps
from bpnas.search.networks.network_file import NetworkFile, load_network
from bpnas.search.training.divergence import first_bad
from bpnas.search.transfer.zoo_features import MobileNetMaps, build_baseline

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WRAPPERS = ("state_dict", "model")
_PARALLEL = "module."


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


class _WholeMap(nn.Module):
    """A searched network up to its head's 1x1 convolution: images -> a list of that one map."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.stem, self.blocks, self.conv = network.stem, network.blocks, network.head.get_submodule("conv")

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return [self.conv(x)]


class _TimmWhole(nn.Module):
    """A model of timm without its classifier: images -> a list of its pooled features as a map of one pixel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.model(x)[:, :, None, None]]


def searched_features(path: Path, pretrained: bool, weights: Path | None, whole: bool) -> Features:
    """Those of a searched network, the network.json of which is at `path`."""
    file = NetworkFile.load(path)
    module = load_network(path, pretrained=pretrained and weights is None)
    if weights is not None:
        _load(module, weights, ("head.linear.",), str(path))
    backbone = file.backbone
    maps = FeatureMaps(module, backbone)
    body: nn.Module = maps
    strides, channels = maps.strides, maps.channels
    if whole:
        body, strides, channels = _WholeMap(module), maps.strides[-1:], (backbone.head_channels,)
    used = (weights or file.weights) if pretrained else None
    origin = {
        "model": "bpnas",
        "network": str(path),
        "weights": None if used is None else str(used),
        "mock": file.mock,
        "predicted_latency_ms": file.predicted_latency_ms,
        "input_size": backbone.input_size,
    }
    return Features(body, strides, channels, file.mean, file.std, origin)


def features_of_zoo(name: str, weights: Path | None, whole: bool) -> Features:
    """Those of a network of `zoo_baselines`."""
    network, model = build_baseline(name)
    if weights is not None:
        _load(model, weights, ("classifier.",), name)
    body = MobileNetMaps(network, model, whole)
    return Features(body, body.strides, body.channels, _IMAGENET_MEAN, _IMAGENET_STD, _origin(name, weights))


def features_of_timm(name: str, weights: Path | None, whole: bool) -> Features:
    """Those of a model of timm."""
    try:
        import timm
    except ImportError as error:
        raise SearchError(
            f"the model {name!r} needs timm ({error}): pip install 'bpnas[vision]', or use --model bpnas, "
            "mobilenetv2 or mobilenetv2-1.2"
        ) from error
    if not timm.is_model(name):
        raise UsageError(
            f"timm has no model {name!r}; --model is 'bpnas', a MobileNetV2 of the paper (mobilenetv2, "
            "mobilenetv2-1.2) or a name of timm.list_models()"
        )
    overlay: dict[str, Any] = {}
    if weights is not None:
        with torch.device("meta"):
            model = timm.create_model(name)
        # Without its head, timm takes any file and uses what fits: it is compared with the whole model first.
        names = model.default_cfg.get("classifier") or ()
        head = tuple(f"{layer}." for layer in ([names] if isinstance(names, str) else names))
        overlay = {"state_dict": _checked(weights, model.state_dict(), head, name)}
    options = {"num_classes": 0} if whole else {"features_only": True}
    body = timm.create_model(name, pretrained=weights is not None, pretrained_cfg_overlay=overlay or None, **options)
    settings = timm.get_pretrained_cfg(name)
    normal = tuple(settings.mean), tuple(settings.std)
    if whole:
        width = getattr(body, "head_hidden_size", None) or body.num_features
        return Features(_TimmWhole(body), (1,), (int(width),), *normal, _origin(name, weights))
    info = body.feature_info
    return Features(body, tuple(info.reduction()), tuple(info.channels()), *normal, _origin(name, weights))


def _origin(name: str, weights: Path | None) -> dict[str, Any]:
    known = {"model": name, "network": None, "weights": None if weights is None else str(weights)}
    return {**known, **dict.fromkeys(("mock", "predicted_latency_ms", "input_size"))}


def _load(module: nn.Module, path: Path, head: tuple[str, ...], name: str) -> None:
    """Put the weights of a file into `module`; those of its head, whose classes may be others, are not needed."""
    state = _checked(path, module.state_dict(), head, name)
    module.load_state_dict({key: value for key, value in state.items() if not key.startswith(head)}, strict=False)


def _checked(path: Path, wanted: Mapping[str, Tensor], head: tuple[str, ...], name: str) -> dict[str, Tensor]:
    """The weights of a file, which are those of a network with the state `wanted`, but for its head.

    Raises:
        RunError: the file is missing, damaged or of another network, or a weight is not finite.
    """
    found = _read(path)
    theirs = {key: tuple(value.shape) for key, value in found.items() if not key.startswith(head)}
    ours = {key: tuple(value.shape) for key, value in wanted.items() if not key.startswith(head)}
    if theirs != ours:
        raise RunError(f"{path}: holds the weights of another network than {name} ({_difference(theirs, ours)})")
    if (bad := first_bad(found.items())) is not None:
        raise RunError(f"{path}: its weight {bad} is not finite; take other weights, or start --from-scratch")
    return found


def _difference(theirs: Mapping[str, tuple[int, ...]], ours: Mapping[str, tuple[int, ...]]) -> str:
    for key, shape in ours.items():
        if key not in theirs:
            return f"it has no {key}"
        if theirs[key] != shape:
            return f"its {key} is of shape {list(theirs[key])}, not {list(shape)}"
    unknown = next(key for key in theirs if key not in ours)
    return f"its {shortened(unknown, 60)} is unknown there"


def _read(path: Path) -> dict[str, Tensor]:
    """Weights by name, also where a training wrote them among other things or from several GPUs.

    Raises:
        RunError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if path.suffix.lower() == ".safetensors":
            return load(path.read_bytes())
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: the weights cannot be read ({error})") from error
    except Exception as error:  # a damaged archive raises errors of the archive, of the unpickler or of torch
        raise RunError(
            f"{path}: is no file of weights that torch.load(weights_only=True) reads, which runs no code; write it "
            "with torch.save(model.state_dict(), FILE) or as .safetensors"
        ) from error
    if isinstance(state, dict):
        state = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), dict)), state)
    named = isinstance(state, dict) and all(isinstance(key, str) for key in state)
    if not (named and state and all(isinstance(value, Tensor) for value in state.values())):
        raise RunError(f"{path}: holds no state_dict, which is what torch.save(model.state_dict(), FILE) writes")
    if all(key.startswith(_PARALLEL) for key in state):
        state = {key.removeprefix(_PARALLEL): value for key, value in state.items()}
    return dict(state)
