"""The fields of stored JSON, each checked for its type and range when it is taken out.

A hash says that a file is as it was written; it is not there in the files of an earlier bpnas, and says nothing of
those that a person or another program wrote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from bpnas.base.errors import BpnasError, UsageError
from bpnas.base.plain_text import shortened
from bpnas.base.plurals import entries
from bpnas.base.strict_json import kind_of, parsed

MOST_MS = 1e9
"""No latency is longer than days."""

_MOST_WHOLE = 2**63 - 1
LONGEST_TEXT = 10_000
"""Characters of a name or a note; more is no name."""


class FieldError(ValueError):
    """A field that is missing, or not of the type or range that bpnas writes; the message names it."""


@contextmanager
def fields_of(what: str | Callable[[], str], remedy: str, error: type[BpnasError]) -> Iterator[None]:
    """Turn what is wrong with fields into one sentence.

    Args:
        what: the beginning of the sentence, as `FILE: is no network of run-search`; or what gives it when it is needed.
        remedy: its end.
        error: what the sentence is raised as.

    Raises:
        BpnasError: `error`, of everything that reading fields raises.
    """
    try:
        yield
    except ValueError as fault:
        if not isinstance(fault, FieldError | UsageError):  # those of blocks and backbones are ValueErrors, too
            raise
        text = what if isinstance(what, str) else what()
        raise error(f"{text} ({shortened(str(fault), 240)}); {remedy}") from fault


@dataclass(frozen=True, slots=True)
class Fields:
    """One object of JSON.

    Attributes:
        values: the object.
        place: what comes before the names of its fields in messages, as `input.`.
    """

    values: Mapping[str, Any]
    place: str = ""

    @classmethod
    def of(cls, values: Any, name: str = "") -> Self:
        """The object called `name`, "" for a whole file or line.

        Raises:
            FieldError: it is no object.
        """
        if not isinstance(values, dict):
            what = f"'{name}'" if name else "it"
            raise FieldError(f"{what} must be an object, not {kind_of(values)}")
        return cls(values, f"{name}." if name else "")

    @classmethod
    def parse(cls, content: bytes | str, name: str = "") -> Self:
        """The object that a text is. Raises FieldError."""
        try:
            values = parsed(content)
        except ValueError as error:
            raise FieldError(f"'{name}': {error}" if name else str(error)) from error
        return cls.of(values, name)

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def only(self, *names: str) -> None:
        """Refuse other fields than these. Raises FieldError."""
        if not self.values.keys() <= (known := _set(names)):
            raise FieldError(f"{self._name(min(self.values.keys() - known))} is unknown")

    def exactly(self, required: Collection[str], optional: Collection[str] = ()) -> None:
        """Refuse other fields than these, and the lack of a required one. Raises FieldError."""
        for name in required:
            self._value(name)
        self.only(*required, *optional)

    def text(self, name: str, *, may_be_empty: bool = False) -> str:
        """A text that is not empty, unless that is allowed. Raises FieldError."""
        value = self._value(name)
        if not isinstance(value, str) or not (value or may_be_empty):
            raise self._wrong(name, "a text")
        if len(value) > LONGEST_TEXT:
            raise FieldError(f"{self._name(name)} must be a text of at most {LONGEST_TEXT:,} characters")
        return value

    def line(self, name: str) -> str:
        """A text of one line, maybe empty, that UTF-8 can hold. Raises FieldError."""
        value = self.text(name, may_be_empty=True)
        if len(value.splitlines()) > 1 or not is_utf8(value):
            raise self._wrong(name, "a text of one line that UTF-8 can hold")
        return value

    def flag(self, name: str) -> bool:
        """True or false. Raises FieldError."""
        value = self._value(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def whole(self, name: str, low: int = 0, high: int = _MOST_WHOLE) -> int:
        """A whole number from `low` to `high`. Raises FieldError."""
        value = self._value(name)
        if type(value) is not int or not low <= value <= high:
            most = "" if high >= _MOST_WHOLE else f" to {high}"
            raise self._wrong(name, f"a whole number from {low}{most}")
        return value

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number from `low` to `high`. Raises FieldError."""
        if (value := _number(self._value(name))) is None or not low <= value <= high:
            ends = "" if low == -math.inf else f" from {low:g}" + ("" if high == math.inf else f" to {high:g}")
            raise self._wrong(name, f"a number{ends}")
        return value

    def share(self, name: str) -> float:
        """A number from 0 to 1, as accuracies are. Raises FieldError."""
        return self.number(name, 0.0, 1.0)

    def latency(self, name: str) -> float:
        """Milliseconds, above 0. Raises FieldError."""
        value = _number(self._value(name))
        if value is None or not 0 < value <= MOST_MS:
            raise self._wrong(name, "a latency in ms, above 0")
        return value

    def items(self, name: str, count: int | None = None) -> list[Any]:
        """A list, of `count` if that is given. Raises FieldError."""
        value = self._value(name)
        if not isinstance(value, list | tuple):
            raise self._wrong(name, "a list")
        if count is not None and len(value) != count:
            raise FieldError(f"{self._name(name)} must have {entries(count)}, not {len(value)}")
        return list(value)

    def texts(self, name: str, count: int | None = None) -> list[str]:
        """A list of texts, none of them empty. Raises FieldError."""
        values = self.items(name, count)
        for number, value in enumerate(values):
            if not isinstance(value, str) or not value:
                raise FieldError(f"{self._name(name, number)} must be a text, not {kind_of(value)}")
            if len(value) > LONGEST_TEXT:
                raise FieldError(f"{self._name(name, number)} must be a text of at most {LONGEST_TEXT:,} characters")
        return values

    def numbers(self, name: str, count: int, low: float = -math.inf, high: float = math.inf) -> tuple[float, ...]:
        """`count` finite numbers from `low` to `high`. Raises FieldError."""
        found = []
        for number, value in enumerate(self.items(name, count)):
            if (checked := _number(value)) is None or not low <= checked <= high:
                ends = "" if low == -math.inf else f" from {low:g} to {high:g}"
                raise FieldError(f"{self._name(name, number)} must be a number{ends}, not {kind_of(value)}")
            found.append(checked)
        return tuple(found)

    def wholes(self, name: str, low: int = 0) -> list[int]:
        """A list of whole numbers of at least `low`. Raises FieldError."""
        values = self.items(name)
        for number, value in enumerate(values):
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= _MOST_WHOLE:
                found = kind_of(value)
                raise FieldError(f"{self._name(name, number)} must be a whole number from {low}, not {found}")
        return values

    def part(self, name: str) -> Self:
        """An object. Raises FieldError."""
        return self.of(self._value(name), self._name(name).strip("'"))

    def parts(self, name: str) -> list[Self]:
        """A list of objects. Raises FieldError."""
        return [self.of(value, self._name(name, number).strip("'")) for number, value in enumerate(self.items(name))]

    def named_parts(self, name: str) -> dict[str, Self]:
        """An object of objects, by their names. Raises FieldError."""
        whole = self.part(name)
        return {each: whole.part(each) for each in whole.values}

    def _value(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise FieldError(f"{self._name(name)} is missing") from None

    def _name(self, name: str, number: int | None = None) -> str:
        return f"'{self.place}{shortened(name, 40)}{'' if number is None else f'[{number}]'}'"

    def _wrong(self, name: str, wanted: str) -> FieldError:
        return FieldError(f"{self._name(name)} must be {wanted}, not {kind_of(self.values[name])}")


def is_utf8(text: str) -> bool:
    """Whether it has no half of a character, as the names of some files have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_set = lru_cache(maxsize=64)(frozenset[str])


def _number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
