"""Random whole networks, to fit what corrects a sum of parts (`fit`) and to evaluate what came out (`test`).

Which of the two a network may be used for is a property of its key, so that the two sets cannot meet, regardless of the
seeds, the counts and the files they come from.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal

from bpnas.profiler.backbone import Backbone, BackboneError
from bpnas.profiler.block import Block, BlockPath, ComplexPath, SimplePath
from bpnas.profiler.paths import NetworkPart

Fold = Literal["fit", "test"]

_MOST_SKIPPED = 0.6  # of the sites where Skip is possible, in the shallowest networks
_STACKED = (
    0.25  # share of networks with one block at all sites, as block proposals are evaluated (BP-NAS, section on BPS)
)


def fold_of(key: str) -> Fold:
    """What the network with this key may be used for."""
    return "test" if hashlib.sha256(f"fold/{key}".encode()).digest()[0] & 1 else "fit"


def parse_network(key: str, backbones: Iterable[Backbone]) -> NetworkPart:
    """The network with this key, on one of these backbones.

    Raises:
        BackboneError: none of them is the key's.
        BlockError: it is no key of a network.
    """
    texts = key.partition("@")[0].split(",")
    blocks = tuple(None if text == "skip" else Block.parse(text) for text in texts)
    for backbone in backbones:
        if (network := NetworkPart(backbone, blocks)).key == key:
            return network
    raise BackboneError(f"network {key!r} is of none of the backbones that are known here")


def random_networks(
    backbone: Backbone, paths: Sequence[BlockPath], count: int, *, fold: Fold, seed: int = 0
) -> tuple[NetworkPart, ...]:
    """Distinct random networks of different depths; a larger count begins with the same ones.

    Args:
        paths: what blocks are made of; see `all_paths`.
        count: how many; fewer come back where there are no more.
        fold: what they will be used for.
        seed: of the choice.
    """
    rng = random.Random(f"networks/{fold}/{seed}/{backbone.name}/{backbone.input_size}")
    return tuple(islice(_distinct(backbone, paths, fold, rng), count))


def _distinct(backbone: Backbone, paths: Sequence[BlockPath], fold: Fold, rng: random.Random) -> Iterator[NetworkPart]:
    simple = [path for path in paths if isinstance(path, SimplePath)]
    complex_ = [path for path in paths if isinstance(path, ComplexPath)]
    seen: set[str] = set()
    in_vain = 0
    while in_vain < 1000:  # a small choice of paths has few networks
        network = _network(backbone, simple, complex_, rng)
        key = network.key
        if key in seen or fold_of(key) != fold:
            in_vain += 1
            continue
        seen.add(key)
        in_vain = 0
        yield network


def _network(
    backbone: Backbone, simple: Sequence[SimplePath], complex_: Sequence[ComplexPath], rng: random.Random
) -> NetworkPart:
    skipped = rng.uniform(0.0, _MOST_SKIPPED)
    everywhere = _block(simple, complex_, rng) if rng.random() < _STACKED else None
    return NetworkPart(
        backbone,
        tuple(
            None if site.is_residual and rng.random() < skipped else everywhere or _block(simple, complex_, rng)
            for site in backbone.sites
        ),
    )


def _block(simple: Sequence[SimplePath], complex_: Sequence[ComplexPath], rng: random.Random) -> Block:
    """A block as a random code gives it: each of the three paths is there or not, but never none of them."""
    while True:
        present = rng.randrange(1, 8)
        first = rng.choice(simple) if present & 4 and simple else None
        others = tuple(rng.choice(complex_) for bit in (2, 1) if present & bit and complex_)
        if first is not None or others:
            return Block(first, others)
