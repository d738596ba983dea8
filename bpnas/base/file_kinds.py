"""What a file is that was given for another one, so that nobody throws away a good file.

A message says what the file is and which command takes it; only the first bytes and the last ones are read.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SQLITE_HEADER = 100  # bytes that every SQLite file begins with
RECORDS_ID = 0x62706E61  # "bpna", the application id of records: bytes 68 to 71 of an SQLite file
TABLE_HASH_MARK = b"bpnas-table-sha256="  # the hash of a table follows it in the footer

_SQLITE = b"SQLite format 3\0"
_HEAD, _TAIL = 4096, 64 * 1024


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file is.

    Attributes:
        what: with its article.
        remedy: what to do with it.
    """

    what: str
    remedy: str

    def instead_of(self, wanted: str) -> str:
        """For a message: `is a latency table, and no bpnas records; see it with build-table show s9.parquet`."""
        return f"is {self.what}, and no {wanted}; {self.remedy}"

    @property
    def is_text(self) -> bool:
        """Whether it is one that people can read."""
        return self.what.endswith("text file")


def begins_records(head: bytes) -> bool:
    """Whether a file that begins so is one of records, in any state."""
    return len(head) >= SQLITE_HEADER and head.startswith(_SQLITE) and head[68:72] == RECORDS_ID.to_bytes(4, "big")


def kind_of(path: Path) -> FileKind:
    """What a file is.

    Raises:
        OSError: it cannot be read.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        return FileKind("a folder", "name a file in it")
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        return FileKind("a device or a pipe", "name a file")
    if not status.st_size:
        return FileKind("an empty file", "check the name, and where the file comes from")
    with path.open("rb") as file:
        head = file.read(_HEAD)
        file.seek(max(0, status.st_size - _TAIL))
        tail = file.read()
    for test in _TESTS:
        kind = test(path, head, tail)
        if kind is not None:
            return kind
    return FileKind("a file of an unknown kind", "check the name; if it has been damaged, restore a copy")


def _sqlite(path: Path, head: bytes, tail: bytes) -> FileKind | None:
    if head[:4] in (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83") or head.startswith(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"):
        return FileKind("a part of an SQLite file", "name the file that it is of, without -wal or -journal")
    if not head.startswith(_SQLITE):
        return None
    if len(head) < SQLITE_HEADER:
        return FileKind("the beginning of an SQLite file, the rest of which is missing", "restore a copy")
    if begins_records(head):
        return FileKind("records of measurements", f"make a table of them with build-table {path}")
    return FileKind("an SQLite file of another program", "check the name")


def _parquet(path: Path, head: bytes, tail: bytes) -> FileKind | None:
    if not head.startswith(b"PAR1"):
        return None
    if not tail.endswith(b"PAR1"):
        return FileKind("a Parquet file whose end is missing", "restore a copy, or make it again")
    if TABLE_HASH_MARK in tail:
        return FileKind("a latency table", f"see it with build-table show {path}")
    return FileKind("a Parquet file of another program", "check the name")


def _model(path: Path, head: bytes, tail: bytes) -> FileKind | None:
    if head[4:8] == b"TFL3":
        return FileKind("a TFLite model", f"time it with profile-device --models {path}")
    if path.suffix.lower() == ".onnx" and not _is_text(head):
        return FileKind("an ONNX model", f"time it with profile-device --models {path}")
    return None


def _weights(path: Path, head: bytes, tail: bytes) -> FileKind | None:
    if head.startswith(b"PK\x03\x04"):
        return FileKind("a zip archive, as torch and numpy write them", "check the name")
    if head[8:9] == b"{" and path.suffix == ".safetensors":
        return FileKind("the weights of a network", "check the name")
    return None


def _text(path: Path, head: bytes, tail: bytes) -> FileKind | None:
    if head.startswith(b"version https://git-lfs"):
        return FileKind("a Git LFS pointer in place of the file", "get the file with git lfs pull")
    if head.startswith((b"/annex/objects/", b"../.git/annex/", b".git/annex/")):
        return FileKind("a git-annex pointer in place of the file", "get the file with git annex get")
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return FileKind("a web page", "download the file itself, and not the page about it")
    if not _is_text(head):
        return None
    if path.suffix.lower() in (".csv", ".yaml", ".yml"):
        return FileKind("a text file", f"a table that others published is read by build-table import {path}")
    if path.suffix.lower() == ".toml":
        return FileKind("a TOML text file", "a backbone is named with --backbone")
    return FileKind("a text file", "check the name")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3 or len(head) < _HEAD:  # else a character is cut in two
            return False
        text = head[: error.start].decode("utf-8-sig")
    return all(character.isprintable() or character in "\t\r\n" for character in text)


_TESTS: tuple[Callable[[Path, bytes, bytes], FileKind | None], ...] = (_sqlite, _parquet, _weights, _model, _text)
