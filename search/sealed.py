"""What a search writes is verified when it is read: JSON files, JSON lines and checkpoints that carry their own hash.

A file has two fields more than it was given: `format`, the number 2, and `file_sha256`, of all other fields: the hash
of the text that `json.dumps` makes of them with sorted keys and no blanks. A line ends with `check`, the first 16
digits of the SHA-256 of the line as it was before. Equal values make equal bytes. The hash tells accidents and edits,
it is no signature.

bpnas wrote files and lines without a hash before it had a format 2. A file that has neither of the two fields is taken
for one of those, and so are lines without `check` in front of the first one that has it; `bpnas.search.fields` checks
types and ranges of either kind.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bpnas.search.errors import RunError

FORMAT = 2
SEAL = ("format", "file_sha256")
"""The fields of a file that are about the file itself."""

RESTORE = "restore a copy, or move it away and call the command that wrote it again"
"""The remedy for most files: what is lost with it is made again, and nothing else is."""

LINE_REMEDY = (
    "restore a copy of the file, or take this line out and call the same command again, which does its part again"
)
"""The same for a line of several."""

_MOST_BYTES = 64 * 2**20
_MOST_LEVELS = 64
_MOST_DIGITS = 25
_PLAIN = 1e15  # any number below it in size is a sensible one; NaN is not below it
_TOGETHER = 500  # lines that are read at once
_CHECK_BYTES = len(b', "check": "0123456789abcdef"}')
_CHECK = re.compile(rb', "check": "([0-9a-f]{16})"\}')
_MARK = b"bpnas-2\n"
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22


def sealed_json(values: Mapping[str, Any]) -> bytes:
    """A JSON file of `values` and its hash."""
    rest = {name: value for name, value in values.items() if name not in SEAL}
    # The one first, the other last: no cut takes both away.
    stored: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **rest}))
    return (json.dumps({**stored, "file_sha256": _digest(stored)}, indent=2) + "\n").encode()


def read_sealed(path: Path, remedy: str = RESTORE) -> dict[str, Any]:
    """The fields of a file of `sealed_json`, or of one that was written before there was a hash.

    Args:
        remedy: the end of the message about a file that was changed.

    Returns:
        All fields but those of `SEAL`.

    Raises:
        RunError: the file is missing, is not JSON or was changed since it was written.
    """
    return unsealed(read_json(path, remedy), path, remedy)


def is_sealed(values: Mapping[str, Any]) -> bool:
    """Whether the fields of a file are said to have a hash; a file of an earlier bpnas has none."""
    return any(name in values for name in SEAL)


def unsealed(values: dict[str, Any], path: Path, remedy: str = RESTORE) -> dict[str, Any]:
    """The same as `read_sealed` for the fields of a file that was read already."""
    if not is_sealed(values):
        return values
    rest = {name: value for name, value in values.items() if name != "file_sha256"}
    if values.get("file_sha256") != _digest(rest):
        raise RunError(f"{path}: was changed since it was written (its file_sha256 does not fit); {remedy}")
    if (number := rest.pop("format", None)) != FORMAT:
        raise RunError(f"{path}: is of format {number}, which this bpnas does not know; use the one that wrote it")
    return rest


def read_json(path: Path, remedy: str = RESTORE) -> dict[str, Any]:
    """A JSON file that holds one object, wherever it comes from.

    Args:
        remedy: the end of the message about a file that is there and holds anything else.

    Raises:
        RunError: it is missing, too large, or anything but that.
    """
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes, and at most {_MOST_BYTES:,} are expected")
        values = parsed(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError(f"it holds no object of JSON, but {kind_of(values)}")
    except FileNotFoundError as error:
        raise RunError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({shortened(str(error))}); {remedy}") from error
    return values


def parsed(content: bytes, *, finite: bool = True) -> Any:
    """JSON as bpnas writes it: numbers of a sensible size, every key once, no deep nesting.

    Args:
        finite: without it, NaN and Infinity are allowed, which are no JSON.

    Raises:
        ValueError: it is anything else.
    """
    try:
        values = (_STRICT if finite else _LENIENT).decode(_text(content))
        # What has few brackets cannot be deep: logs have many lines.
        deep = content.count(b"[") + content.count(b"{") > _MOST_LEVELS and _deeper_than(values, _MOST_LEVELS)
    except RecursionError:
        deep = True
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no text in UTF-8: {error.reason} at byte {error.start}") from None
    if deep:
        raise ValueError(f"it is nested more than {_MOST_LEVELS} levels deep")
    return values


def kind_of(value: Any) -> str:
    """What a value of JSON is, in words, for messages."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return shortened(json.dumps(value))


