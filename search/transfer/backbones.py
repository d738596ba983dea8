"""Which network a transfer task starts from: a searched one, a MobileNetV2 of the paper, or any of timm's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.base.errors import UsageError
from bpnas.search.networks.network_file import NetworkFile

if TYPE_CHECKING:
    from bpnas.search.transfer.features import Features

BPNAS = "bpnas"


@dataclass(frozen=True, slots=True)
class BackboneChoice:
    """Which network to start from: the arguments of `load_features`, which `load` checks."""

    model: str
    network: Path | None = None
    weights: Path | None = None
    pretrained: bool = True

    @property
    def mock(self) -> bool:
        """Whether the network's latency is a mock's. Raises RunError where its file is missing or damaged."""
        return self.network is not None and NetworkFile.load(self.network).mock

    def load(self, *, whole: bool = False) -> Features:
        """See `load_features`, which raises the same."""
        if self.weights is not None and not self.pretrained:
            raise UsageError(f"--weights {self.weights} and --from-scratch exclude each other")
        from bpnas.search.transfer.features import features_of_timm, features_of_zoo, searched_features
        from bpnas.search.transfer.zoo_features import zoo_baselines

        if self.model != BPNAS:
            if self.network is not None:
                raise UsageError(f"--network {self.network} belongs to --model bpnas, not to {self.model!r}")
            of_known = features_of_zoo if self.model in zoo_baselines() else features_of_timm
            return of_known(self.model, self.weights, whole)
        if self.network is None:
            raise UsageError("the model 'bpnas' needs --network, the network.json of a search")
        return searched_features(self.network, self.pretrained, self.weights, whole)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


def load_features(
    model: str,
    *,
    network: Path | None = None,
    pretrained: bool = True,
    weights: Path | None = None,
    whole: bool = False,
) -> Features:
    """The feature maps of a network, for what is built upon them. Nothing is downloaded.

    Args:
        model: `bpnas`; `mobilenetv2`, `mobilenetv2-1.2`, `-1.3` or `-1.4`, as `profile-device zoo` times them; or the
            name of a model of timm.
        network: network.json of a search; for `bpnas` alone, which needs it.
        pretrained: with trained weights; else with random ones, drawn from torch's global generator.
        weights: a file of the whole model's weights, safetensors or written by torch.save. `bpnas` finds its own next
            to network.json; another model without a file starts from random ones.
        whole: only the map behind the 1x1 convolution of the network's head, which its classes are told from.

    Raises:
        UsageError: the arguments do not fit together, or timm has no such model.
        SearchError: timm is not installed.
        RunError: a file is missing, damaged or of another network.
    """
    return BackboneChoice(model, network, weights, pretrained).load(whole=whole)
