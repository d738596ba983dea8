"""Networks of run-search in timm: importing this module registers the model `bpnas` there.

timm looks for no plug-ins, so that this import is needed once::

    import bpnas.search.timm_models
    model = timm.create_model("bpnas", pretrained=True, network="runs/s9-seed0/network.json")

The names of the weights are those of network.safetensors.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import timm.layers
import timm.models
from torch import Tensor, nn
from torch.nn import functional as F

from bpnas.base.errors import UsageError
from bpnas.profiler.backbone import IMAGE_CHANNELS
from bpnas.profiler.models.modules import ConvUnit
from bpnas.search.networks.features import map_places
from bpnas.search.networks.network_file import NetworkFile, load_network

__all__ = ["bpnas"]

_FIRST_STRIDE = 4


class TimmNetwork(nn.Module):
    """A network with the interface of timm's classifiers: (N, in_chans, H, W) -> (N, num_classes).

    Args:
        file: says what the network is.
        pretrained: with the weights that are next to the file.
        num_classes: outputs; a number other than the file's makes a new linear layer, 0 none: the output is then the
            pooled features (N, num_features).
        in_chans: channels of the image; other than 3, the filters of the stem are summed or repeated as timm does.
        global_pool: one of timm's: `avg`, `max`, `avgmax`, `catavgmax`, or, without a linear layer, empty.
        drop_rate: dropout in front of the linear layer, 0..1.

    Raises:
        RunError: the weights are missing, damaged or of another network.
    """

    def __init__(
        self,
        file: NetworkFile,
        pretrained: bool,
        num_classes: int,
        in_chans: int = IMAGE_CHANNELS,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        network, backbone = load_network(file.path, pretrained=pretrained).train(), file.backbone
        self.stem: nn.Module = network.stem
        # Under timm's feature extractors only a sequence can be cut. The names of its weights stay.
        self.blocks = nn.Sequential(*network.blocks)
        self.head: nn.Module = network.head
        self.num_features = self.head_hidden_size = backbone.head_channels
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.feature_info = [
            {
                "num_chs": each.channels,
                "reduction": each.stride,
                "module": f"blocks.{each.place - 1}" if each.place else "stem",
            }
            for each in map_places(backbone)
        ]
        if in_chans != IMAGE_CHANNELS:
            stem = ConvUnit(in_chans, backbone.stem_channels, 3, backbone.stem_stride)
            weights = self.stem.state_dict()
            weights["conv.weight"] = timm.models.adapt_input_conv(in_chans, weights["conv.weight"])
            stem.load_state_dict(weights)
            self.stem = stem
        trained = network.head.get_submodule("linear")
        self.reset_classifier(num_classes, global_pool)
        if str(self.get_classifier()) == str(trained):  # as large as that one
            self.head.linear = trained

    def get_classifier(self) -> nn.Module:
        """The linear layer, or an identity."""
        classifier: nn.Module = self.head.get_submodule("linear")
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Put a new linear layer of `num_classes` outputs, 0 for none, in the place of the one that is there."""
        self.num_classes = num_classes
        self.global_pool: nn.Module
        self.global_pool, self.head.linear = timm.layers.create_classifier(
            self.num_features, num_classes, pool_type=global_pool
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether a training step computes the blocks' feature maps twice in place of keeping them."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which timm tells layers apart, as for a learning rate of each."""
        return {"stem": r"^stem", "blocks": [(r"^blocks\.(\d+)", None), (r"^head\.conv", (99999,))]}

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, num_features, H', W'), what the head's 1x1 convolution gives."""
        x = self.stem(x)
        saving = self.grad_checkpointing and self.training
        x = timm.models.checkpoint_seq(self.blocks, x) if saving else self.blocks(x)
        features: Tensor = self.head.get_submodule("conv")(x)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, num_features, H', W') -> (N, num_classes), or with `pre_logits` the pooled (N, num_features)."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, self.drop_rate, training=self.training)
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def bpnas(
    pretrained: bool = False,
    *,
    network: str | Path | None = None,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    **arguments: Any,
) -> nn.Module:
    """What `timm.create_model("bpnas", network=..., ...)` calls.

    Args:
        pretrained: with the weights that are next to the file.
        network: a network.json, or the run directory that holds it.
        pretrained_cfg, pretrained_cfg_overlay, cache_dir: timm's own; what the network's file says is the default.
        arguments: of `TimmNetwork`, or `features_only` and `out_indices` for its feature maps. Number 0 is the first
            one, of stride 2 behind a stem of stride 2; by default those of strides 4, 8, 16 and 32.

    Raises:
        UsageError: `network` is missing.
        RunError: a file is missing or damaged.
    """
    if network is None:
        raise UsageError("create_model('bpnas') needs network=, the network.json of a search")
    file = NetworkFile.load(network)
    size = file.backbone.input_size
    # The ones that pyramids are built on; a network that does not get that far has its last one.
    wanted = [number for number, place in enumerate(map_places(file.backbone)) if place.stride >= _FIRST_STRIDE]
    if pretrained_cfg is None:
        pretrained_cfg = {
            "architecture": "bpnas",
            "file": str(file.weights),
            "input_size": (IMAGE_CHANNELS, size, size),
            "mean": file.mean,
            "std": file.std,
            "num_classes": file.backbone.classes,
            "label_names": file.class_names,
            # As the images of a search are read: the shorter side to the size, the middle of the longer one.
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "first_conv": "stem.conv",
            "classifier": "head.linear",
        }
    built: nn.Module = timm.models.build_model_with_cfg(
        partial(TimmNetwork, file, pretrained),
        "bpnas",
        pretrained=False,  # the weights are loaded, and checked, where the network is built
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        feature_cfg={"out_indices": tuple(wanted) or (-1,), "flatten_sequential": True},
        cache_dir=cache_dir,
        **arguments,
    )
    return built


timm.models.register_model(bpnas)