def shortened(text: str, most: int = 120) -> str:
    """A part of a message that comes from a file: one line, and not a long one."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(text.split()))
    return line if len(line) <= most else f"{line[:most]} ..."


def sealed_line(values: Mapping[str, Any]) -> bytes:
    """A line of JSON and its hash, line feed included."""
    plain = json.dumps(values).encode()
    return plain[:-1] + b', "check": "' + _short_digest(plain) + b'"}\n'


def read_lines(lines: list[bytes], path: Path) -> Iterator[dict[str, Any]]:
    """The objects in lines of `sealed_line`, without their hashes, or in such as were written before there were any.

    Raises:
        RunError: a line is not JSON, is no object or was changed since it was written.
    """
    sealed = False
    for start in range(0, len(lines), _TOGETHER):
        plain: list[tuple[bytes, bool]] = []
        for number, line in enumerate(lines[start : start + _TOGETHER], start=start + 1):
            match = _CHECK.match(line, max(0, len(line) - _CHECK_BYTES))
            whole = match is not None and match.end() == len(line)
            if match is not None and whole:
                line = line[:-_CHECK_BYTES] + b"}"
                if _short_digest(line) != match[1]:
                    yield from _parsed_lines(plain, start, path)
                    raise RunError(f"{path}: line {number} was changed since it was written; {LINE_REMEDY}")
            elif sealed or b'"check": ' in line[-40:]:
                yield from _parsed_lines(plain, start, path)
                raise RunError(f"{path}: line {number} is damaged (it has no whole check at its end); {LINE_REMEDY}")
            sealed = whole
            plain.append((line, sealed))
        yield from _parsed_lines(plain, start, path)


def _parsed_lines(lines: list[tuple[bytes, bool]], start: int, path: Path) -> Iterator[dict[str, Any]]:
    """The objects in lines, the first of which has number `start` + 1; each with whether it had a hash."""
    if all(sealed for _, sealed in lines) and (found := _flat([line for line, _ in lines])) is not None:
        yield from found
        return
    for number, (line, sealed) in enumerate(lines, start=start + 1):
        try:
            # A log of an earlier bpnas may tell of a training that diverged.
            values = parsed(line, finite=sealed)
        except ValueError as error:
            raise RunError(f"{path}: line {number} is damaged ({shortened(str(error))}); {LINE_REMEDY}") from error
        if not isinstance(values, dict):
            raise RunError(f"{path}: line {number} is not an object; {LINE_REMEDY}")
        yield values


def sealed_archive(content: bytes) -> bytes:
    """A file of `torch.save` and its hash behind it: the archive's own sums are not looked at when it is read."""
    return content + _MARK + hashlib.sha256(content).digest()


def opened_archive(content: bytes) -> bytes:
    """The inverse; an archive of an earlier bpnas comes back as it is.

    Raises:
        ValueError: it was changed since it was written.
    """
    start = len(content) - len(_MARK) - hashlib.sha256().digest_size
    if start > 0 and content[start : start + len(_MARK)] == _MARK:
        if hashlib.sha256(content[:start]).digest() != content[start + len(_MARK) :]:
            raise ValueError("it was changed since it was written")
        return content[:start]
    if content[-_ZIP_END_BYTES:][: len(_ZIP_END)] != _ZIP_END:
        raise ValueError("it is no whole archive")
    return content


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _short_digest(line: bytes) -> bytes:
    return hashlib.sha256(line).hexdigest()[:16].encode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for name in values if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"it has the key {shortened(twice, 40)!r} twice")
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {shortened(text, 40)} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"the number {shortened(text, 40)} is too large")
    return int(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _flat(lines: list[bytes]) -> list[dict[str, Any]] | None:
    """What `parsed` says of objects of plain values, in a fifth of the time; None where that is not certain."""
    content = b"[" + b",".join(lines) + b"]"
    try:
        found = json.loads(content.decode())
    except (ValueError, RecursionError):
        return None  # the other way says which line it is
    if len(found) != len(lines):
        return None
    names = 0
    for values in found:
        if type(values) is not dict:
            return None
        names += len(values)
        for value in values.values():
            if type(value) is not str and not _is_plain(value):
                return None
    # A name that is there twice has a colon more than there are names; one may stand apart from its name only by hand.
    return found if content.count(b'":') == names and b'" ' not in content else None


def _is_plain(value: Any, lists: int = 3) -> bool:
    """Whether it is no object, no list in too many others, and no number of a size that `parsed` would look into."""
    kind = type(value)
    if kind is float or kind is int:
        return bool(-_PLAIN < value < _PLAIN)
    if kind is list:
        return lists > 0 and all(_is_plain(each, lists - 1) for each in value)
    return kind is not dict


def _text(content: bytes) -> str:
    return content.decode(json.detect_encoding(content), "surrogatepass")


# Made once: a log has a hundred thousand lines.
_STRICT, _LENIENT = (
    json.JSONDecoder(object_pairs_hook=_once, parse_constant=constant, parse_float=_finite, parse_int=_whole)
    for constant in (_no_number, float)
)


def _deeper_than(values: Any, levels: int) -> bool:
    layer = [values]
    for _ in range(levels):
        layer = [
            part
            for value in layer
            if isinstance(value, dict | list)
            for part in (value.values() if isinstance(value, dict) else value)
        ]
        if not layer:
            return False
    return True
