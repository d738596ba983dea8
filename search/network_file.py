"""The result of a search as a file: network.json, and beside it the weights in network.safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from bpnas.android_bench.files import write_atomically
from bpnas.profiler.backbone import Backbone, BackboneError
from bpnas.profiler.block import Block, BlockError
from bpnas.search.errors import DivergedError, RunError

if TYPE_CHECKING:
    from bpnas.profiler.modules import Network
    from bpnas.tables import LatencyTable

SKIP = "skip"

LATENCY_FIELDS = (
    "mock",
    "device",
    "runtime",
    "table_sha256",
    "table_setup",
    "additivity",
    "predicted_latency_ms",
    "target_ms",
)
"""What network.json says of the latency; all else is of the training, or belongs to the files beside it."""


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """What network.json says of the network itself.

    Attributes:
        path: of the file.
        backbone: where the blocks sit.
        blocks: one per site, None for Skip.
        class_names: one per output.
        mean, std: per channel, on the scale 0..1; the network gets (x / 255 - mean) / std.
        mock: whether its latencies are computed, not measured.
    """

    path: Path
    backbone: Backbone
    blocks: tuple[Block | None, ...]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mock: bool

    @classmethod
    def load(cls, path: str | Path) -> NetworkFile:
        """Read a network.json, or that of a run directory.

        Raises:
            RunError: it is missing or damaged.
        """
        path = Path(path)
        if path.is_dir():
            path /= "network.json"
        try:
            values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                path,
                Backbone.from_dict(values["backbone"]),
                parse_blocks(values["blocks"]),
                tuple(values["classes"]),
                tuple(values["input"]["mean"]),
                tuple(values["input"]["std"]),
                bool(values["mock"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, BackboneError, BlockError) as error:
            raise RunError(f"{path}: is no network of run-search ({error})") from error

    @property
    def weights(self) -> Path:
        """The file of its weights: beside it, of its name."""
        return self.path.with_suffix(".safetensors")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the network itself, in hexadecimal: not of what was measured of it, which may come later."""
        itself = [self.backbone.to_dict(), block_texts(self.blocks), self.class_names, self.mean, self.std]
        return hashlib.sha256(json.dumps(itself, sort_keys=True).encode()).hexdigest()


@contextmanager
def network_values(path: Path) -> Iterator[dict[str, Any]]:
    """All that a network.json says, to be changed: it is written anew at the end, whole or not at all.

    One process at a time: others wait.

    Args:
        path: of a file that `NetworkFile.load` has read.
    """
    with filelock.FileLock(f"{path}.lock"):
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        yield values
        write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def parse_blocks(texts: Sequence[str]) -> tuple[Block | None, ...]:
    """The inverse of `block_texts`. Raises BlockError."""
    return tuple(None if text == SKIP else Block.parse(text) for text in texts)


def block_texts(blocks: Sequence[Block | None]) -> list[str]:
    """Blocks as network.json has them; None is `skip`."""
    return [SKIP if block is None else str(block) for block in blocks]


def save_weights(path: Path, network: Network) -> None:
    """Write the weights of `network` for `NetworkFile.weights`.

    Raises:
        DivergedError: a weight is not finite; nothing is written.
        SpaceError: the disk is full.
    """
    from safetensors.torch import save

    from bpnas.search.divergence import first_bad

    if (name := first_bad(network.state_dict().items())) is not None:
        raise DivergedError(f"before {path}: its weight {name} is not finite")
    write_atomically(path, save({name: value.contiguous() for name, value in network.state_dict().items()}))


def load_network(path: str | Path, *, pretrained: bool = True) -> Network:
    """The network of a network.json as a torch module, in evaluation mode: (N, 3, H, W) -> (N, classes).

    Args:
        path: of the file, or the run directory that holds it.
        pretrained: with the weights of the search's retraining; else with random ones.

    Raises:
        RunError: the file, or that of the weights, is missing, damaged or of another network.
    """
    from bpnas.profiler import build_module

    file = NetworkFile.load(path)
    try:
        network = build_module(file.blocks, file.backbone)
    except BackboneError as error:
        raise RunError(f"{file.path}: {error}") from error
    if pretrained:
        network.load_state_dict(_weights(file, network))
    return network.eval()


def _weights(file: NetworkFile, network: Network) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    from bpnas.search.divergence import first_bad

    try:
        found = load(file.weights.read_bytes())
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{file.weights}: the weights cannot be read ({error}); they lie beside network.json where a search "
            "has ended, or ask for random ones"
        ) from error
    there = {name: value.shape for name, value in found.items()}
    if there != {name: value.shape for name, value in network.state_dict().items()}:
        raise RunError(f"{file.weights}: holds the weights of another network than {file.path.name}")
    if (name := first_bad(found.items())) is not None:
        raise _not_finite(file.weights, name)
    return found


def check_weights(path: Path) -> None:
    """Refuse a network whose weights are there and not finite; other faults of their file are for `load_network`.

    Args:
        path: of the network.json.

    Raises:
        RunError: a weight is not finite.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file, found = path.with_suffix(".safetensors"), {}
    with suppress(OSError, SafetensorError):
        found = load(file.read_bytes())
    for name, value in found.items():
        if not np.isfinite(value).all():
            raise _not_finite(file, name)


def _not_finite(weights: Path, name: str) -> RunError:
    return RunError(
        f"{weights}: its weight {name} is not finite, for the training diverged; train the network again with a "
        "smaller --retrain-rate and another --out"
    )


def latency_facts(
    table: LatencyTable, blocks: Sequence[Block | None], backbone: Backbone, target_ms: float
) -> dict[str, Any]:
    """`LATENCY_FIELDS` of network.json for `blocks`, one per site.

    Raises:
        MissingEntryError: the table lacks a part of the network.
    """
    meta = table.meta
    return {
        "mock": meta.mock,
        "device": meta.device_name,
        "runtime": meta.runtime,
        "table_sha256": table.sha256,
        "table_setup": None if meta.setup is None else asdict(meta.setup),
        "additivity": table.additivity,
        "predicted_latency_ms": table.network(blocks, backbone.input_size, backbone.classes),
        "target_ms": target_ms,
    }
