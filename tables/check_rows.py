"""Whether the rows of a table can be true: types, ranges, sizes, and that columns do not contradict each other.

All of it is done column by column, so that it costs a few milliseconds on each load of a table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bpnas.profiler.backbone import IMAGE_CHANNELS, Backbone
from bpnas.profiler.block import EXPANSIONS, GROUPS, KERNELS, Block, BlockError
from bpnas.profiler.paths import NetworkPart
from bpnas.tables.errors import ViolationError, shown

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bpnas.tables.table_meta import TableMeta

MOST_ROWS = 10_000_000
MOST_BYTES = 2**30
"""Most bytes of the content, once it is unpacked."""

LONGEST_MS = 1e9
"""Eleven days for one inference."""

_LONGEST_FLAGS = 1_000
_CHANNELS = (1, 1_000_000)
_PIXELS = (1, 65_536)

_GEOMETRY = ("path", "kernel", "groups", "expansion", "c_in", "c_out", "stride", "input_size")
_PLACE = frozenset({"c_in", "c_out", "input_size"})
_OF_PATH = _PLACE | {"path", "kernel", "groups", "stride"}  # and the expansion, of a complex one
_APPLIES: Mapping[str, Collection[str]] = {
    "path": _OF_PATH,
    "context": _OF_PATH,
    "stem": _PLACE | {"stride"},
    "head": _PLACE,
    "join": _PLACE,
    "neighbours": _PLACE,
    "network": _PLACE,
}
"""The columns of the geometry that a kind of entry has; the others are null."""


def check_form(file: pq.ParquetFile, columns: Mapping[str, str]) -> None:
    """Refuse a file by its columns and its size, before its content is unpacked.

    Args:
        file: the open file.
        columns: the type of each column, in order.

    Raises:
        ViolationError: it says what is wrong.
    """
    schema = file.schema_arrow
    for name in schema.names:
        if name not in columns:
            raise ViolationError(f"column {shown(name)}: is none that this schema version has")
    for name, kind in columns.items():
        if schema.names.count(name) != 1:
            raise ViolationError(f"column {name}: is {'there twice' if name in schema.names else 'missing'}")
        if str(schema.field(name).type) != kind.replace("float64", "double"):
            raise ViolationError(f"column {name}: must be of type {kind}, not {shown(str(schema.field(name).type))}")
    if schema.names != list(columns):
        raise ViolationError("its columns are in another order than this schema version has them")
    if not 0 < file.metadata.num_rows <= MOST_ROWS:
        raise ViolationError(f"it must have from 1 to {MOST_ROWS:,} rows, not {file.metadata.num_rows:,}")
    size = sum(file.metadata.row_group(number).total_byte_size for number in range(file.metadata.num_row_groups))
    if not 0 < size <= MOST_BYTES:
        raise ViolationError(f"its content must take at most {MOST_BYTES:,} bytes, not {size:,}")


def check_rows(table: pa.Table, meta: TableMeta) -> None:
    """Refuse rows that no table of this device can have.

    Raises:
        ViolationError: it names the first such row by its key, the column, and what it must be.
    """
    import pyarrow.compute as pc

    _require(table, pc.is_valid(table["key"]), "key", "a text")
    _require(table, _is_first(table["key"]), "key", "there once, but it has an entry twice")
    _require(table, _among(table["kind"], _APPLIES), "kind", f"one of {', '.join(_APPLIES)}")
    for name, expected in _origin(meta).items():
        _require(table, pc.equal(table[name], expected), name, f"{shown(expected)}, as the metadata say")
    _check_numbers(table)
    flags = table["flags"]
    good = pc.and_(pc.utf8_is_printable(flags), pc.less_equal(pc.utf8_length(flags), _LONGEST_FLAGS))
    _require(table, _null_or(flags, good), "flags", f"at most {_LONGEST_FLAGS:,} printable characters")
    for kind in pc.unique(table["kind"]).to_pylist():
        _check_geometry(table.filter(pc.equal(table["kind"], kind)), kind, meta)


def _origin(meta: TableMeta) -> dict[str, str]:
    source = "mock" if meta.mock else "measured"
    if meta.imported is not None:
        source = f"imported:{meta.imported.reader}"
    return {"device": meta.device_name, "runtime": meta.runtime, "source": source}


def _require(rows: pa.Table, good: Any, column: str, must: str) -> None:
    """Refuse the rows where `good` is false or null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    good = good if isinstance(good, pa.ChunkedArray) else pa.chunked_array([good], pa.bool_())
    good = pc.fill_null(good, False)
    if pc.all(good).as_py():
        return
    number = pc.index(good, False).as_py()
    key, value = (rows[name][number].as_py() for name in ("key", column))
    where = f"row {number + 1}" if key is None else f"entry {shown(key)}"
    count = len(good) - pc.sum(good).as_py()
    others = f" ({count:,} such entries)" if count > 1 else ""
    raise ViolationError(f"{where}: {column} must be {must}, not {shown(value)}{others}")


