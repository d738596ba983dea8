"""Heads of any number of classes, from a few that were measured.

A head is a convolution and a pool, which do not depend on the classes, and a linear layer, whose multiply-adds and
weights are proportional to them. So the latency between two measured heads is interpolated linearly [ours]; beyond the
largest the line goes on, below the smallest it is that of the smallest. What was computed so is marked wherever it is
shown.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bpnas.base.plurals import counted
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.paths import HeadPart, head_part


@dataclass(frozen=True, slots=True)
class HeadLatency:
    """Latency of a head.

    Attributes:
        classes: of it.
        latency_ms: of it.
        measured_classes: of the measured heads that the latency was interpolated from; () where it was measured itself.
    """

    classes: int
    latency_ms: float
    measured_classes: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """For people: which head it is, and where its latency comes from if it was not measured."""
        return head_text(self.classes, self.measured_classes)

    @property
    def note(self) -> str:
        """The same if it was not measured, else nothing."""
        return self.text if self.measured_classes else ""

    @property
    def facts(self) -> dict[str, list[int]]:
        """What a file says of latencies with this head: from which ones it was interpolated; nothing if it was not."""
        return {"head_interpolated_from": list(self.measured_classes)} if self.measured_classes else {}


def head_text(classes: int, measured_classes: Sequence[int] = ()) -> str:
    """For people: with which head a latency is, and from which ones that was interpolated if it was not measured."""
    measured = " and ".join(f"{count:,}" for count in measured_classes)
    origin = f" that is interpolated from {measured}" if measured else ""
    return f"with a head of {counted(classes, 'class', 'classes')}{origin}"


def measured_heads(keys: Iterable[str], head: HeadPart) -> dict[int, str]:
    """Keys of the heads that differ from this one in nothing but the number of classes, by that number, ascending."""
    before, behind = f"head@{head.c_in}-{head.channels}-", f"x{head.input_size}"
    classes = (key[len(before) : -len(behind)] for key in keys if key.startswith(before) and key.endswith(behind))
    return {count: f"{before}{count}{behind}" for count in sorted(map(int, classes))}


def heads_by_size(keys: Collection[str], backbones: Iterable[Backbone]) -> dict[int, tuple[int, ...]]:
    """The numbers of classes of all heads of these backbones that have an entry, ascending, by input size.

    Args:
        keys: of the entries.
    """
    return {each.input_size: tuple(measured_heads(keys, head_part(each))) for each in backbones}


def heads_text(heads: Mapping[int, Sequence[int]]) -> str:
    """Such heads for people; sizes without any are left out."""
    listed = (
        f"{', '.join(f'{count:,}' for count in found)} classes at {size}" for size, found in heads.items() if found
    )
    return "; ".join(listed) or "none"


def interpolated(head: HeadPart, measured_ms: Mapping[int, float]) -> HeadLatency | None:
    """The latency of a head from those of two others; None if there are not two.

    Args:
        measured_ms: latencies in ms by number of classes, in ascending order.
    """
    counts = list(measured_ms)
    if len(counts) < 2:
        return None
    if head.classes < counts[0]:
        return HeadLatency(head.classes, measured_ms[counts[0]], (counts[0],))
    upper = min(bisect_left(counts, head.classes), len(counts) - 1)
    low, high = counts[upper - 1], counts[upper]
    slope = (measured_ms[high] - measured_ms[low]) / (high - low)
    if head.classes > high:  # where it was measured as falling, that is noise, which must not go on
        slope = max(slope, 0.0)
    return HeadLatency(head.classes, measured_ms[high] + slope * (head.classes - high), (low, high))
