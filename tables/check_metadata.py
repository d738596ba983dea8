"""Whether a table's metadata are what `TableMeta.to_dict` writes: every field, its type, its range, no contradiction.

The hash of a table tells that nobody changed it, not that the one who wrote it was right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any, get_args

from bpnas.android_bench.device import DeviceInfo
from bpnas.android_bench.measurement import RunSettings
from bpnas.base.errors import UsageError
from bpnas.base.fields import LONGEST_TEXT, is_utf8
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.campaign.session import Statistic
from bpnas.profiler.paths import all_paths
from bpnas.tables.additivity.model_record import MODEL_NAMES
from bpnas.tables.errors import ViolationError, in_short, shown

PER_INPUT_SIZE = ("input_size", "stem_stride", "classes")
"""What may differ between the backbones of one table."""

_MOST_BACKBONES = 1_000
_MOST_MISSING = 10_000_000
_LARGEST = 1e12  # of any number
_ROUNDING = 1e-9  # a correlation of 1.0000000000000002 is one

_Check = Callable[[str, Any], None]
"""Takes the name of a field and its value; raises ViolationError."""


def check_metadata(values: Any) -> None:
    """Refuse metadata that are not of this schema version's form; the version itself is the caller's to look at.

    Raises:
        ViolationError: it names the field, and says what it must be.
    """
    _METADATA("", values)
    _check_settings(values["settings"])
    backbones = [_backbone(f"backbones[{number}]", value) for number, value in enumerate(values["backbones"])]
    _check_backbones(backbones)
    imported = "imported" in values
    if values["mock"] != values["device"]["mock"]:
        raise _wrong("mock", f"{values['device']['mock']}, as device.mock says", values["mock"])
    if imported and values["mock"]:
        raise _wrong("mock", "False in an imported table", True)
    if imported != (values["settings"] is None):
        must = "null in an imported table" if imported else "an object in a table that is not imported"
        raise _wrong("settings", must, values["settings"])
    records = values.get("models", {}).get("records", ())
    sizes = {backbone.input_size for backbone in backbones}
    for number, record in enumerate(records):
        if record["input_size"] not in sizes:
            raise _wrong(f"models.records[{number}].input_size", "that of a backbone", record["input_size"])
    if len({(record["name"], record["input_size"]) for record in records}) < len(records):
        raise ViolationError("metadata field models.records: a model is there twice at one input size")


def _check_settings(value: Any) -> None:
    if value is not None:
        _object({field.name: _anything for field in fields(RunSettings)})("settings", value)
        try:
            RunSettings(**value)
        except UsageError as error:
            raise ViolationError(f"metadata field settings: {in_short(error)}") from error


def _backbone(field: str, value: Any) -> Backbone:
    try:
        backbone = Backbone.from_dict(value)
    except UsageError as error:
        raise ViolationError(f"metadata field {field}: {in_short(error)}") from error
    _text(f"{field}.name", backbone.name)
    return backbone


def _check_backbones(backbones: list[Backbone]) -> None:
    for field in fields(Backbone):
        if field.name not in PER_INPUT_SIZE and len({getattr(one, field.name) for one in backbones}) > 1:
            raise ViolationError(f"metadata field backbones: they differ in {field.name}, and a table has one backbone")
    if len({(one.input_size, one.classes) for one in backbones}) < len(backbones):
        raise ViolationError("metadata field backbones: two have the same input_size and classes")


# What a field may be. Each takes its name, and its value as JSON gives it.


def _wrong(field: str, must: str, value: Any) -> ViolationError:
    return ViolationError(
        f"metadata field {field}: must be {must}, not {shown(value)}" if field else f"metadata: {must}"
    )


def _anything(field: str, value: Any) -> None:
    """For what another check looks at."""


def _any_text(field: str, value: Any) -> None:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise _wrong(field, f"a text of at most {LONGEST_TEXT:,} characters", value)


def _text(field: str, value: Any) -> None:
    """One line. A phone says of itself what it likes, so what is not printable is shown escaped, not refused."""
    _any_text(field, value)
    if len(value.splitlines()) > 1:
        raise _wrong(field, "a text of one line", value)
    if not is_utf8(value):
        raise _wrong(field, "a text that UTF-8 can hold", value)


def _matching(pattern: str, must: str) -> _Check:
    def check(field: str, value: Any) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
            raise _wrong(field, must, value)

    return check


def _one_of(known: Collection[str], what: str) -> _Check:
    def check(field: str, value: Any) -> None:
        if not isinstance(value, str) or value not in known:
            raise _wrong(field, what, value)

    return check


def _truth(field: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise _wrong(field, "true or false", value)


def _whole(low: int, high: int) -> _Check:
    def check(field: str, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _wrong(field, f"a whole number from {low} to {high}", value)

    return check


def _number(low: float = -_LARGEST, high: float = _LARGEST) -> _Check:
    """Not NaN and not infinite, which are in no range."""

    def check(field: str, value: Any) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise _wrong(field, f"a number from {low:g} to {high:g}", value)

    return check


def _null_or(check_value: _Check) -> _Check:
    def check(field: str, value: Any) -> None:
        if value is not None:
            check_value(field, value)

    return check


def _list(each: _Check, most: int, least: int = 0, distinct: bool = False) -> _Check:
    def check(field: str, value: Any) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise _wrong(field, f"a list of {least} to {most:,} values", value)
        for number, one in enumerate(value):
            each(f"{field}[{number}]", one)
        if distinct and len(set(value)) < len(value):
            raise ViolationError(f"metadata field {field}: it has a value twice")

    return check


def _object(required: Mapping[str, _Check], optional: Mapping[str, _Check] = {}) -> _Check:
    def check(field: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise _wrong(field, "an object of fields", value)
        prefix = f"{field}." if field else ""
        for name in required:
            if name not in value:
                raise ViolationError(f"metadata field {prefix}{name}: is missing")
        for name, one in value.items():
            found = required.get(name) or optional.get(name)
            if found is None:
                raise ViolationError(f"metadata field {shown(prefix + name)}: is none that this bpnas knows")
            found(f"{prefix}{name}", one)

    return check


def _coefficients(field: str, value: Any) -> None:
    """All of them of a fitted model; none of the others."""
    from bpnas.tables.additivity.models import UNITS

    units = {term: _object({"value": _number(), "unit": _one_of([unit], unit)}) for term, unit in UNITS.items()}
    _object(units if value else {})(field, value)


_SHARE = _number(0.0, 1.0)
_CORRELATION = _null_or(_number(-1.0 - _ROUNDING, 1.0 + _ROUNDING))
_SHA256 = _matching(r"[0-9a-f]{64}", "a SHA-256 in hexadecimal")

_ACCURACY = _object(
    {
        "networks": _whole(1, 2**31 - 1),
        "within_5": _SHARE,
        "within_10": _SHARE,
        "mape": _number(0.0),
        "bias": _number(),
        "spearman": _CORRELATION,
        "kendall": _CORRELATION,
    }
)
_RECORD = _object(
    {
        "name": _one_of(MODEL_NAMES, f"one of {', '.join(MODEL_NAMES)}"),
        "input_size": _whole(1, 4096),
        "error": _null_or(_ACCURACY),
        "coefficients": _coefficients,
        "unavailable": _text,
    }
)
_MODELS = _object(
    {
        "default": _one_of(MODEL_NAMES, f"one of {', '.join(MODEL_NAMES)}"),
        "reason": _text,
        "records": _list(_RECORD, most=_MOST_BACKBONES * len(MODEL_NAMES)),
    }
)
_TEXTS_OF_DEVICE = {field.name: _text for field in fields(DeviceInfo) if field.name not in ("name", "mock", "affinity")}
_NAME = _matching(r"[^\n\r]{1,255}", "a name of 1 to 255 characters")
_DEVICE = _object({"name": _NAME, "mock": _truth, **_TEXTS_OF_DEVICE}, {"affinity": _text})
_PATHS = frozenset(map(str, all_paths()))
# The name of a file, or the heading of a column, is anything that its author liked.
_IMPORTED = _object({"reader": _text, "file": _any_text, "sha256": _SHA256, "column": _any_text})
_METADATA = _object(
    {
        "schema_version": _anything,
        "mock": _truth,
        "device": _DEVICE,
        "settings": _anything,
        "export_version": _whole(0, 2**31 - 1),
        "backbones": _list(_anything, least=1, most=_MOST_BACKBONES),
        "paths": _list(_one_of(_PATHS, "the name of a path, as K3G1 or K3E6G1"), most=len(_PATHS), distinct=True),
        "missing": _list(_text, most=_MOST_MISSING, distinct=True),
    },
    {
        "models": _MODELS,
        "statistic": _one_of(get_args(Statistic), " or ".join(get_args(Statistic))),
        "imported": _IMPORTED,
    },
)
