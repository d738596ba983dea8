"""The lookup table of a device: what the search knows of latency."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bpnas.profiler.backbone import Backbone, Site
from bpnas.profiler.block import Block, BlockPath
from bpnas.profiler.paths import Part, PathPart, all_paths, head_part, stem_part
from bpnas.tables.errors import MissingEntryError, TableError
from bpnas.tables.schema import TableMeta, read_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class LatencyTable:
    """Latencies in milliseconds by part, with the sums of BP-NAS over them.

    Attributes:
        meta: where the numbers come from.
        sha256: identifies the file.
    """

    def __init__(self, table: pa.Table, meta: TableMeta, sha256: str = "") -> None:
        self.meta = meta
        self.sha256 = sha256
        self._table = table
        self._latency_ms: dict[str, float] = dict(
            zip(table["key"].to_pylist(), table["latency_ms"].to_pylist(), strict=True)
        )
        self._channel_shuffle = meta.backbones[0].channel_shuffle

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read and verify a table file.

        Raises:
            TableError: there is no such file, it is no table, it is damaged, or of another schema version.
        """
        return cls(*read_table(Path(path)))

    @classmethod
    def mock_s9(cls) -> LatencyTable:
        """The table that comes with bpnas: a computed Galaxy S9, default backbone, 32 and 224 pixels; not measured."""
        with resources.as_file(resources.files("bpnas.tables") / "mock_s9.parquet") as path:
            return cls.load(path)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._latency_ms)

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """Image sizes that the table covers, in pixels."""
        return tuple(dict.fromkeys(backbone.input_size for backbone in self.meta.backbones))

    def backbone(self, input_size: int | None = None, classes: int | None = None) -> Backbone:
        """The backbone at an input size; both arguments may be left out where there is just one.

        Raises:
            TableError: there is none, or more than one.
        """
        found = [
            b
            for b in self.meta.backbones
            if input_size in (None, b.input_size) and classes in (None, b.classes)
        ]  # fmt: skip
        if len(found) == 1:
            return found[0]
        there = ", ".join(f"{b.input_size} with {b.classes} classes" for b in self.meta.backbones)
        if found:
            raise TableError(f"the table holds input sizes {there}: say which one is meant")
        size = "" if input_size is None else f" --input-size {input_size}"
        wanted = size + ("" if classes is None else f" --classes {classes}")
        raise TableError(
            f"the table holds input sizes {there}, not what is asked for; measure it with profile-device{wanted} "
            "on the same records and build the table again"
        )

    def entry(self, part: Part) -> float:
        """Latency of a part, in ms.

        Raises:
            MissingEntryError: it is not in the table.
        """
        try:
            return self._latency_ms[part.key]
        except KeyError:
            raise MissingEntryError(
                f"the table has no entry {part.key!r}; measure it with profile-device and build the table again"
            ) from None

    def path(self, path: BlockPath, site: Site) -> float:
        """Latency of a path at a site, in ms. Raises MissingEntryError."""
        return self.entry(PathPart(path, site, self._channel_shuffle))

    def block(self, block: Block, site: Site) -> float:
        """Latency of a block at a site, in ms: the sum of its paths (BP-NAS, Eq. 7). Raises MissingEntryError."""
        return sum(self.path(path, site) for path in block.paths)

    def fixed(self, input_size: int | None = None, classes: int | None = None) -> float:
        """Latency of what every network has, stem and head, in ms. Raises MissingEntryError, TableError."""
        backbone = self.backbone(input_size, classes)
        return self.entry(stem_part(backbone)) + self.entry(head_part(backbone))

    def network(
        self, blocks: Sequence[Block | None], input_size: int | None = None, classes: int | None = None
    ) -> float:
        """Latency of a network, in ms: stem, head and the sum over sites (BP-NAS, Eq. 7).

        Args:
            blocks: one per site; None is Skip, which costs nothing.
            input_size, classes: which backbone, where the table holds several.

        Raises:
            MissingEntryError: a part is not in the table.
            TableError: the blocks do not fit the backbone.
        """
        sites = self.backbone(input_size, classes).sites
        if len(blocks) != len(sites):
            raise TableError(f"the table's backbone has {len(sites)} sites, but {len(blocks)} blocks were given")
        for number, (block, site) in enumerate(zip(blocks, sites, strict=True)):
            if block is None and not site.is_residual:
                raise TableError(f"site {number} changes the shape, so Skip cannot be there")
        return self.fixed(input_size, classes) + sum(
            self.block(block, site) for block, site in zip(blocks, sites, strict=True) if block is not None
        )

    def paths(self, input_size: int | None = None, classes: int | None = None) -> tuple[BlockPath, ...]:
        """The paths that have an entry at every site, in the order of `all_paths`."""
        sites = dict.fromkeys(self.backbone(input_size, classes).sites)
        return tuple(path for path in all_paths() if all(self._key(path, site) in self._latency_ms for site in sites))

    def path_latencies(self, input_size: int | None = None, classes: int | None = None) -> npt.NDArray[np.float64]:
        """Latencies of `paths()` at every site, in ms: shape (paths, sites)."""
        sites, paths = self.backbone(input_size, classes).sites, self.paths(input_size, classes)
        columns = {site: [self._latency_ms[self._key(path, site)] for path in paths] for site in dict.fromkeys(sites)}
        return np.array([columns[site] for site in sites], np.float64).T

    def _key(self, path: BlockPath, site: Site) -> str:
        return PathPart(path, site, self._channel_shuffle).key

    def to_pandas(self) -> pd.DataFrame:
        """All entries as a data frame, one row each; `source` says whether they were measured or are a mock's."""
        return to_pandas(self._table)


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """The table as a data frame; whole numbers stay whole where some are absent."""
    import pandas as pd
    import pyarrow as pa

    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)
    return frame
