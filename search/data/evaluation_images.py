"""Which images an accuracy is of: no accuracy is printed or written without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bpnas.base.errors import UsageError
from bpnas.search.data.sources import Source
from bpnas.search.fields import FieldError, Fields

if TYPE_CHECKING:
    from bpnas.search.data.dataset import Dataset

HELD_OUT = "held-out training"
"""The images of a training set that a search keeps for evaluating candidates; as `EvaluationImages.split`."""

_MOST_PIXELS = 65536


@dataclass(frozen=True, slots=True)
class EvaluationImages:
    """Images that an accuracy was measured on. As a text: `360 test images of digits at 32 px`.

    Attributes:
        data: the source, with an absolute path (see `Source`).
        split: which part of it: `test`, `validation` or `HELD_OUT`.
        images: how many.
        input_size: height and width that they were scaled to, in pixels.
    """

    data: str
    split: str
    images: int
    input_size: int

    @classmethod
    def test(cls, dataset: Dataset, images: int | None) -> EvaluationImages:
        """The first `images` test images of `dataset`; all for None."""
        count = len(dataset.test.first(images))
        return cls(Source.parse(dataset.source).absolute, dataset.test_name, count, dataset.input_size)

    @classmethod
    def held_out(cls, data: str, images: int, input_size: int) -> EvaluationImages | None:
        """`images` images of the training set of `data`; None where 0 says that the number is not known."""
        return cls(Source.parse(data).absolute, HELD_OUT, images, input_size) if images else None

    @classmethod
    def read(cls, fields: Fields, name: str) -> EvaluationImages | None:
        """The field `name`, as `asdict` writes it; None where a file of an earlier bpnas has none.

        Raises:
            FieldError: it is damaged.
        """
        if not fields.has(name):
            return None
        part = fields.part(name)
        data = part.text("data")
        try:
            Source.parse(data)
        except UsageError as error:
            raise FieldError(f"'{name}.data': {error}") from error
        return cls(data, part.text("split"), part.whole("images", 1), part.whole("input_size", 1, _MOST_PIXELS))

    def __str__(self) -> str:
        return f"{self.images:,} {self.split} images of {Source.parse(self.data).title} at {self.input_size} px"


def on_images(images: EvaluationImages | Mapping[str, Any] | None) -> str:
    """What follows an accuracy in a sentence; a run of an earlier bpnas did not keep which images they were."""
    if images is None:
        return "on images that an earlier bpnas did not note"
    return f"on {images if isinstance(images, EvaluationImages) else EvaluationImages(**images)}"
