"""Which network a transfer task starts from: a searched one, or any of timm's."""

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

    def load(self) -> Features:
        """See `load_features`, which raises the same."""
        if self.weights is not None and not self.pretrained:
            raise UsageError(f"--weights {self.weights} and --from-scratch exclude each other")
        from bpnas.search.transfer.features import features_of_timm, searched_features

        if self.model != BPNAS:
            if self.network is not None:
                raise UsageError(f"--network {self.network} belongs to --model bpnas, not to {self.model!r}")
            return features_of_timm(self.model, self.weights)
        if self.network is None:
            raise UsageError("the model 'bpnas' needs --network, the network.json of a search")
        return searched_features(self.network, self.pretrained, self.weights)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


def load_features(
    model: str, *, network: Path | None = None, pretrained: bool = True, weights: Path | None = None
) -> Features:
    """The feature maps of a network, for what is built upon them. Nothing is downloaded.

    Args:
        model: `bpnas`, or the name of a model of timm.
        network: network.json of a search; for `bpnas` alone, which needs it.
        pretrained: with trained weights; else with random ones, drawn from torch's global generator.
        weights: a file of the whole model's weights, safetensors or written by torch.save. `bpnas` finds its own next
            to network.json; a model of timm without a file starts from random ones.

    Raises:
        UsageError: the arguments do not fit together, or timm has no such model.
        SearchError: timm is not installed.
        RunError: a file is missing, damaged or of another network.
    """
    return BackboneChoice(model, network, weights, pretrained).load()
