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
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bpnas.base.plain_text import shortened
from bpnas.base.strict_json import kind_of, parsed
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
                    raise RunError(f"{path}: line {number} was changed since it was written; {LINE_REMEDY}")
            elif sealed or b'"check": ' in line[-40:]:
                raise RunError(f"{path}: line {number} is damaged (it has no whole check at its end); {LINE_REMEDY}")
            sealed = whole
            plain.append((line, sealed))
        yield from _objects(plain, start, path)


def _objects(lines: list[tuple[bytes, bool]], start: int, path: Path) -> Iterator[dict[str, Any]]:
    """What lines say, the first of which has number `start` + 1; each with whether it had a hash."""
    if all(sealed for _, sealed in lines):
        # All at once take two thirds of the time; what is wrong is told line by line.
        with suppress(ValueError):
            found = parsed(b"[" + b",".join([line for line, _ in lines]) + b"]")
            if len(found) == len(lines) and all(type(values) is dict for values in found):
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
