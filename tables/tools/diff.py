"""Two tables, entry by entry: of two devices, two versions of an operating system, two runtimes, two dates.

An entry counts as changed where its two 95 % confidence intervals do not meet and its p-value, adjusted for the number
of entries by Benjamini and Hochberg's procedure ("Controlling the False Discovery Rate", 1995), is 0.05 at most. The
p-value is that of a two-sided t-test with sessions - 2 degrees of freedom, those of both tables together; the standard
errors are taken from the intervals, as if sessions were normally distributed and independent. An entry without an
interval in both tables is undecided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from bpnas.tables.build import name_some
from bpnas.tables.errors import TableError
from bpnas.tables.heads import heads_by_size
from bpnas.tables.latency_table import to_pandas
from bpnas.tables.schema import read_table
from bpnas.tables.table_meta import TableMeta
from bpnas.tables.tools.comparable import device_differences, settings_differences, source_differences

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["slower", "faster", "within noise", "undecided"]

FALSE_DISCOVERY_RATE = 0.05
"""At most this share of the entries called changed is expected to be called so wrongly."""

# Standard error of a median of n normal values over the expected width of its interval, which of so few runs from the
# smallest to the largest: H. A. David and H. N. Nagaraja, Order Statistics (2003), tables of moments.
_ERROR_OF_WIDTH = {2: 0.7071 / 1.1284, 3: 0.6698 / 1.6926, 4: 0.5458 / 2.0588, 5: 0.5356 / 2.3259}
_ERROR_OF_WIDTH_OF_MANY = 1 / (2 * 1.96)
_NAMED = 3


@dataclass(frozen=True, slots=True)
class EntryDiff:
    """One entry that both tables have.

    Attributes:
        key, kind, kernel: of the entry; `kernel` is None where it is no path.
        a_ms, b_ms: latencies.
        ratio: b over a.
        q: adjusted p-value; None where a table has no interval.
        verdict: `slower` and `faster` say how b is.
    """

    key: str
    kind: str
    kernel: int | None
    a_ms: float
    b_ms: float
    ratio: float
    q: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class GroupDiff:
    """What the entries of a group have in common.

    Attributes:
        name: `all`, a kind, or a kernel size of paths.
        entries: how many.
        median, p10, p90: of their ratios.
        slower, faster, within_noise, undecided: how many of each verdict.
    """

    name: str
    entries: int
    median: float
    p10: float
    p90: float
    slower: int
    faster: int
    within_noise: int
    undecided: int


@dataclass(frozen=True, slots=True)
class TableDiff:
    """The comparison of table b with table a.

    Attributes:
        a, b: files.
        a_meta, b_meta: their metadata.
        different: fields in which device, runtime, settings or source differ, as `os: A | B`.
        forced: those of `different` that make the comparison one of different things, where that was asked for.
        entries: changed ones first, then by size of the change.
        groups: all entries, then by kind, then paths by kernel size.
        spearman, kendall: rank correlations of the latencies; None where fewer than three entries are there, or one
            table's are all equal.
        only_a, only_b: keys that only one has.
        heads_a, heads_b: the numbers of classes of the heads that only one has, by input size.
    """

    a: Path
    b: Path
    a_meta: TableMeta
    b_meta: TableMeta
    different: tuple[str, ...]
    forced: tuple[str, ...]
    entries: tuple[EntryDiff, ...]
    groups: tuple[GroupDiff, ...]
    spearman: float | None
    kendall: float | None
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    heads_a: dict[int, tuple[int, ...]]
    heads_b: dict[int, tuple[int, ...]]


def diff_tables(a: Path, b: Path, force: bool = False) -> TableDiff:
    """Compare two tables.

    Args:
        a, b: the files; ratios are b's latencies over a's.
        force: compare also what was run with different settings or model files.

    Raises:
        TableError: a file is no good table, they have no entry in common, or settings or model files differ and
            `force` is false.
    """
    (a_table, a_meta, _), (b_table, b_meta, _) = read_table(a), read_table(b)
    metas = (a_meta, b_meta)
    forced = tuple(settings_differences(metas))
    if forced and not force:
        raise TableError(
            f"{a} and {b}: run with different settings or model files ({'; '.join(forced[:_NAMED])}), so a difference "
            "would not be one of devices; --force compares them all the same"
        )
    one, other = (to_pandas(table).set_index("key").sort_index() for table in (a_table, b_table))
    common = one.index.intersection(other.index)
    if common.empty:
        raise TableError(
            f"{a} and {b}: no entry in common ({name_some(list(one.index[:1]))} | {name_some(list(other.index[:1]))}); "
            "tables are compared where they have the same paths at the same sites"
        )
    backbones = (*a_meta.backbones, *b_meta.backbones)
    heads_a, heads_b = (heads_by_size(each.index.tolist(), backbones) for each in (one, other))
    entries = _entries(one.loc[common], other.loc[common])
    return TableDiff(
        a=a,
        b=b,
        a_meta=a_meta,
        b_meta=b_meta,
        different=(*device_differences(metas), *forced, *source_differences(metas)),
        forced=forced,
        entries=tuple(sorted(entries, key=_rank)),
        groups=tuple(_groups(entries)),
        **_correlations(one.loc[common, "latency_ms"].to_numpy(), other.loc[common, "latency_ms"].to_numpy()),
        only_a=tuple(one.index.difference(other.index)),
        only_b=tuple(other.index.difference(one.index)),
        heads_a=_without(heads_a, heads_b),
        heads_b=_without(heads_b, heads_a),
    )


def _without(heads: Mapping[int, Sequence[int]], others: Mapping[int, Sequence[int]]) -> dict[int, tuple[int, ...]]:
    left = {size: tuple(one for one in found if one not in others[size]) for size, found in heads.items()}
    return {size: found for size, found in left.items() if found}


def _rank(entry: EntryDiff) -> tuple[bool, float, str]:
    return entry.verdict not in ("slower", "faster"), -abs(np.log(entry.ratio)), entry.key


def _entries(one: pd.DataFrame, other: pd.DataFrame) -> list[EntryDiff]:
    import pandas as pd

    difference_ms = (other["latency_ms"] - one["latency_ms"]).tolist()
    apart = ((one["high_ms"] < other["low_ms"]) | (other["high_ms"] < one["low_ms"])).tolist()
    kernels = [None if kernel is pd.NA else kernel for kernel in one["kernel"].tolist()]
    columns = (one["kind"].tolist(), kernels, one["latency_ms"].tolist(), other["latency_ms"].tolist())
    q = _adjusted_p(one, other).tolist()
    return [
        EntryDiff(key, kind, kernel, a_ms, b_ms, b_ms / a_ms, None if np.isnan(q) else q, _verdict(diff, apart, q))
        for key, kind, kernel, a_ms, b_ms, diff, apart, q in zip(
            one.index.tolist(), *columns, difference_ms, apart, q, strict=True
        )
    ]


def _verdict(difference_ms: float, apart: bool, q: float) -> Verdict:
    if np.isnan(q):
        return "undecided"
    if not apart or q > FALSE_DISCOVERY_RATE:
        return "within noise"
    return "slower" if difference_ms > 0 else "faster"


def _adjusted_p(one: pd.DataFrame, other: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Adjusted p-value of each entry; NaN where an interval is missing."""
    from scipy.stats import false_discovery_control
    from scipy.stats import t as student

    error = np.hypot(_standard_error(one), _standard_error(other))
    difference = np.abs((other["latency_ms"] - one["latency_ms"]).to_numpy(np.float64))
    # Where both intervals have no width, equal numbers are equal and others are not.
    t = np.divide(difference, error, out=np.where(difference > 0, np.inf, 0.0), where=error > 0)
    degrees = (one["sessions"] + other["sessions"] - 2).to_numpy(np.float64, na_value=np.inf)
    p = np.where(np.isnan(error), np.nan, 2 * student.sf(t, degrees))
    known = ~np.isnan(p)
    if known.any():
        p[known] = false_discovery_control(p[known], method="bh")
    return p


