"""Latency tables of FBNet's blocks as CSV, in the way of those that were made from HW-NAS-Bench: a row per layer and
operator, a column of milliseconds per device::

    layer,h_in,c_in,c_out,stride,op,pixel3_ms,raspi4_ms
    1,32,16,24,1,k3_e6,1.372,2.111
    1,32,16,24,1,k3_e1_g2,0.376,0.732

`op` is kernel, expansion and, if there are any, groups. FBNet's block (Wu et al., "FBNet", section 3.1 and figure 3)
is a 1x1 convolution, also at expansion 1, a depthwise one and another 1x1; with groups, channels are shuffled behind
the first; where input and output have one shape, the input is added.

So a row is a complex path of ours if its shapes differ; where they do not, the time of the addition is in it. A column
whose name ends in `_minus_skip` holds differences to the layer's Skip, which are no latencies of anything: where the
shape changes, Skip is an operator that changes it, and where it does not, the addition is still in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bpnas.base.errors import UsageError
from bpnas.base.plurals import counted
from bpnas.profiler.backbone import Site
from bpnas.profiler.block import EXPANSIONS, GROUPS, KERNELS, ComplexPath
from bpnas.profiler.paths import PathPart
from bpnas.tables.errors import TableError
from bpnas.tables.readers.csv_form import CsvForm
from bpnas.tables.readers.reader import MOST_SIZE, ReadRow, milliseconds, number, whole_number

_FIXED = ("layer", "h_in", "c_in", "c_out", "stride", "op")
_OPERATOR = re.compile(r"k(\d{1,4})_e(\d{1,4})(?:_g(\d{1,4}))?", re.ASCII)
_MOST_OF_THEM = 4
_INDEX = ("", "Unnamed: 0", "index")
_DIFFERENCE = "_minus_skip"


class FbnetCsv:
    """See the module."""

    name = "fbnet-csv"

    def can_read(self, path: Path) -> bool:
        """Whether the first line names most of the columns of such a table."""
        try:
            names = CsvForm.of(path).names
        except (OSError, TableError):
            return False
        return len(set(_FIXED) & set(names)) >= _MOST_OF_THEM

    def read(self, path: Path, column: str | None = None) -> Iterator[ReadRow]:
        """All rows of one column.

        Raises:
            TableError: the file cannot be read, its lines do not have the columns that the first one names, a row is
                there twice, or a value is no latency.
            UsageError: there is no such column, or several and none was named.
        """
        try:
            form = CsvForm.of(path)
            chosen = _choose(path, form, column)
            seen: dict[tuple[str, ...], int] = {}
            for row, values in form.rows():
                line = _fields(path, row, form.names, values)
                first = seen.setdefault(tuple(line[name] for name in _FIXED), row)
                if first != row:
                    what = f"layer {line['layer'][:40]!r} with op {line['op'][:40]!r}"
                    raise TableError(f"{path}: line {row}: {what} is already on line {first}; remove one of the two")
                yield _row(path, row, line, chosen)
        except UnicodeDecodeError as error:
            raise TableError(f"{path}: its text is not UTF-8 ({error.reason}); save it as CSV in UTF-8") from error
        except OSError as error:
            raise TableError(f"{path}: cannot be read ({error.strerror}); check the name") from error


def _fields(path: Path, row: int, names: Sequence[str], values: list[str]) -> dict[str, str]:
    columns = f"the first line names {counted(len(names), 'column')}"
    found = f"{path}: line {row}: has {counted(len(values), 'field')}, but {columns}"
    if len(values) > len(names):
        raise TableError(f"{found}; write decimals with a point, as in 1.25, and put texts with commas in quotes")
    if len(values) < len(names):
        raise TableError(f"{found}, so that column {names[len(values)]!r} has none; complete that line, or remove it")
    return dict(zip(names, values, strict=True))


def _choose(path: Path, form: CsvForm, column: str | None) -> str:
    names, first = form.names, f"{path}: line {form.first_line}"
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{first}: names the column {name!r} {names.count(name)} times; rename one of them")
    absent = [name for name in _FIXED if name not in names]
    if absent:
        raise TableError(f"{first}: names no column {', '.join(absent)}; there must be {', '.join(_FIXED)}")
    # pandas and spreadsheets put the number of the row in front, into a column without a name of its own.
    devices = [name for name in names if name not in _FIXED and name not in _INDEX]
    if not devices:
        raise TableError(f"{first}: names no column of latencies, such as pixel3_ms")
    if column is None and len(devices) == 1:
        column = devices[0]
    if column is None:
        raise UsageError(f"{path}: holds several devices; choose a column with --column ({', '.join(devices)})")
    if column not in devices:
        raise UsageError(f"{path}: no column of latencies is called {column!r}; there are {', '.join(devices)}")
    if not re.search(r"_ms(_|$)", column):
        raise UsageError(
            f"{path}: column {column!r} does not say that it is in milliseconds; its name must end in '_ms'"
        )
    return column


def _row(path: Path, row: int, line: Mapping[str, str], column: str) -> ReadRow:
    name = f"line {row} ({line['layer'][:40]}, {line['op'][:40]})"
    place, value = f"line {row}, column {column!r}", line[column]
    part = _part(path, row, line)
    if column.endswith(_DIFFERENCE):
        reason = part if isinstance(part, str) else f"a difference to its layer's Skip, not a latency ({column})"
        return ReadRow(name, None, number(path, place, value), reason)
    if isinstance(part, str):  # a Skip takes no time
        return ReadRow(name, None, milliseconds(path, place, value, may_be_zero=True), part)
    return ReadRow(name, part, milliseconds(path, place, value))


def _part(path: Path, row: int, line: Mapping[str, str]) -> PathPart | str:
    """The path that an operator is, or why there is none."""
    operator = _OPERATOR.fullmatch(line["op"])
    if operator is None:
        return "no block of kernel and expansion"
    kernel, expansion, groups = (int(digits) for digits in operator.groups("1"))
    c_in, c_out, stride, size = (
        whole_number(path, f"line {row}, column {name!r}", line[name], 1, MOST_SIZE)
        for name in ("c_in", "c_out", "stride", "h_in")
    )
    if kernel not in KERNELS or expansion not in EXPANSIONS or groups not in GROUPS:
        return "with a kernel, expansion or number of groups that no path has"
    if stride not in (1, 2):
        return "a stride other than 1 and 2"
    site = Site(c_in, c_out, stride, size)
    if site.is_residual:
        return "with the identity's addition in it, which a path is timed without"
    return PathPart(ComplexPath(kernel, groups, expansion), site, channel_shuffle=groups > 1)
