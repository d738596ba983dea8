"""What BP-NAS reports of its transfer tasks, to be set next to what a run gives (tables of the transfer section)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PaperFigures:
    """Figures of one task, all in percent.

    Attributes:
        data: what they are of.
        metrics: names, as result texts have them.
        rows: figures by network, one for each of `metrics`.
    """

    data: str
    metrics: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]


PAPER_FIGURES = {
    "detection": PaperFigures(
        "COCO minival",
        ("AP",),
        {
            "MobileNetV2 1.0": (31.8,),
            "BPN-A": (34.3,),
            "MobileNetV2 1.2": (34.1,),
            "BPN-B": (36.1,),
            "ResNet-50": (36.5,),
        },
    ),
    "face": PaperFigures(
        "MegaFace, 10^6 distractors",
        ("Rank-1",),
        {"MobileNetV2 1.0": (91.57,), "BPN-A": (92.40,), "MobileNetV2 1.2": (92.74,), "BPN-B": (93.87,)},
    ),
    "reid": PaperFigures(
        "Market-1501",
        ("Rank-1", "mAP"),
        {
            "MobileNetV2 1.0": (64.3, 42.3),
            "BPN-A": (67.2, 45.4),
            "MobileNetV2 1.2": (66.1, 44.8),
            "BPN-B": (67.4, 46.3),
        },
    ),
}


def paper_line(task: str) -> str:
    """The figures of a task in one line."""
    paper = PAPER_FIGURES[task]
    rows = "; ".join(f"{name} {' / '.join(f'{value:g}' for value in row)}" for name, row in paper.rows.items())
    return f"Paper, {paper.data}, {' / '.join(paper.metrics)} in %: {rows}"
