"""What may stand in a JSON file in place of what belongs there: every field in turn, with every hostile value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

PLAIN = {
    "list": "[]",
    "text": '"x"',
    "true": "true",
    "megabyte": f'"{"x" * 2**20}"',
    "negative": "-1",
    "fraction": "0.3",
    "large": "1" + "0" * 400,
    "very large": "1" + "0" * 5000,
    "infinite": "1e400",
    "deep": "[" * 2000 + "]" * 2000,
}
"""As text in JSON and in TOML, by name."""

HOSTILE = {
    **PLAIN,
    "null": "null",
    "object": "{}",
    "surrogate": '"\\ud800"',
    "Infinity": "-Infinity",
    "NaN": "NaN",
    "very deep": '{"a":' * 200_000,
    "twice": '{"a": 1, "a": 2}',
}
"""JSON as text, by name; some of them are none."""

_MARK = "mark-of-the-field"


def every_field(values: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The place and the content of every field, list entries among them; of several entries alike, the first."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield (name,), value
            yield from (((name, *place), inner) for place, inner in every_field(value))
    elif isinstance(values, list) and values:
        yield (0,), values[0]
        yield from (((0, *place), inner) for place, inner in every_field(values[0]))


def with_text(values: Any, place: tuple[str | int, ...], text: str) -> str:
    """The JSON text of `values` with `text` at this place."""
    return json.dumps(_put(values, place)).replace(json.dumps(_MARK), text)


def without(values: Any, place: tuple[str | int, ...]) -> str:
    """The JSON text of `values` without this field."""
    *way, last = place
    copy = json.loads(json.dumps(values))
    inner = copy
    for name in way:
        inner = inner[name]
    del inner[last]
    return json.dumps(copy)


def _put(values: Any, place: tuple[str | int, ...]) -> Any:
    if not place:
        return _MARK
    name, *rest = place
    copy = dict(values) if isinstance(values, dict) else list(values)
    copy[name] = _put(copy[name], tuple(rest))  # type: ignore[index, call-overload]
    return copy


def kind(value: Any) -> str:
    """Fields of one kind may hold each other's values: null, true, list, object, text or number."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return {list: "list", dict: "object", str: "text"}.get(type(value), "number")


def fits(name: str, value: Any) -> bool:
    """Whether a hostile value is of the kind of what belongs there, so that it may be taken."""
    return {"true": isinstance(value, bool), "list": value == [], "text": isinstance(value, str)}.get(
        name, name == "object" and value == {}
    )
