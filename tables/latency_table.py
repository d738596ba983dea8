"""The lookup table of a device: what the search knows of latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bpnas.base.errors import UsageError
from bpnas.base.plurals import counted
from bpnas.profiler.backbone import Backbone, Site
from bpnas.profiler.block import Block, BlockPath
from bpnas.profiler.networks import Fold, fold_of, parse_network
from bpnas.profiler.paths import (
    ContextPart,
    HeadPart,
    NeighboursPart,
    NetworkPart,
    Part,
    all_paths,
    head_part,
)
from bpnas.tables.additivity.model_record import MODEL_NAMES
from bpnas.tables.additivity.models import AS_MEASURED, PLAIN_SUM, AdditiveModel, EntryTerms
from bpnas.tables.additivity.sound_weights import SoundWeights
from bpnas.tables.errors import MissingEntryError, TableError
from bpnas.tables.heads import HeadLatency, interpolated, measured_heads
from bpnas.tables.more_heads import more_heads
from bpnas.tables.schema import read_table
from bpnas.tables.shipped import MOCK_TABLE
from bpnas.tables.table_meta import TableMeta

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class LatencyTable:
    """Latencies in milliseconds by part, and of whole networks by one of the models of `additivity`.

    Args:
        table: the rows; see `schema`.
        meta: see there.
        sha256: of the file.
        additivity: the model to predict with, one of `MODEL_NAMES`; default the table's own.

    Attributes:
        meta: where the numbers come from.
        sha256: identifies the file.
        additivity: the model that `path`, `block`, `network` and what else is not an `entry` follow.

    Raises:
        UsageError: there is no such model.
        TableError: this table does not have it at any input size.
    """

    def __init__(self, table: pa.Table, meta: TableMeta, sha256: str = "", additivity: str | None = None) -> None:
        self.meta = meta
        self.sha256 = sha256
        self.additivity = meta.models.default if additivity is None else additivity
        self._table = table
        self._latency_ms: dict[str, float] = dict(
            zip(table["key"].to_pylist(), table["latency_ms"].to_pylist(), strict=True)
        )
        if self.additivity not in MODEL_NAMES:
            raise UsageError(f"no model is called {self.additivity!r}: use one of {', '.join(MODEL_NAMES)}")
        shuffle, in_context = meta.backbones[0].channel_shuffle, self.additivity == "context"
        self._terms = EntryTerms(self._known, shuffle, in_context=in_context)
        self._models: dict[int, AdditiveModel] = {}
        if self.additivity == "corrected" and not any(map(self._coefficients, self.input_sizes)):
            self._model(self.input_sizes[0])  # which says why

    @classmethod
    def load(cls, path: str | Path, additivity: str | None = None) -> LatencyTable:
        """Read and verify a table file, or `mock:s9`; `additivity` chooses the model to predict with.

        Raises:
            TableError: there is no such file, it is no table, it is damaged, or of another schema version; or it does
                not have that model.
            UsageError: there is no such model.
        """
        return cls(*read_table(Path(path)), additivity)

    @classmethod
    def mock_s9(cls) -> LatencyTable:
        """The table that comes with bpnas: a computed Galaxy S9, default backbone, 32 and 224 pixels; not measured."""
        return cls.load(MOCK_TABLE)

    def with_additivity(self, additivity: str) -> LatencyTable:
        """The same table with another model. Raises UsageError, TableError."""
        return LatencyTable(self._table, self.meta, self.sha256, additivity)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._latency_ms)

    def __contains__(self, part: Part) -> bool:
        """Whether there is an entry for this part."""
        return part.key in self._latency_ms

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """Image sizes that the table covers, in pixels."""
        return tuple(dict.fromkeys(backbone.input_size for backbone in self.meta.backbones))

    def backbone(self, input_size: int | None = None, classes: int | None = None) -> Backbone:
        """The backbone at an input size; both arguments may be left out where there is just one.

        Args:
            input_size: of the images.
            classes: of the head: any number, if the table has heads of two at least (see `head`).

        Raises:
            TableError: there is none, or more than one.
        """
        sized = [b for b in self.meta.backbones if input_size in (None, b.input_size)]
        found = [b for b in sized if classes in (None, b.classes)]
        one_size = len({b.input_size for b in sized}) == 1
        if not found and classes is not None and one_size:
            other = replace(sized[0], classes=classes)
            if self._head(head_part(other)) is not None:
                return other
        if len(found) == 1:
            return found[0]
        there = ", ".join(f"{b.input_size} with {counted(b.classes, 'class', 'classes')}" for b in self.meta.backbones)
        if found or (sized and classes is not None and not one_size):
            raise TableError(f"the table holds input sizes {there}: say which one is meant")
        if sized and classes is not None:
            raise TableError(
                f"the table holds input sizes {there}, and no second head at {sized[0].input_size} from which one of "
                f"{classes} classes could be interpolated; {more_heads(self.meta, sized[0], self._least_sessions)}"
            )
        size = "" if input_size is None else f" --input-size {input_size}"
        raise TableError(
            f"the table holds input sizes {there}, not what is asked for; measure it with profile-device{size} "
            "on the same records and build the table again"
        )

    @property
    def _least_sessions(self) -> int:
        """Behind any entry; 1 where nobody said."""
        return min((count for count in self._table["sessions"].to_pylist() if count), default=1)

    def head(self, input_size: int | None = None, classes: int | None = None) -> HeadLatency:
        """Latency of the head, and whether it was measured or interpolated between heads of other numbers of classes.

        Raises:
            TableError: the backbone is not there, or more than one is.
            MissingEntryError: there is no head.
        """
        part = head_part(self.backbone(input_size, classes))
        return self._head(part) or HeadLatency(part.classes, self.entry(part))

    def _head(self, part: HeadPart) -> HeadLatency | None:
        if part in self:
            return HeadLatency(part.classes, self.entry(part))
        keys = measured_heads(self._latency_ms, part)
        return interpolated(part, {classes: self._latency_ms[key] for classes, key in keys.items()})

    def _known(self, part: Part) -> float:
        """What networks are summed up from: entries, and heads of other numbers of classes."""
        if isinstance(part, HeadPart) and (head := self._head(part)) is not None:
            return head.latency_ms
        return self.entry(part)

    def entry(self, part: Part) -> float:
        """Latency of a part, in ms.

        Raises:
            MissingEntryError: it is not in the table.
        """
        try:
            return self._latency_ms[part.key]
        except KeyError:
            option = " --context" if isinstance(part, ContextPart | NeighboursPart) else ""
            raise MissingEntryError(
                f"the table has no entry {part.key!r}; measure it with profile-device{option} and build the table again"
            ) from None

    def path(self, path: BlockPath, site: Site, input_size: int | None = None) -> float:
        """Latency of a path at a site, in ms.

        Args:
            path, site: which.
            input_size: of the image; only for a fitted model, where the same site occurs at several.

        Raises:
            MissingEntryError: an entry that this takes is not in the table.
            TableError: the model is not there for that site.
        """
        return self._model(self._size_of(site, input_size)).path_ms(path, site)

    def block(self, block: Block, site: Site, input_size: int | None = None) -> float:
        """Latency of a block at a site, in ms: its paths (BP-NAS, Eq. 7) and what the model adds. As `path`."""
        return self._model(self._size_of(site, input_size)).block_ms(block, site)

    def fixed(self, input_size: int | None = None, classes: int | None = None) -> float:
        """Latency of what every network has, stem and head, in ms. Raises MissingEntryError, TableError."""
        backbone = self.backbone(input_size, classes)
        return self._model(backbone.input_size).constant_ms(backbone)

    def network(
        self, blocks: Sequence[Block | None], input_size: int | None = None, classes: int | None = None
    ) -> float:
        """Latency of a network, in ms: `fixed` and the sum over sites (BP-NAS, Eq. 7).

        Args:
            blocks: one per site; None is Skip, which costs nothing.
            input_size, classes: which backbone, where the table holds several.

        Raises:
            MissingEntryError: a part is not in the table.
            TableError: the blocks do not fit the backbone.
        """
        backbone = self.backbone(input_size, classes)
        sites = backbone.sites
        if len(blocks) != len(sites):
            raise TableError(
                f"the table's backbone has {counted(len(sites), 'site')}, but {len(blocks)} blocks were given"
            )
        for number, (block, site) in enumerate(zip(blocks, sites, strict=True)):
            if block is None and not site.is_residual:
                raise TableError(f"site {number} changes the shape, so Skip cannot be there")
        return self.fixed(backbone.input_size, backbone.classes) + sum(
            self.block(block, site, backbone.input_size)
            for block, site in zip(blocks, sites, strict=True)
            if block is not None
        )

    def paths(self, input_size: int | None = None, classes: int | None = None) -> tuple[BlockPath, ...]:
        """The paths that have an entry at every site, in the order of `all_paths`."""
        sites = dict.fromkeys(self.backbone(input_size, classes).sites)
        return tuple(path for path in all_paths() if all(self._terms.part(path, site) in self for site in sites))

    def path_latencies(self, input_size: int | None = None, classes: int | None = None) -> npt.NDArray[np.float64]:
        """Latencies of `paths()` at every site, in ms: shape (paths, sites)."""
        backbone, paths = self.backbone(input_size, classes), self.paths(input_size, classes)
        model = self._model(backbone.input_size)
        columns = {site: [model.path_ms(path, site) for path in paths] for site in dict.fromkeys(backbone.sites)}
        return np.array([columns[site] for site in backbone.sites], np.float64).T

    def join_latencies(self, input_size: int | None = None, classes: int | None = None) -> npt.NDArray[np.float64]:
        """What every path of a block beyond the first one adds, at every site, in ms: shape (sites,)."""
        backbone = self.backbone(input_size, classes)
        return np.array([self._model(backbone.input_size).join_ms(site) for site in backbone.sites], np.float64)

    def once_latencies(self, input_size: int | None = None, classes: int | None = None) -> npt.NDArray[np.float64]:
        """What a block adds once, however many paths it has, at every site, in ms: shape (sites,)."""
        backbone = self.backbone(input_size, classes)
        return np.array([self._model(backbone.input_size).once_ms(site) for site in backbone.sites], np.float64)

    def networks(self, input_size: int, fold: Fold = "fit") -> tuple[tuple[NetworkPart, float], ...]:
        """The whole networks that were measured, with their latencies in ms, of those that `fold` may be used for."""
        rows = zip(self._table["key"].to_pylist(), self._table["kind"].to_pylist(), strict=True)
        keys = [key for key, kind in rows if kind == "network" and fold_of(key) == fold]
        networks = [(parse_network(key, self.meta.backbones), self._latency_ms[key]) for key in keys]
        return tuple((network, ms) for network, ms in networks if network.backbone.input_size == input_size)

    def _coefficients(self, input_size: int) -> Mapping[str, float] | None:
        if self.additivity == "sum":
            return PLAIN_SUM
        if self.additivity != "corrected":
            return AS_MEASURED
        record = self.meta.models.find("corrected", input_size)
        return dict(record.coefficients) if record is not None and record.coefficients else None

    def _model(self, input_size: int) -> AdditiveModel:
        if input_size not in self._models:
            coefficients = self._coefficients(input_size)
            if coefficients is None:
                record = self.meta.models.find(self.additivity, input_size)
                why = self.meta.models.reason if record is None else record.unavailable
                raise TableError(
                    f"the table has no model {self.additivity!r} at input size {input_size} ({why}); use another "
                    "--additivity, or measure whole networks with profile-device --networks and build the table again"
                )
            if self.additivity == "corrected":
                self._check_weights(input_size, coefficients)
            self._models[input_size] = AdditiveModel(self._terms, coefficients)
        return self._models[input_size]

    def _check_weights(self, input_size: int, weights: Mapping[str, float]) -> None:
        """Weights of another program may be numbers of the right form and give negative latencies all the same."""
        backbones = [backbone for backbone in self.meta.backbones if backbone.input_size == input_size]
        if not SoundWeights.of(self._terms, backbones, self.__contains__, least_share=0.0)(weights):
            raise TableError(
                f"the table's coefficients of model 'corrected' at input size {input_size} give negative latencies; "
                "use another --additivity, build the table again with build-table, or mend the program that wrote it"
            )

    def _size_of(self, site: Site, input_size: int | None) -> int:
        """The input size whose model holds at a site."""
        if input_size is not None:
            return input_size
        if self.additivity != "corrected":
            return self.input_sizes[0]  # the same for all
        sizes = {backbone.input_size for backbone in self.meta.backbones if site in backbone.sites}
        if len(sizes) != 1:
            where = " and ".join(map(str, sorted(sizes))) or "none"
            raise TableError(
                f"site {site} occurs at input size {where} of this table, and model 'corrected' is fitted for each: "
                "say which input_size is meant"
            )
        return sizes.pop()

    def to_pandas(self) -> pd.DataFrame:
        """All entries as a data frame, one row each; `source` says whether they were measured or are a mock's."""
        return to_pandas(self._table)


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """The table as a data frame; whole numbers stay whole where some are absent."""
    import pandas as pd
    import pyarrow as pa

    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)
    return frame
