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

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from bpnas.android_bench.errors import UsageError
from bpnas.profiler.backbone import Site
from bpnas.profiler.block import EXPANSIONS, GROUPS, KERNELS, ComplexPath
from bpnas.profiler.paths import PathPart
from bpnas.tables.errors import TableError
from bpnas.tables.readers.reader import ReadRow, milliseconds

_FIXED = ("layer", "h_in", "c_in", "c_out", "stride", "op")
_OPERATOR = re.compile(r"k(\d+)_e(\d+)(?:_g(\d+))?", re.ASCII)
_DIFFERENCE = "_minus_skip"


class FbnetCsv:
    """See the module."""

    name = "fbnet-csv"

    def can_read(self, path: Path) -> bool:
        """Whether the first line names the columns of such a table."""
        try:
            with path.open("rb") as file:
                head = file.readline(4096).decode("utf-8", "ignore").strip().split(",")
        except OSError:
            return False
        return head[: len(_FIXED)] == list(_FIXED) and len(head) > len(_FIXED)

    def read(self, path: Path, column: str | None = None) -> Iterator[ReadRow]:
        """All rows of one column.

        Raises:
            TableError: the file cannot be read, or a value is no latency.
            UsageError: there is no such column, or several and none was named.
        """
        try:
            with path.open(encoding="utf-8", newline="") as file:
                lines = csv.DictReader(file)
                chosen = _choose(path, list(lines.fieldnames or ()), column)
                for line in lines:
                    yield _row(path, f"line {lines.line_num} ({line['layer']}, {line['op']})", line, chosen)
        except (csv.Error, UnicodeDecodeError) as error:
            raise TableError(f"{path}: no valid CSV ({error}); get the file again") from error
        except OSError as error:
            raise TableError(f"{path}: cannot be read ({error.strerror}); check the name") from error


def _choose(path: Path, names: list[str], column: str | None) -> str:
    devices = [name for name in names if name not in _FIXED]
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


def _row(path: Path, name: str, line: Mapping[str, str | None], column: str) -> ReadRow:
    latency_ms = milliseconds(path, f"{name}, {column}", line[column])
    part = _part(line)
    if isinstance(part, str):
        return ReadRow(name, None, latency_ms, part)
    if column.endswith(_DIFFERENCE):
        return ReadRow(name, None, latency_ms, f"a difference to its layer's Skip, not a latency ({column})")
    return ReadRow(name, part, latency_ms)


def _part(line: Mapping[str, str | None]) -> PathPart | str:
    """The path that an operator is, or why there is none."""
    operator = _OPERATOR.fullmatch(line["op"] or "")
    shape = [line[name] or "" for name in ("c_in", "c_out", "stride", "h_in")]
    if operator is None or not all(number.isdecimal() for number in shape):
        return "no block of kernel and expansion"
    kernel, expansion, groups = (int(number) for number in operator.groups("1"))
    if kernel not in KERNELS or expansion not in EXPANSIONS or groups not in GROUPS:
        return "with a kernel, expansion or number of groups that no path has"
    site = Site(*map(int, shape))
    if site.stride not in (1, 2):
        return "a stride other than 1 and 2"
    if site.is_residual:
        return "with the identity's addition in it, which a path is timed without"
    return PathPart(ComplexPath(kernel, groups, expansion), site, channel_shuffle=groups > 1)
