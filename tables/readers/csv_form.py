"""CSV as programs write it: separated by commas, semicolons or tabs, in UTF-8 or UTF-16, with or without a mark."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bpnas.tables.errors import TableError

_SEPARATORS = ",;\t"
_LONGEST_HEADER = 65_536


@dataclass(frozen=True, slots=True)
class CsvForm:
    """How a file is written; see `of`.

    Attributes:
        names: of the columns.
        unnamed: how many fields without a name stand behind them, as spreadsheets leave them.
        first_line: on which they are, from 1.
    """

    path: Path
    encoding: str
    separator: str
    names: tuple[str, ...]
    unnamed: int
    first_line: int

    @classmethod
    def of(cls, path: Path) -> CsvForm:
        """Look at the first lines of a file. A line `sep=;`, as spreadsheets write it, names the separator.

        Raises:
            OSError: it cannot be read.
            TableError: it is no CSV, or its first line too long.
        """
        encoding = _encoding(path)
        with path.open(encoding=encoding, errors="replace", newline="") as file:
            header, number, separator = file.readline(_LONGEST_HEADER), 1, ""
            if header.strip().lower() in [f"sep={each}".strip() for each in _SEPARATORS]:
                separator = header.strip("\r\n")[4:]
                header, number = file.readline(_LONGEST_HEADER), 2
        if len(header) == _LONGEST_HEADER:
            raise TableError(f"{path}: line {number}: is too long to be the names of columns")
        separator = separator or max(_SEPARATORS, key=header.count)
        try:
            (fields,) = csv.reader([header], delimiter=separator, strict=True)
        except (csv.Error, ValueError):
            fields = []
        names = [field.strip() for field in fields]
        while names and not names[-1]:
            names.pop()
        return cls(path, encoding, separator, tuple(names), len(fields) - len(names), number)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """The rows below the names that are not empty, each with the number of its first line.

        Raises:
            UnicodeDecodeError: it is no text.
            TableError: a line is no valid CSV.
        """
        with self.path.open(encoding=self.encoding, newline="") as file:
            for _ in range(self.first_line):
                file.readline()
            lines = csv.reader(file, delimiter=self.separator, strict=True)
            row = self.first_line + 1
            try:
                for values in lines:
                    if any(values):
                        yield row, self._named([value.strip(" \t") for value in values])
                    row = self.first_line + lines.line_num + 1
            except csv.Error as error:
                raise TableError(f"{self.path}: line {row}: no valid CSV ({error}); correct that line") from error

    def _named(self, values: list[str]) -> list[str]:
        """Without empty fields below those that have no name."""
        count = len(self.names)
        return values[:count] if len(values) <= count + self.unnamed and not any(values[count:]) else values


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"  # with or without the mark of Excel
