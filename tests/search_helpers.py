"""A latency table made of a formula, for tests of the search that need neither a device nor a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bpnas.profiler import Backbone, Block, SimplePath, Site
from bpnas.profiler.backbone import Stage
from bpnas.profiler.block import BlockPath
from bpnas.profiler.paths import all_paths, select_paths
from bpnas.tables.heads import HeadLatency


def tiny_backbone(input_size: int = 32, classes: int = 10) -> Backbone:
    """Four sites, of which two are residual; trains in milliseconds."""
    stages = (Stage(8, 2, 2), Stage(16, 2, 2))
    return Backbone("tiny", input_size, 8, 2, stages, 16, classes)


def formula_ms(path: BlockPath, site: Site) -> float:
    """Something like multiply-adds plus a cost per operator, as an irregular float."""
    area = site.output_size**2
    if isinstance(path, SimplePath):
        return 1e-3 + 1.1e-6 * site.c_in * site.c_out * path.kernel**2 / path.groups * area
    width = site.c_in * path.expansion
    dense = width * (site.c_in * site.input_size**2 + site.c_out * area) / path.groups
    return 3e-3 + 1.1e-6 * (dense + 2.7 * width * path.kernel**2 * area)


@dataclass(frozen=True)
class FormulaMeta:
    mock: bool = True
    device_name: str = "a formula"
    runtime: str = "onnxruntime"
    setup: None = None
    backbones: tuple[Backbone, ...] = ()


@dataclass(frozen=True)
class FormulaTable:
    """What the search uses of a LatencyTable."""

    backbones: tuple[Backbone, ...]
    chosen: tuple[BlockPath, ...] = field(default_factory=all_paths)
    sha256: str = "0" * 64
    additivity: str = "sum"

    @classmethod
    def tiny(cls, paths: str | None = None, input_size: int = 32, classes: int = 10) -> FormulaTable:
        chosen = all_paths() if paths is None else select_paths(paths)
        return cls((tiny_backbone(input_size, classes),), chosen)

    @property
    def meta(self) -> FormulaMeta:
        return FormulaMeta(backbones=self.backbones)

    @property
    def input_sizes(self) -> tuple[int, ...]:
        return tuple(backbone.input_size for backbone in self.backbones)

    def backbone(self, input_size: int | None = None, classes: int | None = None) -> Backbone:
        return next(b for b in self.backbones if input_size in (None, b.input_size))

    def head(self, input_size: int | None = None, classes: int | None = None) -> HeadLatency:
        return HeadLatency(self.backbone(input_size).classes if classes is None else classes, 0.005)

    def fixed(self, input_size: int | None = None, classes: int | None = None) -> float:
        return 0.01

    def path(self, path: BlockPath, site: Site, input_size: int | None = None) -> float:
        if path not in self.chosen:
            raise KeyError(path)
        return formula_ms(path, site)

    def block(self, block: Block, site: Site, input_size: int | None = None) -> float:
        return sum(self.path(path, site) for path in block.paths)

    def network(
        self, blocks: Sequence[Block | None], input_size: int | None = None, classes: int | None = None
    ) -> float:
        sites = self.backbone(input_size).sites
        chosen = [(block, site) for block, site in zip(blocks, sites, strict=True) if block is not None]
        return self.fixed(input_size) + sum(self.block(block, site) for block, site in chosen)

    def paths(self, input_size: int | None = None, classes: int | None = None) -> tuple[BlockPath, ...]:
        return self.chosen

    def path_latencies(self, input_size: int | None = None, classes: int | None = None) -> np.ndarray:
        sites = self.backbone(input_size).sites
        return np.array([[self.path(path, site) for site in sites] for path in self.chosen])

    def join_latencies(self, input_size: int | None = None, classes: int | None = None) -> np.ndarray:
        return np.zeros(len(self.backbone(input_size).sites))

    once_latencies = join_latencies


class Steps:
    """A `Progress` that calls `on_step` with the number of every step, from 1, and keeps the notes."""

    def __init__(self, on_step: Callable[[int], None]) -> None:
        self.on_step, self.steps, self.notes = on_step, 0, []

    def stage(self, title: str, steps: int, done: int = 0) -> None:
        pass

    def step(self, text: str) -> None:
        self.steps += 1
        self.on_step(self.steps)

    def within(self, share: float, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def as_of_an_earlier_bpnas(*paths: Path) -> None:
    """Take the hashes out of files of a search, which then are as they were before there were any."""
    for path in paths:
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            for line in lines:
                line.pop("check", None)
                line.pop("judged_on", None)
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        else:
            values = json.loads(path.read_text())
            for name in ("format", "file_sha256", "files", "accuracy_on", "limit_ms", "within_limit"):
                values.pop(name, None)
            path.write_text(json.dumps(values, indent=2) + "\n")


def torchrun(program: Path, *arguments: object, processes: int) -> subprocess.Popen[str]:
    """Start a Python program as so many processes that train together; both outputs come as one.

    Nothing but this machine's own address is used, at a port that is free.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    return subprocess.Popen(
        [sys.executable, "-P", *launcher, "--nproc-per-node", str(processes), str(program), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
