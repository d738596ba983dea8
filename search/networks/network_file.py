"""The result of a search as a file: network.json, and next to it the weights in network.safetensors.

network.json has a hash of itself and of the files next to it (see `bpnas.search.sealed`); all are checked when they are
read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from bpnas.base.files import write_atomically
from bpnas.base.plurals import entries
from bpnas.profiler.backbone import IMAGE_CHANNELS, Backbone
from bpnas.profiler.block import Block
from bpnas.search.data.evaluation_images import EvaluationImages
from bpnas.search.errors import DivergedError, RunError
from bpnas.search.fields import FieldError, Fields, fields_of
from bpnas.search.sealed import is_sealed, read_json, sealed_json, unsealed
from bpnas.tables.heads import head_text

if TYPE_CHECKING:
    from bpnas.profiler.models.modules import Network
    from bpnas.tables import LatencyTable

SKIP = "skip"

_REMEDY = (
    "restore a copy, or move it away and call the run-search command that wrote it again; for a network with other "
    "blocks search again, for other weights use run-search retrain"
)
_LEAST_STD = 1e-6
_MOST_PARAMETERS = 1_000_000_000

DEPLOYED_FIELDS = ("deploy_classes", "deployed_latency_ms", "deployed_head_interpolated_from")
"""Where the limit of a network holds with a head of another number of classes than its own: that head."""

LATENCY_FIELDS = (
    "mock",
    "device",
    "runtime",
    "table_sha256",
    "table_setup",
    "additivity",
    "predicted_latency_ms",
    "head_interpolated_from",
    "target_ms",
    *DEPLOYED_FIELDS,
)
"""What network.json says of the latency; all else is of the training, or belongs to the files next to it."""


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
        predicted_latency_ms: by table; None where that is unknown.
        target_ms: its latency limit; None where it has none. See `limited_ms`.
        deploy_classes: of the head with which the limit holds, where that is another one than its own; else None.
        deployed_latency_ms: by table, with that head.
        accuracy: 0..1, on `accuracy_on`; None where an earlier bpnas, or a person, wrote none.
        data: the images that it was trained on, as the user named them.
        digests: SHA-256 of the files next to it, by name; None where an earlier bpnas wrote none.
        values: all that the file says.
    """

    path: Path
    backbone: Backbone
    blocks: tuple[Block | None, ...]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mock: bool
    predicted_latency_ms: float | None
    target_ms: float | None
    deploy_classes: int | None
    deployed_latency_ms: float | None
    accuracy: float | None
    accuracy_on: EvaluationImages | None
    data: str | None
    digests: Mapping[str, str] | None = field(repr=False, compare=False)
    values: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> NetworkFile:
        """Read a network.json, or that of a run directory.

        Raises:
            RunError: it is missing, damaged or was changed since it was written.
        """
        path = Path(path)
        if path.is_dir():
            path /= "network.json"
        try:
            stored = read_json(path, _REMEDY)
        except RunError as error:
            raise RunError(f"{path}: is no network of run-search: {str(error).removeprefix(f'{path}: ')}") from error
        values = unsealed(stored, path, _REMEDY)
        with fields_of(f"{path}: is no network of run-search", _REMEDY):
            return cls._read(path, Fields(values), is_sealed(stored))

    @classmethod
    def _read(cls, path: Path, fields: Fields, sealed: bool) -> NetworkFile:
        backbone = Backbone.from_dict(fields.part("backbone").values)
        blocks = parse_blocks(fields.texts("blocks"))
        check_sites(blocks, backbone)
        normal = fields.part("input")
        for name in ("head_interpolated_from", "deployed_head_interpolated_from"):
            if fields.has(name):
                fields.wholes(name, 1)
        deploys = fields.has("deploy_classes")
        return cls(
            path,
            backbone,
            blocks,
            tuple(fields.texts("classes", backbone.classes)),
            normal.numbers("mean", IMAGE_CHANNELS, 0, 1),
            normal.numbers("std", IMAGE_CHANNELS, _LEAST_STD, 1),
            fields.flag("mock"),
            fields.latency("predicted_latency_ms") if fields.has("predicted_latency_ms") else None,
            fields.latency("target_ms") if fields.has("target_ms") else None,
            fields.whole("deploy_classes", 1) if deploys else None,
            fields.latency("deployed_latency_ms") if deploys else None,
            fields.share("accuracy") if fields.has("accuracy") else None,
            EvaluationImages.read(fields, "accuracy_on"),
            fields.text("data") if fields.has("data") else None,
            {name: fields.part("files").text(name) for name in fields.part("files").values} if sealed else None,
            fields.values,
        )

    @property
    def weights(self) -> Path:
        """The file of its weights: next to it, of its name."""
        return self.path.with_suffix(".safetensors")

    @property
    def limited_ms(self) -> float | None:
        """The latency that its limit is for: with the head that will be deployed; None where it is unknown."""
        return self.predicted_latency_ms if self.deploy_classes is None else self.deployed_latency_ms

    @property
    def above_limit(self) -> str | None:
        """A sentence, where that latency is above its limit."""
        return above_limit(self.path, self.limited_ms, self.target_ms, self.deploy_classes)

    @property
    def head_note(self) -> str:
        """For people: with which head the predicted latency is, and whether that was interpolated."""
        return head_text(self.backbone.classes, self.values.get("head_interpolated_from", ()))

    @property
    def deployed_note(self) -> str:
        """For people: what its latency is with the head that will be deployed; nothing if that is its own."""
        if self.deploy_classes is None:
            return ""
        head = head_text(self.deploy_classes, self.values.get("deployed_head_interpolated_from", ()))
        return f"{self.deployed_latency_ms:.4g} ms {head}, which will be deployed"

    @property
    def deployed_facts(self) -> dict[str, Any]:
        """`DEPLOYED_FIELDS`, where they are there."""
        return {name: self.values[name] for name in DEPLOYED_FIELDS if name in self.values}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the network itself, in hexadecimal: not of what was measured of it, which may come later."""
        itself = [self.backbone.to_dict(), block_texts(self.blocks), self.class_names, self.mean, self.std]
        return hashlib.sha256(json.dumps(itself, sort_keys=True).encode()).hexdigest()

    def read_file(self, file: Path, remedy: str) -> bytes:
        """The content of a file next to it, as it was when network.json was written.

        Args:
            remedy: the end of the message about another content.

        Raises:
            OSError: it cannot be read.
            RunError: it was changed since then. What an earlier bpnas wrote has no hash, and is taken as it is.
        """
        content = file.read_bytes()
        if self.digests is not None and self.digests.get(file.name) != hashlib.sha256(content).hexdigest():
            raise RunError(f"{file}: is not the file that {self.path.name} was written with; {remedy}")
        return content


@contextmanager
def network_values(path: Path) -> Iterator[dict[str, Any]]:
    """All that a network.json says, to be changed: it is written again at the end, whole or not at all.

    One process at a time: others wait. A file of an earlier bpnas gets no hash, for that would vouch for what nobody
    has checked.

    Args:
        path: of a file that `NetworkFile.load` has read.

    Raises:
        RunError: it was changed since it was written.
    """
    with filelock.FileLock(f"{path}.lock"):
        stored = read_json(path, _REMEDY)
        values = unsealed(stored, path, _REMEDY)
        yield values
        plain = (json.dumps(values, indent=2) + "\n").encode()
        write_atomically(path, sealed_json(values) if is_sealed(stored) else plain)


def above_limit(
    path: Path, predicted_ms: float | None, limit_ms: float | None, classes: int | None = None
) -> str | None:
    """A sentence, where the latency that is predicted of the network of a network.json is above its limit.

    Args:
        classes: of the head, where it is not the network's own.
    """
    if predicted_ms is None or limit_ms is None or predicted_ms <= limit_ms:
        return None
    head = "" if classes is None else f" with a head of {classes:,} classes"
    images = "" if classes is None else f", or for that head (--deploy-classes {classes})"
    return (
        f"{path}: the network{head} takes {predicted_ms:.6g} ms by table, above its limit of {limit_ms:.6g} ms; "
        f"for one within it search again with a lower --target{images}"
    )


def check_sites(blocks: Sequence[Block | None], backbone: Backbone) -> None:
    """Refuse blocks that do not fit the sites of a backbone. Raises FieldError."""
    sites = backbone.sites
    if len(blocks) != len(sites):
        raise FieldError(f"'blocks' must have {entries(len(sites))}, one per site of the backbone, not {len(blocks)}")
    for number, (block, site) in enumerate(zip(blocks, sites, strict=True)):
        if block is None and not site.is_residual:
            raise FieldError(f"'blocks[{number}]' is {SKIP} at a site that changes the shape")


def parse_blocks(texts: Sequence[str]) -> tuple[Block | None, ...]:
    """The inverse of `block_texts`. Raises BlockError."""
    return tuple(None if text == SKIP else Block.parse(text) for text in texts)


def block_texts(blocks: Sequence[Block | None]) -> list[str]:
    """Blocks as network.json has them; None is `skip`."""
    return [SKIP if block is None else str(block) for block in blocks]


def save_weights(path: Path, network: Network) -> bytes:
    """Write the weights of `network` for `NetworkFile.weights`.

    Returns:
        The content of the file.

    Raises:
        DivergedError: a weight is not finite; nothing is written.
        SpaceError: the disk is full.
    """
    from safetensors.torch import save

    from bpnas.search.training.divergence import first_bad

    if (name := first_bad(network.state_dict().items())) is not None:
        raise DivergedError(f"before {path}: its weight {name} is not finite")
    content: bytes = save({name: value.contiguous() for name, value in network.state_dict().items()})
    write_atomically(path, content)
    return content


def file_digests(contents: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of files by name, as `files` of network.json has it."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def note_files(values: dict[str, Any], contents: Mapping[str, bytes]) -> None:
    """Put files that were written into the values of a network.json, if it has hashes of those next to it."""
    if "files" in values:
        values["files"] = {**values["files"], **file_digests(contents)}


def load_network(path: str | Path, *, pretrained: bool = True) -> Network:
    """The network of a network.json as a torch module, in evaluation mode: (N, 3, H, W) -> (N, classes).

    Args:
        path: of the file, or the run directory that holds it.
        pretrained: with the weights of the search's retraining; else with random ones.

    Raises:
        RunError: the file, or that of the weights, is missing, damaged or of another network.
    """
    import torch

    from bpnas.profiler import build_module

    file = NetworkFile.load(path)
    with torch.device("meta"):  # takes no memory
        size = sum(each.numel() for each in build_module(file.blocks, file.backbone).parameters())
    if size > _MOST_PARAMETERS:
        raise RunError(f"{file.path}: is no network of run-search ('backbone' makes {size:,} parameters); {_REMEDY}")
    network = build_module(file.blocks, file.backbone)
    if pretrained:
        network.load_state_dict(_weights(file, network))
    return network.eval()


def _weights(file: NetworkFile, network: Network) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    from bpnas.search.training.divergence import first_bad

    try:
        found = load(file.read_file(file.weights, "restore a copy, or train the network again with run-search retrain"))
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{file.weights}: the weights cannot be read ({error}); they are next to network.json where a search "
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


def limit_facts(predicted_ms: float | None, limit_ms: float | None) -> dict[str, Any]:
    """What network.json says of a limit: the limit, and whether the prediction is within it; None for unknown.

    Args:
        predicted_ms: with the head that will be deployed.
    """
    within = None if predicted_ms is None or limit_ms is None else predicted_ms <= limit_ms
    return {"limit_ms": limit_ms, "within_limit": within}


def limited_ms(facts: Mapping[str, Any]) -> float | None:
    """Of `LATENCY_FIELDS` the latency that the limit is for: with the head that will be deployed; None for unknown."""
    found: float | None = facts.get("deployed_latency_ms", facts.get("predicted_latency_ms"))
    return found


def latency_facts(
    table: LatencyTable,
    blocks: Sequence[Block | None],
    backbone: Backbone,
    target_ms: float | None,
    deploy_classes: int | None = None,
) -> dict[str, Any]:
    """`LATENCY_FIELDS` of network.json for `blocks`, one per site.

    Args:
        deploy_classes: of the head with which `target_ms` holds; None for that of `backbone`.

    Raises:
        TableError: the table has no such head.
        MissingEntryError: the table lacks a part of the network.
    """
    meta, deployed = table.meta, {}
    if deploy_classes not in (None, backbone.classes):
        head = table.head(backbone.input_size, deploy_classes)
        deployed = {
            "deploy_classes": deploy_classes,
            "deployed_latency_ms": table.network(blocks, backbone.input_size, deploy_classes),
            **{f"deployed_{name}": value for name, value in head.facts.items()},
        }
    return {
        "mock": meta.mock,
        "device": meta.device_name,
        "runtime": meta.runtime,
        "table_sha256": table.sha256,
        "table_setup": None if meta.setup is None else asdict(meta.setup),
        "additivity": table.additivity,
        "predicted_latency_ms": table.network(blocks, backbone.input_size, backbone.classes),
        **table.head(backbone.input_size, backbone.classes).facts,
        "target_ms": target_ms,
        **deployed,
    }