def _standard_error(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Standard error of each latency, in ms; NaN where the interval is missing."""
    factors = frame["sessions"].map(_ERROR_OF_WIDTH).astype("float64").fillna(_ERROR_OF_WIDTH_OF_MANY)
    width = (frame["high_ms"] - frame["low_ms"]).to_numpy(np.float64)
    return np.asarray(factors.to_numpy(np.float64) * width)


def _groups(entries: Sequence[EntryDiff]) -> Iterable[GroupDiff]:
    yield _group("all", entries)
    for kind in sorted({entry.kind for entry in entries}):
        yield _group(kind, [entry for entry in entries if entry.kind == kind])
    for kernel in sorted({entry.kernel for entry in entries if entry.kernel is not None}):
        yield _group(f"kernel {kernel}", [entry for entry in entries if entry.kernel == kernel])


def _group(name: str, entries: Sequence[EntryDiff]) -> GroupDiff:
    p10, median, p90 = np.percentile([entry.ratio for entry in entries], (10, 50, 90))
    verdicts = [entry.verdict for entry in entries]
    return GroupDiff(
        name=name,
        entries=len(entries),
        median=float(median),
        p10=float(p10),
        p90=float(p90),
        slower=verdicts.count("slower"),
        faster=verdicts.count("faster"),
        within_noise=verdicts.count("within noise"),
        undecided=verdicts.count("undecided"),
    )


def _correlations(a_ms: npt.NDArray[np.float64], b_ms: npt.NDArray[np.float64]) -> dict[str, float | None]:
    from scipy.stats import kendalltau, spearmanr

    if len(a_ms) < 3 or np.ptp(a_ms) == 0 or np.ptp(b_ms) == 0:
        return {"spearman": None, "kendall": None}
    return {
        "spearman": float(spearmanr(a_ms, b_ms).statistic),
        "kendall": float(kendalltau(a_ms, b_ms).statistic),
    }
