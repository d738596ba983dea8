"""What a table says about the models that predict a network from its entries: how far off each is, and the default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bpnas.tables.additivity.accuracy import Accuracy

MODEL_NAMES = ("sum", "sum+joins", "context", "corrected")
"""From the simplest to the one that is fitted; see `additivity`."""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model at one input size.

    Attributes:
        name: one of `MODEL_NAMES`.
        input_size: of the images, in pixels.
        error: on whole networks that the model has not seen; None where it cannot be used.
        coefficients: of a fitted model, by term (see `additivity.UNITS`).
        unavailable: why it cannot be used; empty if it can.
    """

    name: str
    input_size: int
    error: Accuracy | None = None
    coefficients: tuple[tuple[str, float], ...] = ()
    unavailable: str = ""


@dataclass(frozen=True, slots=True)
class TableModels:
    """All models of a table.

    Attributes:
        default: the model that is used where no other one is asked for.
        reason: why this one, in a few words.
        records: one per model and input size; empty where no whole networks were measured.
    """

    default: str = "sum"
    reason: str = "no whole networks were measured"
    records: tuple[ModelRecord, ...] = ()

    def find(self, name: str, input_size: int) -> ModelRecord | None:
        """The record of a model at an input size, if there is one."""
        return next((r for r in self.records if (r.name, r.input_size) == (name, input_size)), None)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON; every coefficient is next to its unit."""
        from bpnas.tables.additivity.models import UNITS

        return {
            "default": self.default,
            "reason": self.reason,
            "records": [
                asdict(r) | {"coefficients": {t: {"value": value, "unit": UNITS[t]} for t, value in r.coefficients}}
                for r in self.records
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TableModels:
        """The inverse of `to_dict`; raises KeyError or TypeError on anything else."""
        return cls(values["default"], values["reason"], tuple(_record(fields) for fields in values["records"]))


def _record(fields: Mapping[str, Any]) -> ModelRecord:
    from bpnas.tables.additivity.models import UNITS

    error, coefficients = fields["error"], fields["coefficients"]
    return ModelRecord(
        name=fields["name"],
        input_size=fields["input_size"],
        error=None if error is None else Accuracy(**error),
        coefficients=tuple((term, coefficients[term]["value"]) for term in UNITS if term in coefficients),
        unavailable=fields["unavailable"],
    )