def _null_or(column: Any, good: Any) -> Any:
    import pyarrow.compute as pc

    return pc.or_kleene(pc.is_null(column), good)


def _among(column: Any, known: Collection[Any]) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.is_in(column, value_set=pa.array(list(known), column.type))


def _between(column: Any, low: float, high: float) -> Any:
    """NaN is not."""
    import pyarrow.compute as pc

    return pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high))


def _is_first(column: Any) -> Any:
    """Whether no row before has the same value."""
    codes = column.combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.zeros(len(codes), bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return first


def _check_numbers(table: pa.Table) -> None:
    import pyarrow.compute as pc

    latency = table["latency_ms"]
    good = pc.and_(pc.greater(latency, 0.0), pc.less_equal(latency, LONGEST_MS))
    _require(table, good, "latency_ms", f"a number above 0 and at most {LONGEST_MS:g}")
    for name in ("low_ms", "high_ms", "mad_ms", "p10_ms", "p90_ms"):
        good = _null_or(table[name], _between(table[name], 0.0, LONGEST_MS))
        _require(table, good, name, f"null or a number from 0 to {LONGEST_MS:g}")
    for low, high in (("low_ms", "high_ms"), ("p10_ms", "p90_ms")):
        alike = pc.equal(pc.is_null(table[low]), pc.is_null(table[high]))
        _require(table, alike, low, f"null where {high} is, and only there")
        _require(table, _null_or(table[low], pc.less_equal(table[low], table[high])), low, f"at most {high}")
    for name in ("sessions", "samples", "quarantined"):
        _require(table, _null_or(table[name], pc.greater_equal(table[name], 0)), name, "null or 0 and more")


def _check_geometry(rows: pa.Table, kind: str, meta: TableMeta) -> None:
    """Check the rows of one kind: the columns that apply, and that the key says the same."""
    import pyarrow.compute as pc

    ranges = {
        "path": (pc.is_valid(rows["path"]), "the name of a path"),
        "kernel": (_among(rows["kernel"], KERNELS), f"one of {', '.join(map(str, KERNELS))}"),
        "groups": (_among(rows["groups"], GROUPS), f"one of {', '.join(map(str, GROUPS))}"),
        "expansion": (_among(rows["expansion"], EXPANSIONS), f"null or from {EXPANSIONS[0]} to {EXPANSIONS[-1]}"),
        "c_in": (_between(rows["c_in"], *_CHANNELS), "from {} to {:,}".format(*_CHANNELS)),
        "c_out": (_between(rows["c_out"], *_CHANNELS), "from {} to {:,}".format(*_CHANNELS)),
        "stride": (_among(rows["stride"], (1, 2)), "1 or 2"),
        "input_size": (_between(rows["input_size"], *_PIXELS), "from {} to {:,}".format(*_PIXELS)),
    }
    for name in _GEOMETRY:
        good, must = ranges[name]
        if name == "expansion" and "path" in _APPLIES[kind]:
            _require(rows, _null_or(rows[name], good), name, must)
        elif name in _APPLIES[kind]:
            _require(rows, good, name, must)
        else:
            _require(rows, pc.is_null(rows[name]), name, f"null in an entry of kind {kind}")
    match kind:
        case "path" | "context":
            _check_paths(rows, "context/" if kind == "context" else "")
        case "stem":
            _require(rows, pc.equal(rows["c_in"], IMAGE_CHANNELS), "c_in", str(IMAGE_CHANNELS))
            _require_key(rows, _text(rows, "stem@", "c_in", "-", "c_out", "s", "stride", "x", "input_size"))
        case "head":
            classes = pc.extract_regex(rows["key"], r"^head@[0-9]+-[0-9]+-(?P<classes>[1-9][0-9]{0,6})x[0-9]+$")
            rows_and = rows.append_column("classes", pc.struct_field(classes, "classes"))
            _require_key(rows, _text(rows_and, "head@", "c_in", "-", "c_out", "-", "classes", "x", "input_size"))
        case "join" | "neighbours":
            _require(rows, pc.equal(rows["c_in"], rows["c_out"]), "c_in", "equal to c_out")
            _require_key(rows, _text(rows, f"{kind}@", "c_in", "x", "input_size"))
        case "network":
            _check_networks(rows, meta.backbones)


def _text(rows: pa.Table, *pieces: str) -> Any:
    """For each row a text of these pieces, which are names of columns or stand for themselves."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = [rows[piece].cast(pa.string()) if piece in rows.column_names else pa.scalar(piece) for piece in pieces]
    return pc.binary_join_element_wise(*texts, "")


def _require_key(rows: pa.Table, *allowed: Any) -> None:
    """The key must be one of these, of each row, which follow from its other columns."""
    import pyarrow.compute as pc

    good = pc.equal(rows["key"], allowed[0])
    for other in allowed[1:]:
        good = pc.or_kleene(good, pc.equal(rows["key"], other))
    _require(rows, good, "key", "what the other columns make of it, such as " + _first_other(allowed[0], good))


def _first_other(expected: Any, good: Any) -> str:
    import pyarrow.compute as pc

    number = pc.index(pc.fill_null(good, False), False).as_py()
    return shown(expected[number].as_py()) if number >= 0 else ""


def _check_paths(rows: pa.Table, prefix: str) -> None:
    import pyarrow.compute as pc

    simple, complex_ = (
        _text(rows, "K", "kernel", "G", "groups"),
        _text(rows, "K", "kernel", "E", "expansion", "G", "groups"),
    )
    path = pc.coalesce(complex_, simple)  # without an expansion there is no text
    _require(rows, pc.equal(rows["path"], path), "path", "what kernel, expansion and groups make of it")
    site = ("@", "c_in", "-", "c_out", "s", "stride", "x", "input_size")
    shuffled = pc.and_(pc.is_valid(rows["expansion"]), pc.greater(rows["groups"], 1))
    plain_key = _text(rows, prefix, "path", *site)
    shuffled_key = pc.if_else(shuffled, _text(rows, prefix, "path", "S", *site), plain_key)
    _require_key(rows, plain_key, shuffled_key)


def _check_networks(rows: pa.Table, backbones: tuple[Backbone, ...]) -> None:
    """Each must be one of the backbones that the metadata name, with a block or Skip at each of its sites."""
    import pyarrow.compute as pc

    keys = pc.extract_regex(rows["key"], r"(?s)^(?P<blocks>[^@]*)@(?P<network>.*)$")
    blocks, networks = pc.struct_field(keys, "blocks"), pc.struct_field(keys, "network")
    known = {NetworkPart(backbone, ()).key.partition("@")[2]: backbone for backbone in backbones}
    _require(rows, _among(networks, known), "key", "of a network on one of the metadata's backbones")
    for name, backbone in known.items():
        here = pc.equal(networks, name)
        ours = rows.filter(here)
        if not len(ours):
            continue
        place = {"c_in": IMAGE_CHANNELS, "c_out": backbone.classes, "input_size": backbone.input_size}
        for column, value in place.items():
            _require(ours, pc.equal(ours[column], value), column, f"{value}, as its backbone says")
        _require_blocks(ours, pc.split_pattern(pc.filter(blocks, here), ","), backbone)


def _require_blocks(rows: pa.Table, blocks: Any, backbone: Backbone) -> None:
    import pyarrow.compute as pc

    sites = backbone.sites
    good = pc.equal(pc.list_value_length(blocks), len(sites))
    _require(rows, good, "key", f"of a network of {len(sites)} blocks")
    flat = pc.list_flatten(blocks)
    shape = (len(rows), len(sites))
    are_blocks = _among(flat, list(_blocks(pc.unique(flat).to_pylist()))).to_numpy().reshape(shape)
    skipped = pc.equal(flat, "skip").to_numpy().reshape(shape)
    may_skip = np.array([site.is_residual for site in sites])
    good = np.where(skipped, may_skip, are_blocks).all(axis=1)
    _require(rows, good, "key", "of a network with a block at each site, or skip where the shape stays")


def _blocks(texts: list[str]) -> Iterator[str]:
    """Those that are blocks as bpnas writes them."""
    for text in texts:
        try:
            if str(Block.parse(text)) == text:
                yield text
        except BlockError:
            pass
